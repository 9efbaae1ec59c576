"""Failures of streams that no deployment hook reports: before the first chunk (Gemini), and while a stream passes."""

import logging

from lmstack.gateway.calls import attempts, cooldown, current
from lmstack.gateway.calls.attempt_control import AttemptSkipped
from lmstack.gateway.stock import live
from lmstack.ledger.records import Call

log = logging.getLogger(__name__)


def note(call: Call, error: Exception) -> None:
    """Keep the error of LiteLLM's log event for the attempt that failed without a hook.

    LiteLLM sends the event before or after the next attempt. It also sends one for a failure that a hook has reported.
    """
    # From 1.108 on the errors without any model have the status 429, as a provider's error.
    if live.is_no_model_left(error) or getattr(error, "status_code", None) is None:
        return  # no provider's error
    fault = attempts.fault_of(error, current.body.get())
    if any(attempt.fault == fault for attempt in call.attempts):
        return
    call.late_fault = fault
    for attempt in call.attempts:
        if attempt.outcome == "failed" and attempt.fault is None:
            attempt.fault, call.late_fault = fault, None
            return


async def cool_down_last(call: Call) -> None:
    """Cool down the deployment of the last attempt, unless its failure is known to be about the request. Never raises."""
    attempt = call.attempts[-1] if call.attempts else None
    if attempt is None or call.is_client_fault(attempt) or not cooldown.is_models_fault(attempt.fault):
        return
    try:
        error = AttemptSkipped("its stream failed", str(attempt.provider), str(attempt.model))
        await cooldown.cool_down_again(error, attempt)
    except Exception:
        log.exception("lmstack: a failed model could not be cooled down")
