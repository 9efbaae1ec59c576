"""Delivery over real HTTP, with a real ledger file, against a receiver that misbehaves."""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from bench.faults.post import Post

from documented import check_schema
from lmstack.delivery import availability, contract, sender
from lmstack.delivery.contract import Target
from lmstack.delivery.sender import Sender
from lmstack.ledger import events, queries, retries, schema, writer
from support import wait_for


@pytest.fixture
def post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    monkeypatch.setattr(sender, "POLL_SECONDS", 0.02)
    made = Post(tmp_path)
    yield made
    made.stop()


def test_everything_arrives_once_in_order_per_task_and_keeps_the_published_contract(post: Post) -> None:
    post.add(30, "one")
    post.add(30, "two")
    post.add(10)
    post.start()
    wait_for(post.all_delivered, 20)
    assert len(post.receiver.taken) == 14 + 112
    assert post.receiver.duplicates() == 0
    for task in ("one", "two"):
        arrived = post.receiver.order[task]
        with schema.connect(post.path) as conn:
            kept = [
                r[0]
                for r in conn.execute("SELECT event_id FROM outbox WHERE order_key = ? ORDER BY seq", (f"task:{task}",))
            ]
        assert arrived == kept
    for headers, body in post.receiver.bodies:
        check_schema("EventType", headers["ce-type"])
        check_schema("CostEvent" if headers["ce-type"] == events.COST else "RequestEvent", json.loads(body))
        assert headers["authorization"] == "Bearer key"
        assert headers["webhook-signature"] == contract.sign(
            "whsec_c2VjcmV0", headers["ce-id"], int(headers["webhook-timestamp"]), body.decode()
        )


def test_a_batch_carries_many_events_and_keeps_the_contract(post: Post) -> None:
    post.add(300, "one")
    post.add(50)
    post.start(batch=True)
    wait_for(post.all_delivered, 20)
    assert len(post.receiver.taken) == 630
    assert post.receiver.tries < 20
    for headers, body in post.receiver.bodies:
        assert headers["content-type"] == "application/cloudevents-batch+json"
        check_schema("Batch", json.loads(body))


@pytest.mark.parametrize("mode", ["500", "503", "429", "garbage", "reset"])
def test_a_receiver_that_fails_and_recovers_loses_nothing(
    post: Post, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "SCHEDULE", (0.2,) * 11)
    post.receiver.mode = mode
    post.add(20, "t")
    post.start()
    wait_for(lambda: post.receiver.tries >= 2, 20)
    post.receiver.mode = "ok"
    wait_for(post.all_delivered, 30)
    assert len(post.receiver.taken) == 36


def test_a_later_time_that_the_receiver_names_is_kept_to(post: Post) -> None:
    post.receiver.mode, post.receiver.retry_after = "429", "600"
    post.add(1, "t")
    post.start(injected_clock=True)
    wait_for(lambda: post.receiver.tries == 1, 10)
    wait_for(lambda: post.waits() > 0, 10, "the lane to be put off")
    assert 590 < post.waits() <= 600
    post.receiver.mode = "ok"
    post.tick(601)
    wait_for(post.all_delivered, 10)


def test_no_retry_after_makes_an_event_dead_before_its_72_hours(post: Post) -> None:
    """The other values stand in the tables of tests/unit/ledger/test_outbox.py and tests/unit/delivery/test_poster.py."""
    post.receiver.mode, post.receiver.retry_after = "503", "0"
    post.add(1, "t")
    post.start(injected_clock=True)
    began = post.now[0]
    while "dead" not in post.states() and post.now[0] - began < 100 * 3600:
        tries = post.receiver.tries
        post.tick(post.waits() + 1)
        wait_for(lambda tries=tries: post.receiver.tries > tries, 20, "the next try")  # type: ignore[misc]
        wait_for(lambda: post.waits() > 0 or "dead" in post.states(), 10, "its outcome")
    assert post.now[0] - began > 72 * 3600


def test_a_clock_that_is_set_back_holds_up_nothing(post: Post) -> None:
    post.receiver.mode = "503"
    post.add(1)
    post.start(injected_clock=True)
    wait_for(lambda: post.waits() > 0, 10, "a failed try")
    post.receiver.mode = "ok"
    post.tick(-3600)
    wait_for(post.all_delivered, 10)


def test_a_ledger_that_was_set_aside_is_let_go_of(post: Post) -> None:
    post.add(1)
    post.start()
    wait_for(post.all_delivered, 10)
    post.writer.close()
    for name in ("", "-wal", "-shm"):
        old = post.path.with_name(post.path.name + name)
        if old.exists():
            old.rename(old.with_name(f"aside{name}"))
    post.writer = writer.Writer(writer.StoreOptions(post.path, events=True))
    post.add(1)
    wait_for(post.all_delivered, 10)


def test_in_a_batch_only_the_event_to_blame_is_dead(post: Post) -> None:
    for task in "abcdefgh":
        post.add(2, f"task-{task}")
    post.receiver.refuses = b'"task_id":"task-d"'
    post.start(batch=True)
    wait_for(lambda: set(post.states()) == {"dead", "delivered"}, 20)
    with schema.connect(post.path) as conn:
        (lane,) = conn.execute("SELECT DISTINCT order_key FROM outbox WHERE state = 'dead'").fetchall()
    assert lane == ("task:task-d",)


def test_a_huge_answer_is_not_read(post: Post) -> None:
    post.receiver.mode = "bomb"
    post.add(1)
    before = psutil.Process().memory_info().rss
    post.start()
    wait_for(post.all_delivered, 20)
    assert psutil.Process().memory_info().rss - before < 60_000_000


def test_a_client_error_is_a_dead_letter_at_once_and_the_task_goes_on(post: Post) -> None:
    post.receiver.mode = "400"
    post.add(1, "t")
    post.start()
    wait_for(lambda: post.states() == {"dead": 2}, 10)
    post.receiver.mode = "ok"
    post.add(1, "t")
    wait_for(lambda: post.states() == {"dead": 2, "delivered": 2}, 10)
    assert queries.ask(post.path, "replay", {}) == [{"replayed": 2}]
    wait_for(post.all_delivered, 10)


def test_410_pauses_and_drops_nothing(post: Post) -> None:
    post.receiver.mode = "410"
    began = post.now[0]
    post.add(4)
    post.start(injected_clock=True)
    wait_for(lambda: post.receiver.tries >= 1, 10)
    tries = post.receiver.tries
    post.receiver.mode = "ok"
    post.add(1)
    assert post.states().get("dead") is None
    assert post.receiver.tries <= tries + sender.PARALLEL
    # A post that was under way may have begun its pause later than this line was reached: let the clock run on.
    wait_for(lambda: post.all_delivered() or post.tick(60), 20)
    assert post.now[0] - began >= availability.PAUSE_AFTER_GONE_SECONDS


def test_a_slow_receiver_holds_up_only_the_tasks_that_it_is_slow_on(post: Post) -> None:
    post.receiver.slow_tasks, post.receiver.slow_seconds = {"slow"}, 60.0
    post.add(5, "slow")
    post.add(200, "quick")
    post.start()
    wait_for(lambda: len(post.receiver.order.get("quick", [])) == 360, 50, "the quick task while the slow one waits")
    assert post.receiver.order.get("slow", []) == []
    post.receiver._released.set()


def test_an_outage_of_24_hours_is_survived_and_caught_up_at_once(post: Post) -> None:
    """The clock of the schedule is ours: a day passes in steps while the receiver is down, then it comes back."""
    post.receiver.mode = "503"
    post.start(injected_clock=True)
    for hour in range(24):
        post.add(10, f"task-{hour % 3}")
        post.add(2)
        tried = post.receiver.tries
        post.now[0] += 3600
        wait_for(lambda tried=tried: post.receiver.tries > tried or post.tick(30), 10, "a probe in this hour")  # type: ignore[misc]
    assert post.receiver.taken == {}
    assert "dead" not in post.states()
    post.receiver.mode = "ok"
    wait_for(lambda: post.all_delivered() or post.tick(1), 30, "the catch-up")
    assert len(post.receiver.taken) == sum(1 if n % 5 == 0 else 2 for n in range(1, post.count + 1))


def test_two_senders_share_the_work_and_no_event_goes_out_twice(post: Post) -> None:
    post.add(200)
    post.add(100, "t")
    post.start()
    second = Sender(post.path, Target(post.receiver.url + "/api/litellm/log"))
    wait_for(post.all_delivered, 20)
    second.close()
    assert post.receiver.duplicates() == 0
    assert len(post.receiver.taken) == 540
