"""The outcomes of posts on their way back to the sender's thread."""

import queue
from dataclasses import dataclass, field

from lmstack.ledger.outbox import RunOutcome

Results = queue.SimpleQueue[list[RunOutcome]]


@dataclass(slots=True)
class Inbox:
    """How many posts are under way, and which outcomes the ledger does not have yet.

    Each post puts one list into ``results``, with one outcome for each of its lanes.
    """

    results: "Results" = field(default_factory=queue.SimpleQueue)
    under_way: int = 0
    unsettled: list[RunOutcome] = field(default_factory=list)

    def take(self, wait_seconds: float = 0.0) -> list[list[RunOutcome]]:
        """Return the posts that came back since the last call. Wait up to ``wait_seconds`` for the first."""
        found: list[list[RunOutcome]] = []
        while True:
            try:
                wait = wait_seconds > 0 and not found
                come = self.results.get(timeout=wait_seconds) if wait else self.results.get_nowait()
            except queue.Empty:
                return found
            self.under_way -= 1
            self.unsettled += come
            found.append(come)

    def begin(self, same_file: bool) -> None:
        """Start a new session. All posts of the last one have ended. Outcomes for another file mean nothing here."""
        self.take()
        self.under_way = 0
        if not same_file:
            self.unsettled = []
