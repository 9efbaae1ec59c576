"""What is decided about a request on its way through LiteLLM: where it may go, what it may cost, how long it may take.

lmrouting decides; this module reads LiteLLM's request, says the decision in the words that LiteLLM's router
understands (model, fallbacks, disable_fallbacks, timeout), and cools down what is certainly dead.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import litellm
from fastapi import HTTPException
from litellm.proxy import proxy_server

from lmstack.gateway.calls import faults
from lmstack.ledger.records import Attempt, Call, Fault, Over
from lmstack.routing.budgets import Limit, limits_for, parse_limits
from lmstack.routing.candidates import cost_at, of_deployment, rates_of
from lmstack.routing.classify import conversation_group
from lmstack.routing.needs import BYTES_PER_TOKEN, needs_of, output_limit, user_texts
from lmstack.routing.policy import AUTO, Defaults, Models, RefusalError, Way, Wishes, amount, choose, parse_wishes, said

# The calls whose body and fallbacks we know; anything else goes its stock way.
ROUTED = frozenset({"acompletion", "completion", "atext_completion", "text_completion", "anthropic_messages", "aresponses", "responses"})  # fmt: skip
_SHAPED = ROUTED | {"aembedding", "embedding", "embeddings"}
# What a client may send along that decides with whose key or account a provider is asked.
_OWN_ACCESS = ("api_key", "extra_headers", "headers", "organization")
_SIDE_WAYS = ("context_window_fallbacks", "content_policy_fallbacks")
COOLDOWN_SECONDS = 20.0
# Below this, an attempt is not worth its cost.
LEAST_SECONDS = 0.2
# How long a request waits for those before it, when only they could use up its budget.
BUDGET_WAIT_SECONDS = 15.0
# When to try again after that.
WAITING_RETRY_SECONDS = 5
_TAINTED = (401, 402)  # the key or the account is at fault, so every model of the provider is
_FORBIDDEN = 403


class DeadlinePassed(litellm.APIConnectionError):  # type: ignore[misc]
    """Ends a walk. Of this class, because LiteLLM's router never cools a deployment down for it."""


class JustFailed(litellm.APIConnectionError):  # type: ignore[misc]
    """Makes a walk go on to the next model."""


def _seconds(name: str, default: float) -> float:
    """A time from the environment. Plain `docker compose up` passes on what `lm` would refuse: then the default counts."""
    try:
        value = float(os.environ.get(name) or default)
    except ValueError:
        return default
    return value if 0 < value < 1e6 else default


class Rules:
    """models.yaml's rules, as rendered into ``callback_settings``; read once, when the first request comes."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        routing = found.get("routing") or {}
        self.defaults = Defaults(**{k: {i: Wishes(**w) for i, w in v.items()} for k, v in routing.items()})
        self.budgets = parse_limits(found.get("budgets"))
        self.deadline = _seconds("LITELLM_DEADLINE", 300.0)
        self.timeout = _seconds("LITELLM_TIMEOUT", 120.0)


_rules: Rules | None = None
_models: tuple[object, Models] | None = None
_prices: tuple[object, Mapping[str, tuple[float, float] | None]] | None = None


def rules() -> Rules:
    """This worker's."""
    global _rules
    if _rules is None:
        _rules = Rules((litellm.callback_settings or {}).get("lmstack") or {})
    return _rules


def models() -> Models:
    """Every chat model that the router serves."""
    global _models
    router = proxy_server.llm_router
    if _models is None or _models[0] is not router:
        listed = (router.model_list if router else None) or []
        found = (
            of_deployment(d["model_name"], d["litellm_params"]["model"], d.get("model_info") or {}) for d in listed
        )
        _models = (router, Models(c for c in found if c is not None))
    return _models[1]


def prices() -> Mapping[str, tuple[float, float] | None]:
    """USD per million tokens in and out of every name that the router serves itself, chat or not; None: nobody knows."""
    global _prices
    router = proxy_server.llm_router
    if _prices is None or _prices[0] is not router:
        listed = (router.model_list if router else None) or []
        found = {d["model_name"]: rates_of((d.get("model_info") or {}).get("lm_rates")) for d in listed}
        _prices = (router, found)
    return _prices[1]


def route(data: dict[str, Any], call: Call, call_type: str) -> tuple[Limit, ...]:
    """Send a request its way by changing ``data``, and give the limits that it has to respect. Raises HTTPException."""
    if call_type in _SHAPED:
        _check_shape(data)
    headers = _headers(data)
    call.drill = "x-lm-drill" in headers
    call.own_key = any(name in data for name in _OWN_ACCESS)
    metadata = data.get("metadata")
    known = metadata if isinstance(metadata, Mapping) else {}
    try:
        wishes = _with_defaults(parse_wishes(headers, known), call, data.get("model"))
        limits = _limits(headers, known, call)
        way = _way(data, wishes, call_type, bool(limits))
    except RefusalError as refusal:
        raise refused(refusal) from None
    if way is not None:
        _send(data, way, wishes)
        call.reserved_usd = way.estimate
    elif limits:
        call.reserved_usd = _estimate(data)
    call.estimate_usd = _floor(data, way)
    # Free models are exempt; where a paid one may stand in for a free one, the limits count.
    return () if limits and _is_free(data, way) else limits


def to_free_models(data: dict[str, Any], call: Call, call_type: str) -> bool:
    """A budget is used up: whether free models can serve the request; if so, it may go to them only."""
    asked = call.requested_model or ""
    model = models().by_name.get(asked)
    if call_type not in ROUTED or (model is not None and not model.free):
        return False
    try:
        way = choose(models(), asked, Wishes(), needs_of(data), lambda: _group(data), only_free=True)
    except RefusalError:
        return False
    if way is None:
        return False
    _send(data, way, Wishes())
    data["fallbacks"] = list(way.fallbacks or ())
    _close_side_ways(data)
    call.reserved_usd = None
    return True


def refused(refusal: RefusalError) -> HTTPException:
    """A refusal as LiteLLM passes it on: message and type, the details in ``provider_specific_fields``."""
    error = HTTPException(refusal.status, {"error": refusal.message, "type": refusal.kind, **refusal.fields})
    error.type = refusal.kind  # type: ignore[attr-defined]  # LiteLLM looks for it
    return error


def over_budget(over: Over) -> HTTPException:
    """429: whose budget, how much, and when it resets."""
    now = time.time()
    limit, details = over.limit, over.limit.refusal(over.spent, now)
    whose = "everybody" if limit.scope == "all" else f"{limit.scope} '{limit.name}'"
    per = "a day" if limit.period == "day" else "in total"
    how = "kept for requests that are under way" if over.waiting else "used up"
    text = f"The budget of {whose} is {how}: {over.spent:.6f} of {limit.usd:.6f} USD {per} is spent. Free models stay usable."
    error = refused(RefusalError(429, "budget_exceeded", text, budget=details))
    reset = now + WAITING_RETRY_SECONDS if over.waiting else limit.reset_at(now)
    if reset is not None:
        error.headers = {"retry-after": str(max(1, int(reset - now)))}
    return error


def unknown_spending() -> HTTPException:
    """503: a budget applies, and the ledger cannot say what was spent."""
    text = (
        "A budget applies to this request, and the ledger cannot be read right now. Try again; free models stay usable."
    )
    error = refused(RefusalError(503, "budget_unknown", text))
    error.headers = {"retry-after": "2"}
    return error


def drill(call: Call, attempt: Attempt) -> None:
    """`lm test --fallback`: the first attempt fails before its provider is asked. Raises JustFailed."""
    call.drill = False
    attempt.close("failed", Fault("Drill", None, "made to fail by x-lm-drill"))
    raise JustFailed("made to fail by x-lm-drill", str(attempt.provider), str(attempt.model))


def bound(kwargs: dict[str, Any], call: Call) -> None:
    """Let an attempt take no longer than the request's deadline; after it, end the walk. Raises DeadlinePassed."""
    left = rules().deadline - call.elapsed_ms() / 1000
    if left < LEAST_SECONDS:
        call.late = True
        raise DeadlinePassed(f"no attempt after {rules().deadline:g} s", str(kwargs.get("custom_llm_provider")), str(kwargs.get("model")))  # fmt: skip
    given = kwargs.get("timeout")
    if isinstance(given, int | float) and left < given:
        kwargs["timeout"] = left


async def not_again(kwargs: Mapping[str, Any], attempt: Attempt) -> None:
    """LiteLLM begins a group anew after a stream that failed before its first chunk, with the very model that failed.
    Cool that down and go on to the next; raises the error that says so. The last resort may be tried again."""
    router = proxy_server.llm_router
    own = [d for d in router.model_list if _is_of(d, attempt, False)] if router else []
    if not own or not _may_cool(own[0]):
        return
    error = JustFailed("it failed a moment ago", str(attempt.provider), str(attempt.model))
    if attempt.asked:
        await asyncio.to_thread(_cool, router, [str(attempt.deployment)], error, 500)
    raise error


async def cool_down(data: Mapping[str, Any], error: BaseException, attempt: Attempt) -> None:
    """After a failure that says something of the provider, spare the next requests its other models too.

    LiteLLM cools down the one deployment, and not even that for refused connections and 403; so a dead provider
    with five models would cost five slow attempts. A 403 may be about one model that the key has no access to.
    """
    status = getattr(error, "status_code", None)
    lost = attempt.asked and (isinstance(error, litellm.Timeout) or faults.is_providers(error))
    whole = lost or (attempt.asked and status in _TAINTED)
    if not (whole or (attempt.asked and status == _FORBIDDEN)):
        return
    own = data.get("timeout")
    if isinstance(error, litellm.Timeout) and isinstance(own, int | float) and own < min(rules().timeout, 10):
        return  # the client, or the deadline, was in a hurry
    router = proxy_server.llm_router
    listed = [d for d in router.model_list if _may_cool(d)] if router else []
    names = [d["model_info"]["id"] for d in listed if _is_of(d, attempt, whole)]
    # It may write to Redis, synchronously.
    await asyncio.to_thread(_cool, router, names, error, status or 500)


def _is_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_texts(value: object) -> bool:
    return isinstance(value, str | list)


_SHAPES: dict[str, tuple[Callable[[object], bool], str]] = {
    "messages": (_is_objects, "a list of objects, each with role and content,"),
    "prompt": (_is_texts, "a string or a list"),
    "input": (_is_texts, "a string or a list"),
    "tools": (_is_objects, "a list of objects"),
    "functions": (_is_objects, "a list of objects"),
    "stream_options": (lambda value: isinstance(value, dict), "an object"),
}


def _check_shape(data: Mapping[str, Any]) -> None:
    """Refuse what every provider would refuse, after LiteLLM had stumbled over it once for each model."""
    for name, (fits, wanted) in _SHAPES.items():
        value = data.get(name)
        if value is not None and not fits(value):
            raise refused(RefusalError(400, "invalid_request_error", f"{name}: {wanted} is wanted.", param=name))
    _check_names(data)
    for name, value in data.items():
        if isinstance(value, float) and not math.isfinite(value):  # stock reads NaN and 1e999, nobody can send them on
            raise refused(RefusalError(400, "invalid_request_error", f"{name}: a finite number is wanted.", param=name))


def _check_names(data: Mapping[str, Any]) -> None:
    """One request is one walk over models of ours: stock would call each name of a list, and charge for one."""
    asked = data.get("model")
    if isinstance(asked, str) and "," in asked:
        raise refused(
            RefusalError(400, "invalid_request_error", "model: one name is wanted, not a list.", param="model")
        )
    if data.get("fastest_response"):
        raise refused(RefusalError(400, "invalid_request_error", "fastest_response: not served; it pays several models for one answer.", param="fastest_response"))  # fmt: skip
    for name in _SIDE_WAYS:
        if data.get(name):
            raise refused(
                RefusalError(400, "invalid_request_error", f"{name}: not taken from clients; fallbacks is.", param=name)
            )
    others = data.get("fallbacks")
    if others is not None and not (isinstance(others, list) and all(_is_served(name) for name in others)):
        raise refused(RefusalError(400, "invalid_request_error", "fallbacks: a list of names that the gateway serves is wanted.", param="fallbacks"))  # fmt: skip


def _is_served(name: object) -> bool:
    router = proxy_server.llm_router
    return isinstance(name, str) and router is not None and name in router.get_model_names()


def _with_defaults(wishes: Wishes, call: Call, asked: object) -> Wishes:
    given = rules().defaults
    if not (given.tasks or given.agents):
        return wishes
    default = given.of(call.attribution.task_id, call.attribution.agent_id)
    # A tier by default is for those who leave the choice to us, not for a model asked for by name.
    return wishes.over(default if asked == AUTO else replace(default, tier=None))


def _limits(headers: Mapping[str, str], metadata: Mapping[str, Any], call: Call) -> tuple[Limit, ...]:
    asked = said(headers, metadata, "task-budget")
    own = None if asked is None else amount("x-task-budget", asked)
    task = call.attribution.task_id
    if own is not None and task is None:
        raise RefusalError(400, "invalid_request_error", "x-task-budget needs x-task-id: whose budget is it?", param="x-task-budget")  # fmt: skip
    return limits_for(rules().budgets, task, call.attribution.agent_id, own)


def _way(data: Mapping[str, Any], wishes: Wishes, call_type: str, budgeted: bool) -> Way | None:
    asked = data.get("model")
    if call_type not in ROUTED or not isinstance(asked, str):
        return None
    known = models()
    if not wishes and not budgeted and _suits_everybody(data, known):
        return None
    return choose(known, asked, wishes, needs_of(data), lambda: _group(data))


def _suits_everybody(data: Mapping[str, Any], known: Models) -> bool:
    """Most requests ask for nothing that any model lacks; only where one might lack something is the body looked
    through. n bytes are never more than n tokens."""
    size = _size(data)
    fits = size is not None and size + (output_limit(data) or 0) <= known.smallest
    return fits and (known.capable or not _has_blocks(data))


def _is_free(data: Mapping[str, Any], way: Way | None) -> bool:
    """Whether nothing that may serve the request costs anything."""
    if way is not None:
        return way.first.free and way.fallbacks == ()
    others = any(data.get(name) for name in ("fallbacks", *_SIDE_WAYS))
    return prices().get(str(data.get("model"))) == (0.0, 0.0) and not others


def _estimate(data: Mapping[str, Any]) -> float | None:
    """What a call that is not routed by us (embeddings, for one) costs for its input; None when nobody knows."""
    rates = prices().get(str(data.get("model")))
    return None if rates is None else cost_at(rates, needs_of(data).tokens_in, 0)


def _send(data: dict[str, Any], way: Way, wishes: Wishes) -> None:
    data["model"] = way.model
    if way.fallbacks is not None:
        data["fallbacks"] = list(way.fallbacks)
        _close_side_ways(data)
    if wishes.no_fallback:
        data["disable_fallbacks"] = True


def _close_side_ways(data: dict[str, Any]) -> None:
    """LiteLLM has two more lists of fallbacks, as configured for a name. They must not lead past what was decided."""
    for name in _SIDE_WAYS:
        data[name] = []


def _group(data: Mapping[str, Any]) -> str:
    return conversation_group(user_texts(data.get("messages") or data.get("input") or data.get("prompt")))


def _has_blocks(data: Mapping[str, Any]) -> bool:
    """Tools, JSON mode, or content in blocks, which may be images."""
    if data.get("tools") or data.get("functions") or data.get("response_format") or data.get("text"):
        return True
    turns = data.get("messages") or data.get("input")
    return isinstance(turns, list) and any(isinstance(t, Mapping) and isinstance(t.get("content"), list) for t in turns)


def _floor(data: Mapping[str, Any], way: Way | None) -> float | None:
    """A floor for the cost, from the length of the request (4 bytes a token) and the input price of the model that is
    asked first; it only counts when the end of the call is never known. None where nobody knows that model or price."""
    first = way.first.rates if way is not None else prices().get(str(data.get("model")))
    if first is None:
        return None
    size = _size(data)
    return cost_at(first, needs_of(data).tokens_in if size is None else size // BYTES_PER_TOKEN, 0)


def _size(data: Mapping[str, Any]) -> int | None:
    """The length of the request's body in bytes, None when its client does not say (a chunked body)."""
    told = str(_headers(data).get("content-length") or "")
    return int(told) if told.isascii() and told.isdigit() and len(told) <= 15 else None


def _headers(data: Mapping[str, Any]) -> Mapping[str, str]:
    return (data.get("proxy_server_request") or {}).get("headers") or {}


def _may_cool(deployment: Mapping[str, Any]) -> bool:
    """Not the last resort of its name, which is never cooled down."""
    return (deployment.get("litellm_params") or {}).get("cooldown_time") != 0


def _is_of(deployment: Mapping[str, Any], attempt: Attempt, whole_provider: bool) -> bool:
    info = deployment.get("model_info") or {}
    if whole_provider:
        return bool(info.get("lm_provider") == attempt.provider)
    return bool(info.get("id") == attempt.deployment)


def _cool(router: Any, names: list[str], error: BaseException, status: int) -> None:
    for name in names:
        router.cooldown_cache.add_deployment_to_cooldown(
            model_id=name, original_exception=error, exception_status=status, cooldown_time=COOLDOWN_SECONDS
        )
