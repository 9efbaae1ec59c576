"""Decides what happens to an attempt before LiteLLM calls the provider: go on, take less time, or fail."""

from enum import Enum
from typing import Any

import litellm

from lmstack.gateway.calls import cooldown, served
from lmstack.ledger.records import Attempt, Call, Fault

# An attempt with less time than this is not worth its cost.
MIN_SECONDS = 0.2


class DeadlinePassed(litellm.APIConnectionError):  # type: ignore[misc]
    """Ends the list of fallbacks. LiteLLM's router does not cool a deployment down for an APIConnectionError."""


class AttemptSkipped(litellm.APIConnectionError):  # type: ignore[misc]
    """Fails an attempt before its provider is called, so that LiteLLM tries the next model."""


class Step(Enum):
    """The relation of an attempt to the one before it: new, the same, the next, or a retry."""

    NEW = "the first attempt, or one after a failure that a hook has reported"
    NEXT = "an attempt of another deployment, after a failure that no hook reported"
    SAME = "the same attempt again: LiteLLM serves one endpoint through another (Messages over Responses)"
    RETRY = "another attempt of the same deployment, after a failure that no hook reported"


def settle_previous(call: Call, attempt: Attempt) -> Step:
    """Close the previous attempt if it is open. Return how this attempt is related to it."""
    last = call.attempts[-1] if call.attempts else None
    if last is None or last.outcome is not None:
        return Step.NEW
    same = last.deployment == attempt.deployment
    if same and last.kind != attempt.kind:
        return Step.SAME
    # Some providers (Gemini) open a stream with its first chunk. No hook reports when that fails.
    last.close("failed", call.late_fault)
    call.late_fault = None
    return Step.RETRY if same else Step.NEXT


def limit_time(kwargs: dict[str, Any], call: Call) -> None:
    """Shorten an attempt's time-out to what is left of the request's deadline. Raises DeadlinePassed without any."""
    deadline = served.times().deadline
    left = deadline - call.elapsed_ms() / 1000
    if left < MIN_SECONDS:
        call.deadline_passed = True
        raise DeadlinePassed(f"no attempt after {deadline:g} s", str(kwargs.get("custom_llm_provider")), str(kwargs.get("model")))  # fmt: skip
    given = kwargs.get("timeout")
    if isinstance(given, int | float) and left < given:
        kwargs["timeout"] = left


async def skip_if_failed(attempt: Attempt) -> None:
    """Skip a deployment that failed a moment ago. Raises AttemptSkipped when another one can replace it.

    LiteLLM tries a group from the beginning after a stream that failed before its first chunk.
    """
    error = AttemptSkipped("it failed a moment ago", str(attempt.provider), str(attempt.model))
    if await cooldown.cool_down_again(error, attempt):
        raise error


def fail_first(call: Call, attempt: Attempt) -> None:
    """Fail the first attempt before its provider is called, for `lm test --fallback`. Raises AttemptSkipped."""
    if not call.fails_first:
        return
    call.fails_first = False
    reason = "made to fail by `lm test --fallback`"
    attempt.close("failed", Fault("Drill", None, reason))
    raise AttemptSkipped(reason, str(attempt.provider), str(attempt.model))
