"""Providers and models: the shipped catalog, and the user's models.yaml laid over it. Pure: text in, values out."""

import difflib
from dataclasses import dataclass, replace
from typing import Any

import yaml

from lmstack.errors import ConfigError, Problem, invalid

GUIDE_NAMES = ("gpt-4o", "gpt-4o-mini", "claude-3.5-sonnet", "claude-3-haiku", "gemini-2.0-flash", "llama3.2")
RESERVED = ("auto", "cheap", "standard", "premium")
TIERS = (1, 2, 3)
MODES = ("chat", "embedding")


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
    retired: str | None = None
    successor: str | None = None
    own_price: bool = False  # set by the user: it overrides LiteLLM's map

    @property
    def priced(self) -> bool:
        """Whether anybody knows what it costs."""
        return self.input is not None and self.output is not None

    @property
    def free(self) -> bool:
        """Local models cost nothing."""
        return self.input == 0 and self.output == 0


@dataclass(frozen=True, slots=True)
class Catalog:
    """What can be served, by name."""

    providers: dict[str, Provider]
    models: dict[str, Model]

    def resolve(self, model: Model) -> Model:
        """The model that really serves a name: itself, or the successor of a retired one (with its price)."""
        if model.successor is None:
            return model
        heir = self.models[model.successor]
        return replace(heir, name=model.name, tier=model.tier, retired=model.retired, successor=model.successor)


def parse_catalog(shipped: str, user: str | None = None, user_file: str = "models.yaml") -> Catalog:
    """Parse the shipped YAML and lay ``user``'s over it; ConfigError lists everything wrong in the user's file."""
    base = yaml.load(shipped, Loader=_Loader)  # noqa: S506 - a SafeLoader
    catalog = Catalog(
        {name: Provider(name, **fields) for name, fields in base["providers"].items()},
        {name: _model(name, fields) for name, fields in base["models"].items()},
    )
    return catalog if user is None else _Overlay(catalog, user_file).apply(user)


def did_you_mean(word: str, known: Any) -> str:
    """A hint such as ``did you mean 'gpt-4o'?``, or nothing."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], 1, 0.6)
    return f"did you mean '{close[0]}'?" if close else ""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Dates stay text: a JSON result must be able to carry them."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _model(name: str, fields: dict[str, Any]) -> Model:
    return Model(name, **{"model": fields.get("successor", name), **fields})


_PROVIDER_FIELDS: dict[str, tuple[type, ...]] = {
    "prefix": (str,), "key": (str,), "base": (str,), "suffix": (str,), "keyless": (bool,), "title": (str,),
}  # fmt: skip
_MODEL_FIELDS: dict[str, tuple[type, ...]] = {
    "provider": (str,), "model": (str,), "tier": (int,), "input": (int, float), "output": (int, float),
    "context": (int,), "mode": (str,), "retired": (str,), "successor": (str,),
}  # fmt: skip


class _Overlay:
    """Collects every problem of a models.yaml before it gives up."""

    def __init__(self, catalog: Catalog, file: str) -> None:
        self.catalog, self.file, self.problems = catalog, file, list[Problem]()
        self.providers, self.models = dict(catalog.providers), dict(catalog.models)
        self.lines: dict[str, int] = {}

    def apply(self, text: str) -> Catalog:
        root = self._load(text)
        for key in root:
            if key not in ("providers", "models"):
                self._add(key, f"unknown key '{key}'", did_you_mean(key, ("providers", "models")))
        for name, fields in self._section(root, "providers").items():
            if self._fields_ok(f"providers.{name}", fields, _PROVIDER_FIELDS):
                old = self.providers.get(name)
                made = {"prefix": name, "title": name, "key": f"{name.upper()}_API_KEY", **fields}
                self.providers[name] = replace(old, **fields) if old else Provider(name, **made)
        for name, fields in self._section(root, "models").items():
            if self._fields_ok(f"models.{name}", fields, _MODEL_FIELDS):
                self._model(name, fields)
        self._references()
        if self.problems:
            raise invalid(self.problems)
        return Catalog(self.providers, self.models)

    def _load(self, text: str) -> dict[str, Any]:
        try:
            root = yaml.load(text, Loader=_Loader) or {}  # noqa: S506 - a SafeLoader
            self._index(yaml.compose(text, Loader=yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise invalid([yaml_problem(self.file, error)]) from None
        if not isinstance(root, dict):
            raise invalid([Problem(f"{self.file}:1", "the file must be a mapping with 'providers' and 'models'")])
        return root

    def _index(self, node: Any, path: str = "") -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                where = f"{path}.{key.value}" if path else str(key.value)
                self.lines[where] = key.start_mark.line + 1
                self._index(value, where)

    def _add(self, path: str, what: str, fix: str = "") -> None:
        line = self.lines.get(path)
        self.problems.append(Problem(f"{self.file}:{line}" if line else self.file, f"{path}: {what}", fix))

    def _section(self, root: dict[str, Any], name: str) -> dict[str, Any]:
        section = root.get(name) or {}
        if isinstance(section, dict):
            return section
        self._add(name, "must be a mapping of names")
        return {}

    def _fields_ok(self, path: str, fields: Any, known: dict[str, tuple[type, ...]]) -> bool:
        before = len(self.problems)
        if not isinstance(fields, dict):
            self._add(path, "must be a mapping of fields")
            return False
        for key, value in fields.items():
            if key not in known:
                self._add(f"{path}.{key}", "unknown field", did_you_mean(key, known))
            elif not isinstance(value, known[key]) or (isinstance(value, bool) and bool not in known[key]):
                self._add(f"{path}.{key}", f"must be {' or '.join(t.__name__ for t in known[key])}, not {value!r}")
        if fields.get("tier", 1) not in TIERS:
            self._add(f"{path}.tier", f"must be 1, 2 or 3, not {fields['tier']!r}")
        if fields.get("mode", "chat") not in MODES:
            self._add(f"{path}.mode", f"must be one of {', '.join(MODES)}", did_you_mean(fields["mode"], MODES))
        return len(self.problems) == before

    def _model(self, name: str, fields: dict[str, Any]) -> None:
        if name in RESERVED:
            self._add(f"models.{name}", "is a reserved group name", "choose another name")
            return
        priced: dict[str, Any] = {"own_price": True} if {"input", "output"} & fields.keys() else {}
        old = self.models.get(name)
        if old is None and "provider" not in fields:
            self._add(f"models.{name}", "a new model needs a 'provider'", did_you_mean(name, self.models))
            return
        self.models[name] = replace(old, **fields, **priced) if old else _model(name, {**fields, **priced})

    def _references(self) -> None:
        for name, model in self.models.items():
            if model.provider not in self.providers:
                hint = did_you_mean(model.provider, self.providers) or "define it under 'providers'"
                self._add(f"models.{name}.provider", f"unknown provider '{model.provider}'", hint)
            if model.successor is not None and model.successor not in self.models:
                hint = did_you_mean(model.successor, self.models)
                self._add(f"models.{name}.successor", f"unknown model '{model.successor}'", hint)


def yaml_problem(file: str, error: yaml.YAMLError) -> Problem:
    """A YAML syntax error with its line."""
    mark = getattr(error, "problem_mark", None)
    where = f"{file}:{mark.line + 1}" if mark else file
    return Problem(where, f"not readable as YAML: {getattr(error, 'problem', None) or error}", "check the indentation")


__all__ = [
    "GUIDE_NAMES",
    "Catalog",
    "ConfigError",
    "Model",
    "Provider",
    "did_you_mean",
    "parse_catalog",
    "yaml_problem",
]
