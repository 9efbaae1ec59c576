"""models.yaml as a user wrote it: what `lm budget` writes is what is read, and every other byte stays."""

import subprocess
from pathlib import Path

import pytest

from lmstack.catalog.models import parse_catalog
from lmstack.config.modelsfile import set_budget
from lmstack.config.yamlfile import load_yaml
from lmstack.errors import ConfigError
from lmstack.stack.project import shipped_catalog
from support import LM, clean_environ

ODD = ["on", "1:30", "0123", "1e3", "null", "~", "2026-11-24", "0x10", "yes", "a b", "a: b", "#x", "true", "é", "<<"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("text", ["", "# mine\n", "budgets:\n", "budgets: {}\n", "budgets:\n  tasks: {x: {day: 1}}\n"])
def test_a_name_is_read_as_it_was_typed(name: str, text: str) -> None:
    new = set_budget(text, "task", name, "day", 2.5)
    assert load_yaml(new)["budgets"]["tasks"][name] == {"day": 2.5}
    assert name in {limit.name for limit in parse_catalog(shipped_catalog(), new).rules.budgets}
    assert (load_yaml(set_budget(new, "task", name, "day", None)) or {}) == ({"budgets": {"tasks": {"x": {"day": 1}}}} if "x:" in text else {})  # fmt: skip


@pytest.mark.parametrize("name", ["on", "1:30", "0123", "1e3", "2026-11-24", "0x10", "yes"])
def test_a_name_typed_without_quotes_is_found_and_changed_in_place(name: str) -> None:
    text = f"budgets:\n  tasks:\n    {name}:   {{ day: 1 }}  # why\n"
    assert set_budget(text, "task", name, "day", 3) == text.replace("day: 1", "day: 3")


def test_comments_line_ends_and_order_stay() -> None:
    text = (
        "# top\r\nmodels:\r\n    gpt-4o: {tier: 1}   # own\r\nbudgets:\r\n    all:\r\n        day: 5 # d\r\n# end\r\n"
    )
    new = set_budget(text, "all", "", "month", 50)
    assert new == text.replace("# d\r\n", "# d\r\n        month: 50\r\n")
    assert set_budget(new, "all", "", "month", None) == text
    assert set_budget(text, "all", "", "day", None) == text.replace(
        "budgets:\r\n    all:\r\n        day: 5 # d\r\n", ""
    )


@pytest.mark.parametrize(
    "text", ["budgets:\n  all: {day: 1}\nbudgets:\n  all: {day: 2}\n", "budgets:\n  all: {day: .nan}\n", "budgets:\n  all: {day: .inf}\n",
             "budgets: &a\n  tasks: *a\n", "models: &a [*a]\n", "a: " + "[" * 5000, "a: " + "x" * 1_000_001,
             "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))]
)  # fmt: skip
def test_a_name_that_stands_twice_or_a_value_without_end_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_catalog(shipped_catalog(), text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("budgets:\n  all: &a {day: 5}\n  tasks: {x: *a}\n", ("unset", "all", "-")),
        ("budgets:\n  agents:\n    a: &a {day: 5}\n    x: *a\n", ("set", "agent", "x", "1")),
        ("budgets:\n  agents:\n    a: &a {day: 5}\n    x:\n      <<: *a\n", ("unset", "agent", "x")),
        ("---\nbudgets: {all: {day: 5}}\n...\n", ("set", "task", "t", "3")),
    ],
)
def test_an_edit_that_would_change_another_limit_is_refused_or_right(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    """Whatever becomes of the edit: no other limit is lost or changed, and the file stays readable."""
    subprocess.run([*LM, "init", "-C", str(tmp_path)], env=clean_environ(tmp_path), check=True, capture_output=True)
    (tmp_path / "models.yaml").write_text(text)
    before = parse_catalog(shipped_catalog(), text).rules.budgets
    done = subprocess.run(
        [*LM, "budget", *words, "-C", str(tmp_path)], env=clean_environ(tmp_path), capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    after = parse_catalog(shipped_catalog(), (tmp_path / "models.yaml").read_text()).rules.budgets
    edited = {"all": "", "task": "t", "agent": "x"}[words[1]]
    kept = {(b.scope, b.name, b.usd) for b in before if (b.scope, b.name) != (words[1], edited)}
    assert kept <= {(b.scope, b.name, b.usd) for b in after}
    if done.returncode:
        assert (tmp_path / "models.yaml").read_text() == text
