"""The span of time that a view shows, read from the URL: ``since=24h``, or ``from`` and ``to`` in Unix seconds. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

CHOICES = {"1h": "1 hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days", "90d": "90 days"}
DEFAULT = "24h"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 36500 * 86400
# The longest span for which a chart has this step, in seconds.
_STEPS = ((2 * 3600, 60), (12 * 3600, 300), (4 * 86400, 3600), (14 * 86400, 6 * 3600))
_DAY = 86400


class SpanError(ValueError):
    """The URL has no valid span. The text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Span:
    """From ``since`` to ``until`` in Unix seconds; ``until`` is None for a span that ends now. ``text``: ``24h``, or ""."""

    since: float
    until: float | None
    text: str
    now: float

    @property
    def seconds(self) -> float:
        """Return its length."""
        return (self.until or self.now) - self.since

    @property
    def step(self) -> int:
        """Return the seconds of one step of a chart."""
        return next((step for longest, step in _STEPS if self.seconds <= longest), _DAY)

    @property
    def query(self) -> dict[str, str]:
        """Return it as parameters of a URL."""
        if self.text:
            return {"since": self.text}
        return {"from": f"{self.since:.0f}", "to": f"{self.until or self.now:.0f}"}


def span_from(query: Mapping[str, str], now: float) -> Span:
    """Return the span of a URL. Raises SpanError."""
    if "from" in query or "to" in query:
        since, until = _time(query, "from"), _time(query, "to")
        if not 0 <= since < until:
            raise SpanError("'from' must be before 'to'; both are Unix seconds")
        return Span(since, until, "", now)
    text = query.get("since", DEFAULT)
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST:
        raise SpanError("'since' is no time span: write it as 30s, 10m, 1h or 2d")
    return Span(now - seconds, None, text, now)


def _time(query: Mapping[str, str], name: str) -> float:
    text = query.get(name, "")
    if not re.fullmatch(r"\d{1,12}", text):
        raise SpanError(f"'{name}' must be Unix seconds")
    return float(text)
