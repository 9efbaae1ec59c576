"""Reads and edits ``.env`` text. Pure.

python-dotenv parses the text. An edit replaces one assignment and keeps every other byte, which python-dotenv's own
``set_key`` does not do.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

from dotenv.parser import Binding, parse_stream

from lmstack.config.compose_env import ComposeError, read_as_compose
from lmstack.errors import ConfigError, Problem, UsageError, invalid

BOM = "\ufeff"
# The text of one binding is: blank and comment lines, name and sign, value, comment and line end. These patterns follow
# the grammar of dotenv/parser.py.
_LEAD = re.compile(r"(?:[^\S\r\n]*(?:#[^\r\n]*)?(?:\r\n|\n|\r))*")
_HEAD = re.compile(r"[^\S\r\n]*(?:export[^\S\r\n]+)?(?:'[^']+'|[^=\#\s]+)[^\S\r\n]*(?:=[^\S\r\n]*)?")
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_QUOTED_BEFORE_1_2 = re.compile(r"'(?:\\'|[^'])*'|\"(?:\\\"|[^\"])*\"")
_REST = re.compile(r"[^\S\r\n]*(?:#[^\r\n]*)?(?:\r\n|\n|\r|\Z)")
# Characters that need no quotes, also not in a shell.
_SAFE = re.compile(r"[A-Za-z0-9_./:@%+,=\-\\~^!?*()\[\]{}|;<>&]*")
_PLAIN = re.compile(r"[^\r\n]*?(?=\s+#|\s*(?:\r\n|\n|\r|\Z))")


_NAME = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One assignment; ``line`` counts from 1."""

    name: str
    value: str
    line: int


def parse_env(text: str, file: str = ".env") -> dict[str, Entry]:
    """Return every assignment; the last one of a name counts, as in a shell.

    Raises ConfigError that names each line that cannot be read.
    """
    return {entry.name: entry for entry in assignments(text, file)}


def assignments(text: str, file: str = ".env") -> list[Entry]:
    """Return every assignment in the order of the file, also those that a later one replaces. Raises ConfigError."""
    found, problems = [], []
    for _, binding in _bindings(_with_line_feeds(text)):
        line = binding.original.line
        if binding.error:
            problems.append(Problem(f"{file}:{line}", "not a NAME=value line", "quote the value, or start it with #"))
            continue
        if binding.key is None:
            continue
        lead, _, _, _ = _parts(binding)
        line += lead.count("\n")
        if "\x00" in binding.original.string:
            problems.append(Problem(f"{file}:{line}", f"{binding.key!r:.80} holds a NUL character", "remove it"))
        found.append(Entry(binding.key, binding.value or "", line))
    if problems:
        raise invalid(problems)
    return found


def readable_values(text: str) -> list[tuple[str, str]]:
    """Return name and value of every line that looks like an assignment, also where the text has errors.

    For redaction: a value is returned as it is written and as python-dotenv reads it. Raises nothing.
    """
    found = [(b.key, b.value) for _, b in _bindings(_with_line_feeds(text)) if b.key and b.value]
    for line in text.splitlines():
        name, sign, value = line.strip().removeprefix("#").removeprefix("export ").partition("=")
        if sign and _NAME.fullmatch(name.strip()):
            found += [(name.strip(), form) for form in (value.strip(), value.strip().strip("'\""))]
    return found


def set_line(text: str, name: str, value: str) -> str:
    """Return ``text`` with ``name`` set. Its last assignment is edited in place and keeps its comment, or a line is added.

    Raises UsageError when no form of the value is read alike by Docker Compose, python-dotenv and lm.
    """
    last = next((found for found in reversed(list(_bindings(text))) if found[1].key == name), None)
    if last is None:
        end = "\r\n" if "\r\n" in text else "\n"
        newline = "" if not text.removeprefix(BOM) or text.endswith(("\n", "\r")) else end
        return f"{text}{newline}{name}={quote(value)}{end}"
    begin, binding = last
    lead, head, _, rest = _parts(binding)
    head = head if head.rstrip().endswith("=") else f"{head.rstrip()}="
    # The second head is for a name that Docker Compose cannot read, such as 'NAME' in quotes.
    new = next((new for h in (head, f"{name}=") if (new := _assignment(h, name, value, rest)) is not None), None)
    if new is None:
        raise _unwritable(value)
    return text[:begin] + lead + new + text[begin + len(binding.original.string) :]


def unset_line(text: str, name: str) -> str:
    """Return ``text`` without any assignment of ``name``. The comment lines above an assignment stay."""
    for begin, binding in reversed(list(_bindings(text))):
        if binding.key == name:
            lead = _parts(binding)[0]
            text = text[: begin + len(lead)] + text[begin + len(binding.original.string) :]
    return text


def quote(value: str) -> str:
    """Return a value as it must be written in ``.env``, so that every program reads the same. Raises UsageError."""
    written = _assignment("NAME=", "NAME", value, "\n")
    if written is None:
        raise _unwritable(value)
    return written.removeprefix("NAME=").removesuffix("\n")


def _assignment(head: str, name: str, value: str, rest: str) -> str | None:
    """Return the assignment with the first form of the value that every program reads alike, None when there is none."""
    for form in _forms(value):
        text = f"{head}{form}{rest}"
        try:
            read = [(entry.name, entry.value) for entry in assignments(text)]
            if read == [(name, value)] and read_as_compose(text) == {name: value}:
                return text
        except (ComposeError, ConfigError):
            continue
    return None


def _forms(value: str) -> Iterator[str]:
    """Yield the ways to write a value, the simplest first."""
    if "\x00" in value:
        return
    if _SAFE.fullmatch(value):
        yield value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    single = [] if "\r" in value else ["'" + value.replace("'", "\\'") + "'"]
    # With double quotes a value of several lines stays on one line, and an apostrophe needs no backslash.
    double_first = "\n" in value or "'" in value
    yield from [f'"{escaped}"', *single] if double_first else [*single, f'"{escaped}"']


def _unwritable(value: str) -> UsageError:
    if "\x00" in value:
        return UsageError("a value cannot hold a NUL character", "remove it")
    return UsageError(
        "this value holds $ together with \\ or a line break, and no way to write it is read alike by Docker and lm",
        "set it in the environment instead of .env",
    )


def _with_line_feeds(text: str) -> str:
    """Return the text with LF line ends, as python-dotenv gets it from a file and as Docker Compose reads it."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _bindings(text: str) -> Iterator[tuple[int, Binding]]:
    """Yield each piece that python-dotenv parses, with its position; together they are the whole text."""
    place = len(text) - len(text.removeprefix(BOM))
    for binding in parse_stream(StringIO(text.removeprefix(BOM), newline="")):
        yield place, binding
        place += len(binding.original.string)


def _parts(binding: Binding) -> tuple[str, str, str, str]:
    """Split the text of a binding into lines above it, name and sign, value as written, comment and line end."""
    text = binding.original.string
    lead = _matched(_LEAD, text, 0)
    head = _matched(_HEAD, text, len(lead))
    begin = len(lead) + len(head)
    for pattern in (_QUOTED, _QUOTED_BEFORE_1_2, _PLAIN):
        value = _matched(pattern, text, begin)
        if value and _REST.fullmatch(text, begin + len(value)):
            return lead, head, value, text[begin + len(value) :]
    return lead, head, "", text[begin:]


def _matched(pattern: re.Pattern[str], text: str, begin: int) -> str:
    found = pattern.match(text, begin)
    return found.group() if found else ""
