"""The request of this context: what the middleware and the hooks of one request share."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from lmstack.keys.key import Key
from lmstack.ledger.records import Call

_call: ContextVar[Call | None] = ContextVar("lmstack_call", default=None)


@dataclass(slots=True)
class RequestContext:
    """The path and headers that the middleware saw, and the calls of the request. ``error_headers``: to add to its answer.

    ``is_session``: it is a WebSocket. ``is_unhooked``: our hooks must not record it; it costs nothing. ``refusal``: status, type and text of the error with which a session was refused.
    ``key``: of the client; None for the operator.
    LiteLLM's data lacks path and headers when authentication fails.
    """

    headers: Mapping[str, str]
    path: str
    calls: list[Call] = field(default_factory=list)
    error_headers: Mapping[str, str] = field(default_factory=dict)
    is_session: bool = False
    is_unhooked: bool = False
    refusal: tuple[int, str, str] | None = None
    key: Key | None = None


request_context: ContextVar[RequestContext | None] = ContextVar("lmstack_request", default=None)

# The body of the request. Errors and log lines must not quote it.
body: ContextVar[Mapping[str, Any] | None] = ContextVar("lmstack_body", default=None)


def key() -> Key | None:
    """Return the client's key; None for the operator."""
    context = request_context.get()
    return context.key if context is not None else None


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


def is_unhooked() -> bool:
    """Return whether the hooks must not record this request: it only reads, or the middleware records it."""
    context = request_context.get()
    return context is not None and context.is_unhooked


def note_refusal(error: Exception) -> None:
    """Keep an error for the client of a session. LiteLLM would send it as the text of a Python object."""
    context, detail = request_context.get(), getattr(error, "detail", None)
    if context is not None and isinstance(detail, Mapping):
        kind = str(detail.get("type") or "server_error")
        context.refusal = (int(getattr(error, "status_code", 500)), kind, str(detail.get("error")))


def get_call() -> Call | None:
    """Return the call of this context."""
    return _call.get()


def call_of(data: Mapping[str, Any]) -> Call | None:
    """Return the call that a hook's ``data`` belongs to."""
    return getattr(data.get("litellm_logging_obj"), "lm_call", None) or _call.get()
