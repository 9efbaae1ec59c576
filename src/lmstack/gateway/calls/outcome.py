"""How a request ended: its status, tokens and cost, written to the ledger."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmstack.gateway import worker
from lmstack.gateway.calls import attempts
from lmstack.gateway.calls.costs import cost_of, owed
from lmstack.gateway.calls.streams import StreamUsage
from lmstack.ledger.records import Call, Ended, Fault, Usage
from lmstack.routing.needs import needs_of

log = logging.getLogger(__name__)

USAGE_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a stream that broke. ``cost`` in USD; ``estimated``: from the characters that came."""

    status: str
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    estimated: bool = False


def ending_of(seen: StreamUsage, call: Call, tokens_in: int, characters: int, content: bool) -> Ending:
    """Return how a broken stream ends. ``content``: something of the answer came, or nobody can tell."""
    status = "interrupted" if call.ttft_ms is not None and content else "failed"
    tokens = attempts.usage_of(seen.usage)
    if seen.final:
        return Ending(status, tokens, cost_of(call, seen.usage, tokens, seen.cost))
    if not content:
        return Ending(status, tokens)
    tokens = Usage(tokens.prompt or None)  # what a stream says of its answer before the end is no count
    cost = owed(call, tokens, tokens_in, characters)
    return Ending(status, tokens, cost, bool(cost))


def interrupt(
    call: Call, seen: StreamUsage, fault: Fault, data: Mapping[str, Any], response: object, content: bool = True
) -> None:
    """End a broken stream. Nothing may be awaited here: the task is being torn down."""
    if call.ended:
        return
    call.close("interrupted", fault)
    ending = Ending("interrupted" if call.ttft_ms is not None and content else "failed")
    try:
        ending = ending_of(seen, call, needs_of(data).tokens_in, seen.characters(response), content)
    except Exception:
        log.exception("lmstack: the cost of a broken stream could not be found")
    worker.get().post(end(call, ending.status, ending.usage, ending.cost, fault=fault, estimated=ending.estimated))


def abandon(call: Call) -> None:
    """End a call whose request is over and of which no hook has told an end; with the cost that is owed at least."""
    if call.ended:
        return
    call.close("interrupted")
    fault = Fault("Abandoned", None, "the request was torn down before it had its answer")
    cost = call.estimate_usd
    worker.get().post(end(call, "interrupted", cost=cost, fault=fault, estimated=bool(cost)))


async def finish_stream(call: Call, seen: StreamUsage) -> None:
    try:
        if seen.usage is None:
            await _wait_for_report(call, seen)
        await succeed(call, seen.usage, seen.cost, False)
    except Exception:
        log.exception("lmstack: a stream's end could not be recorded")


async def _wait_for_report(call: Call, seen: StreamUsage) -> None:
    """No chunk carried usage: LiteLLM's log event, queued by now, has its own count."""
    deadline = time.monotonic() + USAGE_WAIT_SECONDS
    while call.reported is None and time.monotonic() < deadline:  # noqa: ASYNC110 - an Event per call would cost every call
        await asyncio.sleep(0.01)
    if call.reported is not None:
        seen.usage, seen.cost = call.reported


async def succeed(call: Call, usage: Any, cost: float | None, cache_hit: bool) -> None:
    call.close("succeeded")
    if call.attempts:
        worker.get().note_health(call.attempts[-1].deployment, None)
    tokens = Usage()
    try:
        tokens = attempts.usage_of(usage)
        call.cost_usd = 0.0 if cache_hit else cost_of(call, usage, tokens, cost)
    except Exception:  # whatever a provider calls usage: its request has ended, and the row must say so
        log.exception("lmstack: the usage of an answer could not be read")
    await worker.get().write(end(call, "succeeded", tokens, call.cost_usd, cache_hit))


def end(
    call: Call, status: str, usage: Usage | None = None, cost: float | None = None, cache_hit: bool = False,
    fault: Fault | None = None, estimated: bool = False,
) -> Ended:  # fmt: skip
    return Ended(call, status, time.time(), call.elapsed_ms(), usage or Usage(), cost, cache_hit, fault, estimated)
