"""What import-linter cannot say (pyproject.toml has its contracts): pure packages stay pure, light commands stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

PACKAGE = ROOT / "src" / "lmstack"
IMPURE = {"os", "subprocess", "time", "socket", "pathlib", "httpx", "docker", "tempfile"}
# The file system is read by these alone: for what is shipped with the package.
READS_ITS_OWN_FILES = {"catalog/prices.py", "config/legal_keys.py"}
PURE = sorted(
    path
    for package in ("config", "catalog", "releases", "routing")
    for path in (PACKAGE / package).glob("*.py")
    if str(path.relative_to(PACKAGE)) not in READS_ITS_OWN_FILES
)
LEDGER = sorted(path.stem for path in (PACKAGE / "ledger").glob("*.py") if path.stem != "__init__")


def imported(path: Path) -> set[str]:
    """The top-level names of everything that a file imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", PURE, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_pure_modules_touch_no_file_clock_or_process(path: Path) -> None:
    assert not imported(path) & IMPURE


@pytest.mark.parametrize("path", sorted((PACKAGE / "routing").glob("*.py")), ids=lambda p: p.stem)
def test_routing_needs_nothing_but_the_standard_library(path: Path) -> None:
    assert imported(path) - {"lmstack"} <= sys.stdlib_module_names


def test_the_ledger_needs_nothing_but_the_standard_library() -> None:
    code = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('httpx', 'litellm', 'fastapi', 'starlette', 'pydantic', 'yaml', 'typer', 'docker', 'psutil', 'dotenv'):
            raise ImportError(name + ' is not to be imported here')
sys.meta_path.insert(0, Block())
for name in {LEDGER!r}:
    importlib.import_module('lmstack.ledger.' + name)
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
