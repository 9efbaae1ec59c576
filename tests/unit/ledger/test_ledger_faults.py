"""A budget fails closed, a recorder fails open: what the writer does when the ledger is locked, damaged or in doubt."""

import asyncio
import os
import sqlite3
import time
from pathlib import Path

import pytest

from lmstack.ledger import apply, events, ledger_file, queries, schema, spending, spool, workers, writer
from lmstack.ledger.housekeeping import Bounds
from lmstack.ledger.ledger_file import LedgerFile
from lmstack.ledger.records import Attempt, Attribution, Call, Ended, Started, Usage, Verdict
from lmstack.ledger.session import Session
from lmstack.ledger.spool import Spool
from lmstack.ledger.timing import Timing
from lmstack.routing.budgets import Limit
from support import wait_for

LIMIT = Limit("task", "t", "total", 1.0)


def call(name: str, task: str = "t", reserved: float | None = None) -> Call:
    made = Call(name, name, None, time.time(), "/v1/chat/completions", False, "auto", Attribution(task, "a"))
    made.attempts.append(Attempt("m", "m", "openai", "openai/m", 1, (1.0, 1.0), False, time.time(), 1.0, "succeeded"))
    made.reserved_usd = reserved
    return made


def ended(one: Call, cost: float | None = 0.01) -> Ended:
    return Ended(one, "succeeded", time.time(), 1.0, Usage(1, 1), cost)


QUICK = Timing(heartbeat=0.01, recovery=0.02, retry=0.01)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    return tmp_path / "litellm.db"


def make_writer(ledger: Path, events: bool = False, timing: Timing = QUICK) -> writer.Writer:
    return writer.Writer(writer.StoreOptions(ledger, events=events, timing=timing))


def _write(made: writer.Writer, record: Started) -> Verdict:
    return asyncio.run(made.write(record))


def test_a_budget_is_not_passed_while_records_wait_in_the_spool(ledger: Path) -> None:
    made = make_writer(ledger)
    assert _write(made, Started(call("0"))).durable
    blocker = sqlite3.connect(ledger, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    made.post(ended(call("0"), 2.0))  # spends more than the limit, and goes to the spool
    made.flush(5)
    locked = _write(made, Started(call("1"), (LIMIT,)))
    assert (locked.durable, locked.checked) == (False, False), "nobody can know what was spent"
    assert _write(made, Started(call("2"))).durable, "who has no limit goes on"
    blocker.execute("COMMIT")

    def decided() -> Verdict | None:
        verdict = _write(made, Started(call("3"), (LIMIT,)))
        return verdict if verdict.checked else None

    assert wait_for(decided, 10).exceeded is not None, "the first verdict after the lock knows what was in the spool"
    made.close()
    assert "1" not in {row["id"] for row in queries.ask(ledger, "requests", {})}


def test_a_real_end_replaces_the_one_that_was_made_up(ledger: Path) -> None:
    one = call("1")
    one.estimate_usd = 0.5
    conn = schema.connect(ledger)
    schema.migrate(conn)
    apply.transaction(conn, [Started(one)], "slow-worker", True)
    assert workers.interrupt_requests(conn, ["slow-worker"], time.time(), True) == 1
    apply.transaction(conn, [ended(one, 0.02)], "slow-worker", True)
    apply.transaction(conn, [ended(one, 0.02)], "slow-worker", True)  # told twice
    conn.close()
    (row,) = queries.ask(ledger, "requests", {})
    assert (row["status"], row["cost_usd"], row["error_type"]) == ("succeeded", 0.02, None)
    for by in ("task", "agent", "model", "provider", "tier"):
        rows = [r for r in queries.ask(ledger, "usage", {"by": by}) if r["requests"]]
        assert [(r["requests"], r["failures"], r["unpriced"]) for r in rows] == [(1, 0, 0)], by
        assert sum(r["cost_usd"] for r in queries.ask(ledger, "usage", {"by": by})) == pytest.approx(0.02)
    with sqlite3.connect(ledger) as conn:
        assert conn.execute("SELECT cost_usd, requests FROM totals WHERE kind = 'task'").fetchone() == (
            pytest.approx(0.02),
            1,
        )


def test_a_spool_that_somebody_else_could_have_written_is_left_alone(ledger: Path, tmp_path: Path) -> None:
    forged = Spool(ledger, "forged")
    folder = spool._folders(ledger)[1]
    folder.mkdir(mode=0o700)
    forged._places = [folder / forged._places[0].name]
    forged.append([ended(call("forged"))])
    forged.release_locks()
    folder.chmod(0o777)
    assert spool.left_behind(ledger, []) == []
    folder.chmod(0o700)
    assert [path.parent for path in spool.left_behind(ledger, [])] == [folder]
    target = forged.files()[0]
    target.rename(tmp_path / "elsewhere")
    target.symlink_to(tmp_path / "elsewhere")
    assert spool.left_behind(ledger, []) == []


def test_after_the_file_was_set_aside_the_next_commit_goes_to_the_new_one(ledger: Path) -> None:
    made = make_writer(ledger)
    assert _write(made, Started(call("1"))).durable
    for suffix in ("", "-wal", "-shm"):
        part = Path(f"{ledger}{suffix}")
        if part.exists():
            part.rename(ledger.with_name(f"aside{suffix}"))
    assert _write(made, Started(call("2"))).durable
    assert {row["id"] for row in queries.ask(ledger, "requests", {})} == {"2"}
    made.close()


def test_only_the_damaged_file_is_set_aside(ledger: Path) -> None:
    made = LedgerFile(ledger, Timing(), lambda text: None)
    ledger.write_bytes(b"this is no database" * 500)
    damaged = ledger_file.inode_of(ledger)
    ledger.rename(ledger.with_name("already-aside"))
    schema.migrate(schema.connect(ledger))
    made._set_aside(sqlite3.DatabaseError("file is not a database"), damaged)
    assert ledger.exists(), "the new ledger of another worker must stay"


def test_a_second_damaged_ledger_does_not_replace_the_first_one(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmstack.ledger.ledger_file.time.time", lambda: 1_700_000_000.0)  # within the same second
    made = LedgerFile(ledger, Timing(retry=0.0), lambda text: None)
    for text in (b"the first one", b"the second one"):
        ledger.write_bytes(text * 500)
        made.run(lambda conn: None)
    kept = sorted(path.read_bytes()[:12] for path in ledger.parent.glob("litellm.db.corrupt-*"))
    assert kept == [b"the first on", b"the second o"]


def test_delivered_events_go_as_fast_as_they_come(ledger: Path) -> None:
    made = make_writer(ledger, events=True)
    for n in range(2000):
        made.post(ended(call(str(n))))
    assert made.flush(20)
    with sqlite3.connect(ledger) as conn:
        conn.execute("UPDATE outbox SET state = 'delivered', delivered_at = ?", (time.time() - 2 * 86400,))
    wait_for(lambda: not queries.ask(ledger, "event_counts", {}), 20, "old events to go")
    made.close()


@pytest.mark.parametrize("cost", [-5.0, float("-inf"), float("inf"), float("nan"), 1e9])
def test_a_cost_that_none_can_be_refunds_no_budget(ledger: Path, cost: float) -> None:
    made = make_writer(ledger, events=True)
    made.post(ended(call("1"), 2.0))
    made.post(ended(call("2"), cost))
    assert made.flush(5)
    verdict = _write(made, Started(call("3"), (LIMIT,)))
    assert verdict.exceeded is not None
    assert verdict.exceeded.spent == pytest.approx(2.0)
    made.close()


def test_a_file_system_without_locks_leaves_no_spool_behind(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("lmstack.ledger.spool.fcntl.flock", no_locks)
    left = Spool(ledger, "dead-worker")
    left.append([ended(call("1"))])
    made = make_writer(ledger, timing=Timing(heartbeat=0.01, recovery=0.02, dead_after=0.05))
    wait_for(lambda: not left.files(), 10)
    made.close()


def test_nobody_else_may_read_a_new_ledger(ledger: Path) -> None:
    before = os.umask(0o022)
    try:
        conn = schema.connect(ledger)
        schema.migrate(conn)
        assert {
            path.name: oct(path.stat().st_mode)[-3:] for path in ledger.parent.glob("litellm.db*")
        } == dict.fromkeys(("litellm.db", "litellm.db-wal", "litellm.db-shm"), "600")
        conn.close()
    finally:
        os.umask(before)


class LostAnswer(sqlite3.Connection):
    """A connection whose next COMMITs succeed and report an error all the same."""

    lost = 0

    def execute(self, sql: str, *args: object) -> sqlite3.Cursor:  # type: ignore[override]
        found = super().execute(sql, *args)  # type: ignore[arg-type]
        if sql == "COMMIT" and LostAnswer.lost:
            LostAnswer.lost -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return found


@pytest.fixture
def in_doubt(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    schema.migrate(schema.connect(ledger))
    monkeypatch.setattr(
        "lmstack.ledger.ledger_file.connect",
        lambda path: sqlite3.connect(path, isolation_level=None, factory=LostAnswer),
    )
    return Session(ledger, True, Bounds(), "w", lambda text: None, Timing(retry=0.0))


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_commit_that_succeeds_and_reports_an_error_neither_doubles_nor_loses_a_row(
    in_doubt: Session, ledger: Path, lost: int
) -> None:
    """The first retry is at once. After the second error the record goes to the spool file, and from there to the ledger."""
    one = call("1")
    for record in (Started(one), ended(one, 0.25)):
        LostAnswer.lost = lost
        (verdict,) = in_doubt.store([record])
        assert verdict.durable
    LostAnswer.lost = lost
    in_doubt.beat()
    in_doubt.beat()
    (row,) = queries.ask(ledger, "requests", {})
    assert (row["status"], row["cost_usd"]) == ("succeeded", 0.25)
    (usage,) = queries.ask(ledger, "usage", {"by": "task"})
    assert (usage["requests"], usage["cost_usd"]) == (1, 0.25)
    assert sorted(event["type"] for event in queries.ask(ledger, "events", {})) == [events.COST, events.SUCCEEDED]
    assert not list(ledger.parent.glob("*.spool-*"))


@pytest.mark.parametrize(("lost", "admitted"), [(0, True), (1, True), (2, False)])
def test_a_start_under_a_budget_whose_commit_is_in_doubt_counts_once(
    in_doubt: Session, ledger: Path, lost: int, admitted: bool
) -> None:
    one, limit = call("1", reserved=1.25), Limit("task", "t", "total", 1.0)  # alone it may exceed its budget
    LostAnswer.lost = lost
    (verdict,) = in_doubt.store([Started(one, (limit,))])
    assert (verdict.durable, verdict.checked) == (admitted, admitted)
    if not admitted:  # the hooks ask again, and then refuse or go on
        assert in_doubt.store([Started(one, (limit,))]) == [Verdict(True)]
    conn = schema.connect(ledger)
    assert spending.reserved(conn, limit) == 1.25, "its own reservation counts once, and not against itself"
    assert in_doubt.store([Started(call("2", reserved=0.5), (limit,))])[0].exceeded is not None
    refused = Ended(one, "rejected", time.time(), 1.0)  # what the failure hook writes for a request that was refused
    assert in_doubt.store([refused])[0].durable
    assert spending.reserved(conn, limit) == 0.0
    assert in_doubt.store([Started(call("3", reserved=0.5), (limit,))])[0].durable
