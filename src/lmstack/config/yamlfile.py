"""A YAML file that a user wrote: loaded with the line of every field, its problems collected. Pure: text in."""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

import yaml

from lmstack.errors import Problem, invalid

MAX_CHARACTERS = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 200


def did_you_mean(word: str, known: Iterable[object]) -> str:
    """A hint such as ``did you mean 'gpt-4o'?``, or nothing."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], 1, 0.6)
    return f"did you mean '{close[0]}'?" if close else ""


def yaml_problem(file: str, error: yaml.YAMLError) -> Problem:
    """A YAML syntax error with its line."""
    mark = getattr(error, "problem_mark", None)
    where = f"{file}:{mark.line + 1}" if mark else file
    return Problem(where, f"not readable as YAML: {getattr(error, 'problem', None) or error}", "check the indentation")


def load_yaml(text: str) -> Any:
    """Parse by YAML 1.2's core schema; dates stay text, because a JSON result must be able to carry them."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


class Located:
    """Problems of a YAML file, each with the line of its path: keys with dots between, places of a list in brackets."""

    def __init__(self, file: str, node: Any) -> None:
        self.file, self.problems = file, list[Problem]()
        self.lines: dict[str, int] = {}
        self._index(node)

    def add(self, path: str, what: str, fix: str = "", warning: bool = False) -> None:
        """Note a problem at ``path``."""
        line = self.lines.get(path)
        self.problems.append(Problem(f"{self.file}:{line}" if line else self.file, f"{path}: {what}", fix, warning))

    def _index(self, node: Any, path: str = "") -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                where = f"{path}.{key.value}" if path else str(key.value)
                if where in self.lines and str(key.value) != "<<":
                    self.add(where, f"stands twice; the first is in line {self.lines[where]}", "keep one of them")
                self.lines[where] = key.start_mark.line + 1
                self._index(value, where)
        elif isinstance(node, yaml.SequenceNode):
            for place, value in enumerate(node.value):
                self.lines[f"{path}[{place}]"] = value.start_mark.line + 1
                self._index(value, f"{path}[{place}]")


def _depth(text: str) -> int:
    """At most how deep brackets, or lines that only go deeper, are nested: the C library's parser has no bound."""
    deepest = depth = 0
    for char in re.findall(r"[\[{}\]]", text):
        depth = max(0, depth + (1 if char in "[{" else -1))
        deepest = max(deepest, depth)
    return max(deepest, max((line.count("- ") + line.count("? ") for line in text.splitlines()), default=0))


def _too_much(root: Any) -> str:
    """Why a document is refused before it is built: an alias within itself, or aliases that grow beyond MAX_NODES."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        key = id(node)
        if key in open_nodes:
            raise _EndlessError
        if key not in sizes:
            open_nodes.add(key)
            children = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
            inner = children if isinstance(node, yaml.CollectionNode) else ()
            sizes[key] = 1 + sum(size(child) for child in inner)
            open_nodes.discard(key)
        return sizes[key]

    try:
        return "it is too large with its aliases written out" if root is not None and size(root) > MAX_NODES else ""
    except _EndlessError:
        return "an alias refers to what it stands in"
    except RecursionError:
        return "it is nested too deeply"


class _EndlessError(Exception):
    """An alias within its own anchor."""


class UserYaml(Located):
    """One file. Use ``add`` for each problem, then ``finish``, which raises them all at once as a ConfigError."""

    def __init__(self, text: str, file: str) -> None:
        try:
            if _depth(text) > MAX_DEPTH:
                raise invalid([Problem(file, "it is nested too deeply", "write it flatter")])
            node = yaml.compose(text[: MAX_CHARACTERS + 1], Loader=_Loader)
            wrong = "it is too large" if len(text) > MAX_CHARACTERS else _too_much(node)
            if wrong:
                raise invalid([Problem(file, wrong, "make it smaller; aliases are counted as often as they are used")])
            self.root = load_yaml(text) or {}
            super().__init__(file, node)
        except yaml.YAMLError as error:
            raise invalid([yaml_problem(file, error)]) from None
        except (ValueError, RecursionError) as error:
            raise invalid([Problem(file, f"not readable as YAML: {error}", "check numbers and nesting")]) from None
        if not isinstance(self.root, dict):
            raise invalid([Problem(f"{file}:1", "the file must be a mapping of sections")])

    def finish(self) -> None:
        """Raise what was found."""
        if self.problems:
            raise invalid(self.problems)

    def sections(self, known: tuple[str, ...]) -> None:
        """Refuse unknown top-level keys."""
        for key in self.root:
            if key not in known:
                self.add(str(key), f"unknown key '{key}'", did_you_mean(key, known) or f"known: {', '.join(known)}")

    def mapping(self, path: str) -> dict[str, Any]:
        """The mapping at ``path``; empty when there is none."""
        value: Any = self.root
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is None or isinstance(value, dict):
            return {str(k): v for k, v in (value or {}).items()}
        self.add(path, "must be a mapping of names")
        return {}

    def fields(self, path: str, fields: Any, known: dict[str, tuple[type, ...]]) -> bool:
        """Whether ``fields`` is a mapping with known names and right types; problems are noted."""
        before = len(self.problems)
        if not isinstance(fields, dict):
            self.add(path, "must be a mapping of fields")
            return False
        for key, value in fields.items():
            if key not in known:
                self.add(f"{path}.{key}", "unknown field", did_you_mean(key, known) or f"known: {', '.join(known)}")
            elif isinstance(value, float) and not math.isfinite(value):
                self.add(f"{path}.{key}", f"must be a finite number, not {value}")
            elif not isinstance(value, known[key]) or (isinstance(value, bool) and bool not in known[key]):
                self.add(f"{path}.{key}", f"must be {' or '.join(t.__name__ for t in known[key])}, not {value!r}")
        return len(self.problems) == before

    def one_of(self, path: str, value: object, known: Iterable[object]) -> None:
        """Note a problem when ``value`` is none of ``known``."""
        choices = list(known)
        if value not in choices:
            hint = did_you_mean(str(value), choices)
            self.add(path, f"must be one of {', '.join(map(str, choices))}, not {value!r}", hint)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.2's core schema, as ruamel.yaml writes it: ``on`` and ``1:30`` are text, and so are dates. A key is always the
    text that stands there, because keys are names."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep=deep)


def _int(loader: Any, node: Any) -> int:
    text = str(node.value).replace("_", "")
    return int(text, 0) if text.lower().lstrip("+-").startswith(("0x", "0o")) else int(text)


_CORE = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _CORE:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
