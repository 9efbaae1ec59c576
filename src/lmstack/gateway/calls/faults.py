"""Decides whether a failed attempt is the provider's fault or the client's. Pure.

A broken request of one client must not take a provider away from everybody else. LiteLLM wraps what it cannot classify,
its own TypeErrors included, into APIConnectionError (status 500). So only the chain of causes tells.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

# From Python 3.11 on asyncio.TimeoutError is the built-in one, an OSError. aiohttp's errors arrive as httpx's.
_NETWORK = (OSError, asyncio.TimeoutError, httpx.TransportError)
_UNSENDABLE = ("header injection", "Out of range float values are not JSON compliant")
# What Python and LiteLLM raise over a body of the wrong shape. Only these classes count, and no subclass: those mean
# other things (LiteLLM's RouterRateLimitError is a ValueError).
SHAPE = frozenset(
    {
        AttributeError, TypeError, KeyError, IndexError, ValueError, OverflowError, UnicodeEncodeError, json.JSONDecodeError,
    }
)  # fmt: skip


# What a request may name that is kept at a provider. Google answers 403 when it is missing, and OpenAI 404.
_FORBIDDEN_OR_MISSING = (403, 404)
_KEPT = frozenset(
    {
        "cachedContent", "cached_content", "fileUri", "file_uri", "file_id", "file_ids", "previous_response_id", "conversation",
        "vector_store_ids", "container",
    }
)  # fmt: skip
_BODY = ("messages", "input", "contents", "tools", "prompt")
_MAX_PARTS = 10_000


def misses_what_is_kept(error: BaseException, request: Mapping[str, Any]) -> bool:
    """Return whether a 403 or 404 may be about a file, a cache or a response that the request names, and not about the model."""
    if getattr(error, "status_code", None) not in _FORBIDDEN_OR_MISSING:
        return False
    prompt = request.get("prompt")
    if (isinstance(prompt, Mapping) and prompt.get("id")) or any(request.get(name) for name in _KEPT):
        return True
    waiting, seen = [request.get(name) for name in _BODY], 0
    while waiting and seen < _MAX_PARTS:
        part = waiting.pop()
        seen += 1
        if isinstance(part, Mapping):
            if any(part.get(name) for name in _KEPT):
                return True
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return False


def is_provider_fault(error: BaseException) -> bool:
    """Return whether the provider could not be reached, or answered something that is not JSON."""
    causes = tuple(_causes(error))
    return not _is_unsendable(causes) and any(isinstance(cause, (*_NETWORK, json.JSONDecodeError)) for cause in causes)


def is_client_fault(error: BaseException, sent: bool) -> bool:
    """Return whether LiteLLM could not make a provider's call out of the request.

    ``sent``: the call had been sent to the provider. Then an error of the wrong shape may come from the answer.
    """
    causes = tuple(_causes(error))
    return _is_unsendable(causes) or (not sent and any(type(c) in SHAPE or type(c) is Exception for c in causes))


def _is_unsendable(causes: tuple[BaseException, ...]) -> bool:
    """Return whether the request cannot be written as HTTP or JSON.

    A header may have characters that HTTP does not allow (the texts are those of h11 and aiohttp). A number may be NaN,
    which LiteLLM reads. A value may have more nested brackets than Python can write.
    """
    kinds = (httpx.LocalProtocolError, RecursionError)
    return any(isinstance(cause, kinds) or any(words in str(cause) for words in _UNSENDABLE) for cause in causes)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes. Stop at the error of the attempt before: a fallback runs while it is handled."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if seen and type(error).__module__ == "litellm.exceptions":
            return
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
