"""Records how a request ended: its status, its tokens and its cost."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmstack.gateway import worker
from lmstack.gateway.calls.costs import (
    cost_of,
    cost_of_session,
    estimate_abandoned,
    estimate_broken_stream,
    estimate_given_up,
    is_assumed,
    reserved_cost,
)
from lmstack.gateway.calls.realtime import RealtimeSession
from lmstack.gateway.calls.streams import StreamUsage
from lmstack.gateway.calls.usage import usage_of
from lmstack.ledger.records import Call, Ended, Fault, Usage
from lmstack.routing.needs import needs_of

log = logging.getLogger(__name__)

USAGE_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a broken stream. ``cost`` is in USD; ``estimated``: worked out from the characters that came."""

    status: str
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    estimated: bool = False


def ending_of(seen: StreamUsage, call: Call, tokens_in: int, characters: int, content: bool) -> Ending:
    """Return how a broken stream ends. ``content``: some of the answer came, or that is not known."""
    status = "interrupted" if call.ttft_ms is not None and content else "failed"
    tokens = usage_of(seen.usage)
    if seen.final:
        return Ending(status, tokens, cost_of(call, seen.usage, tokens, seen.cost))
    if not content:
        return Ending(status, tokens)
    tokens = Usage(tokens.prompt or None)  # a stream's count of its answer is only right at the end
    cost = estimate_broken_stream(call, tokens, tokens_in, characters)
    return Ending(status, tokens, cost, bool(cost))


def interrupt(
    call: Call, seen: StreamUsage, fault: Fault, data: Mapping[str, Any], response: object, content: bool = True
) -> None:
    """Record the end of a broken stream. Awaits nothing, because the task may be about to be cancelled."""
    if call.ended:
        return
    call.close("interrupted", fault)
    ending = Ending("interrupted" if call.ttft_ms is not None and content else "failed")
    try:
        needs = needs_of(data)
        ending = ending_of(seen, call, needs.tokens_in, seen.characters(response, needs.choices), content)
        readable = bool(call.attempts)  # without any attempt an error in our own code lost it
    except Exception:
        log.exception("lmstack: the cost of a broken stream could not be found")
        readable = False
    if not readable:
        ending = Ending(ending.status, cost=reserved_cost(call), estimated=reserved_cost(call) is not None)
    worker.get().post(end(call, ending.status, ending.usage, ending.cost, fault=fault, estimated=ending.estimated))


async def finish_session(call: Call, session: RealtimeSession, status: str, fault: Fault | None) -> None:
    """Record the end of a realtime session."""
    if not call.ended:
        await worker.get().write(end_of_session(call, session, status, fault))


def end_of_session(call: Call, session: RealtimeSession, status: str, fault: Fault | None) -> Ended:
    """Return the end of a realtime session. A response that had not ended is missing in its cost, so that is an estimate."""
    call.close("succeeded" if status == "succeeded" else "failed" if status == "rejected" else status, fault)
    last = call.attempts[-1] if call.attempts else None
    if last is not None and status in ("succeeded", "failed"):
        worker.get().results.note(last.deployment, last.provider, fault)
    is_known = session.done > 0 or bool(session.transcribed) or status == "succeeded"
    cost = cost_of_session(call, session) if is_known else None
    least = session.running > 0 or session.has_unknown_kinds
    reserved = reserved_cost(call) if session.opened and (cost is None or session.running) else None
    if reserved is not None:
        cost = max(reserved, cost or 0.0)
    return end(call, status, session.usage, cost, fault=fault, estimated=cost is not None and (least or reserved is not None))  # fmt: skip


def abandon(call: Call) -> None:
    """Record a call as interrupted when its request is over and no hook ended it."""
    if call.ended:
        return
    call.close("interrupted")
    fault = Fault("Abandoned", None, "the request was torn down before it had its answer")
    cost = estimate_abandoned(call)
    worker.get().post(end(call, "interrupted", cost=cost, fault=fault, estimated=bool(cost)))


async def fail(call: Call, fault: Fault, error: BaseException) -> None:
    """Record the end of a request that failed, or that was refused before any attempt."""
    call.close("failed", fault)
    cost = None
    try:
        cost = estimate_given_up(call, error)
    except Exception:
        log.exception("lmstack: the cost of a failed request could not be found")
    status = "failed" if call.attempts else "rejected"
    await worker.get().write(end(call, status, cost=cost, fault=fault, estimated=bool(cost)))


async def finish_stream(call: Call, seen: StreamUsage) -> None:
    """Record the end of a complete stream."""
    try:
        if seen.usage is None:
            await _wait_for_report(call, seen)
        await succeed(call, seen.usage, seen.cost, False)
    except Exception:
        log.exception("lmstack: the end of a stream could not be recorded")


async def _wait_for_report(call: Call, seen: StreamUsage) -> None:
    """Wait for LiteLLM's log event, which has its own count of the tokens, where no chunk carried any usage.

    LiteLLM cannot count the input of every protocol (native Gemini). A count without any input would cost next to nothing.
    """
    deadline = time.monotonic() + USAGE_WAIT_SECONDS
    while call.reported is None and time.monotonic() < deadline:  # noqa: ASYNC110 - an Event per call would cost every call
        await asyncio.sleep(0.01)
    if call.reported is not None and usage_of(call.reported[0]).prompt:
        seen.usage, seen.cost = call.reported


async def succeed(call: Call, usage: Any, cost: float | None, cache_hit: bool) -> None:
    """Record the end of an answered request. An answer of unknown cost is charged to its budgets as reserved."""
    call.close("succeeded")
    if call.attempts:
        last = call.attempts[-1]
        worker.get().results.note(last.deployment, last.provider, None)
    tokens = Usage()
    try:
        tokens = usage_of(usage)
        call.cost_usd = 0.0 if cache_hit else cost_of(call, usage, tokens, cost)
    except Exception:  # a provider may send anything as usage; the request has ended all the same
        log.exception("lmstack: the usage of an answer could not be read")
    estimated = call.cost_usd is None and reserved_cost(call) is not None
    if estimated:
        call.cost_usd = reserved_cost(call)
    estimated = estimated or (call.cost_usd is not None and is_assumed(call))
    await worker.get().write(end(call, "succeeded", tokens, call.cost_usd, cache_hit, estimated=estimated))


def end(
    call: Call, status: str, usage: Usage | None = None, cost: float | None = None, cache_hit: bool = False,
    fault: Fault | None = None, estimated: bool = False,
) -> Ended:  # fmt: skip
    """Return the record of a call's end, now."""
    return Ended(call, status, time.time(), call.elapsed_ms(), usage or Usage(), cost, cache_hit, fault, estimated)
