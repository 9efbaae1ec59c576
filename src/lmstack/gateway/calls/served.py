"""What this worker serves, and the rules that apply: read from LiteLLM's router and configuration, then cached."""

import functools
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import litellm

from lmstack.gateway.stock import live
from lmstack.gateway.stock.lookup import router
from lmstack.keys.key import Key
from lmstack.routing.budgets import parse_limits
from lmstack.routing.candidates import AUTO, candidate_from, rates_from
from lmstack.routing.policy import Models
from lmstack.routing.prices import entry_of, flat_price_from, price_from
from lmstack.routing.request import RoutingOptions
from lmstack.routing.rules import RoutingRules


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that a whole request, and one attempt, may take."""

    deadline: float
    timeout: float


# A shorter value is a placeholder such as "none", and no key.
_SHORTEST_KEY = 8

_AUTO_ROUTER = "auto_router/"  # LiteLLM's prefix for a name that chooses among chat models
_models: tuple[object, Models] | None = None
_modes: tuple[object, Mapping[str, frozenset[str]]] | None = None


@functools.cache
def rules() -> RoutingRules:
    """Return the rules of models.yaml, which lmstack.stack.render wrote into ``callback_settings``."""
    found = live.settings()
    routing = found.get("routing") or {}
    options = {
        kind: {name: RoutingOptions(**fields) for name, fields in entries.items()} for kind, entries in routing.items()
    }
    return RoutingRules(**options, limits=parse_limits(found.get("budgets")))


@functools.cache
def declared_keys() -> frozenset[str]:
    """Return the names of the keys that models.yaml declares."""
    return frozenset(live.settings().get("declared_keys") or ())


@functools.cache
def times() -> Times:
    """Return LITELLM_DEADLINE and LITELLM_TIMEOUT."""
    return Times(_seconds("LITELLM_DEADLINE", 300.0), _seconds("LITELLM_TIMEOUT", 120.0))


def models() -> Models:
    """Return every chat model that the router serves, and the prices of all its names."""
    global _models
    now = router()
    if _models is None or _models[0] is not now:
        _models = (now, models_of(live.deployments(), litellm.model_cost))
    return _models[1]


def modes(name: str) -> frozenset[str]:
    """Return the modes of a served name: as rendered, and as in LiteLLM's price map. Empty where neither knows any.

    Models.yaml need not state a mode. A group such as ``auto`` has the mode chat.
    """
    global _modes
    now = router()
    if _modes is None or _modes[0] is not now:
        found: dict[str, frozenset[str]] = {}
        for deployment in live.deployments():
            model = deployment["litellm_params"]["model"]
            entry = entry_of(litellm.model_cost, model)
            own = "chat" if model.startswith(_AUTO_ROUTER) else (deployment.get("model_info") or {}).get("mode")
            found[deployment["model_name"]] = frozenset(mode for mode in (own, entry.get("mode")) if mode)
        _modes = (now, found)
    known = _modes[1].get(name)
    if known is None:
        return frozenset({"chat"}) if is_served(name) else frozenset()
    return known


def is_served(name: object) -> bool:
    """Return whether the router serves a name."""
    return isinstance(name, str) and name in live.names()


def names() -> list[str]:
    """Return every name that a client can request."""
    return list(dict.fromkeys(live.names()))


def names_for(key: Key | None) -> list[str]:
    """Return the names that a key may request. A group is one of them when one of its models may answer."""
    if key is None or not key.limits.restricts_models:
        return names()
    chat, allows = models(), key.limits.allows_model
    usable = {name for name, model in chat.by_name.items() if allows(name, model.tier)}
    return [name for name in names() if _may_answer(name, chat, usable, key)]


def _may_answer(name: str, chat: Models, usable: Collection[str], key: Key) -> bool:
    """Return whether a key may request a name. ``usable``: the chat models that may serve it."""
    if name in chat.by_name:
        return name in usable
    if name == AUTO:
        return bool(usable)
    order = chat.orders.get(name)
    return key.limits.allows_model(name, None) if order is None else any(c.name in usable for c in order)


def provider_of(name: str) -> str | None:
    """Return the provider of a served model."""
    found = (_deployment(name) or {}).get("model_info") or {}
    provider = found.get("lm_provider")
    return str(provider) if provider else None


def key_variable(name: str) -> str | None:
    """Return the variable that holds the provider's key of a served model. LiteLLM keeps only the key, so look for it."""
    key = ((_deployment(name) or {}).get("litellm_params") or {}).get("api_key")
    if not isinstance(key, str) or len(key) < _SHORTEST_KEY:
        return None
    return next((variable for variable, value in os.environ.items() if value == key), None)


def _deployment(name: str) -> Mapping[str, Any] | None:
    return next((d for d in live.deployments() if (d.get("model_info") or {}).get("id") == name), None)


def unserved() -> Mapping[str, str]:
    """Return the names of the catalog that no key serves, each with the variable that is missing."""
    found: Mapping[str, str] = live.settings().get("unserved") or {}
    return found


def models_of(deployments: Iterable[Mapping[str, Any]], price_map: Mapping[str, Mapping[str, Any]]) -> Models:
    """Return the models and prices of LiteLLM's ``deployments``. ``price_map``: LiteLLM's prices, by model name."""
    candidates, prices = [], {}
    # LiteLLM serves moderation models also where no deployment names them.
    for name, entry in price_map.items():
        if entry.get("mode") == "moderation":
            prices[name] = price_from(None, entry)
    for deployment in deployments:
        name, model = deployment["model_name"], deployment["litellm_params"]["model"]
        info = deployment.get("model_info") or {}
        entry = entry_of(price_map, model)
        flat = flat_price_from(info.get("lm_flat_price"))
        batch = info.get("lm_batch_price")
        prices[name] = price_from(rates_from(info.get("lm_rates")), entry, flat, info.get("mode"), batch)
        candidate = candidate_from(name, model, info)
        if candidate is not None:
            candidates.append(candidate)
    return Models(candidates, prices)


def _seconds(name: str, default: float) -> float:
    """Return a time from the environment. A value that `lm` would refuse gives the default: plain Docker passes it on."""
    try:
        value = float(os.environ.get(name) or default)
    except ValueError:
        return default
    return value if 0 < value < 1e6 else default
