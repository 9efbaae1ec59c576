"""Reads providers and models: the shipped catalog, and the user's models.yaml over it. Pure: text in, values out."""

import re
from dataclasses import dataclass, field, replace
from typing import Any

from lmstack.config.rules import Rules, parse_rules
from lmstack.config.spelling import did_you_mean
from lmstack.config.yamlfile import UserYaml
from lmstack.config.yamlrules import load_yaml
from lmstack.routing.candidates import AUTO, CAPABILITIES, GROUP_OF_TIER, GROUPS
from lmstack.routing.prices import FLAT_PRICES, FlatPrice
from lmstack.routing.prices import MODES as MODES_OF_CALLS

GUIDE_NAMES = ("gpt-4o", "gpt-4o-mini", "claude-3.5-sonnet", "claude-3-haiku", "gemini-2.0-flash", "llama3.2")
RESERVED = (AUTO, *GROUPS)
TIERS = tuple(GROUP_OF_TIER)
PRICE_SOURCE = "LiteLLM's price map, read 2026-11-23"
MODES = ("chat", *sorted({mode for modes in MODES_OF_CALLS.values() for mode in modes}))


@dataclass(frozen=True, slots=True)
class Provider:
    """``prefix`` is LiteLLM's; ``key`` and ``base`` are variable names; ``suffix`` is added to the base address."""

    name: str
    prefix: str
    key: str | None = None
    base: str | None = None
    suffix: str = ""
    keyless: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A public name. Prices in USD per million tokens, None = unknown; context in tokens."""

    name: str
    provider: str
    model: str
    tier: int | None = 1
    input: float | None = None
    output: float | None = None
    context: int | None = None
    mode: str = "chat"
    mode_is_known: bool = True  # False: the user did not set the mode, and chat is only assumed
    can: tuple[str, ...] | None = None  # of tools, vision, json; None = unknown, assumed to be able
    deprecated: str | None = None  # its provider ends it on that day
    retired: str | None = None  # its provider ended it on that day
    successor: str | None = None
    own_price: bool = False  # set by the user: it overrides LiteLLM's map
    flat_price: FlatPrice | None = None  # set by the user, for a model that is not sold by the token
    per_batch: float | None = None  # set by the user: USD for a new batch that names this model

    @property
    def lifecycle(self) -> str:
        """Return active, deprecated (with a date) or retired (with a successor)."""
        return "retired" if self.retired else "deprecated" if self.deprecated else "active"

    @property
    def priced(self) -> bool:
        """Return whether the price is known."""
        return self.input is not None and self.output is not None

    @property
    def free(self) -> bool:
        """Return whether the model costs nothing, as local models do."""
        return self.input == 0 and self.output == 0


@dataclass(frozen=True, slots=True)
class Catalog:
    """What can be served, by name."""

    providers: dict[str, Provider]
    models: dict[str, Model]
    rules: Rules = field(default_factory=Rules)

    @property
    def variables(self) -> frozenset[str]:
        """Return the names of all variables that hold the key or address of a provider or of a target of alerts."""
        alerts = self.rules.alerts.variables if self.rules.alerts else ()
        return frozenset((*(name for p in self.providers.values() for name in (p.key, p.base) if name), *alerts))

    @property
    def alert_addresses(self) -> frozenset[str]:
        """Return the names of the variables that hold the addresses of webhooks."""
        return frozenset(target.url for target in (self.rules.alerts.to if self.rules.alerts else ()) if target.url)

    def resolve(self, model: Model) -> Model:
        """Return the model that serves a name: the model itself, or the successor of a retired one, with its price."""
        if model.successor is None:
            return model
        successor = self.models[model.successor]
        return replace(successor, name=model.name, tier=model.tier, retired=model.retired, successor=model.successor)


def parse_catalog(shipped: str, user: str | None = None, user_file: str = "models.yaml") -> Catalog:
    """Return the shipped catalog with the user's file over it. Raises ConfigError with all problems of the user's file."""
    base = load_yaml(shipped)
    catalog = Catalog(
        {name: Provider(name, **fields) for name, fields in base["providers"].items()},
        {name: _model(name, fields) for name, fields in base["models"].items()},
    )
    return catalog if user is None else _Overlay(catalog, UserYaml(user, user_file)).apply()


def _model(name: str, fields: dict[str, Any]) -> Model:
    can = {"can": tuple(fields["can"])} if "can" in fields else {}
    return Model(name, **{"model": fields.get("successor", name), **fields, **can})


_PROVIDER_FIELDS: dict[str, tuple[type, ...]] = {
    "prefix": (str,), "key": (str,), "base": (str,), "suffix": (str,), "keyless": (bool,), "title": (str,),
}  # fmt: skip
_MODEL_FIELDS: dict[str, tuple[type, ...]] = {
    "provider": (str,), "model": (str,), "tier": (int,), "input": (int, float), "output": (int, float),
    "context": (int,), "mode": (str,), "can": (list,), "deprecated": (str,), "retired": (str,), "successor": (str,),
    **dict.fromkeys((*FLAT_PRICES, "per_batch"), (int, float)),
}  # fmt: skip


class _Overlay:
    """A user's file over the shipped catalog."""

    def __init__(self, catalog: Catalog, document: UserYaml) -> None:
        self.document = document
        self.providers, self.models = dict(catalog.providers), dict(catalog.models)

    def apply(self) -> Catalog:
        document = self.document
        document.sections(("providers", "models", "routing", "budgets", "keys", "alerts"))
        for name, fields in self._named("providers"):
            if document.fields(f"providers.{name}", fields, _PROVIDER_FIELDS) and self._variables_ok(name, fields):
                old = self.providers.get(name)
                made = {"prefix": name, "title": name, "key": f"{name.upper()}_API_KEY", **fields}
                self.providers[name] = replace(old, **fields) if old else Provider(name, **made)
        for name, fields in self._named("models"):
            if document.fields(f"models.{name}", fields, _MODEL_FIELDS) and self._values_ok(f"models.{name}", fields):
                self._model(name, fields)
        self._references()
        rules = parse_rules(document)
        document.finish()
        return Catalog(self.providers, self.models, rules)

    def _named(self, section: str) -> list[tuple[str, Any]]:
        """Return the entries of a section. A name must be one line of text, because it is written into a comment."""
        entries = self.document.mapping(section)
        for name in entries:
            if not name.isprintable() or name != name.strip() or not name:
                self.document.add(f"{section}.{name}"[:80], "is not a name: it must be text on one line")
        return list(entries.items())

    def _variables_ok(self, name: str, fields: dict[str, Any]) -> bool:
        """Check the names of the variables that hold a provider's key and address."""
        before = len(self.document.problems)
        for field_name in ("key", "base"):
            variable = fields.get(field_name, "NAME")
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,100}", variable):
                what = f"must be the name of a variable such as {name.upper()}_API_KEY, not {variable!r:.80}"
                self.document.add(f"providers.{name}.{field_name}", what)
        return len(self.document.problems) == before

    def _values_ok(self, path: str, fields: dict[str, Any]) -> bool:
        before = len(self.document.problems)
        self.document.one_of(f"{path}.tier", fields.get("tier", 1), TIERS)
        self.document.one_of(f"{path}.mode", fields.get("mode", "chat"), MODES)
        if fields.get("per_batch", 0) < 0:
            self.document.add(f"{path}.per_batch", f"must be US dollars from 0, not {fields['per_batch']:g}")
        for word in fields.get("can", ()):
            self.document.one_of(f"{path}.can", word, CAPABILITIES)
        return len(self.document.problems) == before

    def _model(self, name: str, fields: dict[str, Any]) -> None:
        if name in RESERVED:
            self.document.add(f"models.{name}", "is a reserved group name", "choose another name")
            return
        flat = [(key, float(fields[key])) for key in FLAT_PRICES if key in fields]
        fields = {key: value for key, value in fields.items() if key not in FLAT_PRICES}
        derived: dict[str, Any] = {"own_price": True} if flat or {"input", "output"} & fields.keys() else {}
        if "can" in fields:
            derived["can"] = tuple(fields["can"])
        old = self.models.get(name)
        if old is None and "provider" not in fields:
            self.document.add(f"models.{name}", "a new model needs a 'provider'", did_you_mean(name, self.models))
            return
        if old is None:
            derived["mode_is_known"] = "mode" in fields
        made = replace(old, **{**fields, **derived}) if old else _model(name, {**fields, **derived})
        self.models[name] = self._with_flat_price(made, flat) if flat else made

    def _with_flat_price(self, model: Model, flat: list[FlatPrice]) -> Model:
        """Return a model with its flat price. Add a problem where the model has two prices, or is not sold so."""
        key, usd = flat[-1]
        path, modes = f"models.{model.name}.{key}", FLAT_PRICES[key]
        if model.mode not in modes:
            self.document.add(path, f"needs the mode {' or '.join(modes)}, and the model has the mode {model.mode}")
        elif len(flat) > 1 or model.input is not None or model.output is not None:
            self.document.add(path, "the model has another price already", "keep one price")
        elif usd < 0:
            self.document.add(path, f"must be US dollars from 0, not {usd:g}")
        return replace(model, flat_price=flat[-1])

    def _references(self) -> None:
        for name, model in self.models.items():
            if model.provider not in self.providers:
                hint = did_you_mean(model.provider, self.providers) or "define it under 'providers'"
                self.document.add(f"models.{name}.provider", f"unknown provider '{model.provider}'", hint)
            if model.successor is not None and model.successor not in self.models:
                hint = did_you_mean(model.successor, self.models)
                self.document.add(f"models.{name}.successor", f"unknown model '{model.successor}'", hint)
