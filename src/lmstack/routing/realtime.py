"""What the tokens of a realtime session cost: text, audio and images have prices of their own. Pure.

A count of tokens is a ``Counter`` with the names of RATES. Each token is in one of them only.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

# For each kind of token, the fields of LiteLLM's price map in USD per token. The first that is there counts: without a
# price for cached tokens there is no discount.
RATES = {
    "text_in": ("input_cost_per_token",),
    "audio_in": ("input_cost_per_audio_token",),
    "image_in": ("input_cost_per_image_token",),
    "cached_text": ("cache_read_input_token_cost", "input_cost_per_token"),
    "cached_audio": ("cache_read_input_audio_token_cost", "input_cost_per_audio_token"),
    "cached_image": ("cache_read_input_image_token_cost", "input_cost_per_image_token"),
    "text_out": ("output_cost_per_token",),
    "audio_out": ("output_cost_per_audio_token",),
    "seconds": ("input_cost_per_second",),  # transcription of the user's audio
}
# The provider did not tell the kind of these tokens. The more expensive kind counts.
UNKNOWN_KIND = {"unknown_in": ("text_in", "audio_in"), "unknown_out": ("text_out", "audio_out")}
INPUT = ("text_in", "audio_in", "image_in", "cached_text", "cached_audio", "cached_image", "unknown_in")
CACHED = ("cached_text", "cached_audio", "cached_image")
OUTPUT = ("text_out", "audio_out", "unknown_out")
# The most tokens of one response of OpenAI's first realtime models, for models without known limits.
DEFAULT_INPUT, DEFAULT_OUTPUT = 32_000, 4_096


def total(tokens: Mapping[str, int], names: tuple[str, ...]) -> int:
    """Return the tokens of several kinds together."""
    return sum(tokens.get(name, 0) for name in names)


def cost_by_map(tokens: "Counter[str]", entry: Mapping[str, Any]) -> float | None:
    """Return the US dollars of tokens by an entry of LiteLLM's price map; None when one kind has no price there."""
    cost = 0.0
    for kind, count in tokens.items():
        rate = _rate(kind, entry)
        if count and rate is None:
            return None
        cost += count * (rate or 0.0)
    return cost


def longest_response(entry: Mapping[str, Any]) -> float | None:
    """Return the US dollars of the longest response that a model can give; None when text or audio has no price."""
    into, out = _rate("unknown_in", entry), _rate("unknown_out", entry)
    if into is None or out is None:
        return None
    return into * _limit(entry, "max_input_tokens", DEFAULT_INPUT) + out * _limit(entry, "max_output_tokens", DEFAULT_OUTPUT)  # fmt: skip


def _rate(kind: str, entry: Mapping[str, Any]) -> float | None:
    if kind in UNKNOWN_KIND:
        rates = [_rate(one, entry) for one in UNKNOWN_KIND[kind]]
        known = [rate for rate in rates if rate is not None]
        return max(known) if len(known) == len(rates) else None
    found = (entry.get(name) for name in RATES[kind])
    return next((float(rate) for rate in found if isinstance(rate, int | float) and rate >= 0), None)


def _limit(entry: Mapping[str, Any], name: str, default: int) -> int:
    found = entry.get(name)
    return found if isinstance(found, int) and found > 0 else default
