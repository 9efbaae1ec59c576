"""Make an environment with another LiteLLM release, for tests and comparisons. It is kept in build/releases.

The release and its packages are those of `lm upgrade`: the same overrides, and a lock with hashes. All other packages, and
lmstack itself, are those of .venv. In this environment the other release counts as the pinned one.
"""

import sys
from pathlib import Path

from lmstack.runtime import releases
from lmstack.stack.project import Project

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "releases"
# A file that ends in .pth is read at the start of Python, in the order of the names. Packages of the release come first.
OTHERS = "import site; site.addsitedir({folder!r})\n"
PIN = "import lmstack_pin\n"
PIN_MODULE = '''"""Count the release of this environment as the pinned one."""
from lmstack.releases import pins
pins.LITELLM_VERSION, pins.IMAGE = {version!r}, pins.IMAGE_REPOSITORY + ":v{version}"
'''


def python_with(version: str) -> Path:
    """Return the Python of a release; make its environment when there is none. For the pinned release it is our own."""
    if releases.installed() == version:
        return Path(sys.executable)
    project = Project(FOLDER)
    if releases.python_of(project, version) is None:
        print(f"Getting LiteLLM {version} into {FOLDER.relative_to(ROOT)}, once …", file=sys.stderr)
        releases.install(project, version)
    made = releases.folder(project, version)
    _add_packages(made, version)
    _add_programs(made / "bin")
    return made / "bin" / "python"


def _add_packages(made: Path, version: str) -> None:
    [packages] = made.glob("lib/python3*/site-packages")
    [ours] = Path(sys.prefix).glob("lib/python3*/site-packages")
    (packages / "1_other_packages.pth").write_text(OTHERS.format(folder=str(ours)))
    (packages / "2_pin.pth").write_text(PIN)
    (packages / "lmstack_pin.py").write_text(PIN_MODULE.format(version=version))


def _add_programs(folder: Path) -> None:
    """Add what our environment's bin has: a link to each program, a copy of each script with the other Python."""
    ours = Path(sys.prefix) / "bin"
    for program in ours.iterdir():
        target = folder / program.name
        if target.exists() or program.is_dir():
            continue
        head, _, rest = program.read_bytes().partition(b"\n")
        if head.startswith(b"#!") and bytes(ours) in head:
            target.write_bytes(b"#!" + bytes(folder / "python") + b"\n" + rest)
            target.chmod(0o755)
        else:
            target.symlink_to(program.resolve())


if __name__ == "__main__":
    print(python_with(sys.argv[1]))
