"""Reads ``.env`` text as Docker Compose reads it, to find values that Compose and lm would read differently. Pure.

The rules are those of compose-go's package ``dotenv``. A test compares this module with the real `docker compose`.
Old docker-compose 1.29 reads the file with python-dotenv, as lm does.
"""

import re

_SPACE = "\t\v\f\r \x85\xa0"
_NAME = re.compile(r"[\w.\-\[\]]*")
_ESCAPE = re.compile(r'\\([abcfnrtv$"\\]|0[0-9]{0,3})')
_PLAIN_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\"}


class ComposeError(ValueError):
    """Compose cannot read the file and refuses every command. ``line`` counts from 1."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.line = 1


def read_as_compose(text: str) -> dict[str, str | None]:
    """Return each variable as Compose reads it. None means that Compose would replace a ``$`` in the value.

    Raises ComposeError at the first line that Compose cannot read.
    """
    rest = text.removeprefix("\ufeff").replace("\r\n", "\n")
    found: dict[str, str | None] = {}
    whole, start = rest, 0
    try:
        while rest := _skip_comments(rest):
            start = len(whole) - len(rest)
            name, rest, has_value = _name(rest)
            found[name], rest = _value(rest) if has_value else ("", rest)
    except ComposeError as error:
        error.line = whole.count("\n", 0, start) + 1
        raise
    return found


def _skip_comments(text: str) -> str:
    text = text.lstrip()
    while text.startswith("#"):
        text = text.partition("\n")[2].lstrip()
    return text


def _name(text: str) -> tuple[str, str, bool]:
    """Split the text into a name, what follows the sign, and whether there is a sign."""
    text = re.sub(r"^export\s+", "", text)
    end = next((place for place, char in enumerate(text) if char in "=:\n"), len(text))
    name = text[:end].rstrip()
    if not _NAME.fullmatch(name):
        raise ComposeError(f"{name[:40]!r} is not a name for it")
    return name, text[end + 1 :].lstrip(_SPACE), text[end : end + 1] in ("=", ":")


def _value(text: str) -> tuple[str | None, str]:
    """Split the text into the value at its beginning and the rest."""
    if text[:1] not in ("'", '"'):
        line, _, rest = text.partition("\n")
        value = line.partition(" #")[0].rstrip()
        return (None if "$" in value else value), rest
    quoted = re.match(r"(['\"])((?:\\.|(?!\1)[^\\])*)\1", text, re.DOTALL)
    if quoted is None:
        raise ComposeError("a quote is not closed")
    quote, inner = quoted[1], quoted[2]
    inner = inner.replace(f"\\{quote}", quote)
    return (inner if quote == "'" else _unescaped(inner)), text[quoted.end() :]


def _unescaped(inner: str) -> str | None:
    if "$" in inner:
        return None
    return _ESCAPE.sub(lambda found: _character(found[1]), inner)


def _character(escape: str) -> str:
    """Return what Compose makes of an escape sequence. It drops the 0 of an octal number, also of an invalid one."""
    if not escape.startswith("0"):
        return _PLAIN_ESCAPES.get(escape, f"\\{escape}")
    digits = escape[1:]
    return chr(int(digits, 8)) if re.fullmatch("[0-3][0-7][0-7]", digits) else f"\\{digits}"
