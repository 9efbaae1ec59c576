"""Cools failed deployments down in LiteLLM's router, so that the next requests do not try them."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import litellm
from litellm.proxy import proxy_server

from lmstack.gateway.calls import faults, served
from lmstack.ledger.records import Attempt

COOLDOWN_SECONDS = 20.0
# A time-out below this does not prove that the provider is slow.
SHORT_TIMEOUT_SECONDS = 10
_KEY_OR_ACCOUNT = (401, 402)  # the provider refuses the key or the account, so all its models fail
_FORBIDDEN = 403  # it may be about one model that the key has no access to


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A deployment that is not tried from ``since`` to ``until`` (Unix seconds). ``status``: of the failure before."""

    deployment: str
    since: float
    until: float
    status: str


def cooldowns(names: Iterable[str]) -> list[Cooldown]:
    """Return the cooldowns of those deployments, in their order. Reads only the memory of this worker."""
    router, found = proxy_server.llm_router, []
    for name in names if router is not None else ():
        entry = router.cooldown_cache.in_memory_cache.get_cache(router.cooldown_cache.get_cooldown_cache_key(name))
        if isinstance(entry, Mapping):
            since = float(entry["timestamp"])
            found.append(Cooldown(name, since, since + float(entry["cooldown_time"]), str(entry["status_code"])))
    return found


async def cool_down(data: Mapping[str, Any], error: BaseException, attempt: Attempt) -> bool:
    """Cool down the deployment of a failed attempt, and all models of its provider where the provider itself failed.

    Returns whether the whole provider failed.

    LiteLLM cools down the one deployment only, and not even that for refused connections and for 403. A dead provider
    with five models would then cost five slow attempts.
    """
    status = getattr(error, "status_code", None)
    whole_provider = is_provider_down(error, attempt)
    if not whole_provider and not (attempt.sent and status == _FORBIDDEN):
        return False
    if isinstance(error, litellm.Timeout) and _is_short(data.get("timeout")):
        return False
    await _cool([d for d in _deployments(attempt, whole_provider) if _may_cool(d)], error, status or 500)
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


def is_provider_down(error: BaseException, attempt: Attempt) -> bool:
    """Return whether a failure concerns all models of the provider: it is unreachable, or refuses our key."""
    status = getattr(error, "status_code", None)
    return attempt.sent and (
        status in _KEY_OR_ACCOUNT or isinstance(error, litellm.Timeout) or faults.is_provider_fault(error)
    )


def _is_short(timeout: object) -> bool:
    """Return whether the time-out of the client, or of the request's deadline, is too short for any provider."""
    return isinstance(timeout, int | float) and timeout < min(served.times().timeout, SHORT_TIMEOUT_SECONDS)


def _deployments(attempt: Attempt, whole_provider: bool) -> list[Mapping[str, Any]]:
    router = proxy_server.llm_router
    listed: list[Mapping[str, Any]] = router.model_list if router else []
    key, wanted = ("lm_provider", attempt.provider) if whole_provider else ("id", attempt.deployment)
    return [d for d in listed if wanted is not None and (d.get("model_info") or {}).get(key) == wanted]


def _may_cool(deployment: Mapping[str, Any]) -> bool:
    """Return whether another deployment can replace this one. lmstack.stack.render marks those without."""
    return (deployment.get("litellm_params") or {}).get("cooldown_time") != 0


async def _cool(deployments: list[Mapping[str, Any]], error: BaseException, status: int) -> None:
    names = [d["model_info"]["id"] for d in deployments]
    # With Redis this is a synchronous network call, so it must not run on the event loop.
    await asyncio.to_thread(_add_to_cooldown, proxy_server.llm_router, names, error, status)


def _add_to_cooldown(router: Any, names: list[str], error: BaseException, status: int) -> None:
    for name in names:
        router.cooldown_cache.add_deployment_to_cooldown(
            model_id=name, original_exception=error, exception_status=status, cooldown_time=COOLDOWN_SECONDS
        )
