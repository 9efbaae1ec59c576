"""Whose a failed attempt is: the provider's, or the request's own.

One client's broken request must not take a provider away from everybody else. LiteLLM wraps what it cannot
classify, its own TypeErrors included, into APIConnectionError (status 500), so only the chain of causes tells.
"""

import asyncio
import json
from collections.abc import Iterator

import httpx

# From Python 3.11 on asyncio.TimeoutError is the built-in one, an OSError. aiohttp's errors arrive as httpx's.
_NETWORK = (OSError, asyncio.TimeoutError, httpx.TransportError)
_UNSENDABLE = ("header injection", "Out of range float values are not JSON compliant")
# What Python and LiteLLM raise over a body of the wrong shape, these very classes: those below them mean other things
# (LiteLLM's RouterRateLimitError is a ValueError), as do the classes of credentials that cannot be had.
SHAPE = frozenset(
    {
        AttributeError, TypeError, KeyError, IndexError, ValueError, OverflowError, UnicodeEncodeError, json.JSONDecodeError,
    }
)  # fmt: skip


def is_providers(error: BaseException) -> bool:
    """Whether its provider could not be reached, or gave what is no JSON."""
    causes = tuple(_chain(error))
    return not _unsendable(causes) and any(isinstance(cause, (*_NETWORK, json.JSONDecodeError)) for cause in causes)


def is_requests(error: BaseException, asked: bool) -> bool:
    """Whether LiteLLM stumbled over the request itself. After the provider was ``asked``, only what could not be sent
    is certainly that; else it may be the answer."""
    causes = tuple(_chain(error))
    return _unsendable(causes) or (not asked and any(type(c) in SHAPE or type(c) is Exception for c in causes))


def _unsendable(causes: tuple[BaseException, ...]) -> bool:
    """A header of the request's own that HTTP does not know, in the words of h11 and of aiohttp; a number that JSON
    does not (NaN, which stock reads), in Python's; or more brackets in brackets than Python writes."""
    kinds = (httpx.LocalProtocolError, RecursionError)
    return any(isinstance(cause, kinds) or any(words in str(cause) for words in _UNSENDABLE) for cause in causes)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, up to the error of the attempt before: a fallback runs while that is handled."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if seen and type(error).__module__ == "litellm.exceptions":
            return
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
