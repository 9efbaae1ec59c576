"""Run every linter, each from a wheel: `tools/lint.py [PATH...]`.

Without a path it checks the whole project. With paths it checks only those files.
"""

import subprocess
import sys
from pathlib import Path

from prose import files

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
# The most lines of a module.
MODULE_LINES = 250
# Public modules, classes, functions and methods have a docstring; __init__ and other special methods need none.
DOCSTRINGS = ["--select", "D100,D101,D102,D103,D104,D106"]
YAML_RULES = "{extends: relaxed, rules: {line-length: disable}}"


def linters() -> list[list[str]]:
    """Return the command lines that check the whole project."""
    yaml = ["docker-compose.yml", "litellm-config.yaml", "src/lmstack/catalog/catalog.yaml", "tools/prose_words.yaml"]
    return [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["ruff", "check", *DOCSTRINGS, "src", "tools", "bench"],
        ["lint-imports"],
        ["shellcheck", "start-litellm.sh", ".ci/run"],
        ["yamllint", "-s", "-d", YAML_RULES, *yaml],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
        ["check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml"],
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", ".github/workflows/ci.yml"],
        ["hadolint", "Dockerfile"],
        ["python", "tools/prose.py"],
        ["python", "tools/generate.py", "--check"],
    ]


def linters_of(paths: list[str]) -> list[list[str]]:
    """Return the command lines that check only these paths."""
    return [
        ["ruff", "check", *paths],
        ["ruff", "format", "--check", *paths],
        ["ruff", "check", *DOCSTRINGS, *paths],
        ["python", "tools/prose.py", *paths],
    ]


def long_modules(paths: list[Path]) -> list[str]:
    """Return a message for each Python file with too many lines."""
    found = []
    for path in files(paths):
        count = len(path.read_text(encoding="utf-8").splitlines())
        if path.suffix == ".py" and count > MODULE_LINES:
            found.append(f"{path.relative_to(ROOT)}: {count} lines, at most {MODULE_LINES}: split it along its jobs")
    return found


def main(paths: list[str]) -> int:
    """Run the linters; return 1 when any of them found something."""
    runs = linters_of(paths) if paths else linters()
    failed = []
    for argv in runs:
        if subprocess.run([str(BIN / argv[0]), *argv[1:]], cwd=ROOT).returncode:
            failed.append(" ".join(argv[:2]))
    where = [ROOT / p for p in paths] or [ROOT / name for name in ("src", "tools", "bench")]
    for message in long_modules(where):
        failed.append("module length")
        print(message)
    print(f"lint: {'failed: ' + ', '.join(dict.fromkeys(failed)) if failed else 'clean'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
