"""Each call that the writer makes to the operating system fails once, SQLite statement by statement.

The thread lives, logs it once and recovers. No answered record is lost or doubled, and no budget is passed.
"""

import concurrent.futures
import logging
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faulty_calls import Place, SystemCalls, soon
from lmstack.ledger import apply, schema, workers
from lmstack.ledger.neighbours import Neighbours
from lmstack.ledger.records import Attempt, Attribution, Call, Ended, Record, Started, Usage, Verdict
from lmstack.ledger.spool import Spool
from lmstack.ledger.timing import Timing
from lmstack.ledger.writer import StoreOptions, Waiter, Writer
from lmstack.routing.budgets import Limit

pytestmark = pytest.mark.exhaustive

LIMIT = Limit("task", "limited", "total", 1.0)
TIMING = Timing(heartbeat=0.003, dead_after=0.0, recovery=0.003, commit=0.02, retry=0.003)
LOCKED = sqlite3.OperationalError("database is locked")
# These calls change something. Only for them it matters that they fail after they had their effect.
EFFECTS = (
    "execute",
    "executemany",
    "commit",
    "connect",
    "rename",
    "unlink",
    "write",
    "mkdir",
    "open",
    "flock",
    "ftruncate",
)


def call(name: str, task: str = "t", reserved: float | None = None) -> Call:
    made = Call(name, name, None, time.time(), "/v1/chat/completions", False, "auto", Attribution(task, "a"))
    made.attempts.append(Attempt("m", "m", "openai", "openai/m", 1, (1.0, 1.0), False, time.time(), 1.0, "succeeded"))
    made.estimate_usd = made.reserved_usd = reserved
    return made


def ended(one: Call, cost: float) -> Ended:
    return Ended(one, "succeeded", time.time(), 1.0, Usage(1, 1), cost)


class _Loop:
    """Runs a callback at once, on the writer's thread: an event loop for each of a thousand runs takes too long."""

    def call_soon_threadsafe(self, work: Callable[..., None], *args: object) -> None:
        work(*args)


def _post(made: Writer, record: Record) -> "concurrent.futures.Future[Verdict]":
    waiter: Any = Waiter(_Loop(), concurrent.futures.Future())  # type: ignore[arg-type]
    made.post(record, waiter)
    return waiter.future  # type: ignore[no-any-return]


def _write(made: Writer, record: Record) -> Verdict:
    return _post(made, record).result(60)


def _admitted(made: Writer, start: Started) -> bool:
    """Ask until the ledger knows, as the hooks do."""
    deadline = time.monotonic() + 60
    while not (verdict := _write(made, start)).checked:
        assert time.monotonic() < deadline, "no verdict"
        time.sleep(0.002)
    return verdict.durable


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with an old request and the open request of a dead worker, and the spool file of another dead worker."""
    path = tmp_path_factory.mktemp("template") / "litellm.db"
    conn = schema.connect(path)
    schema.migrate(conn)
    apply.transaction(conn, [Started(call("open", reserved=0.25))], "dead-1", True)
    workers.write_heartbeat(conn, "dead-1", time.time())
    conn.execute(
        "INSERT INTO requests (id, started_at, status, worker) VALUES ('old', ?, 'succeeded', 'x')",
        (time.time() - 100 * 86400,),
    )
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()
    return path


def _stage(template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    elsewhere = folder / "tmp"
    elsewhere.mkdir(parents=True)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    path = Path(shutil.copy(template, folder / "litellm.db"))
    left = Spool(path, "dead-2")
    left.append([Started(call("left")), ended(call("left"), 0.5), Started(call("cut", reserved=0.25))])
    left.release_locks()
    return path


def _run(calls: SystemCalls, path: Path) -> set[str]:
    """Write records while ``calls`` watches: with a free ledger, a locked one, and under a budget. Return the ids."""
    with calls.watching():
        made = Writer(StoreOptions(path, events=True, timing=TIMING))
        try:
            durable = {"left", "cut", "open"}
            pairs = [(name, call(name)) for name in ("free-1", "free-2", "free-3")]
            answers = [(name, _post(made, record)) for name, one in pairs for record in (Started(one), ended(one, 0.5))]
            durable |= {name for name, answer in answers if answer.result(60).durable}
            blocker = sqlite3.connect(path, isolation_level=None, timeout=60)
            blocker.execute("BEGIN IMMEDIATE")
            one = call("locked")
            answers = [("locked", _post(made, record)) for record in (Started(one), ended(one, 0.5))]
            durable |= {name for name, answer in answers if answer.result(60).durable}
            blocker.execute("COMMIT")
            blocker.close()
            limited = [call(f"limited-{n}", "limited", 0.6) for n in range(4)]
            admitted = [one for one in limited if _admitted(made, Started(one, (LIMIT,)))]
            # Two requests of 0.60 reach the limit of 1.00: exactly one may go beyond it.
            assert [one.id for one in admitted] == ["limited-0", "limited-1"], calls.fail
            for one in admitted:
                _post(made, ended(one, 0.5))
            durable |= {one.id for one in admitted}
            wanted = durable | {"free-1", "free-2", "free-3", "locked"}
            soon(lambda: _ended(path) == wanted, f"all records with {calls.fail} failing: {_ended(path)}")
            soon(lambda: not _spools(path) and not _has_old(path), f"the end of recovery with {calls.fail} failing")
            assert made._thread.is_alive(), calls.fail
            assert made.unrecorded == 0, calls.fail
        finally:
            made.close(60)
    assert not made._thread.is_alive(), calls.fail
    return wanted


def _query(path: Path, sql: str) -> list[Any]:
    conn = sqlite3.connect(path, timeout=60)
    try:
        return conn.execute(sql).fetchall()
    finally:
        conn.close()


def _ended(path: Path) -> set[str]:
    return {id_ for (id_,) in _query(path, "SELECT id FROM requests WHERE status != 'started' AND id != 'old'")}


def _has_old(path: Path) -> bool:
    return bool(_query(path, "SELECT 1 FROM requests WHERE id = 'old'"))


def _spools(path: Path) -> list[Path]:
    return list(path.parent.rglob("*.spool-*"))


def _check(path: Path, wanted: set[str], place: Place | None) -> None:
    """Each request is counted once, everywhere."""
    rows = dict(_query(path, "SELECT id, status FROM requests"))
    assert set(rows) == wanted, place
    assert {id_ for id_, status in rows.items() if status == "interrupted"} == {"open", "cut"}, place
    cost = {"t": 0.5 * 5 + 0.25 * 2, "limited": 0.5 * 2}
    count = {"t": 7, "limited": 2}
    sums = _query(path, "SELECT name, SUM(requests), SUM(cost_usd) FROM rollups WHERE dimension = 'task' GROUP BY 1")
    assert {name: (n, usd) for name, n, usd in sums} == {t: (count[t], pytest.approx(cost[t])) for t in cost}, place
    totals = _query(path, "SELECT id, requests, cost_usd FROM totals WHERE kind = 'task'")
    assert {name: (n, usd) for name, n, usd in totals} == {t: (count[t], pytest.approx(cost[t])) for t in cost}, place
    sent = Counter(
        _query(path, "SELECT json_extract(payload, '$.call_id'), type FROM outbox WHERE type NOT LIKE '%cost%'")
    )
    assert {id_ for id_, _ in sent} == wanted, place
    assert set(sent.values()) == {1}, place
    assert _query(path, "SELECT COUNT(*) FROM attempts") == [(7,)], place
    assert _query(path, "SELECT COUNT(*) FROM workers WHERE id LIKE 'dead%'") == [(0,)], place


def _is_tried(place: Place, how: str) -> bool:
    """Return whether this call can fail in this way. A clock fails at its first turn only, as no real clock does."""
    function, _, _, turn = place
    if how == "after":
        return function.endswith(EFFECTS)
    if how == "locked":
        return function.startswith("_sqlite3.exec")
    return turn == 1 or not function.startswith("time.")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each warning of the writer, before the bound of one line a minute."""
    found: list[str] = []
    real = Writer.warn
    monkeypatch.setattr(Writer, "warn", lambda self, text: (found.append(text), real(self, text)))
    return found


@pytest.mark.parametrize("how", ["before", "after", "locked"])
def test_any_call_to_the_system_may_fail_once(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: list[str],
    caplog: pytest.LogCaptureFixture, how: str,
) -> None:  # fmt: skip
    """``after``: the call has its effect and then raises, as a COMMIT whose answer is lost."""
    monkeypatch.setattr(schema, "BUSY_MS", 1)
    monkeypatch.setattr(
        Neighbours, "dead", lambda self, beats, now: [name for name in beats if name.startswith("dead")]
    )
    counting = SystemCalls(("lmstack-writer",), after=how == "after")
    path = _stage(template, tmp_path / "count", monkeypatch)
    _check(path, _run(counting, path), None)
    places = [place for place in counting.places(turns=2) if _is_tried(place, how)]
    assert len(places) > 50, "the counting run saw too little: the test proves nothing"
    hit = 0
    for number, place in enumerate(places):
        for turn in range(3):  # how often a loop turns differs from run to run: three runs may hit the place
            heard.clear()
            caplog.clear()
            path = _stage(template, tmp_path / f"{number}-{turn}", monkeypatch)
            calls = SystemCalls(("lmstack-writer",), place, how == "after", LOCKED if how == "locked" else None)
            _check(path, _run(calls, path), place)
            if calls.failed:
                hit += 1
                logged = [r for r in caplog.records if r.name.startswith("lmstack.") and r.levelno >= logging.WARNING]
                told = [text for text in heard if "database is locked" not in text]
                assert told or how == "locked" or not place[0].startswith("_sqlite3.") or "close" in place[0], place
                assert len(logged) <= 1, f"{place}: logged more than once: {logged}"
                break
    assert hit > 0.8 * len(places)


GARBAGE = b"this is not a database" * 400


def _run_damaged(calls: SystemCalls, folder: Path) -> None:
    """Begin with a damaged ledger: it is kept under another name, and a new one takes the records."""
    folder.mkdir()
    path = folder / "litellm.db"
    path.write_bytes(GARBAGE)
    with calls.watching():
        made = Writer(StoreOptions(path, events=True, timing=TIMING))
        try:
            one = call("1")
            answers = [_post(made, record) for record in (Started(one), ended(one, 0.5))]
            assert all(answer.result(60).durable for answer in answers), calls.fail
            soon(lambda: path.exists() and _is_recorded(path), f"the record with {calls.fail} failing")
            assert made._thread.is_alive(), calls.fail
            assert made.unrecorded == 0, calls.fail
        finally:
            made.close(60)
    kept = [file.read_bytes() for file in folder.glob("litellm.db.corrupt-*") if "-wal" not in file.name]
    assert GARBAGE in kept, calls.fail


def _is_recorded(path: Path) -> bool:
    try:
        return _ended(path) == {"1"}
    except sqlite3.DatabaseError:
        return False


@pytest.mark.parametrize("how", ["before", "after"])
def test_any_call_may_fail_once_while_a_damaged_ledger_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    counting = SystemCalls(("lmstack-writer",), after=how == "after")
    _run_damaged(counting, tmp_path / "count")
    places = [
        place for place in counting.places(turns=1) if place[1] == "ledger_file.py" or place[0].startswith("posix.")
    ]
    assert {"posix.rename", "fcntl.flock", "posix.open", "posix.stat"} <= {place[0] for place in places}
    hit = 0
    for number, place in enumerate(places):
        calls = SystemCalls(("lmstack-writer",), place, how == "after")
        _run_damaged(calls, tmp_path / str(number))
        hit += calls.failed
    assert hit > 0.8 * len(places)
