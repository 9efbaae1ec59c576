"""A YAML file that a user wrote: its values, the line of every field, and all problems found in it. Pure: text in."""

import math
from collections.abc import Iterable
from typing import Any

import yaml

from lmstack.config.spelling import did_you_mean
from lmstack.config.yamlrules import parse_yaml
from lmstack.errors import Problem, invalid

MAX_NUMBER = 2**63 - 1  # the largest integer that SQLite stores


class Located:
    """Collects problems with their lines. A path has dots between keys and the place in a list in brackets."""

    def __init__(self, file: str, node: Any) -> None:
        self.file, self.problems = file, list[Problem]()
        self.lines: dict[str, int] = {}
        self._index(node)

    def add(self, path: str, what: str, fix: str = "", warning: bool = False) -> None:
        """Add a problem at ``path``."""
        self.problems.append(Problem(self.place(path), f"{path}: {what}", fix, warning))

    def place(self, path: str) -> str:
        """Return ``file:line`` of a path, the file alone when the line is unknown."""
        line = self.lines.get(path)
        return f"{self.file}:{line}" if line else self.file

    def one_of(self, path: str, value: object, known: Iterable[object]) -> None:
        """Add a problem when ``value`` is none of ``known``."""
        choices = list(known)
        if value not in choices:
            hint = did_you_mean(str(value), choices)
            self.add(path, f"must be one of {', '.join(map(str, choices))}, not {value!r:.80}", hint)

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


class UserYaml(Located):
    """One file with named sections. Use ``add`` for each problem, then ``finish``, which raises all of them at once."""

    def __init__(self, text: str, file: str) -> None:
        node, root = parse_yaml(text, file)
        super().__init__(file, node)
        if not isinstance(root, dict | None):
            raise invalid([Problem(f"{file}:1", "the file must be a mapping of sections")])
        self.root: dict[str, Any] = root or {}

    def finish(self) -> None:
        """Raise ConfigError when there are problems."""
        if self.problems:
            raise invalid(self.problems)

    def sections(self, known: tuple[str, ...]) -> None:
        """Add a problem for each unknown top-level key."""
        for key in self.root:
            if key not in known:
                self.add(str(key), f"unknown key '{key}'", did_you_mean(key, known) or f"known: {', '.join(known)}")

    def mapping(self, path: str) -> dict[str, Any]:
        """Return the mapping at ``path``; it is empty when there is none."""
        value: Any = self.root
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is None or isinstance(value, dict):
            return {str(k): v for k, v in (value or {}).items()}
        self.add(path, "must be a mapping of names")
        return {}

    def fields(self, path: str, fields: Any, known: dict[str, tuple[type, ...]]) -> bool:
        """Return whether ``fields`` is a mapping with known names and values of the right type. Add what is wrong."""
        before = len(self.problems)
        if not isinstance(fields, dict):
            self.add(path, "must be a mapping of fields")
            return False
        for key, value in fields.items():
            if key not in known:
                self.add(f"{path}.{key}", "unknown field", did_you_mean(key, known) or f"known: {', '.join(known)}")
            elif wrong := _wrong_value(value, known[key]):
                self.add(f"{path}.{key}", wrong)
        return len(self.problems) == before


def _wrong_value(value: object, types: tuple[type, ...]) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}"
    if isinstance(value, int | float) and abs(value) > MAX_NUMBER:
        return f"must be a number below {MAX_NUMBER:.0e}"
    if isinstance(value, str) and not value.isprintable():
        return "must be text on one line without control characters"
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return f"must be {' or '.join(t.__name__ for t in types)}, not {value!r:.80}"
    return ""
