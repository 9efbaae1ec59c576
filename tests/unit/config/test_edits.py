"""Edits of .env and models.yaml keep every byte that was not edited, and all readers read the same value.

LMSTACK_EXAMPLES=10000 runs as many random edits as the issue asked for.
"""

import io
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lmstack import files
from lmstack.catalog.models import parse_catalog
from lmstack.config.envfile import parse_env, quote, set_line, unset_line
from lmstack.config.modelsfile import set_budget
from lmstack.errors import ConfigError, UsageError
from lmstack.stack.project import shipped_catalog

EXAMPLES = settings(
    max_examples=int(os.environ.get("LMSTACK_EXAMPLES", "300")), deadline=None, suppress_health_check=list(HealthCheck)
)
NAMES = st.sampled_from(["A", "OPENAI_API_KEY", "LITELLM_PORT", "MY_KEY", "B2"])
# What people paste, and what breaks parsers.
WORDS = st.sampled_from(
    ["sk-1", " ", "#", "'", '"', "\\", "$", "${A}", "=", "é", "a#b", "`", "!", "\t", "\\n", "$$", "x y", "%"]
)
VALUES = st.lists(WORDS, max_size=6).map("".join)
VALID = VALUES.filter(lambda v: v == v.strip())
END = st.sampled_from(["\n", "\r\n"])
LINES = st.one_of(
    st.builds("# {}".format, VALUES),
    st.just(""),
    st.builds("{}={}".format, NAMES, st.sampled_from(["1", "plain # why", "'single # no'", '"double # no" # yes', ""])),
    st.builds("export {}=exported".format, NAMES),
    st.builds("{} = spaced".format, NAMES),
    st.builds("{}='first\nsecond'".format, NAMES),
    st.builds('{}="first\n# no comment\nlast"  # yes'.format, NAMES),
)


@st.composite
def env_texts(draw: st.DrawFn) -> str:
    end = draw(END)
    text = end.join(line.replace("\n", end) for line in draw(st.lists(LINES, max_size=8)))
    return draw(st.sampled_from(["", "\ufeff"])) + text + draw(st.sampled_from(["", end]))


def others(text: str, name: str) -> dict[str, str]:
    return {k: e.value for k, e in parse_env(text).items() if k != name}


def written(value: str) -> str | None:
    try:
        return quote(value)
    except UsageError:
        return None


@EXAMPLES
@given(text=env_texts(), name=NAMES, value=VALID)
def test_an_edit_of_env_touches_one_assignment(text: str, name: str, value: str) -> None:
    assume(written(value) is not None)
    before = parse_env(text)
    after = set_line(text, name, value)
    assert parse_env(after)[name].value == value
    assert others(after, name) == others(text, name)
    assert dotenv_values(stream=io.StringIO(after.removeprefix("\ufeff"), newline=""), interpolate=False)[name] == value
    assert after.startswith("\ufeff") is text.startswith("\ufeff")
    if name not in before:
        assert after.startswith(text)
    # An edit back to what was there before gives the same bytes in everything around it.
    again = set_line(after, name, "x")
    assert set_line(again, name, value) == after
    gone = unset_line(after, name)
    assert name not in parse_env(gone)
    assert others(gone, name) == others(text, name)
    if text.count("\n") == text.count("\r\n") > 0:
        assert gone.count("\n") == gone.count("\r\n")


def test_compose_and_dotenv_and_lm_read_the_same_values(tmp_path: Path) -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker compose is not installed")
    parts = ["sk-1", " ", "#", "'", '"', "\\", "$", "${A}", "=", "é", "`", "!", "\\n", "$$", "%", "x"]
    values = [a + b + c for a in parts for b in parts for c in ("", "z")]
    values = [v for v in values if v == v.strip() and written(v) is not None]
    text = "".join(f"V{n}={quote(value)}\n" for n, value in enumerate(values))
    (tmp_path / "values.env").write_text(text)
    (tmp_path / "docker-compose.yml").write_text("services: {a: {image: x, env_file: [values.env]}}\n")
    done = subprocess.run(
        ["docker", "compose", "config", "--format", "json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    # compose writes a dollar twice, so that its output can be read again
    compose = {
        k: (v or "").replace("$$", "$") for k, v in json.loads(done.stdout)["services"]["a"]["environment"].items()
    }
    ours, theirs = parse_env(text), dotenv_values(stream=io.StringIO(text), interpolate=False)
    for n, value in enumerate(values):
        assert ours[f"V{n}"].value == theirs[f"V{n}"] == value
        assert compose[f"V{n}"] == value, (value, quote(value))
    assert len(values) > 250


IDS = st.sampled_from(
    ["on", "yes", "1:30", "0123", "1e3", "null", "~", "2026-11-24", "0x10", "true", "TM-42", "a: b", "# x", "é", "12"]
)
MODELS = (
    "", "# only a comment\n", "# mine\nmodels:  # these\n    my-model: {provider: openai, model: gpt-4o, tier: 1}\n\n# the end\n",
    "budgets:\n", "budgets:\n  all: {day: 5}   # for everybody\n", 'budgets:\n  tasks:\n    "on": {day: 1e-2}\n    0123: {total: 2}\n',
    "x-base: &base {day: 3}\nbudgets:\n  agents:\n    coder: *base\n",
)  # fmt: skip


@EXAMPLES
@given(text=st.sampled_from(MODELS), name=IDS, usd=st.sampled_from([0.0, 0.5, 2, 1e-6, 1e6]), crlf=st.booleans())
def test_a_budget_is_read_as_it_was_written(text: str, name: str, usd: float, crlf: bool) -> None:
    text = text.replace("\n", "\r\n") if crlf else text
    assume("x-base" not in text)
    after = set_budget(text, "task", name, "day", usd)
    found = {(b.scope, b.name, b.period): b.usd for b in parse_catalog(shipped_catalog(), after).rules.budgets}
    assert found["task", name, "day"] == pytest.approx(usd)
    if "budgets" not in text:
        assert after.startswith(text), "what was there stays byte for byte"
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            assert line in after.splitlines()
    without = set_budget(after, "task", name, "day", None)
    left = {(b.scope, b.name, b.period) for b in parse_catalog(shipped_catalog(), without).rules.budgets}
    assert ("task", name, "day") not in left
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            assert line in without.splitlines()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("budgets: {all: {day: .nan}}\n", "finite"),
        ("budgets: {all: {day: .inf}}\n", "finite"),
        ("budgets: {all: {day: 1}}\nbudgets: {all: {day: 2}}\n", "stands twice"),
        ("budgets: &b\n  tasks: *b\n", "refers to"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"{c}: &{c} [{','.join(['*' + p] * 10)}]\n" for p, c in zip("abcdef", "bcdefg", strict=True)), "too large"),
        ("a: " + "[" * 3000, ""),
        ("n: " + "9" * 6000 + "\n", ""),
        ("#" * 1_000_001, "too large"),
    ],
)  # fmt: skip
def test_a_models_file_that_no_reader_should_take_is_one_error(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_catalog(shipped_catalog(), text)
    assert says in " ".join(str(p) for p in error.value.problems)


@pytest.mark.parametrize("secret", [False, True])
def test_a_file_keeps_its_link_its_mode_and_its_owner(tmp_path: Path, secret: bool) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("a\n")
    real.chmod(0o640)
    link.symlink_to(real)
    if os.geteuid() == 0:
        os.chown(real, 1234, 1234)
    assert files.write(link, "b\r\n", files.PRIVATE if secret else 0o644)
    assert link.is_symlink()
    assert real.read_bytes() == b"b\r\n"
    assert stat.S_IMODE(real.stat().st_mode) == (0o600 if secret else 0o640)
    if os.geteuid() == 0:
        assert real.stat().st_uid == 1234


@pytest.mark.parametrize(
    ("line", "literal"), [("K=a$b", False), ('K="a$b"', False), ("K='a$b'", True), ("K=ab", True), ("K=a # $b", True)]
)
def test_a_dollar_that_compose_would_expand_is_known(line: str, literal: bool) -> None:
    assert parse_env(line)["K"].literal is literal
