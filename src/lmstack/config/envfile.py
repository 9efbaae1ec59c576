"""Reading and editing ``.env`` text. Pure. An edit touches one assignment, as python-dotenv finds it, and keeps every
other byte (python-dotenv's own set_key does not)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

from dotenv.parser import Binding, parse_stream

from lmstack.errors import Problem, UsageError, invalid

BOM = "\ufeff"
# What stands before an assignment in the text that python-dotenv gives for it, and what follows the value: the grammar of
# dotenv/parser.py.
_LEAD = re.compile(r"(?:[^\S\r\n]*(?:#[^\r\n]*)?(?:\r\n|\n|\r))*")
_HEAD = re.compile(r"[^\S\r\n]*(?:export[^\S\r\n]+)?(?:'[^']+'|[^=\#\s]+)[^\S\r\n]*(?:=[^\S\r\n]*)?")
_QUOTED = re.compile(r"'(?:\\'|[^'])*'|\"(?:\\\"|[^\"])*\"")
_PLAIN = re.compile(r"[^\r\n]*?(?=\s+#|\s*(?:\r\n|\n|\r|\Z))")
# Read alike by python-dotenv and by compose as it stands.
_SAFE = re.compile(r"[A-Za-z0-9_./:@%+,=\-\\~^!?*()\[\]{}|;<>&]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One assignment; ``line`` counts from 1. ``literal``: no program expands a ``$`` in it."""

    name: str
    value: str
    line: int
    literal: bool = True


def parse_env(text: str, file: str = ".env") -> dict[str, Entry]:
    """Every assignment, the last one winning as in a shell; ConfigError names each unreadable line."""
    entries: dict[str, Entry] = {}
    problems = []
    for binding in parse_stream(StringIO(text.removeprefix(BOM), newline="")):
        if binding.error:
            problems.append(
                Problem(
                    f"{file}:{binding.original.line}", "not a NAME=value line", "quote the value, or start it with #"
                )
            )
        elif binding.key is not None:
            # A parsed binding begins with the blank and comment lines above it.
            lead, _, value, _ = _parts(binding)
            line = binding.original.line + len(lead.splitlines())
            literal = "$" not in value or value.startswith("'")
            entries[binding.key] = Entry(binding.key, binding.value or "", line, literal)
    if problems:
        raise invalid(problems)
    return entries


def set_line(text: str, name: str, value: str) -> str:
    """``text`` with ``name`` set: its last assignment is edited in place, or a line is added. Its comment stays."""
    bindings = list(_bindings(text))
    last = max((place for place, (_, binding) in enumerate(bindings) if binding.key == name), default=None)
    if last is None:
        end = "\r\n" if "\r\n" in text else "\n"
        newline = "" if not text.removeprefix(BOM) or text.endswith(("\n", "\r")) else end
        return f"{text}{newline}{name}={quote(value)}{end}"
    begin, binding = bindings[last]
    lead, head, _, rest = _parts(binding)
    head = head if head.rstrip().endswith("=") else f"{head.rstrip()}="
    # An empty value before a comment would take the comment for its own.
    new = f"{lead}{head}{quote(value) or chr(39) * 2 if '#' in rest else quote(value)}{rest}"
    return text[:begin] + new + text[begin + len(binding.original.string) :]


def unset_line(text: str, name: str) -> str:
    """``text`` without any assignment of ``name``; the lines above it stay."""
    for begin, binding in reversed(list(_bindings(text))):
        if binding.key == name:
            lead = _parts(binding)[0]
            text = text[: begin + len(lead)] + text[begin + len(binding.original.string) :]
    return text


def quote(value: str) -> str:
    """A value as it must stand in ``.env``, so that python-dotenv and compose read the same; UsageError when none will."""
    if _SAFE.fullmatch(value):
        return value
    if "\x00" in value:
        raise UsageError("a value cannot hold a NUL character", "leave it out")
    if not re.search(r"['\\\r]", value):
        return f"'{value}'"  # nothing is special within single quotes, for either
    if "$" not in value and "`" not in value:
        inner = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
        return f'"{inner}"'
    raise UsageError(
        "a value with $ and also with ' or \\ cannot be written so that Docker and lm read the same",
        "set it in the environment instead of .env",
    )


def _bindings(text: str) -> Iterator[tuple[int, Binding]]:
    """Each parsed piece of the text and where it begins; together they are the whole text."""
    place = len(text) - len(text.removeprefix(BOM))
    for binding in parse_stream(StringIO(text.removeprefix(BOM), newline="")):
        yield place, binding
        place += len(binding.original.string)


def _parts(binding: Binding) -> tuple[str, str, str, str]:
    """What a binding's text is made of: lines above it, name and sign, value as written, comment and line end."""
    text = binding.original.string
    lead = _matched(_LEAD, text, 0)
    head = _matched(_HEAD, text, len(lead))
    begin = len(lead) + len(head)
    value = _matched(_QUOTED, text, begin) or _matched(_PLAIN, text, begin)
    return lead, head, value, text[begin + len(value) :]


def _matched(pattern: re.Pattern[str], text: str, begin: int) -> str:
    found = pattern.match(text, begin)
    return found.group() if found else ""
