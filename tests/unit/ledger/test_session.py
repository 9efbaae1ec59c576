"""Where a record goes: into the ledger, the spool file or memory, or nowhere. And what its verdict says."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmstack.ledger import schema
from lmstack.ledger.housekeeping import Bounds
from lmstack.ledger.ledger_file import LedgerFile, Outcome
from lmstack.ledger.records import Attribution, Call, Ended, Record, Started, Usage, Verdict
from lmstack.ledger.session import QUEUE_SIZE, Session
from lmstack.ledger.timing import Timing
from lmstack.routing.budgets import Limit

TIMING = Timing(commit=0.02, retry=0.0, close=0.0)
LIMIT = Limit("task", "t", "total", 1.0)


def call(name: str, reserved: float | None = None) -> Call:
    made = Call(name, name, None, time.time(), "/v1/chat/completions", False, "auto", Attribution("t", "a"))
    made.reserved_usd = reserved
    return made


def ended(name: str, cost: float | None = 0.25) -> Ended:
    return Ended(call(name), "succeeded", time.time(), 1.0, Usage(1, 1), cost)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(schema, "BUSY_MS", 1)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "elsewhere"))
    path = tmp_path / "logs" / "litellm.db"
    path.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    schema.migrate(schema.connect(path))
    return path


@pytest.fixture
def session(ledger: Path) -> Session:
    return Session(ledger, True, Bounds(), "w", lambda text: None, TIMING)


# -- the ledger's file -----------------------------------------------------------------------------------------------


def fail_with(error: Exception) -> Callable[[sqlite3.Connection], None]:
    def work(conn: sqlite3.Connection) -> None:
        with schema.writing(conn):
            conn.execute("INSERT INTO totals VALUES ('task', 'x', 1.0, 1)")
            raise error

    return work


@pytest.mark.parametrize(
    ("error", "outcome", "reopened", "replaced"),
    [
        (None, Outcome.COMMITTED, False, False),
        (sqlite3.OperationalError("database is locked"), Outcome.BUSY, False, False),
        (sqlite3.OperationalError("database table is locked: requests"), Outcome.BUSY, False, False),
        (sqlite3.OperationalError("disk I/O error"), Outcome.BROKEN, True, False),
        (sqlite3.OperationalError("database or disk is full"), Outcome.BROKEN, True, False),
        (sqlite3.OperationalError("attempt to write a readonly database"), Outcome.BROKEN, True, False),
        (sqlite3.DatabaseError("database disk image is malformed"), Outcome.BROKEN, True, True),
        (sqlite3.DatabaseError("file is not a database"), Outcome.BROKEN, True, True),
        # SQLite's own classes for wrong values and wrong use say nothing about the file.
        (sqlite3.IntegrityError("constraint failed"), Outcome.BROKEN, False, False),
        (sqlite3.ProgrammingError("bad parameters"), Outcome.BROKEN, False, False),
        (OSError(5, "Input/output error"), Outcome.BROKEN, False, False),
        (MemoryError(), Outcome.BROKEN, False, False),
    ],
    ids=str,
)
def test_what_some_work_on_the_ledger_ends_in(
    ledger: Path, error: Exception | None, outcome: Outcome, reopened: bool, replaced: bool
) -> None:
    warnings: list[str] = []
    file = LedgerFile(ledger, TIMING, warnings.append)
    assert file.run(lambda conn: None) is Outcome.COMMITTED
    before = file._conn
    assert file.run(fail_with(error) if error else lambda conn: None) is outcome
    assert (file._conn is not before) is reopened
    assert bool(list(ledger.parent.glob("litellm.db.corrupt-*"))) is replaced
    assert len(warnings) == (1 if error and not replaced else 0), "a replaced file has a log line of its own"
    found: list[object] = []
    file.run(
        lambda conn: found.append(conn.in_transaction or conn.execute("SELECT COUNT(*) FROM totals").fetchone()[0])
    )
    assert found == [0], "nothing was written, and no transaction is open"


def test_a_file_that_cannot_be_opened_is_tried_again_after_a_while(ledger: Path) -> None:
    file = LedgerFile(ledger.parent / "no" / "litellm.db", Timing(retry=1000.0), lambda text: None)
    (ledger.parent / "no").write_text("a file in place of the folder")
    assert file.run(lambda conn: None) is Outcome.BROKEN
    (ledger.parent / "no").unlink()
    assert file.run(lambda conn: None) is Outcome.BROKEN, "not again so soon"
    file.open_at_once()
    assert file.run(lambda conn: None) is Outcome.COMMITTED


# -- where a record goes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    name: str
    ledger: str  # free, locked, or broken
    spool: str  # empty, holds a record, or full (takes nothing)
    record: Record
    verdict: Verdict
    place: str  # ledger, spool, memory, or nowhere


PLAIN, LIMITED = Started(call("new")), Started(call("new", 0.5), (LIMIT,))
STORED, HELD, UNKNOWN = Verdict(True), Verdict(False), Verdict(False, checked=False)
CASES = (
    Case("free", "free", "empty", PLAIN, STORED, "ledger"),
    Case("free, limited", "free", "empty", LIMITED, Verdict(True, room_usd=1.0), "ledger"),
    Case("free, the spool comes first", "free", "holds", PLAIN, STORED, "spool"),
    Case("free, limited: the spool is moved first", "free", "holds", LIMITED, Verdict(True, room_usd=0.75), "ledger"),
    Case("locked", "locked", "empty", PLAIN, STORED, "spool"),
    Case("locked, limited", "locked", "empty", LIMITED, UNKNOWN, "nowhere"),
    Case("locked, behind the spool", "locked", "holds", PLAIN, STORED, "spool"),
    Case("locked, limited, behind the spool", "locked", "holds", LIMITED, UNKNOWN, "nowhere"),
    Case("locked, no room", "locked", "full", PLAIN, HELD, "memory"),
    Case("locked, limited, no room", "locked", "full", LIMITED, UNKNOWN, "nowhere"),
    Case("broken", "broken", "empty", PLAIN, STORED, "spool"),
    Case("broken, limited", "broken", "empty", LIMITED, UNKNOWN, "nowhere"),
    Case("broken, no room", "broken", "full", ended("new"), HELD, "memory"),
    Case("an end, locked", "locked", "empty", ended("new"), STORED, "spool"),
)


@pytest.fixture
def situation(ledger: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Case], None]]:
    blocker = sqlite3.connect(ledger, isolation_level=None)

    def make(case: Case) -> None:
        if case.spool == "holds":
            session.spool.append([ended("before")])
        if case.spool == "full":
            monkeypatch.setattr(
                "lmstack.ledger.spool._append_whole", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
            )
        if case.ledger == "locked":
            blocker.execute("BEGIN IMMEDIATE")
        if case.ledger == "broken":
            monkeypatch.setattr(
                "lmstack.ledger.ledger_file.connect", lambda path: (_ for _ in ()).throw(sqlite3.OperationalError("no"))
            )

    yield make
    blocker.close()


def place_of(ledger: Path, session: Session) -> str:
    rows = sqlite3.connect(ledger).execute("SELECT 1 FROM requests WHERE id = 'new'").fetchall()
    files = [path.read_text() for path in ledger.parent.parent.rglob("*.spool-*")]
    found = [
        "ledger" if rows else "",
        "spool" if any('"id":"new"' in text for text in files) else "",
        "memory" if any(record.call.id == "new" for record in session.held) else "",
    ]
    return " and ".join(filter(None, found)) or "nowhere"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_where_a_record_goes(
    ledger: Path, session: Session, situation: Callable[[Case], None], monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    situation(case)
    assert session.store([case.record]) == [case.verdict]
    assert place_of(ledger, session) == case.place
    assert session.lost == 0


def test_what_waits_reaches_the_ledger_in_its_order_when_it_is_free(
    ledger: Path, session: Session, situation: Callable[[Case], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = sqlite3.connect(ledger, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert session.store([Started(call("1"))]) == [STORED]  # to the spool
    with monkeypatch.context() as full:
        full.setattr("lmstack.ledger.spool._append_whole", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        assert session.store([ended("1")]) == [HELD]  # to memory
    blocker.execute("COMMIT")
    blocker.close()
    for _ in range(3):
        session.beat()
    assert sqlite3.connect(ledger).execute("SELECT id, status FROM requests").fetchall() == [("1", "succeeded")]
    assert (session.held, session.spool.pending, session.lost) == ([], 0, 0)


def test_memory_has_a_bound_and_what_is_lost_is_counted(session: Session) -> None:
    session.hold([ended(str(n)) for n in range(QUEUE_SIZE + 5)])
    assert (len(session.held), session.lost) == (QUEUE_SIZE, 5)
    assert session.held[0].call.id == "5", "the oldest are lost"
    session.hold([LIMITED])
    assert session.lost == 5, "a start under a budget is refused, so nothing is lost"
