"""A YAML file that a user wrote: loaded with the line of every field, its problems collected. Pure: text in."""

import difflib
from collections.abc import Iterable
from typing import Any

import yaml

from lmstack.errors import Problem, invalid


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
    """Parse; dates stay text, because a JSON result must be able to carry them."""
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
                self.lines[where] = key.start_mark.line + 1
                self._index(value, where)
        elif isinstance(node, yaml.SequenceNode):
            for place, value in enumerate(node.value):
                self.lines[f"{path}[{place}]"] = value.start_mark.line + 1
                self._index(value, f"{path}[{place}]")


class UserYaml(Located):
    """One file. Use ``add`` for each problem, then ``finish``, which raises them all at once as a ConfigError."""

    def __init__(self, text: str, file: str) -> None:
        try:
            self.root = load_yaml(text) or {}
            super().__init__(file, yaml.compose(text, Loader=yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise invalid([yaml_problem(file, error)]) from None
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
    """Without the resolver that makes dates of text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
