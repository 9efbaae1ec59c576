"""The error for a request that no provider answered. It names the failure that caused it.

LiteLLM answers such a request with 429 "No deployments available", also where a provider refuses our key.
"""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from lmstack.gateway import worker
from lmstack.gateway.calls import cooldown, served
from lmstack.gateway.calls.cooldown import Cooldown
from lmstack.gateway.stock import live
from lmstack.ledger.records import Attempt, Call, Fault
from lmstack.routing.refusals import RefusalError

COOLING = "all_deployments_in_cooldown"
KEY_REFUSED = "provider_key_refused"
FAILED = "provider_failed"
FORCED = "Drill"  # the failure that `lm test --fallback` asks for


def unanswered(data: Mapping[str, Any], error: Exception, call: Call | None) -> RefusalError | None:
    """Return the error for a request that no model is left for; None for any other error."""
    # LiteLLM raises the first failure with that text behind it, or an error of its own. It makes both a 429.
    none_left = live.says_no_model_left(f"{getattr(error, 'message', '')} {error}")
    first = _first_failure(call) if call is not None else None
    if first is not None and first.fault is not None:
        own_key = call is not None and not call.has_credentials
        if none_left or (own_key and first.fault.code == "401" and getattr(error, "status_code", None) == 401):
            tries = dict.fromkeys((*_tries(data, error), str(first.deployment)))
            return _failed(first, first.fault, own_key, cooldown.cooldowns(tries))
    return _all_cooling(data, _tries(data, error), call) if none_left else None


def fault_type(call: Call | None) -> str:
    """Return the error type for the ledger's row of a request that no provider answered."""
    first = _first_failure(call) if call is not None else None
    return first.fault.type if first is not None and first.fault is not None else COOLING


def _first_failure(call: Call) -> Attempt | None:
    return next((a for a in call.attempts if a.fault is not None and a.fault.type != FORCED), None)


def _failed(first: Attempt, fault: Fault, own_key: bool, cooling: Sequence[Cooldown]) -> RefusalError:
    """Return the error after a first failure: with its status, but 502 where the provider refused our key.

    A 401 would tell the client that its own key is wrong.
    """
    refused = own_key and fault.code == "401"
    status = int(fault.code) if fault.code and fault.code.isdigit() and 400 <= int(fault.code) < 600 else 500
    text = f"{_cause(fault, str(first.deployment), first.provider, own_key)}. No other model could answer."
    made = RefusalError(
        502 if refused else status, KEY_REFUSED if refused else FAILED, text, provider=first.provider, model=first.deployment
    )  # fmt: skip
    return _with_headers(made, cooling, retry=not refused)


def _all_cooling(data: Mapping[str, Any], tries: Sequence[str], call: Call | None) -> RefusalError:
    """Return the error for a request that no model was tried for: what made the first of them cool down, and when."""
    name = (call.requested_model if call is not None else None) or data.get("model")
    cooling = cooldown.cooldowns(tries)
    if not cooling:  # the last cooldown has ended since
        return _with_headers(RefusalError(503, COOLING, f"No model could answer '{name}'. Try again."), cooling)
    first, retry = cooling[0], _seconds_left(cooling)
    provider = served.provider_of(first.deployment)
    last = worker.get().results.last(first.deployment, provider)
    fault = last.fault if last is not None else None
    code = first.status if fault is None else fault.code
    cause = f"{first.deployment} ({provider}) failed with status {first.status}"  # in another worker, through Redis
    if fault is not None:
        cause = _cause(fault, first.deployment, provider, own_key=True)
    since = datetime.fromtimestamp(first.since, timezone.utc)
    text = f"No model can answer '{name}' now, because all of them failed before. At {since:%H:%M:%S} UTC: {cause}. Try again in {retry} seconds."  # fmt: skip
    made = RefusalError(
        429 if code == "429" else 503, COOLING, text, provider=provider, model=first.deployment,
        since=since.isoformat(timespec="milliseconds"), reason=KEY_REFUSED if code == "401" else FAILED, cause=cause,
        scope="provider" if last is not None and last.whole_provider else "model",
    )  # fmt: skip
    return _with_headers(made, cooling, retry=code != "401")


def _cause(fault: Fault, deployment: str, provider: str | None, own_key: bool) -> str:
    message = fault.message.rstrip(". ")
    if fault.code == "401" and own_key:
        variable = served.key_variable(deployment)
        return f"The provider {provider} refused its key{f' ({variable})' if variable else ''}: {message}"
    return f"{deployment} ({provider}) failed: {message}"


def _tries(data: Mapping[str, Any], error: Exception) -> Sequence[str]:
    """Return the models that LiteLLM looked for, in the order of tries."""
    name = live.name_without_models(error) or data.get("model")
    listed = data.get("fallbacks")
    if isinstance(listed, list):
        return [n for n in (data.get("model"), *listed) if isinstance(n, str)]
    order = [candidate.name for candidate in served.models().orders.get(str(name), ())] or [str(name)]
    return order[:1] if data.get("disable_fallbacks") else order


def _seconds_left(cooling: Sequence[Cooldown]) -> int:
    return max(1, math.ceil(min(c.until for c in cooling) - time.time())) if cooling else 1


def _with_headers(made: RefusalError, cooling: Sequence[Cooldown], retry: bool = True) -> RefusalError:
    """Add ``Retry-After``, and for a refused key the header with which SDKs of OpenAI and Anthropic do not try again."""
    made.headers = {"retry-after": str(_seconds_left(cooling))} if cooling else {}
    if not retry:
        made.headers["x-should-retry"] = "false"
    return made
