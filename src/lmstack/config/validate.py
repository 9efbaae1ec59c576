"""Strict, offline check of any LiteLLM config, compose file or Dockerfile: every problem with its line. Pure: text in,
problems out.

Stock's own check accepts misspelled keys, wrong types, fallbacks to nowhere and unknown providers. What is legal is
generated from the pinned LiteLLM (legal_keys.py), never typed.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from lmstack.config.yamlfile import Located, did_you_mean, yaml_problem
from lmstack.errors import Problem
from lmstack.releases.allowed import image_objection

SECTIONS = ("router_settings", "litellm_settings", "general_settings")
# Ours, in model_info: what the callback reads of a deployment.
OWN_INFO = ("lm_provider", "lm_tier", "lm_rates", "lm_own_price", "lm_context", "lm_can", "lm_heir")
_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "list": (list,), "dict": (dict,),
}  # fmt: skip
_FREE = ("ollama", "ollama_chat", "auto_router")
_REFERENCE = re.compile(r"os\.environ/(\w+)")
# Stock's /health calls every model for money; the probes do not.
_PAID_PROBE = re.compile(r"/health(?!/(?:live|ready|readiness|liveliness|liveness))\b")


@lru_cache(maxsize=1)
def legal_keys() -> dict[str, Any]:
    """What legal_keys.py found in the pinned LiteLLM."""
    text = (resources.files("lmstack.config") / "legal_keys.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def check_file(text: str, file: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """The check that fits: a Dockerfile by its name, a compose file by its ``services``, else a LiteLLM config."""
    if re.search(r"(^|/)Dockerfile[^/]*$", file):
        return check_dockerfile(text, file)
    if re.search(r"^services:", text, re.MULTILINE):
        return check_compose(text, file)
    return check_litellm_config(text, file, environ=environ)


def check_dockerfile(text: str, file: str) -> list[Problem]:
    """A LiteLLM base image that floats, or must not run."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        named = re.match(r"\s*(?:FROM\s+|ARG\s+\w+=)(\S*litellm\S*)", line, re.IGNORECASE)
        if named and "$" not in named.group(1):
            found += _image_problem(f"{file}:{number}", named.group(1))
    return found


def check_compose(text: str, file: str) -> list[Problem]:
    """LiteLLM images that float or must not run, and health checks that cost money."""
    try:
        root = yaml.safe_load(text)
        place = Located(file, yaml.compose(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        return [yaml_problem(file, error)]
    services = root.get("services") if isinstance(root, dict) else None
    if not isinstance(services, dict):
        return [Problem(f"{file}:1", "a compose file must have a mapping 'services'", "see docker-compose.yml")]
    for name, service in services.items():
        if not isinstance(service, dict):
            continue
        image = str(service.get("image") or "")
        if "litellm" in image and "$" not in image:
            where = f"{file}:{place.lines.get(f'services.{name}.image')}"
            place.problems += _image_problem(where, image)
        probe = service.get("healthcheck") if isinstance(service.get("healthcheck"), dict) else {}
        if _PAID_PROBE.search(str((probe or {}).get("test", ""))):
            place.add(f"services.{name}.healthcheck.test", "/health of stock LiteLLM makes a paid call to every model each time", "ask /health/liveliness", True)  # fmt: skip
    return place.problems


def _image_problem(where: str, image: str) -> list[Problem]:
    objection = image_objection(image)
    return [Problem(where, f"{image}: {objection}", "name a release: …:v1.2.3")] if objection else []


def check_litellm_config(
    text: str, file: str, keys: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> list[Problem]:
    """Everything that is wrong in a LiteLLM config, in the order of its lines. ``keys``: of another release than the
    pinned one; ``environ``: what os.environ/NAME may refer to, None when that is not known."""
    try:
        root = yaml.safe_load(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return [yaml_problem(file, error)]
    if not isinstance(root, dict):
        return [Problem(f"{file}:1", "a LiteLLM config must be a mapping with 'model_list'", "see litellm-config.yaml")]
    check = _Check(file, tree, keys or legal_keys(), environ)
    check.root(root)
    return sorted(check.problems, key=lambda p: _line(p.where))


class _Check(Located):
    def __init__(self, file: str, tree: Any, keys: Mapping[str, Any], environ: Mapping[str, str] | None) -> None:
        super().__init__(file, tree)
        self.keys, self.environ = keys, environ

    def root(self, root: dict[str, Any]) -> None:
        self._known(root, "", self.keys["root"])
        self._set(root, "")
        for section in SECTIONS:
            value = root.get(section)
            if isinstance(value, dict):
                self._known(value, section, self.keys[section])
                self._typed(value, section, section)
            elif value is not None:
                self.add(section, "must be a mapping of settings")
        names = self._models(root.get("model_list"))
        router = root.get("router_settings")
        if isinstance(router, dict):
            names |= self._groups(router.get("routing_groups"), names)
            for kind in _FALLBACKS:
                self._references(router.get(kind), f"router_settings.{kind}", names)
        self._probes(root)
        settings = root.get("litellm_settings")
        if isinstance(settings, dict):
            for kind in _FALLBACKS:
                self._references(settings.get(kind), f"litellm_settings.{kind}", names)

    def _models(self, models: Any) -> set[str]:
        names: set[str] = set()
        if models is None:
            return names
        if not isinstance(models, list):
            self.add("model_list", "must be a list")
            return names
        for place, entry in enumerate(models):
            path = f"model_list[{place}]"
            if not isinstance(entry, dict):
                self.add(path, "must be a mapping with model_name and litellm_params")
                continue
            self._known(entry, path, self.keys["model"])
            if isinstance(entry.get("model_name"), str):
                names.add(entry["model_name"])
            else:
                self.add(path, "needs a model_name")
            self._params(entry.get("litellm_params"), f"{path}.litellm_params")
            if isinstance(entry.get("model_info"), dict):
                self._known(entry["model_info"], f"{path}.model_info", [*self.keys["model_info"], *OWN_INFO])
                self._typed(entry["model_info"], f"{path}.model_info", "model_info")
            self._model(entry, path)
        return names

    def _params(self, params: Any, path: str) -> None:
        if not isinstance(params, dict) or not isinstance(params.get("model"), str):
            self.add(path, "needs a 'model', e.g. openai/gpt-4o-mini")
            return
        self._known(params, path, self.keys["litellm_params"])
        self._typed(params, path, "litellm_params")
        prefix, slash, _ = params["model"].partition("/")
        if slash and prefix not in self.keys["providers"]:
            self.add(
                f"{path}.model",
                f"unknown provider '{prefix}' in '{params['model']}'",
                did_you_mean(prefix, self.keys["providers"]),
            )
        key = params.get("api_key")
        if isinstance(key, str) and len(key) > 20 and not key.startswith("os.environ/"):
            self.add(f"{path}.api_key", "a key stands in the file", "write os.environ/NAME and put the key into .env")

    def _model(self, entry: dict[str, Any], path: str) -> None:
        """A name that its provider does not list. Whoever states a price, or another endpoint, knows what they do."""
        params = _mapping(entry, "litellm_params")
        if not isinstance(params.get("model"), str) or params.get("api_base"):
            return
        prefix, slash, name = params["model"].partition("/")
        listed = self.keys["models"].get(prefix) if slash else None
        priced = "input_cost_per_token" in {**params, **_mapping(entry, "model_info")}
        if listed and not priced and name not in listed and not name.startswith("ft:") and "*" not in name:
            hint = did_you_mean(name, listed) or "if it is new, state input_cost_per_token and output_cost_per_token"
            self.add(f"{path}.litellm_params.model", f"LiteLLM {self.keys['litellm']} knows no '{name}' of {prefix}, nor its price", hint, True)  # fmt: skip

    def _probes(self, root: dict[str, Any]) -> None:
        """Background health checks ask every model that is not excluded, for money."""
        general = root.get("general_settings")
        if not isinstance(general, dict) or general.get("background_health_checks") is not True:
            return
        paid = []
        for entry in root.get("model_list") or []:
            params = _mapping(entry, "litellm_params")
            said = {**params, **_mapping(entry, "model_info")}
            free = said.get("input_cost_per_token") == 0 or str(params.get("model")).partition("/")[0] in _FREE
            if params and not free and not said.get("disable_background_health_check"):
                paid.append(str(entry.get("model_name")))
        if paid:
            often = general.get("health_check_interval", 300)
            self.add("general_settings.background_health_checks", f"a paid call every {often} s to each of {', '.join(paid[:5])}{' …' if len(paid) > 5 else ''}", "model_info.disable_background_health_check: true", True)  # fmt: skip

    def _typed(self, value: dict[str, Any], path: str, section: str) -> None:
        """LiteLLM passes most values on unchecked; a wrong one then fails far from here."""
        for key, item in value.items():
            kinds = self.keys["types"][section].get(key)
            if kinds and item is not None and not _fits(item, kinds):
                self.add(f"{path}.{key}", f"must be {' or '.join(kinds)}, not {item!r:.60}")

    def _set(self, value: Any, path: str) -> None:
        """Every os.environ/NAME must be set somewhere: LiteLLM would go on with nothing."""
        if isinstance(value, dict):
            for key, item in value.items():
                self._set(item, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list):
            for place, item in enumerate(value):
                self._set(item, f"{path}[{place}]")
        elif self.environ is not None and isinstance(value, str) and (named := _REFERENCE.fullmatch(value)):
            name = named.group(1)
            if not self.environ.get(name):
                self.add(path, f"{name} is not set", did_you_mean(name, self.environ) or f"put {name}=… into .env")

    def _groups(self, groups: Any, names: set[str]) -> set[str]:
        found: set[str] = set()
        for place, group in enumerate(groups if isinstance(groups, list) else []):
            path = f"router_settings.routing_groups[{place}]"
            if not isinstance(group, dict):
                continue
            found.add(str(group.get("group_name")))
            for member in group.get("models") or []:
                self._served(member, f"{path}.models", names)
            priorities = group.get("model_priorities")
            if isinstance(priorities, dict) and len(set(priorities.values())) != len(priorities):
                self.add(f"{path}.model_priorities", "equal priorities are picked at random", "give each model its own")
        return found

    def _references(self, entries: Any, path: str, names: set[str]) -> None:
        for place, entry in enumerate(entries if isinstance(entries, list) else []):
            if not isinstance(entry, dict):
                self.add(f"{path}[{place}]", "must be a mapping {model: [fallback, ...]}")
                continue
            for source, targets in entry.items():
                self._served(source, f"{path}[{place}]", names)
                for target in targets if isinstance(targets, list) else []:
                    self._served(target, f"{path}[{place}].{source}", names)

    def _served(self, name: Any, path: str, names: set[str]) -> None:
        if isinstance(name, str) and name != "*" and name not in names:
            self.add(path, f"refers to a missing model '{name}'", did_you_mean(name, names) or "add it to model_list")

    def _known(self, value: dict[str, Any], path: str, known: list[str]) -> None:
        for key in value:
            if key not in known:
                where = f"{path}.{key}" if path else str(key)
                hint = did_you_mean(str(key), known)
                if str(key).startswith("redis_") or key in ("coordination_redis", "cache_params"):
                    hint = _REDIS
                self.add(where, f"unknown key '{key}'", hint)


_REDIS = (
    "Redis for cool-downs: general_settings.coordination_redis, or router_settings.redis_host; for caching answers: "
    "litellm_settings.cache_params"
)


def _mapping(value: object, key: str) -> dict[str, Any]:
    """The mapping at ``key``, empty for anything else: other checks complain of that."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _fits(value: object, kinds: list[str]) -> bool:
    """As YAML gave it, or as text that says the same; a reference to the environment may hold anything."""
    if isinstance(value, str):
        text = value.strip().lower()
        number = bool({"int", "float"} & set(kinds)) and re.fullmatch(r"-?\d+(\.\d+)?", text) is not None
        return (
            "str" in kinds
            or value.startswith("os.environ/")
            or number
            or ("bool" in kinds and text in ("true", "false"))
        )
    if isinstance(value, bool):
        return "bool" in kinds
    return any(isinstance(value, _TYPES[kind]) for kind in kinds)


def _line(where: str) -> int:
    tail = where.rpartition(":")[2]
    return int(tail) if tail.isdigit() else 0
