"""Compares the catalog with the price map of the installed LiteLLM. Reads one JSON file and never imports litellm."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmstack.catalog.models import Catalog, Model
from lmstack.errors import MissingToolError

FILE = "model_prices_and_context_window_backup.json"
_ABILITIES = {"tools": "supports_function_calling", "vision": "supports_vision", "json": "supports_response_schema"}


def load_price_map(install: str = "") -> dict[str, Any]:
    """Return the price map by LiteLLM's model names.

    Raises MissingToolError when LiteLLM is not installed. ``install`` is the command that installs it.
    """
    spec = importlib.util.find_spec("litellm")  # a top-level package is found without being run
    if spec is None or spec.origin is None:
        raise MissingToolError("LiteLLM is not installed here, so its price map cannot be read", install and f"install it: {install}")  # fmt: skip
    loaded: dict[str, Any] = json.loads((Path(spec.origin).parent / FILE).read_text(encoding="utf-8"))
    return loaded


def differences(catalog: Catalog, price_map: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each difference as {"model", "field", "catalog", "litellm"}. Free models are not compared."""
    found = []
    for model in catalog.models.values():
        if model.successor is None and not model.free:
            found += _compare(model, _entry(model, catalog.providers[model.provider].prefix, price_map))
    return found


def _entry(model: Model, prefix: str, price_map: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = price_map.get(f"{prefix}/{model.model}") or price_map.get(model.model)
    return found if isinstance(found, Mapping) else None


def _compare(model: Model, entry: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if entry is None:
        return [{"model": model.name, "field": "model", "catalog": model.model, "litellm": None}]
    theirs: dict[str, object] = {
        "input": _per_million(entry.get("input_cost_per_token")),
        "output": _per_million(entry.get("output_cost_per_token")),
        "context": entry.get("max_input_tokens"),
        "deprecated": entry.get("deprecation_date"),
    }
    ours: dict[str, object] = {name: getattr(model, name) for name in theirs}
    if model.can is not None and model.mode == "chat":
        ours["can"] = sorted(model.can)
        theirs["can"] = sorted(word for word, key in _ABILITIES.items() if entry.get(key))
    if theirs["deprecated"] is None:  # the map has no date for most: ours then comes from the provider's own page
        ours.pop("deprecated")
    return [
        {"model": model.name, "field": name, "catalog": value, "litellm": theirs[name]}
        for name, value in ours.items()
        if value != theirs[name]
    ]


def _per_million(rate: object) -> float | None:
    return round(rate * 1_000_000, 6) if isinstance(rate, int | float) else None
