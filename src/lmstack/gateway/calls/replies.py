"""What the client is told beside the answer: headers, and better errors than stock's."""

from collections.abc import Mapping
from typing import Any

import litellm
from fastapi import HTTPException

from lmstack.gateway.calls import admission, faults
from lmstack.ledger.records import Call
from lmstack.routing.candidates import GROUP_OF_TIER


def headers_of(call: Call) -> dict[str, str]:
    """What happened, as response headers. A stream's cost is not known when its headers leave."""
    last = call.attempts[-1] if call.attempts else None
    told = {"x-lm-fallbacks": str(call.fallbacks)} if last else {}
    if last is not None and last.outcome != "failed":
        told["x-lm-model"] = last.model or ""
        if last.tier is not None:
            told["x-lm-tier"] = GROUP_OF_TIER[last.tier]
        if call.ended:
            told["x-lm-cost"] = "unknown" if call.cost_usd is None else f"{call.cost_usd:.10f}"
    return told


def better_error(data: Mapping[str, Any], error: Exception, call: Call | None) -> HTTPException | None:
    """Mend what stock says wrongly: 500 or 400 for a missing or wrong key, and no hint for an unserved name."""
    if call is not None and call.late:
        return HTTPException(
            504, {"error": f"No model answered within LITELLM_DEADLINE ({admission.rules().deadline:g} s)."}
        )
    text = str(getattr(error, "message", "") or error)
    kind = getattr(getattr(error, "type", None), "value", getattr(error, "type", None))
    no_key = type(error) is Exception and text.startswith(("No api key passed in", "Malformed API Key"))
    if no_key or kind == "no_db_connection":
        return HTTPException(401, "Invalid or missing API key. Send 'Authorization: Bearer <LITELLM_MASTER_KEY>'.")
    why = _why_unserved(data.get("model")) if "Invalid model name" in text else None
    if why is None and _is_misshapen(error, call):
        own = call.attempts[0].fault if call and call.attempts else None
        why = f"No provider's call can be made out of this request: {own.message if own else text}"
    return HTTPException(400, {"error": why}) if why else None


def _is_misshapen(error: Exception, call: Call | None) -> bool:
    """Whether nobody could read the request, and LiteLLM would call that a failure of its own (500), or, where the
    last model of the walk is cooling down for something else, a 429."""
    status = int(getattr(error, "status_code", None) or 500)
    if status < 500 and status != 429:
        return False
    if call is None or not call.attempts:
        return type(error) in faults.SHAPE
    return all(a.unread or (a.fault is not None and a.fault.code == "400") for a in call.attempts)


def _why_unserved(model: object) -> str | None:
    """The rendered config lists the catalog names that no key serves, each with the variable to set."""
    unserved = (litellm.callback_settings.get("lmstack") or {}).get("unserved") or {}
    variable = unserved.get(model)
    if variable is None:
        return None
    return (
        f"Model '{model}' is in the catalog but its provider is not configured: set {variable} in .env, then 'lm up'."
    )
