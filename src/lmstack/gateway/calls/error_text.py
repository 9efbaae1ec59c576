"""Removes prompt and answer text from error messages: LiteLLM and providers like to quote both.

Prompts and answers are not stored, so no error may carry them. Pure, and bounded: it runs on the event loop.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# A text of the request is recognised by 16 characters in a row. Every fourth window of the request is looked for.
_WINDOW = 16
_STEP = 4
# Shorter texts of the request are only recognised as a whole, from this length on.
_SHORTEST = 6
# Merge matches that are at most 32 characters apart. Escapes and brackets separate them.
_GAP = 32
_MAX_ERROR = 2000
_MAX_REQUEST = 16_000
# Of a longer request, every sixteenth window of so many characters is looked for as well.
_MAX_LONG_REQUEST = 400_000
# A still longer request is searched for what is left of the text: at most so many characters, about 20 ms.
_MAX_SEARCH = 20_000_000
_SEARCH_STEP = 8
_TOO_LONG = "*** (the request is too long to remove its words from this error)"
_MAX_TEXT = 64_000  # of one log record
# The data of images and sound have no words. Of them, every run of so many characters is removed.
_DATA = re.compile(r"(?:data:[\w/+.;=-]+,)?[A-Za-z0-9+/=_\-\r\n]*")
_DATA_RUN = re.compile(r"[A-Za-z0-9+/=_\-]{48,}")
_TURNS = ("messages", "input", "prompt", "contents")
_TEXT_FIELDS = (
    "messages", "input", "prompt", "contents", "system", "instructions", "systemInstruction", "system_instruction", "tools",
    "functions", "tool_choice", "response_format", "text", "suffix", "query", "documents",
)  # fmt: skip
_TAIL = re.compile(
    r"(Traceback \(most recent call last\)|LiteLLM: model group |During handling of the above exception).*",
    re.DOTALL,
)
# After these words LiteLLM prints a whole request or answer.
_QUOTE = re.compile(
    r"\b(received messages=|received_args=|received chunk[:=]|received: |original response(?: received)?:|raw response\b|got=(?=[\[{])).*",
    re.DOTALL | re.IGNORECASE,
)
# JSON and Python escape what they quote.
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(['\"\\nrt]))")
_PLAIN = {"n": "\n", "r": "\r", "t": "\t"}
# Text in quotes, as far as the next closing quote, or to the end of a message that was cut.
_QUOTED = re.compile(r"(?<!\w)(['\"`])(.*?)(?:\1(?!\w)|\Z)", re.DOTALL)
# A short word such as image_url belongs to the API, not to the user.
_API_WORD = re.compile(r"[a-z_]*")
Span = tuple[int, int]
Windows = dict[str, tuple[str, int]]  # each window of a text, with the text and its place in it


def message_of(text: str, request: Mapping[str, Any] | None) -> str:
    """Return an error's own message, without tracebacks, lists of fallbacks and texts of the request."""
    return remove_request(_TAIL.sub("", text[:_MAX_ERROR]).rstrip(), request)


def without_quotations(text: str) -> str:
    """Return an error's own message with ``***`` in place of each long quotation, where the request is not at hand."""
    message = message_of(text, None)
    return _QUOTED.sub(lambda found: f"{found[1]}***{found[1]}" if len(found[2]) > _WINDOW else found[0], message)


def remove_request(text: str, request: Mapping[str, Any] | None) -> str:
    """Return ``text`` with ``***`` in place of the request's own texts and of each quoted request or answer."""
    text = _QUOTE.sub(r"\1***", _ESCAPED.sub(_unescaped, text[:_MAX_TEXT]))
    if not request:
        return text
    texts = [request.get(name) for name in _TEXT_FIELDS]
    leaves = [*_leaves(texts)]
    is_long = sum(map(len, leaves)) >= _MAX_REQUEST
    leaves += _leaves([request.get(name) for name in _TURNS], last=True)
    spans = [*_short_matches(text, leaves), *_matches(text, leaves)]
    if is_long:
        spans += _long_request_matches(text, [*_leaves(texts, most=_MAX_LONG_REQUEST)])
    for begin, end in reversed(_merged(spans)):
        text = f"{text[:begin]}***{text[end:]}"
    return _without_middle(text, texts) if is_long else text


def _without_middle(text: str, texts: list[object]) -> str:
    """Return a text without words from the middle of a request that is too long to be compared. The longer the request, the less text is kept."""
    leaves = [*_leaves(texts, most=_MAX_SEARCH + _MAX_LONG_REQUEST)]
    whole = [leaf for leaf in leaves if not _is_data(leaf)]
    size = sum(map(len, whole))
    if len(whole) < len(leaves):
        text = _DATA_RUN.sub("***", text)
    if size <= _MAX_LONG_REQUEST:
        return text
    windows = _MAX_SEARCH // size
    if not windows:
        return _TOO_LONG
    text, request = text[: windows * _SEARCH_STEP], "\0".join(whole)
    begins = range(0, max(1, len(text) - _WINDOW + 1), _SEARCH_STEP)
    found = [(max(0, i - _SEARCH_STEP), i + _WINDOW + _SEARCH_STEP) for i in begins if text[i : i + _WINDOW] in request]
    for begin, end in reversed(_merged(found)):
        text = f"{text[:begin]}***{text[end:]}"
    return text


def _is_data(leaf: str) -> bool:
    return len(leaf) > _MAX_REQUEST and _DATA.fullmatch(leaf[:_MAX_REQUEST]) is not None


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else _PLAIN.get(found[2], found[2])


def _leaves(value: object, last: bool = False, most: int = _MAX_REQUEST) -> Iterator[str]:
    """Yield the strings of a JSON value, up to ``most`` characters; with ``last`` the last ones first."""
    left = most
    waiting = [value]
    while waiting and left > 0:
        item = waiting.pop()
        if isinstance(item, str):
            left -= len(item)
            rest = max(0, left + len(item))
            yield item[-rest:] if last else item[:rest]
        elif isinstance(item, Mapping):
            waiting.extend(item.values() if last else reversed(list(item.values())))
        elif isinstance(item, list | tuple):
            waiting.extend(item if last else reversed(item))


def _short_matches(text: str, leaves: list[str]) -> Iterator[Span]:
    """Yield where whole short texts of the request occur. One pass over ``text``, however many there are."""
    short = {s for s in leaves if _SHORTEST <= len(s) < _WINDOW + _STEP and not _API_WORD.fullmatch(s)}
    lengths: dict[str, set[int]] = {}
    for leaf in short:
        lengths.setdefault(leaf[:_SHORTEST], set()).add(len(leaf))
    for begin in range(len(text) - _SHORTEST + 1) if lengths else ():
        for length in lengths.get(text[begin : begin + _SHORTEST], ()):
            if text[begin : begin + length] in short:
                yield begin, begin + length


def _matches(text: str, leaves: list[str]) -> Iterator[Span]:
    """Yield where windows of the request's texts occur."""
    known = {leaf[i : i + _WINDOW]: (leaf, i) for leaf in leaves for i in range(0, len(leaf) - _WINDOW + 1, _STEP)}
    yield from _known_matches(text, known, _STEP)


def _long_request_matches(text: str, leaves: list[str]) -> Iterator[Span]:
    """Yield where texts of a request occur that is too long to be compared closely, and each long quotation.

    What is quoted is removed even if it is not known: it may be from the part of the request that was not compared.
    """
    yield from _short_matches(text, leaves)
    present = {text[i : i + _WINDOW] for i in range(len(text) - _WINDOW + 1)}
    known: Windows = {}
    for leaf in leaves:
        for i in range(0, len(leaf) - _WINDOW + 1, _WINDOW):
            if (window := leaf[i : i + _WINDOW]) in present:
                known[window] = leaf, i
    yield from _known_matches(text, known, _WINDOW)
    yield from (found.span(2) for found in _QUOTED.finditer(text) if len(found[2]) > _WINDOW)


def _known_matches(text: str, known: Windows, step: int) -> Iterator[Span]:
    """Yield where the windows ``known`` occur, each extended by up to ``step`` characters."""
    begin, last = 0, len(text) - _WINDOW if known else -1
    while begin <= last:
        found = known.get(text[begin : begin + _WINDOW])
        if found is None:
            begin += 1
            continue
        span = _extended(text, begin, *found, step)
        yield span
        begin = max(begin + 1, span[1] - _WINDOW + 1)  # a window that ends within the span adds nothing


def _extended(text: str, begin: int, leaf: str, at: int, step: int) -> Span:
    """Return a window's place in ``text``, extended on both sides as far as ``leaf`` continues, up to ``step``."""
    end, stop = begin + _WINDOW, at + _WINDOW
    for _ in range(step):
        if begin and at and text[begin - 1] == leaf[at - 1]:
            begin, at = begin - 1, at - 1
        if end < len(text) and stop < len(leaf) and text[end] == leaf[stop]:
            end, stop = end + 1, stop + 1
    return begin, end


def _merged(spans: Iterable[Span]) -> list[Span]:
    out: list[Span] = []
    for begin, end in sorted(spans):
        if out and begin - out[-1][1] <= _GAP:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((begin, end))
    return out
