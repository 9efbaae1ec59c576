"""Reads and changes the state of the running LiteLLM: its router, its keys, its cooldowns. Does without what is missing."""

import functools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lmstack.gateway.stock import uses
from lmstack.gateway.stock.lookup import find, has, router

_ABSENT = object()
# LiteLLM's texts of the errors for a name without any model that could be tried.
_NO_MODEL_LEFT = ("No deployments available", "No healthy deployment available")


def master_key() -> str | None:
    """Return the operator's key as LiteLLM has read it, or None before its configuration is loaded."""
    key = find(uses.MASTER_KEY, _ABSENT)
    if key is _ABSENT:
        key = os.environ.get("LITELLM_MASTER_KEY")
    return key if isinstance(key, str) else None


def probes() -> Mapping[str, Any]:
    """Return the results of LiteLLM's background health checks."""
    found: Mapping[str, Any] = find(uses.PROBES, {})
    return found


def deployments() -> list[Mapping[str, Any]]:
    """Return every deployment of the router; none before the configuration is loaded."""
    now = router()
    if now is None:
        return []
    found: list[Mapping[str, Any]] | None = find(uses.DEPLOYMENTS)
    return (now.get_model_list() if found is None else found) or []


def names() -> Iterable[str]:
    """Return every name that the router serves, in its order. A name may come twice."""
    listed = find(uses.NAMES)
    found: Iterable[str] = listed() if listed is not None else [d["model_name"] for d in deployments()]
    return found


def settings() -> Mapping[str, Any]:
    """Return what lmstack.stack.render wrote for us into ``callback_settings`` of the configuration."""
    found = find(uses.SETTINGS, _ABSENT)
    if found is _ABSENT:
        found = _settings_in_file()
    own: Mapping[str, Any] = (found or {}).get("lmstack") or {}
    return own


def remember_settings() -> None:
    """Read our settings from the configuration file at the start, where LiteLLM does not hand them over.

    Later the file of a change has another name. Raises where it cannot be read.
    """
    if not has(uses.SETTINGS):
        _settings_in_file()


def cooldown_of(name: str) -> Mapping[str, Any] | None:
    """Return LiteLLM's entry for a deployment that cools down, from the memory of this worker; None for any other."""
    key, get = find(uses.COOLDOWN_KEY), find(uses.COOLDOWN_ENTRY)
    entry = get(key(name)) if key is not None and get is not None else None
    return entry if isinstance(entry, Mapping) else None


def cool_down(name: str, error: BaseException, status: int, seconds: float) -> None:
    """Let the router not try a deployment. With Redis this is a synchronous network call."""
    add = find(uses.COOL_DOWN)
    if add is not None:
        add(model_id=name, original_exception=error, exception_status=status, cooldown_time=seconds)


def says_no_model_left(text: str) -> bool:
    """Return whether an error's text says that all models cool down. LiteLLM also appends it to the first failure's text."""
    return any(words in text for words in _NO_MODEL_LEFT)


def is_no_model_left(error: BaseException) -> bool:
    """Return whether an error is the one that LiteLLM raises for a name when all its models cool down."""
    kinds = [find(use) for use in (uses.NO_MODEL_LEFT, uses.NO_MODEL_LEFT_PLAIN)]
    if None in kinds:
        return says_no_model_left(str(error))
    return isinstance(error, tuple(kinds))


def name_without_models(error: BaseException) -> str | None:
    """Return the name for which LiteLLM found no model; None for any other error."""
    kind = find(uses.NO_MODEL_LEFT)
    name = getattr(error, "model", None) if kind is not None and isinstance(error, kind) else None
    return name if isinstance(name, str) else None


@functools.cache
def _settings_in_file() -> Mapping[str, Any]:
    """Return ``callback_settings`` of the configuration file. Raises where it cannot be read: it may hold budgets."""
    import yaml  # LiteLLM reads its configuration with it

    text = _configuration_file().read_text(encoding="utf-8")
    found: Mapping[str, Any] = (yaml.safe_load(text) or {}).get("callback_settings") or {}
    return found


def _configuration_file() -> Path:
    """Return the path of the configuration, as LiteLLM's command line gives it to its workers."""
    return Path(os.environ.get("CONFIG_FILE_PATH") or json.loads(os.environ["WORKER_CONFIG"])["config"])
