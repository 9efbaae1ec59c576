"""Every setting of .env and of the environment, and every field of models.yaml, with values that no user means.

The cases come from the lists of settings and fields, so a new one is covered by being there.
"""

import json
from pathlib import Path

import pytest

from contract.test_cli_values import VALUES, check, folder, run, seeded
from lmstack.catalog.models import _MODEL_FIELDS, _PROVIDER_FIELDS
from lmstack.config.rules import _AMOUNTS, _OPTIONS
from lmstack.config.settings import SETTINGS

__all__ = ["folder", "seeded"]  # the fixtures
MORE = [
    "0.5",
    "\u202e",
    "\u00a0",
    "é",
    "a b",
    "http://[",
    "http://x:99999999",
    "http://a b",
    "redis://",
    "/",
    "$HOME",
    "../x",
    "\t",
]


def tried(capsys: pytest.CaptureFixture[str], words: list[str], about: object) -> int:
    code, out, err = run(capsys, words)
    check(code, out, err, False, [*words, str(about)])
    return code


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("place", ["file", "environment"])
def test_no_value_of_a_setting_is_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, setting: object, place: str
) -> None:
    name = setting.name  # type: ignore[attr-defined]
    refused = 0
    for value in [*VALUES, *MORE] if place == "file" else VALUES:
        if place == "file":
            monkeypatch.delenv(name, raising=False)
            quoted = "'" + value.replace("'", "\\'") + "'"
            (folder / ".env").write_bytes(f"{name}={quoted}\n".encode(errors="surrogateescape"))
        else:
            monkeypatch.setenv(name, value)
        code = tried(capsys, ["config", "show"], (name, value))
        assert code in (0, 3), (name, value)
        refused += code == 3
        if code == 0:
            words = ["render", "--stdout", "--runtime", "local"]
            assert tried(capsys, words, (name, value)) in (0, 3), (name, value)
        if "\udcff" in value:
            assert code == 3, "what is not UTF-8 is refused"
    assert refused >= 2, "at least what is not UTF-8 and a control character are refused"


def test_a_secret_is_never_in_the_error_about_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for setting in SETTINGS:
        if setting.secret and setting.kind != "text":
            (folder / ".env").write_text(f"{setting.name}='sk-secret with spaces'\n")
            code, out, err = run(capsys, ["config", "show"])
            assert (code, "sk-secret" in out + err) == (3 if setting.name != "OPENAI_API_KEY" else 0, False), (
                setting.name
            )


YAML_VALUES = [json.dumps(value) for value in [*VALUES, *MORE] if "\udcff" not in value] + [
    "", "null", "true", "-1", "0", "1e300", "-1e300", ".nan", ".inf", "9" * 30, "9" * 400, "9" * 5000, "0x" + "f" * 400, "[]", "[[1]]",
    "{}", "{a: 1}", "2026-11-24", "*x", "!!python/object:os.system x", "!!binary x", "!!timestamp x", "!!int x", "!!float x", "!!bool x",
]  # fmt: skip
FIELDS = [
    *(f"providers:\n  groq: {{prefix: groq}}\n  p: {{{name}: VALUE}}\nmodels:\n  m: {{provider: p}}\n" for name in _PROVIDER_FIELDS),
    *(f"models:\n  m: {{provider: openai, {name}: VALUE}}\n" for name in _MODEL_FIELDS if name != "provider"),
    "models:\n  m: {provider: VALUE}\n",
    *(f"models:\n  gpt-4o: {{{name}: VALUE}}\n" for name in _MODEL_FIELDS),
    *(f"routing:\n  tasks:\n    t: {{{name}: VALUE}}\n" for name in _OPTIONS),
    *(f"budgets:\n  agents:\n    a: {{{name}: VALUE}}\n" for name in _AMOUNTS),
    *("models: VALUE\n", "budgets: VALUE\n", "budgets: {all: VALUE}\n", "routing: {tasks: VALUE}\n", "providers: {p: VALUE}\n"),
    *("VALUE: {}\n", "models: {VALUE: {provider: openai}}\n", "providers: {VALUE: {}}\n", "budgets: {tasks: {VALUE: {day: 1}}}\n"),
]  # fmt: skip


@pytest.mark.parametrize("text", FIELDS)
def test_no_value_of_a_field_of_models_yaml_is_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    for value in YAML_VALUES:
        (folder / "models.yaml").write_text(text.replace("VALUE", value))
        code = tried(capsys, ["models"], (text, value[:80]))
        assert code in (0, 3), (text, value[:80])
        if code == 0:
            assert tried(capsys, ["render", "--stdout"], (text, value[:80])) in (0, 3)
    (folder / "models.yaml").write_bytes(b"models: {}\n# \xff\n")
    assert tried(capsys, ["models"], "bytes") == 3
