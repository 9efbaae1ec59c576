"""Lock the dependencies, with hashes and markers for every platform, and without index addresses. Needs uv."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Each file locks [project.dependencies] and these extras. The build backend of the editable install is locked too.
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
