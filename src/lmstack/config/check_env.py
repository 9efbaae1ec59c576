"""Finds what is misleading in ``.env`` although lm can read it: double names, and values that Docker reads otherwise."""

from lmstack.config.compose_env import ComposeError, read_as_compose
from lmstack.config.envfile import Entry, assignments
from lmstack.errors import Problem


def env_problems(text: str, for_docker: bool = True, file: str = ".env") -> list[Problem]:
    """Return every problem. Differences from Docker Compose are warnings unless the stack is ``for_docker``.

    Raises ConfigError when lm itself cannot read the text.
    """
    entries = assignments(text, file)
    return _double_names(entries, file) + docker_problems(text, file, warning=not for_docker)


def docker_problems(text: str, file: str = ".env", warning: bool = False) -> list[Problem]:
    """Return a problem for each value that Docker Compose would read otherwise than lm. Raises ConfigError."""
    by_name = {entry.name: entry for entry in assignments(text, file)}
    try:
        read = read_as_compose(text)
    except ComposeError as error:
        return [Problem(f"{file}:{error.line}", f"Docker Compose cannot read this file: {error}", _FIX, warning)]
    found = [(entry, _difference(entry, read)) for entry in by_name.values()]
    return [Problem(f"{file}:{entry.line}", f"{entry.name} {what}", _FIX, warning) for entry, what in found if what]


_FIX = "write it as NAME=value, or with a value in single quotes as 'lm config set' does"


def _difference(entry: Entry, read: dict[str, str | None]) -> str:
    if entry.name not in read:
        return "is not read by Docker Compose"
    if read[entry.name] is None:
        return "holds a $, which Docker would expand"
    return "" if read[entry.name] == entry.value else "has another value for Docker Compose than for lm"


def _double_names(entries: list[Entry], file: str) -> list[Problem]:
    first: dict[str, Entry] = {}
    found = []
    for entry in entries:
        if entry.name in first:
            what = f"{entry.name} is set twice, first in line {first[entry.name].line}; the last value counts"
            found.append(Problem(f"{file}:{entry.line}", what, "keep one of them", warning=True))
        first.setdefault(entry.name, entry)
    return found
