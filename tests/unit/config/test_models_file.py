"""models.yaml as a user wrote it: what `lm budget` writes is what is read, and every other byte stays."""

from pathlib import Path

import pytest

from lmstack.catalog.models import parse_catalog
from lmstack.cli import app as lm
from lmstack.config.modelsfile import set_budget
from lmstack.config.yamlrules import load_yaml
from lmstack.errors import ConfigError
from lmstack.stack.project import shipped_catalog

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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: tuple[str, ...]
) -> None:
    """Whatever becomes of the edit: no other limit is lost or changed, and the file stays readable."""
    assert lm.run(["init", "-C", str(tmp_path), "-q"]) == 0
    (tmp_path / "models.yaml").write_text(text)
    before = parse_catalog(shipped_catalog(), text).rules.budgets
    code = lm.run(["budget", *words, "-C", str(tmp_path)])
    assert "Traceback" not in capsys.readouterr().err
    after = parse_catalog(shipped_catalog(), (tmp_path / "models.yaml").read_text()).rules.budgets
    edited = {"all": "", "task": "t", "agent": "x"}[words[1]]
    kept = {(b.scope, b.name, b.usd) for b in before if (b.scope, b.name) != (words[1], edited)}
    assert kept <= {(b.scope, b.name, b.usd) for b in after}
    if code:
        assert (tmp_path / "models.yaml").read_text() == text


PICTURES = "models:\n  pictures: {provider: openai, model: pictures, mode: image_generation, "


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("per_image: 0.04}", ""),
        ("per_request: 1}", ""),
        ("per_image: free}", "models.yaml:2: models.pictures.per_image: must be int or float, not 'free'"),
        ("per_image: -1}", "models.yaml:2: models.pictures.per_image: must be US dollars from 0, not -1"),
        ("per_image: 1, per_request: 2}", "models.pictures.per_request: the model has another price already"),
        ("per_image: 1, input: 2}", "models.pictures.per_image: the model has another price already"),
        ("per_image: 1, per_batch: 2}", ""),
        ("per_image: 1, per_batch: -2}", "models.yaml:2: models.pictures.per_batch: must be US dollars from 0, not -2"),
        ("per_second: 1}", "needs the mode audio_transcription, and the model has the mode image_generation"),
        ("per_picture: 1}", "models.pictures.per_picture: unknown field"),
    ],
)
def test_a_flat_price_fits_the_mode_and_is_the_only_price(fields: str, problem: str) -> None:
    if not problem:
        model = parse_catalog(shipped_catalog(), PICTURES + fields).models["pictures"]
        assert model.flat_price is not None
        return
    with pytest.raises(ConfigError) as error:
        parse_catalog(shipped_catalog(), PICTURES + fields)
    assert problem in str(error.value.problems[0])


BOMB = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize("name", ["models.yaml", "litellm-config.yaml", "docker-compose.yml", "other.yaml"])
def test_a_yaml_bomb_in_any_file_is_one_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert lm.run(["init", "-C", str(tmp_path), "-q"]) == 0
    text = ("services:\n  x: {}\n" if name == "docker-compose.yml" else "") + BOMB
    (tmp_path / name).write_text(text)
    words = ["validate", *([str(tmp_path / name)] if name == "other.yaml" else [])]
    assert lm.run([*words, "-C", str(tmp_path)]) == 3
    assert "too large with its aliases written out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("f.yaml", "router_settings: {disable_cooldowns: on}\n", 0),  # LiteLLM reads YAML 1.1: true
        ("f.yaml", "router_settings: {disable_cooldowns: 'on'}\n", 3),  # and here text
        ("f.yaml", "router_settings: {timeout: 1:30}\n", 0),  # 90 seconds for LiteLLM
        ("models.yaml", "models: {gpt-4o: {input: 1:30}}\n", 3),  # text for lm
        ("models.yaml", "providers: {groq: {keyless: on}}\n", 3),
        ("f.yaml", "services:\n  on: {image: x}\n", 0),  # a name for compose
    ],
)
def test_a_file_is_checked_by_the_yaml_rules_of_the_program_that_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, code: int
) -> None:
    (tmp_path / name).write_text(text)
    words = ["validate", *([] if name == "models.yaml" else [str(tmp_path / name)]), "-C", str(tmp_path)]
    assert lm.run(words) == code, capsys.readouterr().err
