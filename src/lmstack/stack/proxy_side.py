"""The folders of lmstack that run inside the proxy, and their source files."""

from pathlib import Path

import lmstack

ROOMS = ("delivery", "gateway", "ledger", "routing")
PACKAGE = Path(lmstack.__file__).parent


def sources(package: Path = PACKAGE) -> list[Path]:
    """Return every source file that the proxy needs, below a folder ``lmstack``."""
    found = [package / "__init__.py", *(path for room in ROOMS for path in (package / room).rglob("*.py"))]
    return sorted(path for path in found if path.exists())
