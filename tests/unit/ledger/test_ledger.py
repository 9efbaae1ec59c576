"""The ledger and the outbox on real SQLite files: transactions, orphans, leases, order, schedule."""

import asyncio
import itertools
import json
import logging
import os
import sqlite3
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from lmstack.delivery.contract import headers_for, sign, target_from
from lmstack.gateway.app import logfilter
from lmstack.gateway.calls import error_text, faults, fields
from lmstack.gateway.calls.usage import usage_of
from lmstack.ledger import apply, events, housekeeping, outbox, queries, records, retries, schema, workers
from lmstack.ledger import writer as ledger_writer
from lmstack.ledger.neighbours import Neighbours, State
from lmstack.ledger.records import Attempt, Attribution, Call, Ended, Fault, Started, Usage
from lmstack.ledger.spool import Spool, read
from lmstack.ledger.timing import Timing
from support import wait_for


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


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "litellm.db"


QUICK = Timing(heartbeat=0.02, recovery=0.02, retry=0.02)


def make_writer(ledger: Path, timing: Timing = QUICK) -> ledger_writer.Writer:
    return ledger_writer.Writer(ledger_writer.StoreOptions(ledger, events=True, timing=timing))


@pytest.fixture
def writer(ledger: Path):  # type: ignore[no-untyped-def]
    one = make_writer(ledger)
    yield one
    one.close()


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


def test_start_and_end_make_one_row_two_events_and_running_totals(writer: ledger_writer.Writer, ledger: Path) -> None:
    first, second = call("1"), call("2")
    write(writer, Started(first), ended(first), Started(second), ended(second, 0.5))
    rows = queries.ask(ledger, "requests", {})
    assert {(r["id"], r["status"], r["cost_usd"]) for r in rows} == {("1", "succeeded", 0.25), ("2", "succeeded", 0.5)}
    with sqlite3.connect(ledger) as conn:
        bodies = [r[0] for r in conn.execute("SELECT payload FROM outbox WHERE type = ? ORDER BY seq", (events.COST,))]
    assert '"task_total":0.75' in bodies[1]


def test_an_end_that_is_told_twice_counts_once(writer: ledger_writer.Writer, ledger: Path) -> None:
    one = call("1")
    write(writer, Started(one), ended(one), ended(one, status="failed"))
    assert [r["status"] for r in queries.ask(ledger, "requests", {})] == ["succeeded"]
    assert sum(r["events"] for r in queries.ask(ledger, "event_counts", {})) == 2


def test_an_unknown_price_stays_unknown_and_sends_no_cost_event(writer: ledger_writer.Writer, ledger: Path) -> None:
    one = call("1")
    write(writer, ended(one, None))
    (row,) = queries.ask(ledger, "requests", {})
    assert row["cost_usd"] is None
    assert [e["type"] for e in queries.ask(ledger, "events", {})] == [events.SUCCEEDED]
    (usage,) = queries.ask(ledger, "usage", {})
    assert (usage["unpriced"], usage["cost_usd"]) == (1, 0.0)


def test_rows_of_a_dead_worker_become_interrupted_with_an_estimate_and_living_ones_stay(
    writer: ledger_writer.Writer, ledger: Path
) -> None:
    orphan = call("orphan", age=60)
    orphan.estimate_usd = 0.125
    write(writer, Started(call("alive")), Started(orphan))
    conn = schema.connect(ledger)
    conn.execute("UPDATE requests SET worker = 'gone' WHERE id = 'orphan'")
    assert workers.interrupt_requests(conn, ["gone"], time.time(), send_events=True) == 1
    conn.close()
    rows = {r["id"]: r for r in queries.ask(ledger, "requests", {})}
    assert {name: r["status"] for name, r in rows.items()} == {"alive": "started", "orphan": "interrupted"}
    assert (rows["orphan"]["cost_usd"], rows["orphan"]["cost_estimated"]) == (0.125, 1)
    assert [e["type"] for e in queries.ask(ledger, "events", {})] == [events.FAILED]


ALIVE, SILENT, DEAD = State.ALIVE, State.SILENT, State.DEAD


@pytest.mark.parametrize(
    ("looks", "states"),
    [
        # Each look: our monotonic clock, and the other worker's heartbeat (None: it is not in the ledger).
        ([(0, 5.0), (4, 6.0), (8, 7.0)], [ALIVE, ALIVE, ALIVE]),
        ([(0, 5.0), (4, 5.0), (8, 5.0), (12, 5.0), (16, 5.0)], [ALIVE, SILENT, SILENT, SILENT, DEAD]),
        ([(0, 5.0), (5, 5.0), (10, 5.0), (15, 5.0), (20, 5.0)], [ALIVE, SILENT, SILENT, SILENT, DEAD]),  # 15 s: not yet
        ([(0, 99.0), (4, -99999.0), (8, -99999.0)], [ALIVE, ALIVE, SILENT]),  # its clock was set back
        ([(0, 5.0), (4, 5.0), (8, 1e12), (12, 1e12)], [ALIVE, SILENT, ALIVE, SILENT]),  # its clock was set ahead
        # Who could not look for a while cannot tell: the others could not write their heartbeats either.
        ([(0, 5.0), (60, 5.0), (64, 5.0)], [ALIVE, ALIVE, SILENT]),
        ([(0, 5.0), (4, 5.0), (8, 5.0), (12, 5.0), (60, 5.0)], [ALIVE, SILENT, SILENT, SILENT, ALIVE]),
        ([(0, 5.0), (4, None), (8, 5.0), (12, 5.0)], [ALIVE, None, ALIVE, SILENT]),  # it left, and came back
    ],
)
def test_a_worker_is_dead_when_its_heartbeat_stands_still_by_our_own_clock(
    looks: list[tuple[float, float | None]], states: list[State | None]
) -> None:
    neighbours = Neighbours("me", 15.0)
    neighbours.states({}, 1000.0)
    found = []
    for now, beat in looks:
        seen = neighbours.states({"me": 5.0} | ({} if beat is None else {"other": beat}), 1000.0 + now)
        assert seen["me"] is ALIVE, "this worker itself never is dead"
        found.append(seen.get("other"))
    assert found == states


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


def test_a_damaged_ledger_is_set_aside_and_a_new_one_takes_over(tmp_path: Path) -> None:
    ledger = tmp_path / "litellm.db"
    ledger.write_bytes(b"this is no database, and never was one" * 200)
    writer = make_writer(ledger)
    writer.post(ended(call("1"), 0.5))
    writer.flush(5)
    wait_for(lambda: list(tmp_path.glob("litellm.db.corrupt-*")) and rows_of(ledger), 10)
    writer.close()


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


def test_retention_deletes_in_small_steps_and_keeps_the_sums(writer: ledger_writer.Writer, ledger: Path) -> None:
    old = [call(f"old-{n}", age=100 * 86400) for n in range(housekeeping.BATCH + 10)]
    write(writer, *[ended(c, 0.01) for c in old], ended(call("new"), 0.01))
    conn = schema.connect(ledger)
    assert housekeeping.delete_some(conn, housekeeping.Bounds(90, 0), time.time())["expired"] == housekeeping.BATCH
    assert housekeeping.delete_some(conn, housekeeping.Bounds(90, 0), time.time())["expired"] == 10
    assert [r["id"] for r in queries.ask(ledger, "requests", {})] == ["new"]
    (total,) = queries.ask(ledger, "usage", {"by": "task"})
    assert (total["requests"], total["cost_usd"]) == (housekeeping.BATCH + 11, pytest.approx(5.11))
    assert conn.execute("SELECT COUNT(*) FROM outbox WHERE state = 'pending'").fetchone()[0] == 2 * (
        housekeeping.BATCH + 11
    )


def test_the_size_bound_lets_requests_go_first_and_undelivered_events_last(
    writer: ledger_writer.Writer, ledger: Path
) -> None:
    write(writer, *[ended(call(str(n)), 0.01) for n in range(100)])
    conn = schema.connect(ledger)
    went = [next(iter(housekeeping.delete_some(conn, housekeeping.Bounds(0, 0.001), time.time()))) for _ in range(2)]
    assert went == ["requests", "pending"]


def test_usage_is_exact_over_the_partial_first_hour(writer: ledger_writer.Writer, ledger: Path) -> None:
    base = int(time.time()) // 3600 * 3600 - 3 * 3600
    for n, offset in enumerate((0, 1000, 2000, 3600, 4000)):
        one = call(str(n))
        one.started_at = base + offset
        write(writer, ended(one, 0.5))
    (some,) = queries.ask(ledger, "usage", {"since": base + 1500})
    assert (some["requests"], some["cost_usd"], some["prompt_tokens"]) == (3, 1.5, 9)
    (day,) = queries.ask(ledger, "usage", {"by": "day", "since": base + 3600})
    assert day["requests"] == 2


def test_several_writers_share_one_file(ledger: Path) -> None:
    writers = [make_writer(ledger) for _ in range(3)]

    def work(place: int) -> None:
        for n in range(100):
            one = call(f"{place}-{n}")
            writers[place].post(Started(one))
            writers[place].post(ended(one, 0.01))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for one in writers:
        one.close(10)
    (usage,) = queries.ask(ledger, "usage", {"by": "task"})
    assert (usage["requests"], usage["cost_usd"]) == (300, pytest.approx(3.0))


def test_a_newer_ledger_is_refused_and_a_reader_changes_nothing(writer: ledger_writer.Writer, ledger: Path) -> None:
    write(writer, Started(call("1")))
    with sqlite3.connect(ledger) as conn:
        conn.execute("INSERT INTO migrations VALUES (999, 'future', 0)")
    with pytest.raises(schema.LedgerVersionError):
        queries.ask(ledger, "requests", {})
    with pytest.raises(FileNotFoundError):
        queries.ask(ledger.with_name("none.db"), "requests", {})


def settle(
    conn: sqlite3.Connection,
    owner: str,
    run: list[outbox.LeasedEvent],
    now: float,
    done: int,
    failure: retries.Failure | None = None,
) -> None:
    conn.execute("BEGIN IMMEDIATE")
    outbox.settle(conn, owner, outbox.RunOutcome(run, done, failure), now)
    conn.execute("COMMIT")


def test_a_tasks_events_go_in_order_and_a_failure_holds_up_its_task_alone(
    writer: ledger_writer.Writer, ledger: Path
) -> None:
    write(writer, *[ended(call(str(n), "same"), None) for n in range(3)], ended(call("x", "other"), None))
    conn = schema.connect(ledger)
    now = time.time() + 1
    same, other = outbox.lease(conn, "me", now, 10, 10)
    assert [e.seq for e in same] == [1, 2, 3]
    assert [e.seq for e in other] == [4]
    assert outbox.lease(conn, "you", now, 10, 10) == []
    settle(conn, "me", other, now, 1)
    settle(conn, "me", same, now, 1, retries.Failure(500, "HTTP 500"))
    assert outbox.lease(conn, "you", now + 1, 10, 10) == []  # the third waits behind the second
    ((second, third),) = outbox.lease(conn, "you", now + 10, 10, 10)
    assert (second.seq, second.attempts, second.event_id, third.seq) == (2, 1, same[1].event_id, 3)
    settle(conn, "you", [second, third], now, 2)
    assert conn.execute("SELECT COUNT(*) FROM lanes").fetchone()[0] == 0


def test_a_lease_that_ran_out_is_taken_over_and_the_old_owner_cannot_settle_it(
    writer: ledger_writer.Writer, ledger: Path
) -> None:
    write(writer, ended(call("1"), None))
    conn, now = schema.connect(ledger), time.time() + 1
    (mine,) = outbox.lease(conn, "me", now, 1, 1)
    (theirs,) = outbox.lease(conn, "you", now + outbox.LEASE_SECONDS + 1, 1, 1)
    assert theirs[0].event_id == mine[0].event_id
    settle(conn, "me", mine, now, 0, retries.Failure(400, "late", final=True))
    assert queries.ask(ledger, "events", {})[0]["state"] == "leased"


def test_a_clock_that_was_set_back_does_not_freeze_a_lease(writer: ledger_writer.Writer, ledger: Path) -> None:
    write(writer, ended(call("1"), None))
    conn, now = schema.connect(ledger), time.time() + 1
    outbox.lease(conn, "me", now + 86400, 1, 1)
    assert outbox.lease(conn, "you", now, 1, 1)


def test_the_schedule_reaches_past_72_hours_then_the_event_is_dead_and_can_be_replayed(
    writer: ledger_writer.Writer, ledger: Path
) -> None:
    assert sum(retries.SCHEDULE) > 72 * 3600
    write(writer, ended(call("1"), None))
    conn, now = schema.connect(ledger), time.time()
    for _ in range(len(retries.SCHEDULE) + 1):
        now += 110_000
        (run,) = outbox.lease(conn, "me", now, 1, 1)
        settle(conn, "me", run, now, 0, retries.Failure(503, "HTTP 503"))
    assert queries.ask(ledger, "events", {"state": "dead"})[0]["attempts"] == len(retries.SCHEDULE) + 1
    assert outbox.replay(conn, now) == 1
    assert outbox.lease(conn, "me", now, 1, 1)[0][0].event_id == run[0].event_id


def test_headers_are_cloudevents_and_the_signature_is_standard_webhooks() -> None:
    target = target_from(
        {"TASKMASTER_API_URL": "http://tm/", "TASKMASTER_API_KEY": "k", "TASKMASTER_WEBHOOK_SECRET": "whsec_c2VjcmV0"}
    )
    assert target is not None
    assert target.url == "http://tm/api/litellm/log"
    event = outbox.LeasedEvent(1, "evt_1", events.FAILED, "task:ü 1", 1700000000.5, "{}", 0)
    headers = headers_for(target, event, 1700000001)
    assert (headers["ce-id"], headers["webhook-id"], headers["ce-time"]) == (
        "evt_1",
        "evt_1",
        "2023-11-14T22:13:20.500Z",
    )
    assert headers["ce-subject"] == "%C3%BC%201"
    assert headers["webhook-signature"] == sign("whsec_c2VjcmV0", "evt_1", 1700000001, "{}")
    # The vector of the Standard Webhooks specification's reference libraries.
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", '{"test": 2432232314}'
    assert (
        sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    assert target_from({}) is None


@pytest.mark.parametrize(
    "text",
    ["key sk-abcdef123456 x", "Bearer abc.def", "AIzaSyA1234567890", "https://x/?key=abc&b", "my own-secret-value"],
)
def test_anything_that_looks_like_a_key_is_cut_out(text: str) -> None:
    assert "***" in fields.redact(text, ("own-secret-value",))


def test_ordinary_words_are_left_alone_and_long_text_is_cut() -> None:
    assert fields.redact("task-embeddings disk-usage", ()) == "task-embeddings disk-usage"
    assert len(fields.redact("x" * 5000, ())) == fields.MAX_MESSAGE


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}},
            Usage(5, 2, 3, None),
        ),
        (
            {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 1},
            Usage(16, 2, 10, None),
        ),
        (
            {"prompt_tokens": 1, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 7}},
            Usage(1, 9, None, 7),
        ),
        (None, Usage()),
        ({}, Usage()),
        ({"prompt_tokens": float("nan"), "completion_tokens": 10**30}, Usage()),
    ],
)
def test_usage_is_read_in_every_dialect(usage: object, expected: Usage) -> None:
    assert usage_of(usage) == expected


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("AnthropicException - 'image_url'\nReceived Messages=[{'content': 'a'}]", "AnthropicException - 'image_url'\nReceived Messages=***"),
        ("Invalid image - my grandmother's recipe for soup\nTraceback (most recent call last):\n  File", "Invalid image - ***"),
        ("bad prompt={'a': 'my grandmother\\'s recipe for \\u00e4pfel'} here", "bad prompt={'a': '***äpfel'} here"),
        ("element type is 'image_url' but missing", "element type is 'image_url' but missing"),
        ("no such pin: 0815 4711", "no such pin: ***"),
        ("refused\n\nLiteLLM: model group 'x' failed with the error above", "refused"),
        ("Unable to parse. Original Response: {\"content\": \"42\"}", "Unable to parse. Original Response:***"),
    ],
)  # fmt: skip
def test_an_error_is_kept_without_the_words_of_its_request(text: str, kept: str) -> None:
    blocks = [{"type": "image_url", "text": "my grandmother's recipe for soup"}, {"text": "0815 4711"}]
    assert error_text.message_of(text, {"messages": [{"role": "user", "content": blocks}]}) == kept


def test_a_long_request_is_compared_in_bounded_time() -> None:
    request = {"messages": [{"role": "user", "content": f"turn {n} " * 5_000} for n in range(50)]}
    assert sum(map(len, error_text._leaves(list(request.values())))) <= error_text._MAX_REQUEST
    assert error_text.message_of("x" * 1_000_000, request) == "x" * error_text._MAX_ERROR


def test_only_what_says_something_of_the_provider_is_blamed_on_it() -> None:
    def raised(*errors: Exception) -> Exception:
        for before, after in itertools.pairwise(errors):
            after.__context__ = before
        return errors[-1]

    wrapper = type("APIConnectionError", (Exception,), {})
    refused = raised(ConnectionRefusedError(), httpx.ConnectError("no"), wrapper("Connection error."))
    garbage = raised(json.JSONDecodeError("Expecting value", "<html>", 0), wrapper("no JSON"))
    shape = raised(AttributeError("'str' object has no attribute 'get'"), wrapper("'str' object"))
    header = raised(httpx.LocalProtocolError("Illegal header value"), wrapper("Connection error."))
    number = raised(ValueError("Out of range float values are not JSON compliant: nan"), wrapper("no"))
    assert [faults.is_provider_fault(e) for e in (refused, garbage, shape, header)] == [True, True, False, False]
    assert [faults.is_client_fault(e, False) for e in (shape, wrapper("credentials"))] == [True, False]
    assert [faults.is_client_fault(e, True) for e in (shape, header, number)] == [False, True, True]


def test_the_log_is_without_the_requests_words_and_a_broken_record_breaks_nobody() -> None:
    request = {"messages": [{"role": "user", "content": "my grandmother's recipe for soup"}]}
    redact = logfilter.RedactionFilter(lambda: request).filter

    def record(level: int, text: str, *args: object) -> logging.LogRecord:
        try:
            raise ValueError("no: my grandmother's recipe for soup")
        except ValueError:
            made = logging.LogRecord("LiteLLM", level, "f.py", 1, text, args, sys.exc_info())
        assert redact(made)
        return made

    error = record(logging.ERROR, "failed: %s", "my grandmother's recipe for soup")
    assert error.getMessage() == "failed: ***"
    assert error.exc_text is not None
    assert error.exc_text.endswith("ValueError: no: ***")
    assert "raise ValueError" in error.exc_text
    assert "recipe" in record(logging.DEBUG, "%s", "my grandmother's recipe for soup").getMessage()
    with pytest.raises(TypeError):
        record(logging.ERROR, "%s %s", "one").getMessage()  # as without us
