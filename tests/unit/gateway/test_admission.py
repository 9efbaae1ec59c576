"""Admission through the real hook: what is written for LiteLLM, budgets, and errors of ours at each place."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException

from lmstack.gateway import worker
from lmstack.gateway.calls import admission, hooks, outcome, replies, served
from lmstack.gateway.calls.streams import StreamUsage
from lmstack.ledger import queries
from lmstack.ledger.records import Attempt, Attribution, Call, ExceededLimit
from lmstack.routing.budgets import Limit
from lmstack.routing.candidates import Candidate
from lmstack.routing.policy import ChosenBy, Decision, Models
from lmstack.routing.prices import Price
from lmstack.routing.rules import RoutingRules
from support import wait_for

PAID = Candidate("paid", "a", 1, (1.0, 1.0), 100_000, None, "paid")
FREE = Candidate("free", "b", 1, (0.0, 0.0), 100_000, None, "free")
MODELS = Models((PAID, FREE), {"paid": Price((1.0, 1.0)), "free": Price((0.0, 0.0)), "pictures": Price(image=0.04)})


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "litellm.db"
    mine = worker.Worker(path, None)
    monkeypatch.setattr(worker, "get", lambda: mine)
    monkeypatch.setattr(served, "models", lambda: MODELS)
    monkeypatch.setattr(served, "rules", RoutingRules)
    yield path
    mine.close()


def body(headers: dict[str, str] | None = None, **more: object) -> dict[str, Any]:
    turns = [{"role": "user", "content": "Hello!"}]
    request = {"headers": {"x-task-id": "t", **(headers or {})}}
    return {"model": "paid", "messages": turns, "litellm_logging_obj": SimpleNamespace(), "proxy_server_request": request, **more}  # fmt: skip


def admit(data: dict[str, Any], call_type: str = "acompletion") -> Call:
    asyncio.run(hooks.handler.async_pre_call_hook(None, None, data, call_type))
    call: Call = data["litellm_logging_obj"].lm_call
    return call


def refusal(data: dict[str, Any], call_type: str = "acompletion") -> HTTPException:
    with pytest.raises(HTTPException) as refused:
        admit(data, call_type)
    return refused.value


def broken(*_: object, **__: object) -> Any:
    raise OverflowError("int too large to convert to float")


PLACES = (
    "attribution.headers_of", "attribution.start_call", "current.begin", "_ask_for_usage", "request_shape.check", "read",
    "decide", "write", "served.models", "served.rules", "_record_start",
)  # fmt: skip


def break_at(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, _, name = place.rpartition(".")
    monkeypatch.setattr(getattr(admission, owner) if owner else admission, name, broken)


@pytest.mark.parametrize(
    "place", [p for p in PLACES if p not in ("attribution.headers_of", "current.begin", "served.rules")]
)
def test_an_error_of_ours_admits_a_request_with_a_row(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:  # fmt: skip
    break_at(place, monkeypatch)
    admit(body())
    assert len(wait_for(lambda: queries.ask(ledger, "requests", {}))) == 1


@pytest.mark.parametrize("place", ["attribution.headers_of", "served.rules"])
def test_a_request_whose_budget_cannot_be_known_is_refused(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    break_at(place, monkeypatch)
    assert refusal(body()).status_code == 503


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("why", ["strict", "own budget", "rule"])
def test_an_error_of_ours_refuses_a_request_in_strict_mode_and_under_a_budget(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, place: str, why: str
) -> None:
    if why == "strict":
        monkeypatch.setenv("LEDGER_MODE", "strict")
    if why == "rule":
        monkeypatch.setattr(served, "rules", lambda: RoutingRules(limits=(Limit("all", "", "day", 9.0),)))
    break_at(place, monkeypatch)
    assert refusal(body({"x-task-budget": "1"} if why == "own budget" else None)).status_code == 503


@pytest.mark.parametrize(("strict", "limited"), [(False, False), (True, False), (False, True)])
def test_a_ledger_that_raises_refuses_only_where_it_must(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, strict: bool, limited: bool
) -> None:
    monkeypatch.setattr(worker.get(), "write", broken)
    if strict:
        monkeypatch.setenv("LEDGER_MODE", "strict")
    data = body({"x-task-budget": "1"} if limited else None)
    if strict or limited:
        assert refusal(data).status_code == 503
    else:
        assert admit(data).requested_model == "paid"


@pytest.mark.parametrize(
    ("decision", "written"),
    [
        (Decision(ChosenBy.LITELLM, "other"), {"model": "paid"}),
        (Decision(ChosenBy.CONFIGURATION, "premium"), {"model": "premium"}),
        (
            Decision(ChosenBy.GATEWAY, "a", ("b",)),
            {"model": "a", "fallbacks": ["b"], "context_window_fallbacks": [], "content_policy_fallbacks": []},
        ),
        (
            Decision(ChosenBy.GATEWAY, "a", no_fallback=True),
            {"model": "a", "fallbacks": [], "context_window_fallbacks": [], "content_policy_fallbacks": [], "disable_fallbacks": True},
        ),
    ],
)  # fmt: skip
def test_a_decision_is_written_in_litellms_words(decision: Decision, written: dict[str, Any]) -> None:
    data: dict[str, Any] = {"model": "paid"}
    call = Call("r", None, None, 0.0, "/", False, "paid", Attribution())
    admission.write(data, call, decision)
    assert data == written


def spend(call: Call, usd: float) -> None:
    async def ended() -> None:
        await worker.get().write(outcome.end(call, "succeeded", cost=usd))

    asyncio.run(ended())


def test_a_used_up_budget_is_a_429_until_it_resets_and_free_models_stay_usable(ledger: Path) -> None:
    own = {"x-task-budget": "0.5"}
    spend(admit(body(own)), 0.6)
    error = refusal(body(own))
    assert error.status_code == 429
    assert error.detail["budget"]["resets_at"] is None  # a total never resets
    assert error.headers is None
    data = body(own, model="auto")
    admit(data)
    assert (data["model"], data["fallbacks"]) == ("free", [])


def test_calls_of_unknown_cost_are_refused_under_a_budget_and_known_ones_are_reserved(ledger: Path) -> None:
    own = {"x-task-budget": "1"}
    assert admit(body(own, model="pictures", n=5), "image_generation").reserved_usd == pytest.approx(0.2)
    error = refusal(body(own, model="paid"), "avideo_generation")
    assert (error.status_code, error.detail["type"]) == (400, "cost_unknown")
    assert admit(body(model="paid"), "avideo_generation").reserved_usd is None
    assert admit(body(own, model="free"), "aembedding").budgeted is False


def test_an_answer_of_unknown_cost_is_charged_to_its_budget_as_reserved(ledger: Path) -> None:
    call = admit(body({"x-task-budget": "1"}, model="pictures"), "image_generation")
    call.attempts.append(Attempt("pictures", "p", "a", "a/p", 1, None, False, 0.0, kind="aimage_generation"))
    asyncio.run(outcome.succeed(call, None, None, False))
    (row,) = wait_for(lambda: queries.ask(ledger, "requests", {}))
    assert (row["cost_usd"], bool(row["cost_estimated"])) == (pytest.approx(0.04), True)
    plain = admit(body(model="pictures"), "image_generation")
    asyncio.run(outcome.succeed(plain, None, None, False))
    assert plain.cost_usd is None


@pytest.mark.parametrize("how", ["answered", "streamed", "cut off"])
def test_a_call_under_a_budget_that_lost_its_attempt_is_charged_as_reserved(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """An error of ours in the deployment hook must not make an answer free."""
    monkeypatch.setattr(hooks.attempts, "start_attempt", broken)
    data = body({"x-task-budget": "1"}, stream=how != "answered")
    call = admit(data)
    chunk = SimpleNamespace(choices=[], usage=None)

    async def chunks() -> AsyncIterator[object]:
        yield chunk
        if how == "cut off":
            raise ConnectionResetError

    async def serve() -> None:
        await hooks.handler.async_pre_call_deployment_hook({**data}, "acompletion")
        if how == "answered":
            await hooks.handler.async_post_call_success_hook(data, None, SimpleNamespace(usage=None))
            return
        call.reported = ({}, None)
        with contextlib.suppress(ConnectionResetError):
            async for _ in hooks.handler.async_post_call_streaming_iterator_hook(None, chunks(), data):
                pass

    asyncio.run(serve())
    row = wait_for(lambda: [r for r in queries.ask(ledger, "requests", {}) if r["status"] != "started"])[0]
    assert call.attempts == []
    assert (row["cost_usd"], bool(row["cost_estimated"])) == (pytest.approx(call.reserved_usd), True)


@pytest.mark.parametrize(("prompt", "estimated"), [(0, True), (None, True), (1000, False)])
def test_a_count_of_litellm_without_any_input_is_none(ledger: Path, prompt: int | None, estimated: bool) -> None:
    """LiteLLM cannot count the input of a native Gemini stream. A budget then charges what it reserved."""
    call = admit(body({"x-task-budget": "1"}, stream=True))
    call.attempts.append(
        Attempt("paid", "paid", "a", "paid", 1, (1.0, 1.0), True, 0.0, kind="agenerate_content_stream")
    )
    call.reported = ({"prompt_tokens": prompt, "completion_tokens": 1}, 1e-9)
    asyncio.run(outcome.finish_stream(call, StreamUsage()))
    row = wait_for(lambda: [r for r in queries.ask(ledger, "requests", {}) if r["status"] != "started"])[0]
    assert row["cost_usd"] == pytest.approx(call.reserved_usd if estimated else 1001 / 1e6)
    assert bool(row["cost_estimated"]) is estimated


@pytest.mark.parametrize(
    ("own", "attempts", "cost"),
    [
        ({"x-task-budget": "1"}, "none", None),  # it waited for its budget, and no provider was called
        ({"x-task-budget": "1"}, "made", None),
        ({"x-task-budget": "1"}, "sent", "reserved"),
        ({}, "sent", 1000 / 1e6),
    ],
)
def test_a_request_that_is_torn_down_is_charged_once_its_call_was_sent(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, str], attempts: str, cost: float | str | None
) -> None:
    """Under a budget it costs what was reserved, else at least its input."""
    monkeypatch.setattr(served, "models", lambda: Models((PAID,), {"paid": Price((1.0, 1.0))}))
    call = admit(body({**own, "content-length": "4000"}))
    if attempts != "none":
        call.attempts.append(Attempt("paid", "p", "a", "a/p", 1, (1.0, 1.0), False, 0.0, sent=attempts == "sent"))
    outcome.abandon(call)
    row = wait_for(lambda: [r for r in queries.ask(ledger, "requests", {}) if r["status"] != "started"])[0]
    expected = call.reserved_usd if cost == "reserved" else cost
    assert row["cost_usd"] == (None if expected is None else pytest.approx(expected))
    assert bool(row["cost_estimated"]) is (cost is not None)


@pytest.mark.parametrize(
    ("period", "waiting", "seconds", "says"),
    [
        ("day", False, 43_200, "used up"),
        ("day", True, 5, "Try again in 5 seconds"),
        ("total", False, None, "used up"),
        ("total", True, 5, "reserved by requests that are still running"),
    ],
)
def test_a_429_says_when_to_try_again(
    monkeypatch: pytest.MonkeyPatch, period: str, waiting: bool, seconds: int | None, says: str
) -> None:
    noon = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
    monkeypatch.setattr(replies.time, "time", noon.timestamp)
    error = replies.budget_exceeded(ExceededLimit(Limit("task", "t", period, 1.0), 0.4, waiting))
    assert (error.headers or {}).get("retry-after") == (None if seconds is None else str(seconds))
    resets = error.detail["budget"]["resets_at"]
    assert resets is None if seconds is None else (datetime.fromisoformat(resets) - noon).total_seconds() == seconds
    assert says in error.detail["error"]


@pytest.mark.parametrize("given", [None, {}, {"include_usage": False}, {"include_usage": True}])
def test_a_stream_of_completions_tells_its_usage_and_only_a_client_that_asked_gets_it(
    given: dict[str, Any] | None,
) -> None:
    data: dict[str, Any] = {"prompt": "hi", "stream": True} | ({} if given is None else {"stream_options": given})
    hides = admission._ask_for_usage(data, "atext_completion")
    assert (data["stream_options"], hides) == ({"include_usage": True}, given != {"include_usage": True})
