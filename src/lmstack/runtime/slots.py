"""The two places of a supervisord in a stack's folder. For a moment two servers run: one takes the place of the other.

A slot is a suffix in the names of a supervisord's files: "" or "-2".
"""

from pathlib import Path

from lmstack import files

SLOTS = ("", "-2")


def current(root: Path) -> str:
    """Return the slot of the server that serves, or will serve."""
    text = (files.read(_file(root)) or "").strip()
    return text if text in SLOTS else ""


def other(slot: str) -> str:
    """Return the other slot."""
    return SLOTS[1 - SLOTS.index(slot)]


def choose(root: Path, slot: str) -> None:
    """Make a slot the current one."""
    if slot:
        files.write(_file(root), slot + "\n")
    else:
        files.remove(_file(root))


def _file(root: Path) -> Path:
    return root / ".lmstack" / "slot"
