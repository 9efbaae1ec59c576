"""A ledger, a sender and a receiver without a proxy: for what depends on time, not on LiteLLM."""

import contextlib
import sqlite3
import time
from pathlib import Path

from bench.faults.receiver import FaultyReceiver
from lmstack.delivery.contract import Target
from lmstack.delivery.sender import Sender
from lmstack.ledger import queries, writer
from lmstack.ledger.records import Attempt, Attribution, Call, Ended, Fault, Usage


class Post:
    """A ledger, a sender and a receiver."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "litellm.db"
        self.writer = writer.Writer(writer.StoreOptions(self.path, events=True))
        self.receiver = FaultyReceiver()
        self.receiver.keep_bodies = True
        self.now = [time.time()]
        self.sender: Sender | None = None
        self.count = 0

    def start(self, injected_clock: bool = False, **options: object) -> None:
        """Start the sender, on the injected clock or on the real one."""
        target = Target(self.receiver.url + "/api/litellm/log", "key", "whsec_c2VjcmV0", **options)  # type: ignore[arg-type]
        self.sender = Sender(self.path, target, clock=(lambda: self.now[0]) if injected_clock else time.time)

    def add(self, count: int, task: str | None = None) -> None:
        """Write that many finished requests to the ledger. Every fifth has failed."""
        for _ in range(count):
            self.count += 1
            if self.count % 2000 == 0:
                self.writer.flush(30)  # the queue is bounded
            call = Call(
                f"r{self.count}",
                f"c{self.count}",
                "t",
                self.now[0],
                "/v1/chat/completions",
                False,
                "auto",
                Attribution(task, "a"),
            )
            call.attempts.append(
                Attempt("m", "m", "openai", "openai/m", 1, (0.15, 0.6), False, self.now[0], 1.0, "succeeded")
            )
            status, fault = ("failed", Fault("E", "500", "m")) if self.count % 5 == 0 else ("succeeded", None)
            self.writer.post(Ended(call, status, self.now[0], 1.0, Usage(1, 2), None if fault else 0.5, fault=fault))
        assert self.writer.flush(30)

    def states(self) -> dict[str, int]:
        """Return how many events each state has."""
        return {r["state"]: r["events"] for r in queries.ask(self.path, "event_counts", {})}

    def tick(self, seconds: float) -> None:
        """Let the injected clock go on: a probe's pause may have begun after the hour was added."""
        self.now[0] += seconds

    def waits(self) -> float:
        """Return the seconds until the first lane is due, by the injected clock; 0 when none waits or nothing was tried."""
        if not self.receiver.tries:  # a new lane is due at the writer's time, which is later than the injected one
            return 0.0
        with contextlib.closing(sqlite3.connect(self.path)) as conn:
            (due,) = conn.execute("SELECT MIN(due_at) FROM lanes WHERE lease_owner IS NULL").fetchone()
        return 0.0 if due is None else max(0.0, float(due) - self.now[0])

    def all_delivered(self) -> bool:
        """Return whether every event is delivered."""
        return set(self.states()) == {"delivered"}

    def stop(self) -> None:
        """Stop the sender, the writer and the receiver."""
        if self.sender:
            self.sender.close(20)
        self.writer.close()
        self.receiver.stop()
