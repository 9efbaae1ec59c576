"""What the sender makes of the outcomes of its posts, and how much it leases."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmstack.delivery import poster, sender
from lmstack.delivery.availability import DOWN_AFTER, Availability
from lmstack.delivery.contract import Target
from lmstack.delivery.inbox import Inbox
from lmstack.delivery.sender import Sender
from lmstack.ledger import events, outbox, schema
from lmstack.ledger.outbox import LeasedEvent, RunOutcome
from posts import DOWN, EVENT, GONE, REFUSED


def test_the_inbox_owns_what_is_under_way_and_what_is_not_settled_yet() -> None:
    inbox, one, two = Inbox(), [RunOutcome([EVENT], 1)], [RunOutcome([EVENT], 0, DOWN), RunOutcome([EVENT], 1)]
    inbox.under_way = 3
    inbox.results.put(one)
    inbox.results.put(two)
    assert inbox.take(5) == [one, two]
    assert (inbox.under_way, inbox.unsettled) == (1, one + two)
    assert inbox.take() == []
    inbox.results.put(one)
    inbox.begin(same_file=True)
    assert (inbox.under_way, inbox.unsettled) == (0, one + two + one)
    inbox.results.put(two)
    inbox.begin(same_file=False)
    assert (inbox.under_way, inbox.unsettled, inbox.take()) == (0, [], [])


@pytest.fixture
def stopped(tmp_path: Path) -> Sender:
    made = Sender(tmp_path / "none.db", Target("http://127.0.0.1:1/e"), clock=lambda: 1000.0)
    made.close()
    return made


TAKEN, UNSENT = RunOutcome([EVENT], 1), RunOutcome([EVENT], 0)
MANY = [RunOutcome([EVENT], 0, DOWN)] * 50


@pytest.mark.parametrize(
    ("before", "outcomes", "failures", "pause", "back"),
    [
        (0, [TAKEN], 0, 0, False),
        (0, [RunOutcome([EVENT], 0, DOWN)], 1, 0, False),
        (0, MANY, 1, 0, False),  # one post, so one failure
        (5, [UNSENT], 5, 0, False),  # says nothing about the receiver
        (5, [RunOutcome([EVENT], 0, REFUSED)], 5, 0, False),
        (5, [RunOutcome([EVENT], 0, GONE)], 5, 600, False),
        (5, [RunOutcome([EVENT, EVENT], 1, DOWN)], 1, 0, False),
        (15, [RunOutcome([EVENT], 0, DOWN)], 16, 1, False),
        (16, [UNSENT], 16, 1, False),
        (20, [RunOutcome([EVENT], 0, DOWN)], 21, 30, False),
        (99, [TAKEN], 0, 0, True),
        (99, [UNSENT, TAKEN], 0, 0, True),
        (99, [TAKEN, RunOutcome([EVENT], 0, REFUSED)], 0, 0, True),
    ],
)
def test_what_one_post_tells_about_the_receiver(
    before: int, outcomes: list[RunOutcome], failures: int, pause: float, back: bool
) -> None:
    seen = Availability()
    seen.failures = before
    assert seen.learn(outcomes, 1000.0) is back
    assert seen.failures == failures
    assert seen.not_before == (1000.0 + pause if pause else 0.0)


def test_a_job_is_reported_on_once_also_where_the_pool_runs_what_it_refused(stopped: Sender) -> None:
    kept: list[Callable[[], None]] = []

    class Refusing:
        """As ThreadPoolExecutor when no thread can be started: it keeps the work, and raises."""

        def submit(self, work: Callable[..., None], *args: object) -> None:
            kept.append(lambda: work(*args))
            raise RuntimeError("can't start new thread")

    sent: list[object] = []

    def send(client: object, job: list[list[LeasedEvent]]) -> list[RunOutcome]:
        sent.append(job)
        return [TAKEN]

    stopped._start(Refusing(), send, None, [[EVENT]])  # type: ignore[arg-type]
    for later in kept:
        later()
    ((outcome,),) = stopped._inbox.take()
    assert (stopped._inbox.under_way, sent) == (0, [])
    assert outcome.failure is not None


@pytest.mark.parametrize(
    ("batch", "failures", "most"),
    [
        (True, 0, sender.BATCH_EVENTS),
        (True, DOWN_AFTER, 1),
        (False, 0, sender.PARALLEL * sender.RUN_EVENTS),
        (False, DOWN_AFTER, 1),
    ],
)
def test_no_more_events_are_leased_than_are_sent(tmp_path: Path, batch: bool, failures: int, most: int) -> None:
    conn = schema.connect(tmp_path / "litellm.db")
    schema.migrate(conn)
    with schema.writing(conn):
        for number in range(5000):
            outbox.put(conn, events.COST, f"task:{number % 40}", {}, 0.0)
    made = Sender(tmp_path / "none.db", Target("http://127.0.0.1:1/e", batch=batch))
    made.close()
    made._receiver.failures = failures
    jobs: list[object] = []

    class Pool:
        def submit(self, work: object, *args: object) -> None:
            jobs.append(args)

    assert made._submit(conn, None, Pool())  # type: ignore[arg-type]
    leased = conn.execute("SELECT COUNT(*) FROM outbox WHERE state = 'leased'").fetchone()[0]
    assert leased == most
    assert len(jobs) == (1 if batch or failures else sender.PARALLEL)
    conn.close()


def test_no_post_is_begun_so_late_that_it_outlives_its_lease() -> None:
    assert poster.RUN_SECONDS + poster.POST_SECONDS < outbox.LEASE_SECONDS
    assert sender.BATCH_EVENTS >= sender.BATCH_LANES
