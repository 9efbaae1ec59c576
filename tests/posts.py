"""Events, and posts of them, for the tests of the delivery."""

from lmstack.delivery.contract import Target
from lmstack.delivery.poster import Poster
from lmstack.ledger import events
from lmstack.ledger.outbox import LeasedEvent, RunOutcome
from lmstack.ledger.retries import Failure

EVENT = LeasedEvent(1, "evt_1", events.COST, "task:t", 1_700_000_000.0, '{"n":1}', 0)
DOWN, REFUSED, GONE = Failure(503, "HTTP 503"), Failure(400, "HTTP 400", None, True), Failure(410, "HTTP 410", 600.0)


def event(seq: int, task: str = "t", payload: str = "{}") -> LeasedEvent:
    return LeasedEvent(seq, f"evt_{seq}", events.COST, f"task:{task}", 1_700_000_000.0, payload, 0)


def post(target: Target, sent: LeasedEvent = EVENT) -> RunOutcome:
    made = Poster(target, lambda: False)
    with made.client(1) as client:
        return made.run(client, [[sent]])[0]


def post_batch(target: Target, job: list[list[LeasedEvent]]) -> list[RunOutcome]:
    made = Poster(target, lambda: False)
    with made.client(1) as client:
        return made.batch(client, job)
