"""What the client gets beside the answer: response headers, and errors that are clearer than LiteLLM's."""

import contextlib
import difflib
import time
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException

from lmstack.gateway.calls import current, faults, served, unanswered
from lmstack.ledger.records import Call, ExceededLimit
from lmstack.routing.candidates import GROUP_OF_TIER
from lmstack.routing.refusals import RefusalError

# When a client may try again after its budget was reserved by other requests.
RESERVED_RETRY_SECONDS = 5
# What LiteLLM says about a name that it does not serve.
_UNKNOWN_NAME = "Invalid model name"
_LISTED_NAMES = 20
_NO_MODEL = (
    "model: the provider that keeps the file is not known. Name one of its models in the form field model, or in the header "
    "x-litellm-model."
)


def headers_of(call: Call) -> dict[str, str]:
    """Return the response headers that tell what happened. The headers of a stream leave before its cost is known."""
    last = call.attempts[-1] if call.attempts else None
    headers = {"x-lm-fallbacks": str(call.fallbacks)} if last else {}
    if last is not None and last.outcome != "failed":
        headers["x-lm-model"] = last.model or ""
        if last.tier is not None:
            headers["x-lm-tier"] = GROUP_OF_TIER[last.tier]
        if call.ended:
            headers["x-lm-cost"] = "unknown" if call.cost_usd is None else f"{call.cost_usd:.10f}"
    return headers


def refused(refusal: RefusalError) -> HTTPException:
    """Return a refusal as LiteLLM passes it on: message and type, and the details in ``provider_specific_fields``."""
    error = HTTPException(refusal.status, {"error": refusal.message, "type": refusal.kind, **refusal.fields})
    error.headers = refusal.headers or None
    error.type = refusal.kind  # type: ignore[attr-defined]  # LiteLLM looks for it
    return error


def budget_exceeded(exceeded: ExceededLimit) -> HTTPException:
    """Return the 429 for a budget that is used up, or that running requests have reserved."""
    now, limit = time.time(), exceeded.limit
    reset = now + RESERVED_RETRY_SECONDS if exceeded.waiting else limit.reset_at(now)
    whose = "everybody" if limit.scope == "all" else f"{limit.scope} '{limit.name}'"
    per = "in total" if limit.period == "total" else f"in this {limit.period}"
    state = "reserved by requests that are still running" if exceeded.waiting else "used up"
    text = f"The budget of {whose} is {state}: {exceeded.spent:.6f} of {limit.usd:.6f} USD {per} is spent. "
    text += f"Try again in {RESERVED_RETRY_SECONDS} seconds; f" if exceeded.waiting else "F"
    text += "ree models stay usable."
    error = refused(RefusalError(429, "budget_exceeded", text, budget=limit.state(exceeded.spent, reset)))
    if reset is not None:
        error.headers = {"retry-after": str(max(1, round(reset - now)))}
    return error


def budget_unknown() -> HTTPException:
    """Return the 503 for a request under a budget while the ledger cannot tell what was spent."""
    text = "A budget applies to this request, and the ledger cannot be read right now. Try again; free models stay usable."  # fmt: skip
    error = refused(RefusalError(503, "budget_unknown", text))
    error.headers = {"retry-after": "2"}
    return error


def not_checked() -> HTTPException:
    """Return the 503 for a request that the gateway could not check, because its own code failed."""
    return HTTPException(
        503, {"error": "The gateway could not check this request, so it was refused. The gateway's log has the reason."}
    )


def not_recorded() -> HTTPException:
    """Return the 503 of LEDGER_MODE=strict."""
    return HTTPException(503, {"error": "The ledger cannot record this request and LEDGER_MODE is strict."})


def better_error(data: Mapping[str, Any], error: Exception, call: Call | None) -> HTTPException | None:
    """Return the error for the client in place of LiteLLM's; None where LiteLLM's is right.

    LiteLLM answers a missing or wrong key with 500 or 400, and does not say why a name is not served.
    """
    if call is not None and call.deadline_passed:
        return HTTPException(504, {"error": f"No model answered within LITELLM_DEADLINE ({served.times().deadline:g} s)."})  # fmt: skip
    text = str(getattr(error, "message", "") or error)
    kind = getattr(getattr(error, "type", None), "value", getattr(error, "type", None))
    no_key = type(error) is Exception and text.startswith(("No api key passed in", "Malformed API Key"))
    if no_key or kind == "no_db_connection":
        return HTTPException(401, "Invalid or missing API key. Send 'Authorization: Bearer <LITELLM_MASTER_KEY>'.")
    without_provider = kind == "cost_unknown" and str(data.get("model")) in served.unserved()
    if "files_settings is not set" in text:
        return HTTPException(400, {"error": _NO_MODEL})
    reason = _why_unserved(data.get("model")) if _UNKNOWN_NAME in text or without_provider else None
    if reason is None and _is_unreadable(error, call):
        first = call.attempts[0].fault if call and call.attempts else None
        reason = f"No provider's call can be made out of this request: {first.message if first else text}"
    if reason:
        return HTTPException(400, {"error": reason})
    refusal = unanswered.unanswered(data, error, call)
    return refused(refusal) if refusal is not None else None


def write_into(error: Exception, better: HTTPException) -> None:
    """Copy the better error into LiteLLM's. Some endpoints (/v1/messages) ignore what the failure hook returns.

    Those endpoints add no headers of the error either. The middleware does.
    """
    text: object = better.detail
    if isinstance(text, dict):
        text = text["error"]
    given = {"message": text, "status_code": better.status_code, "type": getattr(better, "type", None)}
    for name, value in given.items():
        with contextlib.suppress(AttributeError):  # an exception may forbid it
            if value is not None:
                setattr(error, name, value)
    context = current.request_context.get()
    if context is not None and better.headers:
        context.error_headers = dict(better.headers)


def _is_unreadable(error: Exception, call: Call | None) -> bool:
    """Return whether no attempt could read the request.

    LiteLLM answers that with 500, or with 429 where the last model is cooling down for another reason.
    """
    status = int(getattr(error, "status_code", None) or 500)
    if status < 500 and status != 429:
        return False
    if call is None or not call.attempts:
        return type(error) in faults.SHAPE
    return all(a.unreadable or (a.fault is not None and a.fault.code == "400") for a in call.attempts)


def _why_unserved(model: object) -> str | None:
    """Return why a name is not served, or which names are; None when it is no name."""
    if not isinstance(model, str):
        return None
    variable = served.unserved().get(model)
    if variable is not None:
        return f"Model '{model}' is in the catalog but its provider is not configured: set {variable} in .env, then 'lm up'."  # fmt: skip
    names, shown = served.names_for(current.key()), model[:100]
    close = difflib.get_close_matches(shown, names, 1, 0.6)
    if close:
        return f"Model '{shown}' is not served. Did you mean '{close[0]}'? GET /v1/models lists all names."
    listed = ", ".join(names[:_LISTED_NAMES]) + (", …" if len(names) > _LISTED_NAMES else "")
    return f"Model '{shown}' is not served. Use one of: {listed}. GET /v1/models lists all names."
