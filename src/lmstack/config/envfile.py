"""Reading and editing ``.env`` text. Pure; edits keep every other byte (python-dotenv's own set_key does not)."""

import re
from dataclasses import dataclass
from io import StringIO

from dotenv.parser import parse_stream

from lmstack.errors import Problem, invalid


@dataclass(frozen=True, slots=True)
class Entry:
    """One assignment; ``line`` counts from 1."""

    name: str
    value: str
    line: int


def parse_env(text: str, file: str = ".env") -> dict[str, Entry]:
    """Every assignment, the last one winning as in a shell; ConfigError names each unreadable line."""
    entries: dict[str, Entry] = {}
    problems = []
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            problems.append(
                Problem(
                    f"{file}:{binding.original.line}", "not a NAME=value line", "quote the value, or start it with #"
                )
            )
        elif binding.key is not None:
            # A parsed binding begins with the blank and comment lines above it.
            line = binding.original.line + _leading_lines(binding.original.string, binding.key)
            entries[binding.key] = Entry(binding.key, binding.value or "", line)
    if problems:
        raise invalid(problems)
    return entries


def set_line(text: str, name: str, value: str) -> str:
    """``text`` with ``name`` set: its last assignment is edited in place, or a commented one opened, or a line added."""
    assignment = re.compile(rf"^([ \t]*(?:export\s+)?{re.escape(name)}\s*=)[^\n]*?(\s+#[^\n]*)?$", re.MULTILINE)
    found = list(assignment.finditer(text))
    if found:
        last = found[-1]
        return text[: last.start()] + last.group(1) + quote(value) + (last.group(2) or "") + text[last.end() :]
    newline = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{newline}{name}={quote(value)}\n"


def unset_line(text: str, name: str) -> str:
    """``text`` without any assignment of ``name``."""
    return re.sub(rf"^[ \t]*(?:export\s+)?{re.escape(name)}\s*=[^\n]*\n?", "", text, flags=re.MULTILINE)


def quote(value: str) -> str:
    """A value as it must stand in ``.env`` for python-dotenv and compose alike."""
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,=\-]*", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _leading_lines(original: str, key: str) -> int:
    before = re.split(rf"^[ \t]*(?:export\s+)?['\"]?{re.escape(key)}", original, maxsplit=1, flags=re.MULTILINE)[0]
    return before.count("\n")
