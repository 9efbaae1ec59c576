"""Failures of streams that no deployment hook reports."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import litellm
import pytest
from litellm.types.router import RouterRateLimitError

from lmstack.gateway.calls import late_failures
from lmstack.ledger.records import Attempt, Attribution, Call, Fault

A = Attempt("a", "a", "p", "p/a", 1, None, False, time.time(), sent=True, outcome="failed")
FAILED = litellm.InternalServerError("broken", "p", "a")
NONE_LEFT = RouterRateLimitError("a", 20, False, ["a"])


class Router:
    """What cooldown needs of LiteLLM's router."""

    def __init__(self) -> None:
        self.model_list = [{"litellm_params": {}, "model_info": {"id": name, "lm_provider": "p"}} for name in "ab"]
        self.cooled: list[str] = []
        self.cooldown_cache = self

    def add_deployment_to_cooldown(self, model_id: str, **_: Any) -> None:
        self.cooled.append(model_id)


def a_call(*attempts: Attempt) -> Call:
    call = Call("req", None, None, time.time(), "/v1/chat/completions", True, "a", Attribution())
    call.attempts.extend(replace(attempt) for attempt in attempts)
    return call


@pytest.mark.parametrize(
    ("last", "error", "kept"),
    [
        (A, FAILED, "attempt"),  # the next attempt began before the event came
        (replace(A, outcome=None), FAILED, "call"),
        (A, NONE_LEFT, None),  # no provider's error, though it has a status from 1.108 on
        (A, ValueError("ours"), None),
    ],
)
def test_the_error_of_an_event_goes_to_the_attempt_without_one(
    last: Attempt, error: Exception, kept: str | None
) -> None:
    call = a_call(last)
    late_failures.note(call, error)
    assert (call.attempts[0].fault is not None, call.late_fault is not None) == (kept == "attempt", kept == "call")


def test_an_event_about_a_failure_that_a_hook_reported_changes_nothing() -> None:
    call = a_call(A)
    late_failures.note(call, FAILED)
    call.attempts.append(replace(A, deployment="b", outcome=None))
    late_failures.note(call, FAILED)
    assert call.late_fault is None


@pytest.mark.parametrize(
    ("code", "credentials", "cooled"),
    [(None, False, ["a"]), ("500", False, ["a"]), ("400", False, []), ("401", True, [])],
)
def test_which_last_attempt_cools_down(
    monkeypatch: pytest.MonkeyPatch, code: str | None, credentials: bool, cooled: list[str]
) -> None:
    router = Router()
    monkeypatch.setattr("litellm.proxy.proxy_server.llm_router", router)
    call = a_call(replace(A, fault=Fault("Error", code, "no")))
    call.has_credentials = credentials
    asyncio.run(late_failures.cool_down_last(call))
    assert router.cooled == cooled
    asyncio.run(late_failures.cool_down_last(a_call()))
