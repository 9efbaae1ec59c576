"""A plan as litellm-config.yaml: deterministic, commented, no secret in it. Pure."""

import difflib
from typing import Any

import yaml

from lmstack.pins import LITELLM_VERSION
from lmstack.plan import Deployment, Plan, walk_order

HEADER = f"""\
# LiteLLM proxy configuration (stock LiteLLM {LITELLM_VERSION}), rendered by `lm render` and `lm up`.
# Do not edit: change .env or models.yaml instead. `lm render --diff` shows what would change.
# Keys stand in the environment, never here.
"""


def render_config(plan: Plan) -> str:
    """The whole file."""
    parts = [HEADER, "model_list:\n"]
    parts += [_deployment(d) for d in plan.deployments]
    if plan.groups:
        parts.append(_auto())
    parts += [
        "\n# Failover is the retry: each dead model is asked once, then the next one (docs/routing.md).\n",
        _block({"router_settings": _router(plan)}),
        "\n",
        _block({"litellm_settings": _litellm()}),
        "\n# Only free models are probed in the background; the others are judged by their traffic.\n",
        _block({"general_settings": _general(plan)}),
    ]
    if plan.unserved:
        parts += [
            "\n# Catalog names that nothing serves yet, with the variable each one needs.\n",
            _block({"callback_settings": {"lmstack": {"unserved": plan.unserved}}}),
        ]
    return "".join(parts)


def diff_config(old: str, new: str, name: str = "litellm-config.yaml") -> str:
    """A unified diff, "" when equal."""
    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"{name} (on disk)", f"{name} (rendered)")
    return "".join(lines)


def _deployment(d: Deployment) -> str:
    params: dict[str, Any] = {"model": d.litellm_model, "api_key": d.api_key}
    if d.api_base:
        params["api_base"] = d.api_base
    if d.model.own_price or d.model.free:
        if d.model.input is not None:
            params["input_cost_per_token"] = d.model.input / 1_000_000
        if d.model.output is not None:
            params["output_cost_per_token"] = d.model.output / 1_000_000
    info: dict[str, Any] = {"id": d.name, "mode": d.model.mode, "lm_provider": d.provider.name}
    if d.model.mode == "chat" and d.model.tier:
        info["lm_tier"] = d.model.tier
    info["lm_priced"] = d.model.priced
    if d.model.own_price and d.model.priced:
        info["lm_price"] = [float(d.model.input or 0), float(d.model.output or 0)]
    if d.model.free:
        info["lm_free"] = True
        info["health_check_timeout"] = 30
        info["health_check_max_tokens"] = 1
    else:
        info["disable_background_health_check"] = True
    entry = {"model_name": d.name, "litellm_params": params, "model_info": info}
    return f"  # {_remark(d)}\n" + _indent(_block([entry]))


def _remark(d: Deployment) -> str:
    model = d.model
    price = (
        "free"
        if model.free
        else f"{model.input:g} / {model.output:g} USD per million tokens"
        if model.priced
        else "price unknown"
    )
    if model.successor:
        return f"{model.name}: retired by {d.provider.title} ({model.retired}), served by {model.successor}; {price}"
    return f"{model.name}: {d.provider.title}, {price}"


def _auto() -> str:
    tiers = {"SIMPLE": "cheap", "MEDIUM": "cheap", "COMPLEX": "standard", "REASONING": "premium"}
    config = {"tiers": tiers, "default_model": "cheap", "context_compaction": False}
    params = {"model": "auto_router/complexity_router", "complexity_router_config": config}
    entry = {"model_name": "auto", "litellm_params": {**params, "complexity_router_default_model": "cheap"}}
    return "  # auto: LiteLLM's complexity router picks the group\n" + _indent(_block([entry]))


def _router(plan: Plan) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "num_retries": 0,
        "allowed_fails": 0,
        "cooldown_time": 20,
        "max_fallbacks": 10,
        "timeout": int(plan.settings.get("LITELLM_TIMEOUT")),
    }
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
        settings["fallbacks"] = _fallbacks(plan)
    return {name: value for name, value in settings.items() if value != []}


def _fallbacks(plan: Plan) -> list[dict[str, list[str]]]:
    """A model asked for by name falls back to its tier, then upwards; never to a door of the same model."""
    found = []
    for d in plan.deployments:
        if d.model.mode != "chat" or d.model.tier is None:
            continue
        order = walk_order(plan.deployments, {1: (1, 2, 3), 2: (2, 3, 1), 3: (3, 2, 1)}[d.model.tier])
        same = {o.name for o in plan.deployments if o.litellm_model == d.litellm_model}
        heirs = [name for name in order if name not in same]
        if heirs:
            found.append({d.name: heirs})
    return found


def _litellm() -> dict[str, Any]:
    return {
        "callbacks": ["callbacks.taskmaster.handler"],
        "json_logs": True,
        # A parameter that the next provider does not know must not turn a fallback into an error.
        "drop_params": True,
    }


def _general(plan: Plan) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "master_key": "os.environ/LITELLM_MASTER_KEY",
        "disable_model_info_refresh": True,
        "background_health_checks": True,
        "health_check_interval": 300,
        "health_check_details": False,
    }
    if plan.redis:
        own = {"host": "redis", "port": 6379, "password": "os.environ/REDIS_PASSWORD"}
        settings["coordination_redis"] = {"url": "os.environ/REDIS_URL"} if plan.settings.get("REDIS_URL") else own
    return settings


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _block(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def _indent(text: str) -> str:
    return "".join(line if text.startswith("  ") else "  " + line for line in text.splitlines(True))
