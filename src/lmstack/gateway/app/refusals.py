"""Count the requests that the gate refused. They leave no row: whoever has no key must not be able to fill the ledger."""

import logging
import time
from collections import Counter

log = logging.getLogger(__name__)

MAX_SHOWN = 100
_counts: Counter[str] = Counter()
_minute = 0


def note(reason: str, address: str, path: str) -> None:
    """Count one refused request. Once a minute, log how many there were and the last one."""
    global _minute
    _counts[reason] += 1
    minute = int(time.monotonic() // 60)
    if minute != _minute:
        _minute = minute
        told = ", ".join(f"{count} {name}" for name, count in _counts.most_common())
        _counts.clear()
        shown = "".join(c if c.isprintable() else "?" for c in path[:MAX_SHOWN])
        log.warning(
            "lmstack: requests refused since the last such line: %s; the last one: %s from %s", told, shown, address
        )
