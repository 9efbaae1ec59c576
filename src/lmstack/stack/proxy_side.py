"""The modules and folders of lmstack that run inside the proxy, and their source files."""

from pathlib import Path

import lmstack

MODULES = ("__init__.py", "addresses.py", "key_strength.py")
FOLDERS = ("delivery", "gateway", "keys", "ledger", "routing")
PACKAGE = Path(lmstack.__file__).parent


def sources(package: Path = PACKAGE) -> list[Path]:
    """Return every source file that the proxy needs, below a folder ``lmstack``."""
    found = [
        *(package / name for name in MODULES),
        *(path for name in FOLDERS for path in (package / name).rglob("*.py")),
    ]
    return sorted(path for path in found if path.exists())
