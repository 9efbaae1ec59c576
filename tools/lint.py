"""All linters, each from a wheel; runs every one and fails at the end if any found something."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def main() -> int:
    """Returns 1 when any linter complained."""
    compose = ["docker-compose.yml"]
    runs = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["lint-imports"],
        ["shellcheck", "start-litellm.sh", ".ci/run"],
        [
            "yamllint",
            "-s",
            "-d",
            "{extends: relaxed, rules: {line-length: disable}}",
            *compose,
            "litellm-config.yaml",
            "src/lmstack/catalog/catalog.yaml",
        ],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *compose],
        ["hadolint", "Dockerfile"],
    ]
    failed = [argv[0] for argv in runs if subprocess.run([str(BIN / argv[0]), *argv[1:]], cwd=ROOT).returncode]
    stale = subprocess.run([sys.executable, "tools/generate.py", "--check"], cwd=ROOT).returncode
    failed += ["generated files (run: make docs)"] if stale else []
    print(f"lint: {'failed: ' + ', '.join(failed) if failed else 'clean'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
