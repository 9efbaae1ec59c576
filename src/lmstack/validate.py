"""Strict, offline check of any LiteLLM config: every problem with its line. Pure: text in, problems out.

Stock's own check accepts misspelled keys, fallbacks to nowhere and unknown providers. The legal keys are
generated from the pinned LiteLLM (tools/legal_keys.py), never typed.
"""

import json
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from lmstack.errors import Problem
from lmstack.yamlfile import Located, did_you_mean, yaml_problem

SECTIONS = ("router_settings", "litellm_settings", "general_settings")
# Ours, in model_info: what the callback reads of a deployment.
OWN_INFO = ("lm_provider", "lm_tier", "lm_rates", "lm_own_price", "lm_context", "lm_can", "lm_heir")
_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


@lru_cache(maxsize=1)
def legal_keys() -> dict[str, list[str]]:
    """The generated lists."""
    text = (resources.files("lmstack") / "legal_keys.json").read_text(encoding="utf-8")
    loaded: dict[str, list[str]] = json.loads(text)
    return loaded


def check_litellm_config(text: str, file: str) -> list[Problem]:
    """Everything that is wrong in a LiteLLM config, in the order of its lines."""
    try:
        root = yaml.safe_load(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return [yaml_problem(file, error)]
    if not isinstance(root, dict):
        return [Problem(f"{file}:1", "a LiteLLM config must be a mapping with 'model_list'", "see litellm-config.yaml")]
    check = _Check(file, tree)
    check.root(root)
    return sorted(check.problems, key=lambda p: _line(p.where))


class _Check(Located):
    def __init__(self, file: str, tree: Any) -> None:
        super().__init__(file, tree)
        self.keys = legal_keys()

    def root(self, root: dict[str, Any]) -> None:
        self._known(root, "", self.keys["root"])
        for section in SECTIONS:
            value = root.get(section)
            if isinstance(value, dict):
                self._known(value, section, self.keys[section])
            elif value is not None:
                self.add(section, "must be a mapping of settings")
        names = self._models(root.get("model_list"))
        router = root.get("router_settings")
        if isinstance(router, dict):
            names |= self._groups(router.get("routing_groups"), names)
            for kind in _FALLBACKS:
                self._references(router.get(kind), f"router_settings.{kind}", names)
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
        return names

    def _params(self, params: Any, path: str) -> None:
        if not isinstance(params, dict) or not isinstance(params.get("model"), str):
            self.add(path, "needs a 'model', e.g. openai/gpt-4o-mini")
            return
        self._known(params, path, self.keys["litellm_params"])
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
                self.add(where, f"unknown key '{key}'", did_you_mean(str(key), known))


def _line(where: str) -> int:
    tail = where.rpartition(":")[2]
    return int(tail) if tail.isdigit() else 0
