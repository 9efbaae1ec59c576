"""Cells of a CSV file that holds names which clients chose. Pure."""

from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins with one of these


def without_formula(value: Any) -> Any:
    """Return a value as a cell that no spreadsheet runs: an apostrophe marks it as text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
