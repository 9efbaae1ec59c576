"""Decides which deployments cool down after a failure. LiteLLM's router keeps the list and does not try them.

LiteLLM's own decision is off (``disable_cooldowns``, lmstack.stack.render), because its releases decide differently. From
1.108 on it also cools down the healthy model that replaces a failed one.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import litellm

from lmstack.delivery.poster import seconds_to_wait
from lmstack.gateway.calls import faults, served
from lmstack.gateway.stock import live
from lmstack.ledger.records import Attempt, Fault

COOLDOWN_SECONDS = 20.0
# A time-out below this does not prove that the provider is slow.
SHORT_TIMEOUT_SECONDS = 10
_KEY_OR_ACCOUNT = (401, 402)  # the provider refuses the key or the account, so all its models fail
_FORBIDDEN = 403  # it may be about one model that the key has no access to
# What else shows that a model does not work. Any other status below 500 is about the request.
_ONE_MODEL = (404, 408, 429)
MAX_RETRY_AFTER_SECONDS = 3600.0  # a longer ``Retry-After`` is cut: only a restart would end such a cooldown


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A deployment that is not tried from ``since`` to ``until`` (Unix seconds). ``status``: of the failure before."""

    deployment: str
    since: float
    until: float
    status: str


def cooldowns(names: Iterable[str]) -> list[Cooldown]:
    """Return the cooldowns of those deployments, in their order. Reads only the memory of this worker."""
    found = []
    for name in names:
        entry = live.cooldown_of(name)
        if entry is not None:
            since = float(entry["timestamp"])
            found.append(Cooldown(name, since, since + float(entry["cooldown_time"]), str(entry["status_code"])))
    return found


async def cool_down(data: Mapping[str, Any], error: BaseException, attempt: Attempt) -> bool:
    """Cool down the deployment of a failed attempt, and all models of its provider where the provider itself failed.

    Returns whether the whole provider failed. A dead provider with five models would otherwise cost five slow attempts.
    """
    whole_provider = is_provider_down(error, attempt)
    if not whole_provider and not _is_model_down(error, attempt):
        return False
    if isinstance(error, litellm.Timeout) and _is_short(data.get("timeout")):
        return False
    await _cool([d for d in _deployments(attempt, whole_provider) if _may_cool(d)], error, _status(error) or 500)
    return whole_provider


async def cool_down_again(error: BaseException, attempt: Attempt) -> bool:
    """Cool down a deployment that failed without any hook, and return whether another one should be tried.

    Returns False for a deployment that nothing can replace.
    """
    own = _deployments(attempt, whole_provider=False)
    if not own or not _may_cool(own[0]):
        return False
    if attempt.sent:
        await _cool(own[:1], error, 500)
    return True


def is_models_fault(fault: Fault | None) -> bool:
    """Return whether a recorded failure shows that the model does not work. One of unknown status does."""
    code = (fault.code or "") if fault is not None else ""
    status = int(code) if code.isdigit() else 500
    return status >= 500 or status in (*_ONE_MODEL, *_KEY_OR_ACCOUNT, _FORBIDDEN)


def is_provider_down(error: BaseException, attempt: Attempt) -> bool:
    """Return whether a failure concerns all models of the provider: it is unreachable, or refuses our key."""
    return attempt.sent and (
        _status(error) in _KEY_OR_ACCOUNT or isinstance(error, litellm.Timeout) or faults.is_provider_fault(error)
    )


def _is_model_down(error: BaseException, attempt: Attempt) -> bool:
    """Return whether a failure shows that this model does not work.

    LiteLLM makes an APIConnectionError out of what it cannot classify. It shows nothing, unless its cause does.
    """
    status = _status(error)
    if status is None or isinstance(error, litellm.APIConnectionError):
        return False
    return status >= 500 or status in _ONE_MODEL or (attempt.sent and status == _FORBIDDEN)


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _is_short(timeout: object) -> bool:
    """Return whether the time-out of the client, or of the request's deadline, is too short for any provider."""
    return isinstance(timeout, int | float) and timeout < min(served.times().timeout, SHORT_TIMEOUT_SECONDS)


def _deployments(attempt: Attempt, whole_provider: bool) -> list[Mapping[str, Any]]:
    key, wanted = ("lm_provider", attempt.provider) if whole_provider else ("id", attempt.deployment)
    return [d for d in live.deployments() if wanted is not None and (d.get("model_info") or {}).get(key) == wanted]


def _may_cool(deployment: Mapping[str, Any]) -> bool:
    """Return whether another deployment can replace this one. lmstack.stack.render marks those without."""
    return (deployment.get("litellm_params") or {}).get("cooldown_time") != 0


async def _cool(deployments: list[Mapping[str, Any]], error: BaseException, status: int) -> None:
    names = [d["model_info"]["id"] for d in deployments]
    seconds = max(COOLDOWN_SECONDS, min(_retry_after(error), MAX_RETRY_AFTER_SECONDS))
    # With Redis this is a synchronous network call, so it must not run on the event loop.
    await asyncio.to_thread(_add_to_cooldown, names, error, status, seconds)


def _retry_after(error: BaseException) -> float:
    """Return the seconds that the provider asks to wait; 0 when it asks for nothing."""
    response = getattr(error, "response", None)
    for headers in (getattr(error, "litellm_response_headers", None), getattr(response, "headers", None)):
        found = seconds_to_wait(headers.get("retry-after"), time.time()) if isinstance(headers, Mapping) else None
        if found is not None:
            return found
    return 0.0


def _add_to_cooldown(names: list[str], error: BaseException, status: int, seconds: float) -> None:
    for name in names:
        live.cool_down(name, error, status, seconds)
