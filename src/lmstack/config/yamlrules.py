"""Parses YAML by the rules of the program that uses the file, within bounds on size, depth and aliases. Pure.

- models.yaml belongs to lm, and compose files to go-yaml: YAML 1.2, where ``on`` and ``1:30`` are text (``CORE``).
  Compose files may also have the tags ``!override`` and ``!reset`` (``COMPOSE``).
- LiteLLM reads its configuration with PyYAML: YAML 1.1, where ``on`` is true and ``1:30`` is 90 (``LITELLM``).

A check that used one set of rules for both would accept what LiteLLM refuses, or complain of what it accepts.
"""

import re
from typing import Any

import yaml

from lmstack.errors import Problem, invalid

MAX_CHARACTERS = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 200

LITELLM: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class CORE(LITELLM):  # type: ignore[misc]
    """YAML 1.2's core schema. Dates stay text, because JSON has none. A key is always the text in the file."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Build a mapping with its keys as text."""
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep=deep)


def load_yaml(text: str) -> Any:
    """Parse one of our own texts by the core rules, without bounds. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=CORE)  # noqa: S506 - a SafeLoader


def parse_yaml(text: str, file: str, rules: Any = CORE) -> tuple[Any, Any]:
    """Return the tree of nodes, which has the lines, and the value. Raises ConfigError, also for what is too large."""
    try:
        wrong = "it is too large" if len(text) > MAX_CHARACTERS else _too_deep(text)
        node = None if wrong else yaml.compose(text, Loader=rules)
        wrong = wrong or _too_many_nodes(node)
        if wrong:
            fix = "make it smaller and flatter; every use of an alias counts"
            raise invalid([Problem(file, f"not readable as YAML: {wrong}", fix)])
        return node, yaml.load(text, Loader=rules)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise invalid([yaml_problem(file, error)]) from None
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # PyYAML raises these for a value that does not fit its tag, such as `!!timestamp x` or `!!bool x`.
        what = f"not readable as YAML: {type(error).__name__}: {error}"
        raise invalid([Problem(file, what, "check numbers, dates, tags and nesting")]) from None


def yaml_problem(file: str, error: yaml.YAMLError) -> Problem:
    """Return a YAML syntax error with its line."""
    mark = getattr(error, "problem_mark", None)
    where = f"{file}:{mark.line + 1}" if mark else file
    return Problem(where, f"not readable as YAML: {getattr(error, 'problem', None) or error}", "check the indentation")


def _too_deep(text: str) -> str:
    """Return why a text is refused before it is parsed, "" when it may be: the C library has no bound on nesting."""
    deepest = depth = 0
    for char in re.findall(r"[\[{}\]]", text):
        depth = max(0, depth + (1 if char in "[{" else -1))
        deepest = max(deepest, depth)
    deepest = max([deepest, *(line.count("- ") + line.count("? ") for line in text.splitlines())])
    return "it is nested too deeply" if deepest > MAX_DEPTH else ""


def _too_many_nodes(root: Any) -> str:
    """Return why a tree is refused before its value is built, "" when it may be."""
    try:
        size = 0 if root is None else _size(root, {}, set())
        return "it is too large with its aliases written out" if size > MAX_NODES else ""
    except _EndlessError:
        return "an alias refers to the value that holds it"
    except RecursionError:
        return "it is nested too deeply"


class _EndlessError(Exception):
    """An alias is used within the value that it names."""


def _size(node: Any, sizes: dict[int, int], being_counted: set[int]) -> int:
    """Count the nodes of a tree; a node counts as often as it is used."""
    key = id(node)
    if key in being_counted:
        raise _EndlessError
    if key not in sizes:
        being_counted.add(key)
        children: list[Any] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[key] = 1 + sum(_size(child, sizes, being_counted) for child in children)
        being_counted.discard(key)
    return sizes[key]


def _int(loader: Any, node: Any) -> int:
    text = str(node.value)
    return int(text, 0) if text.lower().startswith(("0x", "0o")) else int(text)


_TYPES = (
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
CORE.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _TYPES:
    CORE.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first))
CORE.add_constructor("tag:yaml.org,2002:int", _int)


class COMPOSE(CORE):
    """The core rules, with the two tags of compose files that say how files are merged."""


def _overriding(loader: Any, node: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else node.value


COMPOSE.add_constructor("!override", _overriding)
COMPOSE.add_constructor("!reset", lambda loader, node: None)
