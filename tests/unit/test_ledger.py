"""The ledger and the outbox on real SQLite files: transactions, orphans, leases, order, schedule."""

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from lmledger import extract, outbox, queries, schema, store
from lmledger.delivery import headers_for, sign, target_from
from lmledger.records import Attempt, Attribution, Call, Ended, Fault, Started, Usage


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
        Attempt("gpt-4o-mini", "gpt-4o-mini", "openai", "openai/gpt-4o-mini", 1, True, False, time.time())
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


@pytest.fixture
def writer(ledger: Path):  # type: ignore[no-untyped-def]
    one = store.Writer(store.StoreOptions(ledger, events=True))
    yield one
    one.close()


def write(writer: store.Writer, *records: Started | Ended) -> None:
    for record in records:
        writer.post(record)
    assert writer.flush(5)


def test_start_and_end_make_one_row_two_events_and_running_totals(writer: store.Writer, ledger: Path) -> None:
    first, second = call("1"), call("2")
    write(writer, Started(first), ended(first), Started(second), ended(second, 0.5))
    rows = queries.ask(ledger, "requests", {})
    assert {(r["id"], r["status"], r["cost_usd"]) for r in rows} == {("1", "succeeded", 0.25), ("2", "succeeded", 0.5)}
    with sqlite3.connect(ledger) as conn:
        bodies = [r[0] for r in conn.execute("SELECT payload FROM outbox WHERE type = ? ORDER BY seq", (outbox.COST,))]
    assert '"task_total":0.75' in bodies[1]


def test_an_end_that_is_told_twice_counts_once(writer: store.Writer, ledger: Path) -> None:
    one = call("1")
    write(writer, Started(one), ended(one), ended(one, status="failed"))
    assert [r["status"] for r in queries.ask(ledger, "requests", {})] == ["succeeded"]
    assert sum(r["events"] for r in queries.ask(ledger, "event_counts", {})) == 2


def test_an_unknown_price_stays_unknown_and_sends_no_cost_event(writer: store.Writer, ledger: Path) -> None:
    one = call("1")
    write(writer, ended(one, None))
    (row,) = queries.ask(ledger, "requests", {})
    assert row["cost_usd"] is None
    assert [e["type"] for e in queries.ask(ledger, "events", {})] == [outbox.SUCCEEDED]
    (usage,) = queries.ask(ledger, "usage", {})
    assert (usage["unpriced"], usage["cost_usd"]) == (1, 0.0)


def test_rows_of_a_dead_worker_become_interrupted_with_an_event_and_living_ones_stay(
    writer: store.Writer, ledger: Path
) -> None:
    write(writer, Started(call("alive")), Started(call("orphan", age=60)))
    conn = store.connect(ledger)
    conn.execute("UPDATE requests SET worker = 'gone' WHERE id = 'orphan'")
    conn.execute("INSERT INTO workers VALUES ('gone', 0, ?)", (time.time() - 60,))
    assert store.interrupt_orphans(conn, time.time(), events=True) == 1
    conn.close()
    assert {r["id"]: r["status"] for r in queries.ask(ledger, "requests", {})} == {
        "alive": "started",
        "orphan": "interrupted",
    }
    assert [e["type"] for e in queries.ask(ledger, "events", {})] == [outbox.FAILED]


def test_a_locked_ledger_is_waited_out_and_nothing_is_lost(writer: store.Writer, ledger: Path) -> None:
    write(writer, Started(call("0")))
    blocker = sqlite3.connect(ledger, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    for n in range(1, 50):
        writer.post(Started(call(str(n))))
    assert not writer.flush(0.3)
    blocker.execute("COMMIT")
    blocker.close()
    assert writer.flush(10)
    assert len(queries.ask(ledger, "requests", {"limit": 100})) == 50
    assert writer.unrecorded == 0


def test_several_writers_share_one_file(ledger: Path) -> None:
    writers = [store.Writer(store.StoreOptions(ledger, events=True)) for _ in range(3)]

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


def test_a_newer_ledger_is_refused_and_a_reader_changes_nothing(writer: store.Writer, ledger: Path) -> None:
    write(writer, Started(call("1")))
    with sqlite3.connect(ledger) as conn:
        conn.execute("INSERT INTO migrations VALUES (999, 'future', 0)")
    with pytest.raises(schema.LedgerVersionError):
        queries.ask(ledger, "requests", {})
    with pytest.raises(FileNotFoundError):
        queries.ask(ledger.with_name("none.db"), "requests", {})


def test_events_of_a_task_are_leased_in_order_one_at_a_time(writer: store.Writer, ledger: Path) -> None:
    write(writer, *[ended(call(str(n), "same"), None) for n in range(3)], ended(call("x", "other"), None))
    conn = store.connect(ledger)
    now = time.time() + 1
    first = outbox.lease(conn, "me", now, 10)
    assert [e.order_key for e in first] == ["task:same", "task:other"]
    assert outbox.lease(conn, "you", now, 10) == []
    outbox.mark_delivered(conn, "me", first, now)
    second = outbox.lease(conn, "you", now, 10)
    assert [e.seq for e in second] == [2]
    outbox.mark_failed(conn, "you", second[0], now, "HTTP 500", None)
    assert outbox.lease(conn, "me", now + 1, 10) == []  # the third waits behind the second
    retried = outbox.lease(conn, "me", now + 10, 10)
    assert [(e.seq, e.attempts, e.event_id) for e in retried] == [(2, 1, second[0].event_id)]


def test_a_lease_that_ran_out_is_taken_over_and_the_old_owner_cannot_settle_it(
    writer: store.Writer, ledger: Path
) -> None:
    write(writer, ended(call("1"), None))
    conn, now = store.connect(ledger), time.time() + 1
    (mine,) = outbox.lease(conn, "me", now, 1)
    (theirs,) = outbox.lease(conn, "you", now + outbox.LEASE_SECONDS + 1, 1)
    assert theirs.event_id == mine.event_id
    outbox.mark_dead(conn, "me", mine, "late")
    assert queries.ask(ledger, "events", {})[0]["state"] == "leased"


def test_the_schedule_reaches_past_72_hours_then_the_event_is_dead_and_can_be_replayed(
    writer: store.Writer, ledger: Path
) -> None:
    assert sum(outbox.SCHEDULE) > 72 * 3600
    write(writer, ended(call("1"), None))
    conn, now = store.connect(ledger), time.time()
    for _ in range(len(outbox.SCHEDULE) + 1):
        now += 100_000
        (event,) = outbox.lease(conn, "me", now, 1)
        outbox.mark_failed(conn, "me", event, now, "HTTP 503", None)
    assert queries.ask(ledger, "events", {"state": "dead"})[0]["attempts"] == len(outbox.SCHEDULE) + 1
    assert outbox.replay(conn, now) == 1
    assert outbox.lease(conn, "me", now, 1)[0].event_id == event.event_id


def test_headers_are_cloudevents_and_the_signature_is_standard_webhooks() -> None:
    target = target_from(
        {"TASKMASTER_API_URL": "http://tm/", "TASKMASTER_API_KEY": "k", "TASKMASTER_WEBHOOK_SECRET": "whsec_c2VjcmV0"}
    )
    assert target is not None
    assert target.url == "http://tm/api/litellm/log"
    event = outbox.Outgoing(1, "evt_1", outbox.FAILED, "task:ü 1", 1700000000.5, "{}", 0)
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
    assert "***" in extract.redact(text, ("own-secret-value",))


def test_ordinary_words_are_left_alone_and_long_text_is_cut() -> None:
    assert extract.redact("task-embeddings disk-usage", ()) == "task-embeddings disk-usage"
    assert len(extract.redact("x" * 5000, ())) == extract.MAX_MESSAGE


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
    ],
)
def test_usage_is_read_in_every_dialect(usage: object, expected: Usage) -> None:
    assert extract.usage_of(usage) == expected
