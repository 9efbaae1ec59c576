"""The writer's thread survives whatever the operating system does to it; a budget fails closed, a recorder fails open."""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmstack.ledger import queries, schema, session, spool, writer
from lmstack.ledger.records import Attempt, Attribution, Call, Ended, Started, Usage, Verdict
from lmstack.ledger.spool import Spool
from lmstack.routing.budgets import Limit
from support import wait_for

# What the thread asks of the operating system, by the names under which its modules find it.
SEAMS = (
    "pathlib.Path.stat", "pathlib.Path.mkdir", "pathlib.Path.exists", "pathlib.Path.unlink", "pathlib.Path.open",
    "pathlib.Path.glob", "pathlib.Path.lstat", "pathlib.Path.rename",
    "lmstack.ledger.spool.os.open", "lmstack.ledger.spool.os.write", "lmstack.ledger.spool.os.fstat",
    "lmstack.ledger.spool.fcntl.flock", "lmstack.ledger.session.connect", "lmstack.ledger.session.migrate",
    "lmstack.ledger.apply.transaction", "lmstack.ledger.apply.beat", "lmstack.ledger.apply.beats",
    "lmstack.ledger.apply.interrupt_orphans", "lmstack.ledger.session.tidy",
)  # fmt: skip
LIMIT = Limit("task", "t", "total", 1.0)


def call(name: str, task: str = "t", reserved: float | None = None) -> Call:
    made = Call(name, name, None, time.time(), "/v1/chat/completions", False, "auto", Attribution(task, "a"))
    made.attempts.append(Attempt("m", "m", "openai", "openai/m", 1, (1.0, 1.0), False, time.time(), 1.0, "succeeded"))
    made.reserved_usd = reserved
    return made


def ended(one: Call, cost: float | None = 0.01) -> Ended:
    return Ended(one, "succeeded", time.time(), 1.0, Usage(1, 1), cost)


class FailsOnce:
    """Raises at the ``place``-th call that the writer's thread makes of the function behind it, once."""

    def __init__(self, real: Callable[..., Any], place: int, error: Exception) -> None:
        self.real, self.place, self.error = real, place, error
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread().name == "lmstack-writer":
            self.calls += 1
            if self.calls == self.place:
                raise self.error
        return self.real(*args, **kwargs)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(writer, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(session, "LOOK_BEHIND_SECONDS", 0.1)
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    return tmp_path / "litellm.db"


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), sqlite3.OperationalError("disk I/O error")], ids=["os", "sqlite"]
)
@pytest.mark.parametrize("seam", SEAMS)
def test_a_call_to_the_system_that_fails_once_loses_nothing(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, seam: str, error: Exception
) -> None:
    target, _, name = seam.rpartition(".")
    for place in range(1, 4):
        with monkeypatch.context() as patch:
            owner = _found(target)
            failing = FailsOnce(getattr(owner, name), place, error)
            patch.setattr(owner, name, lambda *a, f=failing, **k: f(*a, **k))
            made = writer.Writer(writer.StoreOptions(ledger, events=True))
            other = Spool(ledger, f"gone-{place}")  # what a dead worker left
            other.append([ended(call(f"left-{place}"))])
            other.let_go()
            os.utime(other.files()[0], (time.time() - 60,) * 2)
            for n in range(3):
                made.post(Started(call(f"{place}-{n}")))
                made.post(ended(call(f"{place}-{n}")))
            wait_for(lambda p=place: len(_ids(ledger)) == 4 * p, 20, f"all rows with {seam} failing at call {place}")  # type: ignore[misc]
            assert made._thread.is_alive()
            assert made.unrecorded == 0
            made.close()
        if failing.calls < place:
            break
    (usage,) = queries.ask(ledger, "usage", {"by": "task"})
    assert usage["requests"] == len(_ids(ledger)), "a record was counted twice"


def _found(dotted: str) -> Any:
    import importlib

    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            owner = getattr(owner, part)
        return owner
    raise LookupError(dotted)


def _ids(ledger: Path) -> set[str]:
    try:
        return {row["id"] for row in queries.ask(ledger, "requests", {}) if row["status"] == "succeeded"}
    except (OSError, sqlite3.Error):
        return set()


def _write(made: writer.Writer, record: Started) -> Verdict:
    return asyncio.run(made.write(record))


def test_a_budget_is_not_passed_while_records_wait_in_the_spool(ledger: Path) -> None:
    made = writer.Writer(writer.StoreOptions(ledger, events=False))
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

    assert wait_for(decided, 10).over is not None, "the first verdict after the lock knows what was in the spool"
    made.close()
    assert "1" not in {row["id"] for row in queries.ask(ledger, "requests", {})}


def test_a_real_end_replaces_the_one_that_was_made_up(ledger: Path) -> None:
    from lmstack.ledger import apply

    one = call("1")
    one.estimate_usd = 0.5
    conn = schema.connect(ledger)
    schema.migrate(conn)
    apply.transaction(conn, [Started(one)], "slow-worker", True)
    assert apply.interrupt_orphans(conn, ["slow-worker"], time.time(), True) == 1
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
    forged.let_go()
    folder.chmod(0o777)
    assert spool.left_behind(ledger, []) == []
    folder.chmod(0o700)
    assert [path.parent for path in spool.left_behind(ledger, [])] == [folder]
    target = forged.files()[0]
    target.rename(tmp_path / "elsewhere")
    target.symlink_to(tmp_path / "elsewhere")
    assert spool.left_behind(ledger, []) == []


def test_after_the_file_was_set_aside_the_next_commit_goes_to_the_new_one(ledger: Path) -> None:
    made = writer.Writer(writer.StoreOptions(ledger, events=False))
    assert _write(made, Started(call("1"))).durable
    for suffix in ("", "-wal", "-shm"):
        part = Path(f"{ledger}{suffix}")
        if part.exists():
            part.rename(ledger.with_name(f"aside{suffix}"))
    assert _write(made, Started(call("2"))).durable
    assert {row["id"] for row in queries.ask(ledger, "requests", {})} == {"2"}
    made.close()


def test_only_the_damaged_file_is_set_aside(ledger: Path) -> None:
    made = session.Session(ledger, False, session.Bounds(), "w", lambda text: None)
    ledger.write_bytes(b"this is no database" * 500)
    damaged = session._inode(ledger)
    ledger.rename(ledger.with_name("already-aside"))
    schema.migrate(schema.connect(ledger))
    made._set_aside(sqlite3.DatabaseError("file is not a database"), damaged)
    assert ledger.exists(), "the new ledger of another worker must stay"


def test_delivered_events_go_as_fast_as_they_come(ledger: Path) -> None:
    made = writer.Writer(writer.StoreOptions(ledger, events=True))
    for n in range(2000):
        made.post(ended(call(str(n))))
    assert made.flush(20)
    with sqlite3.connect(ledger) as conn:
        conn.execute("UPDATE outbox SET state = 'delivered', delivered_at = ?", (time.time() - 2 * 86400,))
    wait_for(lambda: not queries.ask(ledger, "event_counts", {}), 20, "old events to go")
    made.close()


@pytest.mark.parametrize("cost", [-5.0, float("-inf"), float("inf"), float("nan"), 1e9])
def test_a_cost_that_none_can_be_refunds_no_budget(ledger: Path, cost: float) -> None:
    made = writer.Writer(writer.StoreOptions(ledger, events=True))
    made.post(ended(call("1"), 2.0))
    made.post(ended(call("2"), cost))
    assert made.flush(5)
    verdict = _write(made, Started(call("3"), (LIMIT,)))
    assert verdict.over is not None
    assert verdict.over.spent == pytest.approx(2.0)
    made.close()


def test_a_file_system_without_locks_leaves_no_spool_behind(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("lmstack.ledger.spool.fcntl.flock", no_locks)
    left = Spool(ledger, "dead-worker")
    left.append([ended(call("1"))])
    os.utime(left.files()[0], (time.time() - 60,) * 2)
    made = writer.Writer(writer.StoreOptions(ledger, events=False))
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
