"""A batch that is refused: only the event that causes it is refused."""

import json
from collections.abc import Callable

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from lmstack.delivery.contract import Target
from posts import event, post_batch


def _taker(bad: set[int], most: int, got: list[str]) -> Callable[[Request], Response]:
    def take(request: Request) -> Response:
        ids = [entry["id"] for entry in json.loads(request.data)]
        if len(ids) > most:
            return Response(status=413)
        if any(f"evt_{seq}" in ids for seq in bad):
            return Response(status=400)
        got.extend(ids)
        return Response(status=204)

    return take


@pytest.mark.parametrize("most", [1, 2, 7, 100])
@pytest.mark.parametrize("bad", [set(), {0}, {5}, {23}, {0, 1, 2}, {3, 9, 14}])
def test_of_a_refused_batch_only_the_events_to_blame_are_refused(
    httpserver: HTTPServer, bad: set[int], most: int
) -> None:
    job = [[event(lane * 4 + place, f"t{lane}") for place in range(4)] for lane in range(6)]
    got: list[str] = []
    httpserver.expect_request("/e").respond_with_handler(_taker(bad, most, got))
    outcomes = post_batch(Target(httpserver.url_for("/e"), batch=True), job)
    assert [outcome.run for outcome in outcomes] == job
    for outcome in outcomes:
        first_bad = next((n for n, one in enumerate(outcome.run) if one.seq in bad), len(outcome.run))
        assert outcome.delivered == first_bad
        assert (outcome.failure is not None and outcome.failure.final) is (first_bad < 4)
        assert [one.event_id for one in outcome.run[:first_bad]] == [
            i for i in got if i in {e.event_id for e in outcome.run}
        ]


def test_a_payload_that_is_not_json_holds_up_no_other_event_of_a_batch(httpserver: HTTPServer) -> None:
    got: list[str] = []
    httpserver.expect_request("/e").respond_with_handler(_taker(set(), 100, got))
    job = [[event(1, "a")], [event(2, "b", "{broken")], [event(3, "c"), event(4, "c")]]
    outcomes = post_batch(Target(httpserver.url_for("/e"), batch=True), job)
    assert [outcome.delivered for outcome in outcomes] == [1, 0, 2]
    assert outcomes[1].failure is not None
    assert outcomes[1].failure.final
    assert got == ["evt_1", "evt_3", "evt_4"]
