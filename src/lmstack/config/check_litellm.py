"""Checks a LiteLLM config strictly and without the network: every problem with its line. Pure: text in, problems out.

LiteLLM's own check accepts misspelled keys, wrong types, fallbacks to missing models and unknown providers. The legal
keys are generated from the pinned LiteLLM (legal_keys.py). They are never typed by hand.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from lmstack.config.spelling import did_you_mean
from lmstack.config.yamlfile import Located
from lmstack.config.yamlrules import LITELLM, parse_yaml
from lmstack.errors import ConfigError, Problem

SECTIONS = ("router_settings", "litellm_settings", "general_settings")
# Our keys in model_info, which the callback reads.
OWN_INFO = (
    "lm_provider",
    "lm_tier",
    "lm_rates",
    "lm_own_price",
    "lm_flat_price",
    "lm_batch_price",
    "lm_context",
    "lm_can",
    "lm_heir",
)
_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "list": (list,), "dict": (dict,),
}  # fmt: skip
_FREE = ("ollama", "ollama_chat", "auto_router")
_REFERENCE = re.compile(r"os\.environ/(\w+)")
_REDIS = (
    "Redis for cooldowns: general_settings.coordination_redis, or router_settings.redis_host; for caching answers: "
    "litellm_settings.cache_params"
)


@lru_cache(maxsize=1)
def legal_keys() -> dict[str, Any]:
    """Return the keys that legal_keys.py found in the pinned LiteLLM."""
    text = (resources.files("lmstack.config") / "legal_keys.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def check_litellm_config(
    text: str, file: str, keys: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> list[Problem]:
    """Return all problems of a LiteLLM config, sorted by line.

    ``keys`` are the legal keys of another release than the pinned one. ``environ`` holds the variables that
    ``os.environ/NAME`` may refer to; None means that they are unknown.
    """
    try:
        node, root = parse_yaml(text, file, LITELLM)
    except ConfigError as error:
        return list(error.problems)
    if not isinstance(root, dict):
        return [Problem(f"{file}:1", "a LiteLLM config must be a mapping with 'model_list'", "see litellm-config.yaml")]
    check = _Check(file, node, keys or legal_keys(), environ)
    check.check_root(root)
    return sorted(check.problems, key=lambda problem: _line(problem.where))


class _Check(Located):
    """The check of one config. Each method adds problems of its part."""

    def __init__(self, file: str, node: Any, keys: Mapping[str, Any], environ: Mapping[str, str] | None) -> None:
        super().__init__(file, node)
        self.keys, self.environ = keys, environ

    def check_root(self, root: dict[str, Any]) -> None:
        self._check_keys(root, "", self.keys["root"])
        self._check_references(root, "")
        for section in SECTIONS:
            value = root.get(section)
            if isinstance(value, dict):
                self._check_keys(value, section, self.keys[section])
                self._check_types(value, section, section)
            elif value is not None:
                self.add(section, "must be a mapping of settings")
        names = self._check_models(root.get("model_list"))
        router = _mapping(root, "router_settings")
        names |= self._check_groups(router.get("routing_groups"), names)
        for section, settings in (
            ("router_settings", router),
            ("litellm_settings", _mapping(root, "litellm_settings")),
        ):
            for kind in _FALLBACKS:
                self._check_fallbacks(settings.get(kind), f"{section}.{kind}", names)
        self._check_probes(root)

    def _check_models(self, models: Any) -> set[str]:
        """Check the model list and return the names in it."""
        names: set[str] = set()
        if models is not None and not isinstance(models, list):
            self.add("model_list", "must be a list")
        for place, entry in enumerate(models if isinstance(models, list) else []):
            path = f"model_list[{place}]"
            if not isinstance(entry, dict):
                self.add(path, "must be a mapping with model_name and litellm_params")
                continue
            self._check_keys(entry, path, self.keys["model"])
            if isinstance(entry.get("model_name"), str):
                names.add(entry["model_name"])
            else:
                self.add(path, "needs a model_name")
            self._check_params(entry.get("litellm_params"), f"{path}.litellm_params")
            info = _mapping(entry, "model_info")
            self._check_keys(info, f"{path}.model_info", [*self.keys["model_info"], *OWN_INFO])
            self._check_types(info, f"{path}.model_info", "model_info")
            self._check_model_name(entry, path)
        return names

    def _check_params(self, params: Any, path: str) -> None:
        if not isinstance(params, dict) or not isinstance(params.get("model"), str):
            self.add(path, "needs a 'model', e.g. openai/gpt-4o-mini")
            return
        self._check_keys(params, path, self.keys["litellm_params"])
        self._check_types(params, path, "litellm_params")
        prefix, slash, _ = params["model"].partition("/")
        if slash and prefix not in self.keys["providers"]:
            what = f"unknown provider '{prefix}' in '{params['model']}'"
            self.add(f"{path}.model", what, did_you_mean(prefix, self.keys["providers"]))
        key = params.get("api_key")
        if isinstance(key, str) and len(key) > 20 and not key.startswith("os.environ/"):
            self.add(
                f"{path}.api_key", "a key is written in the file", "write os.environ/NAME and put the key into .env"
            )

    def _check_model_name(self, entry: dict[str, Any], path: str) -> None:
        """Warn of a name that its provider does not list. A price or another address in the entry makes any name right."""
        params = _mapping(entry, "litellm_params")
        if not isinstance(params.get("model"), str) or params.get("api_base"):
            return
        prefix, slash, name = params["model"].partition("/")
        listed = self.keys["models"].get(prefix) if slash else None
        priced = "input_cost_per_token" in {**params, **_mapping(entry, "model_info")}
        if listed and not priced and name not in listed and not name.startswith("ft:") and "*" not in name:
            what = f"LiteLLM {self.keys['litellm']} knows no '{name}' of {prefix}, nor its price"
            hint = did_you_mean(name, listed) or "if it is new, state input_cost_per_token and output_cost_per_token"
            self.add(f"{path}.litellm_params.model", what, hint, warning=True)

    def _check_probes(self, root: dict[str, Any]) -> None:
        """Warn of background health checks: they call every model that is not excluded, for money."""
        general = _mapping(root, "general_settings")
        models = root.get("model_list")
        if general.get("background_health_checks") is not True or not isinstance(models, list):
            return
        paid = [str(entry.get("model_name")) for entry in models if _is_probed_for_money(entry)]
        if paid:
            names = f"{', '.join(paid[:5])}{' …' if len(paid) > 5 else ''}"
            what = f"a paid call every {general.get('health_check_interval', 300)} s to each of {names}"
            fix = "model_info.disable_background_health_check: true"
            self.add("general_settings.background_health_checks", what, fix, warning=True)

    def _check_types(self, value: dict[str, Any], path: str, section: str) -> None:
        """Check the types of values. LiteLLM passes most values on unchecked, and a wrong one fails much later."""
        for key, item in value.items():
            kinds = self.keys["types"][section].get(key)
            if kinds and item is not None and not _fits(item, kinds):
                self.add(f"{path}.{key}", f"must be {' or '.join(kinds)}, not {item!r:.60}")

    def _check_references(self, value: Any, path: str) -> None:
        """Check that every os.environ/NAME is set. LiteLLM would start without the value."""
        if isinstance(value, dict):
            for key, item in value.items():
                self._check_references(item, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list):
            for place, item in enumerate(value):
                self._check_references(item, f"{path}[{place}]")
        elif self.environ is not None and isinstance(value, str) and (reference := _REFERENCE.fullmatch(value)):
            name = reference.group(1)
            if not self.environ.get(name):
                self.add(path, f"{name} is not set", did_you_mean(name, self.environ) or f"put {name}=… into .env")

    def _check_groups(self, groups: Any, names: set[str]) -> set[str]:
        """Check the routing groups and return their names."""
        found: set[str] = set()
        for place, group in enumerate(groups if isinstance(groups, list) else []):
            path = f"router_settings.routing_groups[{place}]"
            if not isinstance(group, dict):
                self.add(path, "must be a mapping with group_name and models")
                continue
            found.add(str(group.get("group_name")))
            self._check_names(group.get("models"), f"{path}.models", names)
            priorities = list(_mapping(group, "model_priorities").values())
            if any(priorities.count(one) > 1 for one in priorities):
                self.add(f"{path}.model_priorities", "equal priorities are picked at random", "give each model its own")
        return found

    def _check_fallbacks(self, entries: Any, path: str, names: set[str]) -> None:
        for place, entry in enumerate(entries if isinstance(entries, list) else []):
            if not isinstance(entry, dict):
                self.add(f"{path}[{place}]", "must be a mapping {model: [fallback, ...]}")
                continue
            for source, targets in entry.items():
                self._check_names([source], f"{path}[{place}]", names)
                self._check_names(targets, f"{path}[{place}].{source}", names)

    def _check_names(self, used: Any, path: str, names: set[str]) -> None:
        """Check that each used name is in the model list."""
        for name in used if isinstance(used, list) else []:
            if isinstance(name, str) and name != "*" and name not in names:
                hint = did_you_mean(name, names) or "add it to model_list"
                self.add(path, f"refers to a missing model '{name}'", hint)

    def _check_keys(self, value: dict[Any, Any], path: str, known: Iterable[str]) -> None:
        for key in value:
            if key not in known:
                hint = did_you_mean(str(key), known)
                if str(key).startswith("redis_") or key in ("coordination_redis", "cache_params"):
                    hint = _REDIS
                self.add(f"{path}.{key}" if path else str(key), f"unknown key '{key}'", hint)


def _is_probed_for_money(entry: object) -> bool:
    params, info = _mapping(entry, "litellm_params"), _mapping(entry, "model_info")
    settings = {**params, **info}
    free = settings.get("input_cost_per_token") == 0 or str(params.get("model")).partition("/")[0] in _FREE
    return bool(params) and not free and not settings.get("disable_background_health_check")


def _mapping(value: object, key: str) -> dict[str, Any]:
    """Return the mapping at ``key``; it is empty for anything else, which another check reports."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _fits(value: object, kinds: list[str]) -> bool:
    """Return whether a value has one of the kinds. Text may hold a number, and a reference may refer to anything."""
    if isinstance(value, str):
        text = value.strip().lower()
        number = bool({"int", "float"} & set(kinds)) and re.fullmatch(r"-?\d+(\.\d+)?", text) is not None
        truth = "bool" in kinds and text in ("true", "false")
        return "str" in kinds or value.startswith("os.environ/") or number or truth
    if isinstance(value, bool):
        return "bool" in kinds
    return any(isinstance(value, _TYPES[kind]) for kind in kinds)


def _line(where: str) -> int:
    tail = where.rpartition(":")[2]
    return int(tail) if tail.isdigit() else 0
