"""What happens to an attempt before its provider is called, as tables."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from lmstack.gateway.calls import attempt_control, hooks, served
from lmstack.gateway.calls.attempt_control import AttemptSkipped, DeadlinePassed, Step, limit_time, settle_previous
from lmstack.ledger.records import Attempt, Attribution, Call, Fault

FAULT = Fault("E", None, "m")
A = Attempt("a", "a", "p", "p/a", 1, None, False, 0.0, kind="acompletion")


def a_call(*attempts: Attempt) -> Call:
    call = Call("r", "c", None, 0.0, "/", True, "m", Attribution())
    call.attempts = [replace(attempt) for attempt in attempts]
    return call


@pytest.mark.parametrize(
    ("before", "now", "step", "closed"),
    [
        (None, A, Step.NEW, None),
        (replace(A, outcome="failed"), A, Step.NEW, "failed"),
        (A, replace(A, kind="aresponses"), Step.SAME, None),
        (A, replace(A), Step.RETRY, "failed"),
        (A, replace(A, deployment="b"), Step.NEXT, "failed"),
        (A, replace(A, deployment="b", kind="aresponses"), Step.NEXT, "failed"),
    ],
)
def test_what_an_attempt_is_to_the_one_before(
    before: Attempt | None, now: Attempt, step: Step, closed: str | None
) -> None:
    call = a_call(*([before] if before else []))
    call.late_fault = FAULT
    assert settle_previous(call, now) is step
    if before is not None:
        assert call.attempts[0].outcome == closed
        assert (call.attempts[0].fault == FAULT) is (before.outcome is None and closed == "failed")


@pytest.mark.parametrize(
    ("elapsed", "given", "left"),
    [(0, 120, 10), (2, 120, 8), (2, 3, 3), (2, None, None), (9.9, 120, "passed"), (60, None, "passed")],
)
def test_an_attempt_takes_no_longer_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch, elapsed: float, given: float | None, left: float | str | None
) -> None:
    monkeypatch.setattr(served, "times", lambda: served.Times(deadline=10, timeout=120))
    call = a_call()
    monkeypatch.setattr(Call, "elapsed_ms", lambda _: elapsed * 1000)
    kwargs: dict[str, Any] = {"timeout": given}
    if left == "passed":
        with pytest.raises(DeadlinePassed):
            limit_time(kwargs, call)
    else:
        limit_time(kwargs, call)
        assert kwargs["timeout"] == left
    assert call.deadline_passed is (left == "passed")


def deployment(name: str, provider: str = "p", **params: Any) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": params, "model_info": {"id": name, "lm_provider": provider}}


class Router:
    """What cooldown needs of LiteLLM's router."""

    def __init__(self, *deployments: dict[str, Any]) -> None:
        self.model_list = list(deployments)
        self.cooled: list[str] = []
        self.cooldown_cache = self

    def add_deployment_to_cooldown(self, model_id: str, **_: Any) -> None:
        self.cooled.append(model_id)


def attempt(name: str, **more: Any) -> dict[str, Any]:
    info = {"id": name, "lm_provider": "p"}
    return {"model": f"p/{name}", "metadata": {"model_info": info}, "model_info": info, **more}


# Each row: the attempts before, the deployment that comes now, and what the hook does with it.
@pytest.mark.parametrize(
    ("before", "fails_first", "last_resort", "outcome", "attempts", "cooled"),
    [
        ([], False, False, None, ["a"], []),
        ([], True, False, AttemptSkipped, ["a"], []),
        ([replace(A, outcome="failed")], False, False, None, ["a", "a"], []),
        ([replace(A, sent=True)], False, False, AttemptSkipped, ["a"], ["a"]),
        ([A], False, False, AttemptSkipped, ["a"], []),
        ([replace(A, sent=True)], False, True, None, ["a", "a"], []),
        ([replace(A, kind="other")], False, False, None, ["a"], []),
        ([replace(A, deployment="b", sent=True)], False, False, None, ["b", "a"], ["b"]),
        ([replace(A, deployment="b")], False, False, None, ["b", "a"], []),
    ],
)  # fmt: skip
def test_the_deployment_hook(
    monkeypatch: pytest.MonkeyPatch, before: list[Attempt], fails_first: bool, last_resort: bool,
    outcome: type[Exception] | None, attempts: list[str], cooled: list[str],
) -> None:  # fmt: skip
    router = Router(deployment("a", **({"cooldown_time": 0} if last_resort else {})), deployment("b"))
    monkeypatch.setattr("litellm.proxy.proxy_server.llm_router", router)
    call = a_call(*before)
    call.fails_first = fails_first
    kwargs = attempt("a", litellm_logging_obj=SimpleNamespace(lm_call=call))
    hook = hooks.handler.async_pre_call_deployment_hook(kwargs, "acompletion")
    if outcome is None:
        asyncio.run(hook)
    else:
        with pytest.raises(outcome):
            asyncio.run(hook)
    assert [a.deployment for a in call.attempts] == attempts
    assert router.cooled == cooled


def test_the_deadline_ends_the_request_at_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    call = a_call()
    call.clock = time.perf_counter() - served.times().deadline
    kwargs = attempt("a", litellm_logging_obj=SimpleNamespace(lm_call=call))
    with pytest.raises(DeadlinePassed):
        asyncio.run(hooks.handler.async_pre_call_deployment_hook(kwargs, "acompletion"))
    assert call.attempts == []


def test_an_error_of_ours_in_a_hook_fails_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OverflowError

    for place in ("limit_time", "settle_previous", "fail_first"):
        monkeypatch.setattr(attempt_control, place, broken)
        kwargs = attempt("a", litellm_logging_obj=SimpleNamespace(lm_call=a_call()))
        asyncio.run(hooks.handler.async_pre_call_deployment_hook(kwargs, "acompletion"))
