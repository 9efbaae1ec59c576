"""Which workers are alive, silent or dead."""

import pytest

from lmstack.ledger.neighbours import Neighbours, State

ALIVE, SILENT, DEAD = State.ALIVE, State.SILENT, State.DEAD


@pytest.mark.parametrize(
    ("looks", "states"),
    [
        # Each look: our monotonic clock, and the other worker's heartbeat (None: it is not in the ledger).
        ([(0, 5.0), (4, 6.0), (8, 7.0)], [ALIVE, ALIVE, ALIVE]),
        ([(0, 5.0), (4, 5.0), (8, 5.0), (12, 5.0), (16, 5.0)], [ALIVE, SILENT, SILENT, SILENT, DEAD]),
        ([(0, 5.0), (5, 5.0), (10, 5.0), (15, 5.0), (20, 5.0)], [ALIVE, SILENT, SILENT, SILENT, DEAD]),  # 15 s: not yet
        ([(0, 99.0), (4, -99999.0), (8, -99999.0)], [ALIVE, ALIVE, SILENT]),  # its clock was set back
        ([(0, 5.0), (4, 5.0), (8, 1e12), (12, 1e12)], [ALIVE, SILENT, ALIVE, SILENT]),  # its clock was set ahead
        # Who could not look for a while cannot tell: the others could not write their heartbeats either.
        ([(0, 5.0), (60, 5.0), (64, 5.0)], [ALIVE, ALIVE, SILENT]),
        ([(0, 5.0), (4, 5.0), (8, 5.0), (12, 5.0), (60, 5.0)], [ALIVE, SILENT, SILENT, SILENT, ALIVE]),
        ([(0, 5.0), (4, None), (8, 5.0), (12, 5.0)], [ALIVE, None, ALIVE, SILENT]),  # it left, and came back
    ],
)
def test_a_worker_is_dead_when_its_heartbeat_stands_still_by_our_own_clock(
    looks: list[tuple[float, float | None]], states: list[State | None]
) -> None:
    neighbours = Neighbours("me", 15.0)
    neighbours.states({}, 1000.0)
    found = []
    for now, beat in looks:
        seen = neighbours.states({"me": 5.0} | ({} if beat is None else {"other": beat}), 1000.0 + now)
        assert seen["me"] is ALIVE, "this worker itself never is dead"
        found.append(seen.get("other"))
    assert found == states
