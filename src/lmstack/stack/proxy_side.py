"""The modules and folders of lmstack that run inside the proxy, and their source files."""

from pathlib import Path

import lmstack

MODULES = ("__init__.py", "addresses.py", "key_strength.py", "page_link.py")
FOLDERS = ("delivery", "gateway", "keys", "ledger", "routing", "web")
# What the page sends to a browser is beside its modules.
KINDS = (".py", ".html", ".css", ".js", ".svg", ".json", ".LICENSE")
PACKAGE = Path(lmstack.__file__).parent


def sources(package: Path = PACKAGE) -> list[Path]:
    """Return every source file that the proxy needs, below a folder ``lmstack``."""
    found = [
        *(package / name for name in MODULES),
        *(path for name in FOLDERS for path in (package / name).rglob("*") if path.suffix in KINDS),
    ]
    return sorted(path for path in found if path.exists())
