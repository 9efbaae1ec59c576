"""Locks the dependencies: hashes, every platform's markers, no index addresses. Needs uv (in the dev extra's lock)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What each file adds to [project.dependencies]. The editable install's build backend is locked too.
LOCKS = {"runtime": ["proxy", "embedded"], "dev": ["proxy", "embedded", "dev"]}


def main() -> None:
    """Write requirements/*.txt."""
    for name, extras in LOCKS.items():
        argv = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "compile",
            "pyproject.toml",
            "requirements/build.in",
            "--universal",
            "--python-version",
            "3.10",
        ]
        argv += [
            "--generate-hashes",
            "--no-emit-index-url",
            "--no-emit-find-links",
            "--no-annotate",
            "--custom-compile-command",
            "make lock",
        ]
        argv += [part for extra in extras for part in ("--extra", extra)]
        subprocess.run([*argv, "--output-file", f"requirements/{name}.txt", "--quiet"], cwd=ROOT, check=True)
        print(f"requirements/{name}.txt")


if __name__ == "__main__":
    main()
