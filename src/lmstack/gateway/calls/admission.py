"""Admits a request: reads it, decides where it goes, writes the decision into LiteLLM's data, and records its start.

A budget fails closed, a recorder fails open: after an error in our own code a request goes on with a poor row. It is
refused where a budget may apply, and in strict mode.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import HTTPException

from lmstack.gateway import worker
from lmstack.gateway.calls import attribution, current, holders, replies, request_shape, served, stored
from lmstack.gateway.calls.fields import short_text
from lmstack.ledger.records import Call, Started, Verdict, new_id
from lmstack.routing.policy import ChosenBy, Decision, decide, decide_free
from lmstack.routing.prices import BATCHES, units_of
from lmstack.routing.refusals import RefusalError
from lmstack.routing.request import SPECIAL_FALLBACKS, Request, option, read

log = logging.getLogger(__name__)

# How long a request waits for running requests that have reserved its budget.
BUDGET_WAIT_SECONDS = 15.0
_POLL_SECONDS = 0.1


async def begin(data: dict[str, Any], call_type: str) -> None:
    """Admit a request. Raises HTTPException when it is refused, and nothing else."""
    try:
        await _begin(data, call_type)
    except HTTPException as error:
        current.note_refusal(error)
        raise
    except RefusalError as refusal:
        refused = replies.refused(refusal)
        current.note_refusal(refused)
        raise refused from None
    except Exception:
        log.exception("lmstack: a request could not be admitted as usual")
        if worker.is_strict() or _may_be_limited(data):
            raise replies.not_checked() from None
        await _record_plainly(data)


async def _begin(data: dict[str, Any], call_type: str) -> None:
    headers = attribution.headers_of(data)
    call = _start(data, headers)
    call.hides_usage = _ask_for_usage(data, call_type)
    request_shape.check(data, call_type)
    client = holders.client_of(current.key(), call.attribution.task_id, call_type)
    holders.check_tools(current.key(), data.get("tools"))
    request = read(data, headers, call_type, call.attribution.task_id, call.attribution.agent_id, client)
    if call_type in BATCHES:
        request = replace(request, model=stored.keeper(data, headers))
        call.requested_model = short_text(request.model)
    call.units = units_of(request)
    call.fails_first, call.has_credentials = request.fails_first, request.has_credentials
    call.asked = _demands(request)
    decision = decide(request, served.models(), served.rules())
    write(data, call, decision)
    verdict = await _record_start(data, call, request, decision)
    if not verdict.durable and worker.is_strict():
        raise replies.not_recorded()


def _demands(request: Request) -> dict[str, Any] | None:
    """Return what a request demands of routing: by headers, metadata, or models.yaml for its task or agent. None for nothing."""
    rules = served.rules()
    options, limits = rules.options_of(request), rules.limits_of(request)
    if not options and not limits:
        return None
    found = {
        "tier": options.tier, "max_cost": options.max_cost, "no_fallback": options.no_fallback or None,
        "budgets": [f"{limit.scope} {limit.period}" for limit in limits] or None,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def write(data: dict[str, Any], call: Call, decision: Decision) -> None:
    """Write a decision into LiteLLM's ``data``, and its costs into the call."""
    if decision.chosen_by is not ChosenBy.LITELLM:
        data["model"] = decision.model
    if decision.chosen_by is ChosenBy.GATEWAY:
        data["fallbacks"] = list(decision.fallbacks)
        for name in SPECIAL_FALLBACKS:  # LiteLLM's other lists, as configured for a name, must not be used
            data[name] = []
    if decision.no_fallback:
        data["disable_fallbacks"] = True
    call.estimate_usd, call.reserved_usd = decision.minimum_usd, decision.reserved_usd
    call.budgeted, call.limited = bool(decision.limits), tuple(limit.scope for limit in decision.limits)
    call.limits = decision.limits


def _start(data: dict[str, Any], headers: Mapping[str, str]) -> Call:
    context = current.request_context.get()
    call = attribution.start_call(data, headers, context.path if context else None, current.key())
    call.stream = call.stream or bool(context and context.is_session)
    current.begin(data, call)
    return call


async def _record_start(data: dict[str, Any], call: Call, request: Request, decision: Decision) -> Verdict:
    """Record the start if the budgets of the request allow it. Raises HTTPException when they do not."""
    give_up = time.monotonic() + BUDGET_WAIT_SECONDS
    while True:
        verdict = await worker.get().write(Started(call, decision.limits))
        exceeded = verdict.exceeded
        if exceeded is None and (verdict.checked or not decision.limits):
            call.allowance_usd = _least(decision.reserved_usd, verdict.room_usd) if decision.limits else None
            return verdict
        if verdict.late or time.monotonic() > give_up or (exceeded is not None and not exceeded.waiting):
            break
        # Running requests may use up the budget or not. A ledger that is locked may become free again.
        await asyncio.sleep(_POLL_SECONDS)
    free = decide_free(request, served.models())
    if free is None:
        raise replies.budget_exceeded(exceeded) if exceeded is not None else replies.budget_unknown()
    write(data, call, free)
    return await worker.get().write(Started(call))


async def _record_plainly(data: Mapping[str, Any]) -> None:
    """Record the start of a request that could not be read: a poor row is better than none."""
    call = current.call_of(data)
    if call is None or call.ended:
        context = current.request_context.get()
        path = context.path if context else ""
        who = attribution.attribution_of({}, {}, current.key())
        call = Call(new_id("req"), None, None, time.time(), path, False, None, who)
        current.begin(data, call)
    await worker.get().write(Started(call))


def _may_be_limited(data: Mapping[str, Any]) -> bool:
    """Return whether a budget, or a restriction of its key, may apply to a request that could not be read."""
    if current.key() is not None:
        return True
    try:
        metadata = data.get("metadata")
        own = option(attribution.headers_of(data), metadata if isinstance(metadata, Mapping) else {}, "task-budget")
        return own is not None or bool(served.rules().limits)
    except Exception:
        return True


def _ask_for_usage(data: dict[str, Any], call_type: str) -> bool:
    """Ask the provider for the usage of a stream. Return whether its chunk is ours, and must not reach the client.

    LiteLLM does so by itself, but not for the name of a router (``auto``), nor for /v1/completions. There it would count the
    tokens itself, or none.
    """
    if call_type == "agenerate_content_stream":
        data.pop("stream_options", None)  # LiteLLM asks for the usage itself, unless a client forbids it
    is_text, given = call_type == "atext_completion", data.get("stream_options")
    if data.get("stream") is not True or not (is_text or (call_type == "acompletion" and "stream_options" not in data)):
        return False
    if given is not None and not isinstance(given, dict):
        return False  # refused soon
    data["stream_options"] = {**(given or {}), "include_usage": True}
    return not (given or {}).get("include_usage")


def _least(*amounts: float | None) -> float | None:
    return min((amount for amount in amounts if amount is not None), default=None)
