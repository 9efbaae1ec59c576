"""The request in hand: what the middleware and the hooks of one request know in common."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from lmstack.ledger.records import Call

_current: ContextVar[Call | None] = ContextVar("lmstack_call", default=None)


@dataclass(slots=True)
class RequestContext:
    """What the middleware saw of a request, which LiteLLM's data lacks on an authentication failure; and its calls."""

    headers: Mapping[str, str]
    path: str
    calls: list[Call] = field(default_factory=list)


request_context: ContextVar[RequestContext | None] = ContextVar("lmstack_request", default=None)

# The request's body, for what must not say anything of it: errors and log lines.
body: ContextVar[Mapping[str, Any] | None] = ContextVar("lmstack_body", default=None)


def begin(data: Mapping[str, Any], call: Call) -> None:
    """Make ``call`` the one in hand. Hooks that run in another context find it through LiteLLM's per-request object."""
    seen = request_context.get()
    if seen is not None:
        seen.calls.append(call)
    _current.set(call)
    body.set(data)
    holder = data.get("litellm_logging_obj")
    if holder is not None:
        holder.lm_call = call


def in_hand() -> Call | None:
    """The call of this context."""
    return _current.get()


def call_of(data: Mapping[str, Any]) -> Call | None:
    """The call that a hook's ``data`` belongs to."""
    return getattr(data.get("litellm_logging_obj"), "lm_call", None) or _current.get()


def is_clients_fault(deployment: str) -> bool:
    """Whether the request in hand is to blame for a failure of this deployment, just now."""
    call = in_hand()
    return call is not None and any(a.deployment == deployment and call.is_at_fault(a) for a in call.attempts)
