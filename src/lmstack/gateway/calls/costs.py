"""What an answer cost, in US dollars: by the user's own price, the provider's report, or LiteLLM's price map."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import litellm

from lmstack.gateway.calls.realtime import RealtimeSession
from lmstack.ledger.records import Attempt, Call, Usage
from lmstack.routing.candidates import cost_at
from lmstack.routing.needs import BYTES_PER_TOKEN
from lmstack.routing.prices import BATCHES, MODERATION, SOLD_BY_UNIT, FlatPrice, entry_of, is_management
from lmstack.routing.realtime import INPUT, OUTPUT, cost_by_map, total

MAX_USD = 1e5  # of one answer
CLIENT_LEFT = 499  # the status that LiteLLM gives to a request without a client

log = logging.getLogger(__name__)


def cost_of(call: Call, usage: Any, tokens: Usage, reported: float | None) -> float | None:
    """Return the cost of an answer; None when it is unknown or impossible.

    ``reported``: LiteLLM's own figure; it is 0 where LiteLLM knows no price. A negative cost would refund a budget. A batch
    costs what models.yaml has for each one, because no provider tells its cost so early.
    """
    last = call.attempts[-1] if call.attempts else None
    cost = None
    if last is not None and last.kind in BATCHES:
        cost = call.estimate_usd
    elif last is not None:
        flat = last.flat_price if last.kind in SOLD_BY_UNIT else None  # uploads and batches are not sold so
        cost = _flat_cost(flat, call) if flat else _cost_of(last, usage, tokens, reported)
    return cost if cost is not None and 0 <= cost <= MAX_USD else None


def is_assumed(call: Call) -> bool:
    """Return whether the cost of an answer is only assumed: the flat price of a batch does not depend on its requests."""
    return bool(call.attempts) and call.attempts[-1].kind in BATCHES


def cost_of_session(call: Call, session: RealtimeSession) -> float | None:
    """Return the cost of the responses of a realtime session that have ended; None when it is unknown."""
    last = call.attempts[-1] if call.attempts else None
    if last is None or last.free:
        return None if last is None else 0.0
    if session.unmetered:
        return None
    if last.own_price and last.rates is not None:
        answers: float | None = cost_at(last.rates, total(session.tokens, INPUT), total(session.tokens, OUTPUT))
    else:
        answers = cost_by_map(session.tokens, _entry(last.litellm_model))
    costs = [answers, *(cost_by_map(spent, _entry(name)) for name, spent in session.transcribed.items())]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) and sum(known) <= MAX_USD else None


def _entry(model: str | None) -> Mapping[str, Any]:
    return entry_of(litellm.model_cost, model or "")


def estimate_broken_stream(call: Call, tokens: Usage, tokens_in: int, characters_out: int) -> float | None:
    """Return the estimated cost of a stream that ended before its usage came; None when it is unknown.

    Tokens are those that the stream reported, else an estimate: 4 characters of an answer to a token.
    """
    last = call.attempts[-1] if call.attempts else None
    if last is None or last.rates is None or not last.sent:
        return None
    prompt = tokens_in if tokens.prompt is None else tokens.prompt
    return cost_at(last.rates, prompt, -(-characters_out // BYTES_PER_TOKEN))


def estimate_given_up(call: Call, error: BaseException) -> float | None:
    """Return the estimated cost of a request that its client, or a time-out, gave up while a provider worked on it.

    Providers charge for such answers. Returns what the budgets reserved; without any, the cost of the input where the
    client left. None for other failures: providers do not charge for their own errors.
    """
    sent = [attempt for attempt in call.attempts if attempt.sent]
    if getattr(error, "status_code", None) == CLIENT_LEFT:
        return estimate_abandoned(call)
    timed_out = any(attempt.fault is not None and attempt.fault.type == "Timeout" for attempt in sent)
    return reserved_cost(call) if timed_out else None


def estimate_abandoned(call: Call) -> float | None:
    """Return the estimated cost of a request without an answer. None when no call was sent to a provider."""
    if not any(attempt.sent for attempt in call.attempts):
        return None
    reserved = reserved_cost(call)
    return call.estimate_usd if reserved is None else reserved


def reserved_cost(call: Call) -> float | None:
    """Return what the call's budgets reserved for it; None without any budget, or when the price is unknown."""
    return call.reserved_usd if call.budgeted else None


def _cost_of(last: Attempt, usage: Any, tokens: Usage, reported: float | None) -> float | None:
    known = float(reported) if reported and math.isfinite(reported) and reported > 0 else None
    if last.free or is_management(last.kind) or (last.kind in MODERATION and _is_free_by_map(last.litellm_model)):
        return 0.0
    if not (tokens.prompt or tokens.completion):
        return known  # images and audio are sold by the piece, and only LiteLLM knows the price
    if last.rates is None:
        return known if last.kind in SOLD_BY_UNIT else None
    if last.own_price:  # models.yaml's price counts for streams too, which LiteLLM reports without a cost
        return cost_at(last.rates, tokens.prompt or 0, tokens.completion or 0)
    return known if known is not None else _computed(last, usage, tokens)


def _is_free_by_map(model: str | None) -> bool:
    """Return whether a moderation model costs nothing by LiteLLM's price map. Without a name it is OpenAI's, which is free."""
    entry = _entry(model)
    return model is None or (entry.get("input_cost_per_token") == 0 and entry.get("output_cost_per_token") == 0)


def _flat_cost(price: FlatPrice, call: Call) -> float | None:
    """Return the cost by a flat price of models.yaml; None when the count of its units is unknown."""
    units = 1 if price[0] == "per_request" else call.units
    return None if units is None else units * price[1]


def _computed(last: Attempt, usage: Any, tokens: Usage) -> float | None:
    """Return the cost by LiteLLM's price map; None when the map does not know the model."""
    try:
        into, out = litellm.cost_per_token(
            model=last.litellm_model or "",
            usage_object=usage if isinstance(usage, litellm.Usage) else _as_usage(usage, tokens),
            prompt_tokens=tokens.prompt or 0,
            completion_tokens=tokens.completion or 0,
        )
        return max(0.0, float(into + out))
    except Exception:
        log.debug("lmstack: no price for %s", last.model, exc_info=True)
        return None


def _as_usage(usage: Any, tokens: Usage) -> Any:
    extra = {}
    if isinstance(usage, Mapping):
        names = ("cache_read_input_tokens", "cache_creation_input_tokens")
        extra = {name: usage[name] for name in names if usage.get(name)}
    if not extra and tokens.cached:
        extra = {"prompt_tokens_details": {"cached_tokens": tokens.cached}}
    return litellm.Usage(
        prompt_tokens=tokens.prompt or 0,
        completion_tokens=tokens.completion or 0,
        total_tokens=(tokens.prompt or 0) + (tokens.completion or 0),
        **extra,
    )
