"""What an answer cost, in US dollars: the user's own price, the provider's report, or LiteLLM's price map."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import litellm

from lmstack.ledger.records import Call, Usage
from lmstack.routing.candidates import cost_at
from lmstack.routing.needs import BYTES_PER_TOKEN

MOST_USD = 1e5  # of one answer

log = logging.getLogger(__name__)


def cost_of(call: Call, usage: Any, tokens: Usage, reported: float | None) -> float | None:
    """None when the model has no known price (LiteLLM would say 0), or where no answer can have cost that: a provider
    that counts less than nothing must not refund a budget."""
    cost = _cost_of(call, usage, tokens, reported)
    return cost if cost is not None and 0 <= cost <= MOST_USD else None


def _cost_of(call: Call, usage: Any, tokens: Usage, reported: float | None) -> float | None:
    last = call.attempts[-1] if call.attempts else None
    if last is None or last.rates is None or (tokens.prompt is None and tokens.completion is None):
        return None
    if last.free:
        return 0.0
    if not (tokens.prompt or tokens.completion or reported):
        return None  # a priced model that counts no tokens: images, speech, or a provider that does not say
    if last.own_price:  # models.yaml's price counts for streams too, which LiteLLM reports without a cost
        return cost_at(last.rates, tokens.prompt or 0, tokens.completion or 0)
    if reported and math.isfinite(reported) and reported > 0:
        return float(reported)
    try:
        return max(0.0, _computed(last.litellm_model or "", usage, tokens))
    except Exception:
        log.debug("lmstack: no price for %s", last.model, exc_info=True)
        return None


def owed(call: Call, tokens: Usage, tokens_in: int, characters_out: int) -> float | None:
    """What a stream that broke before its usage was told has cost about: the tokens that were counted, else estimated
    (4 characters of an answer to a token), at the model's price. None when nobody knows that, or nobody was asked."""
    last = call.attempts[-1] if call.attempts else None
    if last is None or last.rates is None or not last.asked:
        return None
    prompt = tokens_in if tokens.prompt is None else tokens.prompt
    return cost_at(last.rates, prompt, -(-characters_out // BYTES_PER_TOKEN))


def _computed(model: str, usage: Any, tokens: Usage) -> float:
    known = usage if isinstance(usage, litellm.Usage) else _as_usage(usage, tokens)
    into, out = litellm.cost_per_token(
        model=model, usage_object=known, prompt_tokens=tokens.prompt or 0, completion_tokens=tokens.completion or 0
    )  # fmt: skip
    return float(into + out)


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
