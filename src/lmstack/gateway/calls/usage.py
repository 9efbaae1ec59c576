"""Reads the tokens that an answer used, in every provider's words. Pure."""

import math
from collections.abc import Mapping

from lmstack.gateway.calls.fields import field
from lmstack.ledger.records import Usage

# No model reads or writes as many tokens in one call. A larger count of a provider is taken as unknown.
MAX_TOKENS = 1_000_000_000
_NAMES = ("usage", "usageMetadata", "usage_metadata")


def usage_in(response: object) -> object:
    """Return the usage of a whole answer, as its provider wrote it; None when it has none."""
    return next((found for name in _NAMES if (found := field(response, name)) is not None), None)


def usage_of(usage: object) -> Usage:
    """Return the tokens of a chat, embeddings, Responses, Messages or native Gemini usage, an object or a dict."""
    if usage is None:
        return Usage()
    if field(usage, "promptTokenCount") is not None or field(usage, "candidatesTokenCount") is not None:
        return _gemini_usage(usage)
    inside = field(usage, "prompt_tokens_details") or field(usage, "input_tokens_details")
    outside = field(usage, "completion_tokens_details") or field(usage, "output_tokens_details")
    cached = token_count(field(inside, "cached_tokens"))
    completion = token_count(field(usage, "completion_tokens"))
    return Usage(
        _prompt(usage),
        completion if completion is not None else token_count(field(usage, "output_tokens")),
        cached if cached is not None else token_count(field(usage, "cache_read_input_tokens")),
        token_count(field(outside, "reasoning_tokens")),
    )


def seconds_of(response: object) -> float | None:
    """Return the length of the sound that was transcribed, as LiteLLM measured it; None where it could not."""
    hidden = field(response, "_hidden_params")
    seconds = field(hidden, "audio_transcription_duration")
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < math.inf else None


def _prompt(usage: object) -> int | None:
    prompt = token_count(field(usage, "prompt_tokens"))
    if prompt is not None:
        return prompt
    prompt = token_count(field(usage, "input_tokens"))
    if prompt is not None and isinstance(usage, Mapping):  # Anthropic counts cached tokens beside the input
        names = ("cache_read_input_tokens", "cache_creation_input_tokens")
        prompt += sum(token_count(usage.get(name)) or 0 for name in names)
    return prompt


def _gemini_usage(usage: object) -> Usage:
    """Return the tokens of a native Gemini usage. Google counts thoughts beside the answer, and the cache in the prompt."""
    answer, thoughts = (
        token_count(field(usage, "candidatesTokenCount")),
        token_count(field(usage, "thoughtsTokenCount")),
    )
    completion = None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0)
    prompt, cached = token_count(field(usage, "promptTokenCount")), token_count(field(usage, "cachedContentTokenCount"))
    return Usage(prompt, completion, cached, thoughts)


def token_count(value: object) -> int | None:
    """Return a count of tokens; None for a value that cannot be one: negative, infinite, or above MAX_TOKENS."""
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= MAX_TOKENS else None
