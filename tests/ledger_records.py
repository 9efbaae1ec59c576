"""Records, and writers with short times, for the tests of the ledger."""

import sqlite3
import time
from pathlib import Path

from lmstack.ledger import queries
from lmstack.ledger import writer as ledger_writer
from lmstack.ledger.records import Attempt, Attribution, Call, Ended, Fault, Started, Usage
from lmstack.ledger.timing import Timing

QUICK = Timing(heartbeat=0.02, recovery=0.02, retry=0.02)


def call(id_: str, task: str | None = "t", age: float = 0.0) -> Call:
    made = Call(
        id_,
        f"call-{id_}",
        None,
        time.time() - age,
        "/v1/chat/completions",
        False,
        "auto",
        Attribution(task_id=task, agent_id="a"),
    )
    made.attempts.append(
        Attempt("gpt-4o-mini", "gpt-4o-mini", "openai", "openai/gpt-4o-mini", 1, (0.15, 0.6), False, time.time())
    )
    return made


def ended(one: Call, cost: float | None = 0.25, status: str = "succeeded") -> Ended:
    return Ended(
        one,
        status,
        time.time(),
        12.5,
        Usage(3, 4),
        cost,
        fault=None if status == "succeeded" else Fault("E", "500", "m"),
    )


def make_writer(ledger: Path, timing: Timing = QUICK) -> ledger_writer.Writer:
    return ledger_writer.Writer(ledger_writer.StoreOptions(ledger, events=True, timing=timing))


def rows_of(ledger: Path) -> list[dict[str, object]]:
    """The requests of a ledger that may not be there, or not be migrated, yet."""
    try:
        return queries.ask(ledger, "requests", {})
    except (FileNotFoundError, sqlite3.OperationalError):
        return []


def write(writer: ledger_writer.Writer, *records: Started | Ended) -> None:
    for record in records:
        writer.post(record)
    assert writer.flush(5)
