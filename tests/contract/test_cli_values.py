"""Every command with every option and argument given values that no user means: never a traceback, always one clear error.

The cases come from the command line itself, so a new option is covered by being there. Commands run in this process, in a
folder with a small ledger; what would start, stop, send or wait is replaced.
"""

import functools
import inspect
import io
import json
import shutil
import sys
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from bench.ledger import fill

from lmstack.cli import app as lm
from lmstack.errors import LmError
from support import LEAKS

pytestmark = pytest.mark.exhaustive

LONG, HUGE = "x" * 10_000, "9" * 30
VALUES = [
    "",
    " ",
    "nosuch",
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e300",
    HUGE,
    "9" * 400,
    LONG,
    "\udcff",
    "a\nb",
    "\x1b[31m\u202e",
    "=1+1",
    "'",
]
# What no option of that type can mean. The rest may be legal.
WRONG: dict[Any, set[str]] = {int: {"", " ", "nosuch", "-1", "nan", "inf", "1e300", HUGE, "9" * 400, LONG}, float: {"", " ", "nosuch", "-1", "nan", "inf", "-inf", "1e300", LONG}}  # fmt: skip
FOLDERS = ["", "a-file", "a-loop", "no/such\udcff", LONG]


@functools.cache
def tree() -> Any:
    return typer.main.get_command(lm.registered())


def commands() -> dict[str, Any]:
    """Every command of the tree, by the words that call it."""
    found: dict[str, Any] = {}
    for name, one in tree().commands.items():
        found |= {f"{name} {sub}": c for sub, c in one.commands.items()} if hasattr(one, "commands") else {name: one}
    return dict(sorted(found.items()))


def types(words: str) -> dict[str, Any]:
    """What each option and argument of a command takes: int, float, an enum's words as a tuple, else str."""
    *group, name = words.split()
    lm.registered()
    apps = (
        [g.typer_instance for g in lm.app.registered_groups if g.typer_instance.info.name == group[0]]
        if group
        else [lm.app]
    )
    (found,) = [c.callback for c in apps[0].registered_commands if c.name == name]
    made: dict[str, Any] = {}
    for parameter in list(inspect.signature(found).parameters.values())[1:]:
        kind = get_args(parameter.annotation)[0]
        options = [one for one in (get_args(kind) or (kind,)) if isinstance(one, type)]
        enum = next((one for one in options if issubclass(one, Enum)), None)
        made[parameter.name] = (
            tuple(one.value for one in enum) if enum else next((k for k in (float, int) if k in options), str)
        )
    return made


def valid(takes: Any) -> str:
    """A value for a required argument that is not the one under test."""
    return takes[0] if isinstance(takes, tuple) else "1" if takes in (int, float) else "x1"


def cases(words: str) -> Iterator[tuple[Any, list[str], str]]:
    """Each value of each option and argument of a command, as the parameter, the whole line and the value."""
    one = commands()[words]
    arguments = [p for p in one.params if p.param_type_name == "argument"]
    needed = {p.name: valid(types(words)[p.name]) for p in arguments if p.required}
    for parameter in one.params:
        if parameter.param_type_name == "option" and (parameter.is_flag or parameter.name == "help"):
            continue
        for value in FOLDERS if parameter.name == "folder" else VALUES:
            if parameter.param_type_name == "option":
                yield parameter, [*words.split(), f"{parameter.opts[0]}={value}", "--", *needed.values()], value
            else:
                given = {**needed, parameter.name: value}
                yield parameter, [*words.split(), "--", *(given[p.name] for p in arguments if p.name in given)], value


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seeded")
    assert lm.run(["init", "-C", str(root), "-q"]) == 0
    (root / "logs").mkdir(exist_ok=True)
    fill(root / "logs" / "litellm.db", 200)
    (root / "a-file").touch()
    (root / "a-loop").symlink_to("a-loop")
    return root


@pytest.fixture
def folder(seeded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the seeded folder as the current one, and nothing real within reach."""
    root = tmp_path / "stack"
    shutil.copytree(seeded, root, symlinks=True)
    monkeypatch.chdir(root)
    for name in list(lm.os.environ):
        if name.startswith(LEAKS):
            monkeypatch.delenv(name)
    for name, value in {"HOME": str(tmp_path), "LITELLM_RUNTIME": "local", "OPENAI_API_KEY": "sk-0123456789", "OPENAI_API_BASE": "http://127.0.0.1:9"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    stub(monkeypatch)
    return root


def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what would start, stop, send, or wait."""
    from http.server import ThreadingHTTPServer

    from lmstack.runtime import local, releases
    from lmstack.stack import health

    def refuse(*_: Any, **__: Any) -> Any:
        raise LmError("the test lets nothing start")

    def leave(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(local.LocalRuntime, "check", refuse)
    monkeypatch.setattr(local.LocalRuntime, "up", refuse)
    monkeypatch.setattr(local.LocalRuntime, "release_keys", refuse)
    monkeypatch.setattr(local.LocalRuntime, "down", lambda *_: False)
    monkeypatch.setattr(releases, "available", lambda: ["1.2.3"])
    monkeypatch.setattr(health, "ollama_answers", lambda *_: False)
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", leave)
    monkeypatch.setattr(time, "sleep", leave)
    monkeypatch.setattr(lm.os, "execvpe", leave)
    # The tree is built once, not once a case.
    monkeypatch.setattr(typer.main, "get_command", lambda _: tree())


def run(capsys: pytest.CaptureFixture[str], line: list[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = lm.run(line)
    return code, *capsys.readouterr()


def check(code: int, out: str, err: str, as_json: bool, line: list[str]) -> None:
    """No traceback, a documented exit code, and one error: a JSON document or one line with its hint."""
    assert "Traceback" not in err, (line, err)
    assert code in range(6), line
    if as_json:
        assert sorted(json.loads(out)) == ["command", "data", "messages", "ok"], line
        assert json.loads(out)["ok"] == (code == 0)
    elif code in (2, 3):
        assert [row.startswith("error: ") for row in err.splitlines() if not row.startswith(" ")].count(True) == 1, (
            line,
            err,
        )
        assert len(err) < 2000 or code == 3, line


@pytest.mark.parametrize("words", commands())
def test_no_value_of_an_option_or_argument_is_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    takes = types(words)
    for number, (parameter, line, value) in enumerate(cases(words)):
        as_json = bool(number % 2)
        code, out, err = run(capsys, ["--json", *line] if as_json else line)
        check(code, out, err, as_json, line)
        kind = takes[parameter.name]
        wrong = value not in kind if isinstance(kind, tuple) else value in WRONG.get(kind, ())
        if (wrong or "\udcff" in value) and words != "run":
            assert code in (2, 3), (line, code, out, err)


@pytest.mark.parametrize("words", commands())
def test_an_unknown_option_or_a_missing_argument_is_one_error_also_as_json(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    required = any(p.required for p in commands()[words].params)
    for line in ([*words.split(), "--nosuch"], [*words.split(), "--dir"], words.split() if required else ["nosuch"]):
        check(*run(capsys, line), False, line)
        code, out, err = run(capsys, ["--json", *line])
        check(code, out, err, True, line)
        assert code == 2, line
        assert err == "", line


@pytest.mark.parametrize("words", commands())
def test_a_command_in_an_empty_folder_is_no_traceback(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    needed = [valid(types(words)[p.name]) for p in commands()[words].params if p.required]
    for line in ([*words.split(), *needed], ["--json", *words.split(), *needed]):
        check(*run(capsys, line), "--json" in line, line)


@pytest.mark.parametrize("words", sorted(set(commands()) - {"init"}))
def test_a_command_for_a_folder_that_does_not_exist_is_one_error_and_makes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    needed = [valid(types(words)[p.name]) for p in commands()[words].params if p.required]
    missing = tmp_path / "no" / "such"
    for line in (
        ["-C", str(missing), *words.split(), *needed],
        ["--json", "-C", str(missing), *words.split(), *needed],
    ):
        code, out, err = run(capsys, line)
        check(code, out, err, "--json" in line, line)
        assert code == 2, (line, out, err)
        assert f"there is no folder {missing}" in out + err
    assert not missing.parent.exists()
