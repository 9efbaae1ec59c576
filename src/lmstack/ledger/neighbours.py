"""Decide which workers are alive, silent or dead. Pure."""

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """What is known about a worker."""

    ALIVE = "alive"  # its heartbeat has changed since the last look, or it is new
    SILENT = "silent"  # its heartbeat has not changed
    DEAD = "dead"  # its heartbeat has not changed for ``dead_after`` seconds


class Neighbours:
    """Watch the heartbeats of all workers. Only the monotonic clock of this process measures them.

    So no change of the wall clock can make a worker look dead.
    """

    def __init__(self, own: str, dead_after: float) -> None:
        self.own, self.dead_after = own, dead_after
        self._since: dict[str, tuple[float, float]] = {}  # worker -> its last heartbeat, and when it was first seen
        self._looked_at = 0.0

    def states(self, heartbeats: Mapping[str, float], now: float) -> dict[str, State]:
        """Return the state of each worker in ``heartbeats`` (worker -> last heartbeat). ``now`` is monotonic seconds."""
        if now - self._looked_at > self.dead_after / 3:
            # A locked file or a full disk kept us from looking. It kept the others from beating, too.
            self._since.clear()
        self._looked_at = now
        before, self._since = self._since, {}
        return {worker: self._state(worker, beat, before.get(worker), now) for worker, beat in heartbeats.items()}

    def dead(self, heartbeats: Mapping[str, float], now: float) -> list[str]:
        """Return the dead workers. See ``states``."""
        return [worker for worker, state in self.states(heartbeats, now).items() if state is State.DEAD]

    def _state(self, worker: str, beat: float, before: tuple[float, float] | None, now: float) -> State:
        changed = before is None or before[0] != beat
        self._since[worker] = (beat, now) if before is None or changed else before
        if changed or worker == self.own:
            return State.ALIVE
        return State.DEAD if now - self._since[worker][1] > self.dead_after else State.SILENT
