"""Tell the time by which the ledger may delete old rows, although the wall clock may be wrong.

The wall clock can jump: a dead battery, a wrong host, a restored virtual machine. A jump ahead must not delete history.
After a gap of more than a day, no row becomes too old until the gateway has run for a day.
"""

import sqlite3

GAP_SECONDS = 86400.0
CONFIRM_SECONDS = 86400.0
# The wall clock and the monotonic clock may differ by this much before it is a jump.
SLACK_SECONDS = 600.0


class TrustedClock:
    """Watch the wall clock of one process. All times are Unix seconds, except ``monotonic``."""

    def __init__(self) -> None:
        self._offset: float | None = None  # wall clock minus monotonic clock
        self._steady_since = 0.0

    def now(self, conn: sqlite3.Connection, wall: float, monotonic: float) -> float:
        """Return ``wall``, minus a gap that may be a jump of the clock."""
        if self._has_run_steadily(wall, monotonic):
            return wall
        return wall - unconfirmed_gap(conn, wall)

    def _has_run_steadily(self, wall: float, monotonic: float) -> bool:
        offset = wall - monotonic
        if self._offset is None or abs(offset - self._offset) > SLACK_SECONDS:
            self._offset, self._steady_since = offset, monotonic
        return monotonic - self._steady_since >= CONFIRM_SECONDS


def unconfirmed_gap(conn: sqlite3.Connection, wall: float) -> float:
    """Return the length of the last gap between two requests, if it ended less than CONFIRM_SECONDS ago, else 0."""
    later = int(wall) // 3600
    first = later - CONFIRM_SECONDS / 3600
    # Each request is in the rollups of exactly one tier. The key of the table begins with dimension and hour.
    rows = conn.execute(
        "SELECT DISTINCT hour FROM rollups WHERE dimension = 'tier' AND hour <= ? ORDER BY hour DESC", (later,)
    )
    for (hour,) in rows:
        if (later - hour) * 3600 > GAP_SECONDS:
            return float((later - hour) * 3600)
        if hour < first:
            return 0.0
        later = hour
    return 0.0
