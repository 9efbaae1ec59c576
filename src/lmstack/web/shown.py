"""Turn values into what a person reads: amounts with units, times, shares. Jinja filters. Pure."""

import json
from datetime import datetime, timezone
from typing import Any

NONE = "–"
_THOUSANDS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k"))


def usd(value: float | None) -> str:
    """Return US dollars with two to six digits after the point, so that a small amount is not shown as nothing."""
    if value is None:
        return "unknown"
    size = abs(value)
    digits = 2 if size >= 0.995 or size == 0 else 4 if size >= 0.01 else 6
    if 0 < size < 1e-6:
        return "<$0.000001"
    return f"{'-' if value < 0 else ''}${size:,.{digits}f}"


def count(value: float | None) -> str:
    """Return a whole number with separators."""
    return NONE if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """Return a large number with three digits and a unit: 1.23M."""
    if value is None:
        return NONE
    for size, unit in _THOUSANDS:
        if abs(value) >= size:
            number = value / (1e3 if unit == "k" else size)
            return f"{number:.3g}{unit}" if number < 1000 else f"{number:,.0f}{unit}"
    return f"{value:,.0f}"


def ms(value: float | None) -> str:
    """Return milliseconds as a time with its unit."""
    if value is None:
        return NONE
    if value < 1000:
        return f"{value:.0f}\u00a0ms"
    return f"{value / 1000:.2f}\u00a0s" if value < 60_000 else f"{value / 60_000:.1f}\u00a0min"


def share(part: float | None, whole: float | None) -> str:
    """Return a percentage."""
    if not whole or part is None:
        return NONE
    percent = 100 * part / whole
    return f"{percent:.1f}\u00a0%" if 0 < percent < 10 else f"{percent:.0f}\u00a0%"


def utc(at: float | None) -> str:
    """Return a moment in UTC for people."""
    return NONE if at is None else datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def iso(at: float | None) -> str:
    """Return a moment as ISO 8601, for the attribute ``datetime`` of an element."""
    return "" if at is None else datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds")


def rate(value: float | None) -> str:
    """Return US dollars per million tokens."""
    return NONE if value is None else "free" if value == 0 else f"${value:,.2f}"


def as_json(value: Any) -> str:
    """Return JSON for an attribute. Jinja escapes it."""
    return json.dumps(value, separators=(",", ":"))


def exact(value: float | None) -> str:
    """Return US dollars with ten digits after the point: the lines of one request add up to its cost."""
    return NONE if value is None else f"{value:.10f}".rstrip("0").ljust(4, "0")


FILTERS = {
    "usd": usd, "count": count, "short": short, "ms": ms, "share": share, "utc": utc, "iso": iso, "rate": rate, "exact": exact, "as_json": as_json,
}  # fmt: skip
