"""Reads a stream while it passes: its usage, its cost, and whether it was complete. Imports nothing of LiteLLM.

Chat and Responses streams are objects, one for each event. Messages and native Gemini streams are bytes, cut anywhere.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

log = logging.getLogger(__name__)

# The last events of Messages and Responses streams. A stream without one was cut off.
CLOSING_EVENTS = ("message_stop", "response.completed", "response.incomplete")
# A longer line is passed on to the client, but not read.
MAX_LINE = 4_000_000
# The fields of a Messages delta that hold text.
_TEXT_FIELDS = ("text", "thinking", "partial_json")
_GEMINI_COUNTS = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount")


class Lines:
    """Joins the chunks of a byte stream into lines."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that ``chunk`` completes, without their line ends. Lines above MAX_LINE are left out."""
        *complete, rest = chunk.split(b"\n")
        for end in complete:
            line = self.rest(end)
            if line:
                yield line
        self._size += len(rest)
        if rest and self._size <= MAX_LINE:
            self._parts.append(rest)

    def rest(self, end: bytes = b"") -> bytes:
        """Return the text since the last line end, and start a new line."""
        whole = b"".join((*self._parts, end)) if self._size + len(end) <= MAX_LINE else b""
        self._parts, self._size = [], 0
        return whole.removesuffix(b"\r")


class StreamUsage:
    """Collects usage from the chunks of one stream."""

    def __init__(self) -> None:
        self.usage: Any = None
        self.cost: float | None = None
        self.final = False  # ``usage`` is of the whole answer; Messages streams begin with that of the input
        self.is_empty = True  # nothing has come
        self.has_events = False  # the stream has a closing event of its own
        self.closed = False
        self._came: Counter[object] = Counter()  # characters of each choice
        self._lines = Lines()

    def read(self, chunk: Any) -> None:
        """Read one chunk. Never raises: the client must get every chunk."""
        self.is_empty = False
        try:
            if isinstance(chunk, bytes | str):
                self.has_events = True
                for line in self._lines.add(chunk if isinstance(chunk, bytes) else chunk.encode("utf-8", "replace")):
                    self._read_line(line)
            else:
                self._read_object(chunk)
        except Exception:  # an unknown event tells nothing
            log.debug("lmstack: a chunk of a stream could not be read", exc_info=True)

    def finish(self) -> None:
        """Read the last line: a provider may leave out its line end."""
        try:
            self._read_line(self._lines.rest())
        except Exception:
            log.debug("lmstack: the end of a stream could not be read", exc_info=True)

    def is_complete(self, response: object) -> bool:
        """Return whether the provider itself ended the stream.

        LiteLLM closes a chat stream that was cut off with a "stop" of its own. The provider's real chunks are in the
        stream's ``chunks`` (tests/contract). There the finish reason is missing.
        """
        if self.has_events or self.is_empty:
            return self.closed
        chunks = getattr(response, "chunks", None)
        if not isinstance(chunks, list) or not chunks:
            return True  # nothing says otherwise
        return any(getattr(choice, "finish_reason", None) for c in chunks[-8:] for choice in _choices(c))

    def has_content(self, response: object) -> bool:
        """Return whether any content came before the end."""
        if self.is_empty:
            return False
        return (
            self.has_events or not isinstance(getattr(response, "chunks", None), list) or self.characters(response) > 0
        )

    def characters(self, response: object, choices: int = 1) -> int:
        """Return the characters of text, reasoning and tool arguments, to estimate the cost of a stream without usage.

        A provider writes all ``choices`` at the same time, so each counts as the longest one, also where it has not come yet.
        """
        came = self._came
        chunks = getattr(response, "chunks", None)
        if not self.has_events and isinstance(chunks, list):
            came = Counter()
            for choice in (choice for chunk in chunks for choice in _choices(chunk)):
                came[getattr(choice, "index", 0)] += _length(choice)
        return max(came.total(), choices * max(came.values(), default=0))

    def _read_object(self, chunk: Any) -> None:
        usage = getattr(chunk, "usage", None)
        if usage is None:
            usage = getattr(getattr(chunk, "response", None), "usage", None)
        kind = getattr(chunk, "type", None)
        if kind is not None:
            self.has_events = True
            self.closed = self.closed or getattr(kind, "value", kind) in CLOSING_EVENTS
            delta = getattr(chunk, "delta", None)
            self._came[0] += len(delta) if isinstance(delta, str) else 0
        if usage is not None:
            self.usage, self.final = usage, True
            self.cost = (getattr(chunk, "_hidden_params", None) or {}).get("response_cost") or self.cost

    def _read_line(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        event = json.loads(line[5:])
        if not isinstance(event, dict):
            return
        if "candidates" in event or "usageMetadata" in event:
            self._read_gemini(event)
        elif "choices" in event:
            self._read_chat(event)
        else:
            self._read_message(event)

    def _read_message(self, event: Mapping[str, Any]) -> None:
        kind = event.get("type")
        self.closed = self.closed or kind in CLOSING_EVENTS
        delta = _mapping(event.get("delta"))
        self._came[0] += sum(len(text) for name in _TEXT_FIELDS if isinstance(text := delta.get(name), str))
        self._came[0] += len(event["delta"]) if isinstance(event.get("delta"), str) else 0
        found = event.get("usage") or _mapping(event.get("message") or event.get("response")).get("usage")
        if isinstance(found, dict):
            self.final = self.final or kind == "message_delta" or kind in CLOSING_EVENTS
            self._merge(found)

    def _read_chat(self, event: Mapping[str, Any]) -> None:
        for choice in _listed(event.get("choices")):
            self.closed = self.closed or bool(choice.get("finish_reason"))
            content = _mapping(choice.get("delta")).get("content")
            self._came[str(choice.get("index"))] += len(content) if isinstance(content, str) else 0
        if isinstance(event.get("usage"), dict):
            self.final = True
            self._merge(event["usage"])

    def _read_gemini(self, event: Mapping[str, Any]) -> None:
        for candidate in _listed(event.get("candidates")):
            self.closed = self.closed or bool(candidate.get("finishReason"))
            for part in _listed(_mapping(candidate.get("content")).get("parts")):
                self._came[str(candidate.get("index"))] += len(part["text"]) if isinstance(part.get("text"), str) else 0
        # A blocked prompt gets no candidate. Its block reason is the whole answer.
        self.closed = self.closed or bool(_mapping(event.get("promptFeedback")).get("blockReason"))
        found = event.get("usageMetadata")
        # LiteLLM 1.106 writes zeros under the stream of another provider's model. No call has zero tokens of input.
        if isinstance(found, dict) and any(found.get(name) for name in _GEMINI_COUNTS):
            self._merge(found)
            self.final = self.final or self.closed

    def _merge(self, found: Mapping[str, Any]) -> None:
        known = self.usage if isinstance(self.usage, dict) else {}
        self.usage = {**known, **{k: v for k, v in found.items() if v is not None}}


def is_usage_only(chunk: object) -> bool:
    """Return whether a chunk of a chat stream holds its usage and nothing of the answer."""
    if getattr(chunk, "usage", None) is None:
        return False
    return all(_is_empty(choice) for choice in _choices(chunk))


def _is_empty(choice: object) -> bool:
    if any(getattr(choice, name, None) for name in ("finish_reason", "logprobs", "text")):
        return False
    dump = getattr(getattr(choice, "delta", None), "model_dump", dict)
    return all(value is None for value in dump().values())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _choices(chunk: object) -> list[Any]:
    choices = getattr(chunk, "choices", None)
    return choices if isinstance(choices, list) else []


def _length(choice: object) -> int:
    delta = getattr(choice, "delta", None)
    texts = [getattr(delta, name, None) for name in ("content", "reasoning_content")]
    functions = [getattr(call, "function", None) for call in getattr(delta, "tool_calls", None) or ()]
    texts += [getattr(function, name, None) for function in functions for name in ("name", "arguments")]
    return sum(len(text) for text in texts if isinstance(text, str))
