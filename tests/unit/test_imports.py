"""Imports go one way (docs/architecture.md), and the light parts stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
KNOW_LITELLM = ("handler", "proxy", "traffic", "costs")
LEDGER = sorted(p.stem for p in (SRC / "lmledger").glob("*.py") if p.stem not in (*KNOW_LITELLM, "__init__"))
# Lower rooms first: a module may import from its own room and from those before it.
ROOMS = (
    {"pins", "errors", "legal_keys"}, {"supply"}, {"yamlfile", "envfile"}, {"rules"}, {"catalog", "modelsfile"}, {"settings"}, {"plan"}, {"render", "validate"}, {"files", "proc", "archive"},
    {"project"}, {"health", "result", "receiver", "pricemap", "clients"}, {"doctor"}, {"runtime"}, {"cli"}, {"__main__"},
)  # fmt: skip
PURE = {
    "errors",
    "pins",
    "yamlfile",
    "rules",
    "modelsfile",
    "catalog",
    "envfile",
    "settings",
    "plan",
    "render",
    "validate",
    "supply",
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(name: str) -> int:
    return next(i for i, members in enumerate(ROOMS) if name in members)


@pytest.mark.parametrize("path", sorted((SRC / "lmstack").rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_lmstack_imports_downwards_only(path: Path) -> None:
    names = imported(path)
    if path.stem != "legal_keys":  # a script for another interpreter, see there
        assert not {n for n in names if n.split(".")[0] in ("litellm", "callbacks")}
    assert not {n for n in names if n.startswith("lmstack.legal_keys")}
    here = path.relative_to(SRC / "lmstack").parts[0].removesuffix(".py")
    for name in names:
        parts = name.split(".")
        if (
            parts[0] == "lmstack"
            and len(parts) > 1
            and (SRC / "lmstack" / parts[1]).exists() | (SRC / "lmstack" / f"{parts[1]}.py").exists()
        ):
            assert room(parts[1]) <= room(here), f"{here} must not import {name}"
        if parts[0] == "lmledger" and len(parts) > 1 and parts[1] != "__file__":
            assert parts[1] in ("queries", "schema", "outbox", "delivery", "redact", "backup"), (
                f"{here} reaches into {name}"
            )


@pytest.mark.parametrize("path", sorted((SRC / "lmledger").rglob("*.py")), ids=lambda p: p.stem)
def test_lmledger_never_imports_lmstack_and_only_four_modules_know_litellm(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"lmstack", "callbacks"}
    if path.stem not in KNOW_LITELLM:
        assert not tops & {"litellm", "fastapi", "starlette"}


@pytest.mark.parametrize("path", sorted((SRC / "lmrouting").rglob("*.py")), ids=lambda p: p.stem)
def test_lmrouting_needs_nothing_but_the_standard_library_and_no_clock(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)} - {"lmrouting"}
    assert tops <= sys.stdlib_module_names
    assert not tops & {"os", "subprocess", "time", "socket", "pathlib", "tempfile"}


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_touch_no_file_clock_or_process(module: str) -> None:
    tops = {name.split(".")[0] for name in imported(SRC / "lmstack" / f"{module}.py")}
    assert not tops & {"os", "subprocess", "time", "datetime", "socket", "pathlib", "httpx", "docker", "tempfile"}


def test_the_ledger_needs_nothing_but_the_standard_library_and_httpx() -> None:
    code = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('litellm', 'fastapi', 'starlette', 'pydantic', 'yaml', 'typer', 'docker', 'psutil', 'dotenv'):
            raise ImportError(name + ' is not to be imported here')
sys.meta_path.insert(0, Block())
for name in {LEDGER!r}:
    importlib.import_module('lmledger.' + name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("words", [["--help"], ["models"], ["up", "--help"], ["render", "--shipped", "--stdout"]])
def test_light_commands_import_neither_litellm_nor_docker(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lmstack", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "lmstack" in modules
    assert not modules & {"litellm", "docker", "xllamacpp"}
