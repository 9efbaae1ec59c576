"""Render a plan as litellm-config.yaml: always the same text, with comments and without secrets. Pure."""

import difflib
from typing import Any

import yaml

from lmstack.ledger.redact import has_secret_name
from lmstack.routing.auto import TIER_OF_GROUP
from lmstack.routing.budgets import dump_limits
from lmstack.routing.candidates import distinct, price_key
from lmstack.stack.plan import Deployment, Plan

HEADER = """\
# LiteLLM proxy configuration (stock LiteLLM {version}), rendered by `lm render` and `lm up`.
# Do not edit: change .env or models.yaml instead. `lm render --diff` shows what would change.
# Keys are in the environment, never here.
"""


# LiteLLM's names of the failures after which a model without fallbacks is tried again.
RETRIED = (
    "TimeoutErrorRetries",
    "RateLimitErrorRetries",
    "InternalServerErrorRetries",
    "ServiceUnavailableErrorRetries",
)


def is_rendered(text: str) -> bool:
    """Return whether `lm` wrote a file, in this or another version. Its first line shows it."""
    return "rendered by `lm render`" in text.partition("\n")[0]


def render_config(plan: Plan) -> str:
    """Return the text of the whole file."""
    parts = [HEADER.format(version=plan.settings.version), "model_list:\n"]
    parts += [_deployment(d, plan.fallbacks.get(d.name, ())) for d in plan.deployments]
    if plan.groups:
        parts.append(_auto())
    parts += [
        "\n# A fallback replaces a retry: each failing model is tried once, then the next one (docs/routing.md).\n",
        _block({"router_settings": _router(plan)}),
        "\n",
        _block({"litellm_settings": _litellm()}),
        "\n# LiteLLM checks only free models in the background. Requests show how the others are.\n",
        _block({"general_settings": _general(plan)}),
    ]
    own = {
        "unserved": plan.unserved,
        "routing": plan.rules.routing,
        "budgets": dump_limits(plan.rules.budgets),
        "alerts": plan.rules.alerts.as_rendered() if plan.rules.alerts else None,
        "key_variables": _key_variables(plan),
        "declared_keys": sorted(
            plan.rules.keys
        ),  # names only: the page does not know their limits, so it makes no such key
    }
    if any(own.values()):
        parts += [
            "\n# For our callback: model names without a provider, with the variable each one needs; the rules of models.yaml.\n",
            _block({"callback_settings": {"lmstack": {name: value for name, value in own.items() if value}}}),
        ]
    return "".join(parts)


def diff_config(old: str, new: str, name: str = "litellm-config.yaml") -> str:
    """Return a unified diff, "" when the texts are equal."""
    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"{name} (on disk)", f"{name} (rendered)")
    return "".join(lines)


def _deployment(d: Deployment, fallbacks: tuple[str, ...]) -> str:
    entry = {"model_name": d.name, "litellm_params": _params(d, fallbacks), "model_info": _info(d)}
    return f"  # {_remark(d)}\n" + _indent(_block([entry]))


def _params(d: Deployment, fallbacks: tuple[str, ...]) -> dict[str, Any]:
    """Return what LiteLLM needs to call the provider."""
    params: dict[str, Any] = {"model": d.litellm_model, "api_key": d.api_key}
    if d.api_base:
        params["api_base"] = d.api_base
    if d.model.own_price or d.model.free:
        prices = {"input_cost_per_token": d.model.input, "output_cost_per_token": d.model.output}
        params |= {name: price / 1_000_000 for name, price in prices.items() if price is not None}
    if not fallbacks:
        # Without a fallback, a cooldown would turn one failure into many. _router makes LiteLLM try the model again.
        params["cooldown_time"] = 0
    return params


def _info(d: Deployment) -> dict[str, Any]:
    """Return what our callback and LiteLLM's health checks read."""
    info: dict[str, Any] = {"id": d.name}
    if d.model.mode_is_known:  # else LiteLLM's price map may know it
        info["mode"] = d.model.mode
    info["lm_provider"] = d.provider.name
    if d.model.mode == "chat" and d.model.tier:
        info["lm_tier"] = d.model.tier
    if d.model.priced:
        info["lm_rates"] = [float(d.model.input or 0), float(d.model.output or 0)]
    if d.model.own_price:
        info["lm_own_price"] = True
    if d.model.deprecated:
        info["lm_ends"] = d.model.deprecated
    if d.model.flat_price:
        info["lm_flat_price"] = list(d.model.flat_price)
    if d.model.per_batch is not None:
        info["lm_batch_price"] = float(d.model.per_batch)
    if d.model.mode == "chat":
        info |= _chat_info(d)
    return info | (_PROBED if d.model.free else _NOT_PROBED)


def _chat_info(d: Deployment) -> dict[str, Any]:
    info: dict[str, Any] = {"lm_context": d.model.context} if d.model.context else {}
    info |= {"lm_can": list(d.model.can)} if d.model.can is not None else {}
    return info | ({"lm_heir": True} if d.model.successor else {})


# A background check of a model that costs money would be paid for.
_PROBED = {"health_check_timeout": 30, "health_check_max_tokens": 1}
_NOT_PROBED = {"disable_background_health_check": True}


def _remark(d: Deployment) -> str:
    model = d.model
    cost = "price unknown"
    if model.priced:
        cost = "free" if model.free else f"{model.input:g} / {model.output:g} USD per million tokens"
    if model.flat_price:
        cost = f"{model.flat_price[1]:g} USD {model.flat_price[0].replace('_', ' ')}"
    if model.per_batch is not None:
        cost += f", {model.per_batch:g} USD per batch"
    if model.successor:
        return f"{model.name}: retired by {d.provider.title} ({model.retired}), served by {model.successor}; {cost}"
    return f"{model.name}: {d.provider.title}, {cost}"


def _key_variables(plan: Plan) -> list[str]:
    """Return the variables of secrets that have ordinary names. Our callback redacts their values."""
    names = {d.provider.key for d in plan.deployments if d.provider.key and not d.provider.keyless}
    names |= {*plan.rules.alerts.variables} if plan.rules.alerts else set()
    return sorted(name for name in names if not has_secret_name(name))


def _auto() -> str:
    tiers = {tier: group for group, tier in TIER_OF_GROUP.items()} | {"REASONING": "premium"}
    config = {
        "classifier_type": "custom", "classifier_plugin": "lmstack.routing.auto.classifier",
        # LiteLLM's own classifier blocks the event loop for a quarter of a second on a long prompt: never use it.
        "classifier_fallback": "default_model",
        "tiers": tiers, "default_model": "cheap", "context_compaction": False,
    }  # fmt: skip
    params = {"model": "auto_router/complexity_router", "complexity_router_config": config}
    entry = {"model_name": "auto", "litellm_params": {**params, "complexity_router_default_model": "cheap"}}
    return "  # auto: LiteLLM's complexity router chooses the group with our classifier (docs/routing.md)\n" + _indent(
        _block([entry])
    )


def _router(plan: Plan) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "num_retries": 0,
        # Our callback decides what cools down (gateway/calls/cooldown.py).
        "disable_cooldowns": True,
        "max_fallbacks": max(10, len(plan.deployments)),
        "timeout": int(plan.settings.get("LITELLM_TIMEOUT")),
    }
    alone = [d.name for d in plan.deployments if not plan.fallbacks.get(d.name)]
    if alone:
        settings["model_group_retry_policy"] = {name: dict.fromkeys(RETRIED, 2) for name in alone}
    if plan.groups:
        settings["routing_groups"] = [
            {
                "group_name": name,
                "routing_strategy": "priority",
                "models": list(walk),
                "model_priorities": {member: 10 + place for place, member in enumerate(walk)},
            }
            for name, walk in plan.groups.items()
        ]
        settings["fallbacks"] = [{name: list(names)} for name, names in plan.fallbacks.items() if names]
        # LiteLLM also treats an answer without any choice as a blocked one.
        blocked = {**plan.fallbacks, **plan.groups}
        settings["content_policy_fallbacks"] = [{name: list(names)} for name, names in blocked.items() if names]
        settings["context_window_fallbacks"] = _larger(plan)
    return {name: value for name, value in settings.items() if value != []}


def _larger(plan: Plan) -> list[dict[str, list[str]]]:
    """Return the models to try when a provider calls a request too long: those with a larger context, cheapest first.

    Our callback usually notices this earlier, but its count of tokens is an estimate.
    """
    served = plan.models.by_name
    rooms = {name: served[name].context or 0 for name in plan.fallbacks}
    rooms |= {group: min(served[name].context or 0 for name in walk) for group, walk in plan.groups.items()}
    by_price = sorted(distinct(served.values()), key=lambda c: (*price_key(c), c.name))
    found = {name: [c.name for c in by_price if (c.context or 0) > room] for name, room in rooms.items()}
    return [{name: larger} for name, larger in found.items() if larger]


def _litellm() -> dict[str, Any]:
    return {
        "callbacks": ["callbacks.taskmaster.handler"],
        "json_logs": True,
        # A fallback must not fail because the next provider does not know a parameter.
        "drop_params": True,
    }


REDIS_SECONDS = 0.25


def _general(plan: Plan) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "master_key": "os.environ/LITELLM_MASTER_KEY",
        "custom_auth": "lmstack.gateway.app.auth.user_api_key_auth",  # the keys of agents
        "disable_model_info_refresh": True,
        "background_health_checks": True,
        "health_check_interval": 300,
        "health_check_details": False,
    }
    if plan.redis:
        own = {"host": "redis", "port": 6379, "password": "os.environ/REDIS_PASSWORD"}
        place = {"url": "os.environ/REDIS_URL"} if plan.settings.get("REDIS_URL") else own
        # LiteLLM reads cooldowns with two calls in a request. With its default, a hanging Redis holds a request for ten seconds.
        settings["coordination_redis"] = place | {"socket_timeout": REDIS_SECONDS}
    return settings


class _Dumper(yaml.SafeDumper):
    """Writes block style, with a list of plain values on one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        plain = not any(isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, plain or flow_style)


def _block(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def _indent(text: str) -> str:
    return "".join(line if text.startswith("  ") else "  " + line for line in text.splitlines(True))
