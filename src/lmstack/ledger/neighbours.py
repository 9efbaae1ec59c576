"""Which of the other workers are dead: by their heartbeats on the ledger, timed by our own clock. Pure."""

from collections.abc import Mapping


class Neighbours:
    """A worker is *alive* when its beat changes, *silent* while it does not, *dead* after ``dead_after`` seconds of that.

    Only the monotonic clock of this process counts: no jump of the wall clock ends anybody's requests.
    """

    def __init__(self, own: str, dead_after: float) -> None:
        self.own, self.dead_after = own, dead_after
        self._since: dict[str, tuple[float, float]] = {}  # worker -> its last beat, and when we first saw that beat
        self._looked_at = 0.0

    def dead(self, beats: Mapping[str, float], now: float) -> list[str]:
        """Return the dead among ``beats`` (worker -> last beat); ``now`` is monotonic, in seconds."""
        if now - self._looked_at > self.dead_after / 3:
            self._since.clear()  # what kept us from looking (a locked file, a full disk) kept the others from beating
        self._looked_at = now
        self._since = {worker: self._seen(worker, beat, now) for worker, beat in beats.items()}
        return [w for w, (_, since) in self._since.items() if w != self.own and now - since > self.dead_after]

    def _seen(self, worker: str, beat: float, now: float) -> tuple[float, float]:
        last = self._since.get(worker)
        return last if last is not None and last[0] == beat else (beat, now)
