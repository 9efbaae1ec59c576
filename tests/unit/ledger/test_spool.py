"""What the ledger does not take is in the spool file, and reaches the ledger later."""

import asyncio
import os
import sqlite3
import time
from pathlib import Path

import pytest

from ledger_records import call, ended, make_writer, rows_of, write
from lmstack.ledger import apply, queries, records, schema, workers
from lmstack.ledger import writer as ledger_writer
from lmstack.ledger.records import Ended, Fault, Started, Usage
from lmstack.ledger.spool import Spool, read
from lmstack.ledger.timing import Timing
from support import wait_for


def test_what_sqlite_refuses_holds_up_nothing_else(writer: ledger_writer.Writer, ledger: Path) -> None:
    broken = call("broken", task="half a character: \ud83d")
    write(writer, Started(call("before")))
    blocker = sqlite3.connect(ledger, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    write(writer, ended(call("before")), Started(broken), ended(broken), ended(call("after")))  # to the spool
    blocker.execute("COMMIT")
    wait_for(
        lambda: {r["id"]: r["status"] for r in rows_of(ledger)} == {"before": "succeeded", "after": "succeeded"}, 10
    )
    write(writer, Started(broken), ended(call("later")))
    assert {r["id"] for r in rows_of(ledger)} == {"before", "after", "later"}
    assert writer.unrecorded == 3


def test_a_locked_ledger_is_spooled_around_and_nothing_is_lost(writer: ledger_writer.Writer, ledger: Path) -> None:
    write(writer, Started(call("0")))
    blocker = sqlite3.connect(ledger, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    for n in range(1, 50):
        writer.post(Started(call(str(n))))
        writer.post(ended(call(str(n)), 0.5))
    assert writer.flush(3)  # durable all the same
    assert writer.spooled == 98
    assert list(ledger.parent.glob("*.spool-*"))
    blocker.execute("COMMIT")
    blocker.close()
    wait_for(lambda: len(queries.ask(ledger, "requests", {"limit": 100})) == 50, 10)
    wait_for(lambda: not list(ledger.parent.glob("*.spool-*")), 10)
    assert writer.unrecorded == 0
    assert sum(r["cost_usd"] for r in queries.ask(ledger, "usage", {})) == pytest.approx(24.5)


def test_a_read_only_folder_spools_elsewhere_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    blocked = tmp_path / "logs"
    blocked.write_text("a file where the folder should be: what no permission bit stops, this does")
    writer = make_writer(blocked / "litellm.db")
    writer.post(ended(call("1"), 0.5))
    assert writer.flush(5)
    assert list(elsewhere.rglob("litellm.db.spool-*"))
    blocked.unlink()
    wait_for(lambda: rows_of(blocked / "litellm.db"), 15)
    writer.close()
    assert not list(elsewhere.rglob("litellm.db.spool-*"))


def test_when_nothing_takes_a_record_it_waits_in_memory(
    writer: ledger_writer.Writer, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(writer, Started(call("0")))
    blocker = sqlite3.connect(ledger, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("lmstack.ledger.spool.Spool.append", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    assert not asyncio.run(writer.write(Started(call("1")))).durable  # strict mode would refuse this request
    blocker.execute("COMMIT")
    blocker.close()
    wait_for(lambda: len(queries.ask(ledger, "requests", {})) == 2, 10)


def test_a_spool_left_by_a_killed_worker_is_taken_over_by_the_next(ledger: Path) -> None:
    left = Spool(ledger, "dead-worker")
    left.append([Started(call("1")), ended(call("1"), 0.5), Started(call("2"))])
    left.release_locks()  # as its process has ended
    with left.files()[0].open("a") as stream:
        stream.write('{"kind": "Ended", "call": {"id"')  # cut off by the kill
    young = Spool(ledger, "just-begun")  # has not come to the ledger yet, but lives
    young.append([Started(call("3"))])
    writer = make_writer(ledger, Timing(heartbeat=0.02, recovery=0.02, dead_after=0.1))
    wait_for(lambda: not left.files(), 10)
    again = Spool(ledger, "dead-later")
    again.append([Started(call("4"))])
    again.release_locks()
    wait_for(lambda: not again.files(), 10)  # so the writer has looked for much longer than the grace period
    assert young.files(), "a spool that its living worker has locked"
    young.release_locks()
    wait_for(lambda: not young.files(), 10)
    writer.close()
    assert {r["id"]: r["status"] for r in queries.ask(ledger, "requests", {})} == {
        "1": "succeeded",
        "2": "interrupted",
        "3": "interrupted",
        "4": "interrupted",
    }


def test_an_end_in_a_dead_workers_spool_counts_before_its_rows_are_called_interrupted(ledger: Path) -> None:
    conn = schema.connect(ledger)
    schema.migrate(conn)
    workers.write_heartbeat(conn, "dead-worker", time.time())
    apply.transaction(conn, [Started(call("1"))], "dead-worker", True)
    conn.close()
    left = Spool(ledger, "dead-worker")
    left.append([ended(call("1"), 0.5)])
    left.release_locks()
    # The search for spool files is rare here: the death of the worker itself must bring its file in, and first.
    writer = make_writer(ledger, Timing(heartbeat=0.02, recovery=1000.0, dead_after=0.9))
    wait_for(lambda: rows_of(ledger)[0]["status"] != "started" and not left.files(), 10)
    writer.close()
    assert [(r["status"], r["cost_usd"]) for r in queries.ask(ledger, "requests", {})] == [("succeeded", 0.5)]


def test_a_spool_on_a_full_disk_never_keeps_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    room = [5000]
    real = os.write

    def write_until_full(handle: int, data: bytes) -> int:
        if not str(Path(f"/proc/self/fd/{handle}").readlink()).startswith(str(elsewhere)):
            if room[0] <= 0:
                raise OSError(28, "No space left on device")
            data, room[0] = data[: room[0]], room[0] - len(data)
        return real(handle, data)

    spool = Spool(tmp_path / "litellm.db", "w")
    monkeypatch.setattr(os, "write", write_until_full)
    for n in range(40):
        spool.append([Started(call(str(n)))])
    monkeypatch.undo()
    assert len(spool.files()) == 2
    found = [record.call.id for path in spool.files() for record in read(path)]
    assert sorted(found, key=int) == [str(n) for n in range(40)]


def test_records_survive_the_spool_unchanged() -> None:
    one = call("1")
    one.attempts[0].close("failed", Fault("E", "500", "m"))
    end = Ended(one, "failed", 1.5, 2.5, Usage(1, 2, 3, 4), 0.5, True, Fault("E", "500", "m"), True)
    again = records.load(records.dump(end))
    one.clock = 0.0
    assert again == end
