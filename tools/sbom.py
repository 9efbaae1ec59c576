"""Write the SBOM (CycloneDX, JSON): every package of requirements/runtime.txt with its version and hashes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "sbom.json"


def main(target: Path = TARGET) -> None:
    """Write ``target``. The same lock gives the same file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # It warns that no dependency graph is given. A lock is a flat list.
    argv = [
        sys.executable,
        "-W",
        "ignore::UserWarning",
        "-m",
        "cyclonedx_py",
        "requirements",
        "requirements/runtime.txt",
    ]
    argv += ["--pyproject", "pyproject.toml", "--output-reproducible", "--output-file", str(target)]
    subprocess.run(argv, cwd=ROOT, check=True)
    print(target)


if __name__ == "__main__":
    main()
