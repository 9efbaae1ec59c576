"""Lists the models of the catalog as rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmstack.catalog.models import PRICE_SOURCE, RESERVED, Catalog, Model
from lmstack.config.settings import Settings


def model_rows(catalog: Catalog, settings: Settings) -> list[dict[str, Any]]:
    """Return one row per model, the cheapest tier and price first."""
    rows = [_row(catalog, model, settings) for model in catalog.models.values()]
    return sorted(rows, key=_order)


def status_of(row: Mapping[str, Any]) -> str:
    """Return what a user must know of a model: whether it is ready, and what it lacks."""
    local = {
        "ollama": "served when Ollama answers",
        "embedded": "small built-in model, served when there is no other",
    }
    parts = [f"set {row['needs']}" if row["needs"] else local.get(str(row["provider"]), "ready")]
    if row["flat_price"]:
        parts += [f"{usd:g} USD {unit.replace('_', ' ')}" for unit, usd in row["flat_price"].items()]
    if row["successor"]:
        parts.append(f"retired {row['retired']}, served by {row['successor']}")
    if row["deprecated"]:
        parts.append(f"ends {row['deprecated']}")
    return "; ".join(parts)


def names_lines(names: Sequence[str]) -> list[str]:
    """Return the names that clients can request as lines: the models, and the groups that choose one of them."""
    groups = [name for name in names if name in RESERVED]
    lines = [f"Models: {', '.join(name for name in names if name not in RESERVED)}"]
    return [*lines, f"Names that choose a model for you: {', '.join(groups)}"] if groups else lines


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    price = row["input_usd_per_million"]
    return row["tier"] or 9, price is None, price or 0, row["name"]


def _row(catalog: Catalog, model: Model, settings: Settings) -> dict[str, Any]:
    provider, real = catalog.providers[model.provider], catalog.resolve(model)
    key = None if provider.keyless else provider.key
    flat = dict([real.flat_price] if real.flat_price else []) | (
        {} if real.per_batch is None else {"per_batch": real.per_batch}
    )
    priced = "models.yaml" if real.own_price else PRICE_SOURCE if real.priced and not real.free else None
    return {
        "name": model.name, "provider": provider.name, "model": real.model, "mode": real.mode,
        "tier": model.tier if real.mode == "chat" else None,
        "input_usd_per_million": real.input, "output_usd_per_million": real.output,
        "flat_price": flat or None, "price_source": priced,
        "context": real.context, "can": None if real.can is None else list(real.can),
        "lifecycle": model.lifecycle, "deprecated": model.deprecated, "retired": model.retired, "successor": model.successor,
        "needs": key if key and not settings.get(key) else None,
    }  # fmt: skip
