"""What an error says, without what was asked or answered: LiteLLM and providers like to quote both.

Prompts and answers are not stored, so they may not come in by this door. Pure, and bounded: it runs on the event loop.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# So many characters in a row are no accident. Every fourth window of the request is looked for.
_WINDOW = 16
_STEP = 4
# Two quotes no further apart are one: between them stand escapes and brackets.
_GAP = 32
_MOST_ERROR = 2000
_MOST_REQUEST = 16_000
_MOST_TEXT = 64_000  # of one log record
_TURNS = ("messages", "input", "prompt", "contents")
_SAID = (
    "messages", "input", "prompt", "contents", "system", "instructions", "systemInstruction", "system_instruction", "tools",
    "functions", "tool_choice", "response_format", "text", "suffix", "query", "documents",
)  # fmt: skip
_TAIL = re.compile(
    r"(Traceback \(most recent call last\)|LiteLLM: model group |During handling of the above exception).*",
    re.DOTALL,
)
# After these, LiteLLM prints a whole request or answer.
_QUOTE = re.compile(
    r"\b(received messages=|received_args=|received chunk[:=]|received: |original response(?: received)?:|raw response\b|got=(?=[\[{])).*",
    re.DOTALL | re.IGNORECASE,
)
# As JSON and Python write what they quote.
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(['\"\\nrt]))")
_PLAIN = {"n": "\n", "r": "\r", "t": "\t"}
# A short word such as image_url is the API's, not the user's.
_API_WORD = re.compile(r"[a-z_]*")


def message_of(text: str, request: Mapping[str, Any] | None) -> str:
    """The error's own message: no traceback, no list of fallbacks, and nothing of the request that it was about."""
    return without(_TAIL.sub("", text[:_MOST_ERROR]).rstrip(), request)


def without(text: str, request: Mapping[str, Any] | None) -> str:
    """``text`` with each run of the request's own words, and each quoted request or answer, as ``***``."""
    text = _QUOTE.sub(r"\1***", _ESCAPED.sub(_unescaped, text[:_MOST_TEXT]))
    leaves = [*_leaves([request.get(name) for name in _SAID])] if request else []
    leaves += _leaves([request.get(name) for name in _TURNS], last=True) if request else []
    for begin, end in reversed(_merged(_quoted(text, leaves))):
        text = f"{text[:begin]}***{text[end:]}"
    return text


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else _PLAIN.get(found[2], found[2])


def _leaves(value: object, last: bool = False) -> Iterator[str]:
    """The strings within a JSON value, in order or from the ``last`` on, up to _MOST_REQUEST characters."""
    left = _MOST_REQUEST
    waiting = [value]
    while waiting and left > 0:
        item = waiting.pop()
        if isinstance(item, str):
            left -= len(item)
            most = max(0, left + len(item))
            yield item[-most:] if last else item[:most]
        elif isinstance(item, Mapping):
            waiting.extend(item.values() if last else reversed(list(item.values())))
        elif isinstance(item, list | tuple):
            waiting.extend(item if last else reversed(item))


def _quoted(text: str, leaves: list[str]) -> Iterator[tuple[int, int]]:
    for leaf in {leaf for leaf in leaves if 6 <= len(leaf) < _WINDOW + _STEP and not _API_WORD.fullmatch(leaf)}:
        yield from (found.span() for found in re.finditer(re.escape(leaf), text))
    known = {leaf[i : i + _WINDOW]: (leaf, i) for leaf in leaves for i in range(0, len(leaf) - _WINDOW + 1, _STEP)}
    for begin in range(len(text) - _WINDOW + 1) if known else ():
        found = known.get(text[begin : begin + _WINDOW])
        if found is not None:
            yield _extended(text, begin, *found)


def _extended(text: str, begin: int, leaf: str, at: int) -> tuple[int, int]:
    """The span of a window in ``text``, with what stands around it in ``leaf`` too, up to the next windows."""
    end, stop = begin + _WINDOW, at + _WINDOW
    for _ in range(_STEP):
        if begin and at and text[begin - 1] == leaf[at - 1]:
            begin, at = begin - 1, at - 1
        if end < len(text) and stop < len(leaf) and text[end] == leaf[stop]:
            end, stop = end + 1, stop + 1
    return begin, end


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if out and begin - out[-1][1] <= _GAP:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((begin, end))
    return out
