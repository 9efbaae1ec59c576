"""The request of this context: what the middleware and the hooks of one request share."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from lmstack.ledger.records import Call

_call: ContextVar[Call | None] = ContextVar("lmstack_call", default=None)


@dataclass(slots=True)
class RequestContext:
    """The path and headers that the middleware saw, and the calls of the request. ``error_headers``: to add to its answer.

    LiteLLM's data lacks path and headers when authentication fails.
    """

    headers: Mapping[str, str]
    path: str
    calls: list[Call] = field(default_factory=list)
    error_headers: Mapping[str, str] = field(default_factory=dict)


request_context: ContextVar[RequestContext | None] = ContextVar("lmstack_request", default=None)

# The body of the request. Errors and log lines must not quote it.
body: ContextVar[Mapping[str, Any] | None] = ContextVar("lmstack_body", default=None)


def begin(data: Mapping[str, Any], call: Call) -> None:
    """Make ``call`` the call of this context. Hooks in another context find it in LiteLLM's object for the request."""
    context = request_context.get()
    if context is not None:
        context.calls.append(call)
    _call.set(call)
    body.set(data)
    holder = data.get("litellm_logging_obj")
    if holder is not None:
        holder.lm_call = call


def get_call() -> Call | None:
    """Return the call of this context."""
    return _call.get()


def call_of(data: Mapping[str, Any]) -> Call | None:
    """Return the call that a hook's ``data`` belongs to."""
    return getattr(data.get("litellm_logging_obj"), "lm_call", None) or _call.get()
