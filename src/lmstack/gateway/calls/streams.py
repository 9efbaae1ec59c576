"""What a stream tells while it passes: usage, cost, and whether it was complete. Knows chunk shapes, not LiteLLM."""

import json
import re
from typing import Any

# How Messages and Responses streams say that they are over; anything else is a cut.
CLOSING_EVENTS = ("message_stop", "response.completed", "response.incomplete")

# What the delta of a Messages event may hold.
_TEXTS = re.compile(r'"(?:text|thinking|partial_json)": ?"((?:[^"\\]|\\.)*)"')


class StreamUsage:
    """Collects usage from chunks: chat (attribute), Responses (final event), Messages (server-sent event bytes)."""

    def __init__(self) -> None:
        self.usage: Any = None
        self.cost: float | None = None
        self.final = False  # usage is the whole answer's: Messages tell of the input first
        self.raw = False  # the stream has a closing event of its own to look for
        self.closed = False
        self._characters = 0

    def look(self, chunk: Any) -> None:
        """Read one chunk; a malformed one says nothing."""
        if isinstance(chunk, bytes | str):
            text = chunk.decode("utf-8", "replace") if isinstance(chunk, bytes) else chunk
            self.raw = True
            self.closed = self.closed or any(mark in text for mark in CLOSING_EVENTS)
            self._characters += sum(map(len, _TEXTS.findall(text)))
            if '"usage"' in text:
                self._look_at_events(text)
            return
        usage = getattr(chunk, "usage", None)
        if usage is None:
            usage = getattr(getattr(chunk, "response", None), "usage", None)
        kind = getattr(chunk, "type", None)
        if kind is not None:
            self.raw = True
            self.closed = self.closed or getattr(kind, "value", kind) in CLOSING_EVENTS
            delta = getattr(chunk, "delta", None)
            self._characters += len(delta) if isinstance(delta, str) else 0
        if usage is not None:
            self.usage, self.final = usage, True
            self.cost = (getattr(chunk, "_hidden_params", None) or {}).get("response_cost") or self.cost

    def complete(self, response: object) -> bool:
        """Whether the provider itself ended the stream.

        LiteLLM closes a chat stream that was cut off with an invented "stop", but keeps what the provider really
        sent in the stream's ``chunks`` (tests/contract), and there the finish reason is missing.
        """
        if self.raw:
            return self.closed
        chunks = getattr(response, "chunks", None)
        if not isinstance(chunks, list) or not chunks:
            return True  # nothing to tell by
        return any(getattr(choice, "finish_reason", None) for c in chunks[-8:] for choice in getattr(c, "choices", ()))

    def said_something(self, response: object) -> bool:
        """Whether any content came before the end."""
        return self.raw or not isinstance(getattr(response, "chunks", None), list) or self.characters(response) > 0

    def characters(self, response: object) -> int:
        """How much text, reasoning and tool arguments came; for a stream that broke before its usage was told."""
        chunks = getattr(response, "chunks", None)
        if self.raw or not isinstance(chunks, list):
            return self._characters
        return sum(_length(choice) for chunk in chunks for choice in getattr(chunk, "choices", ()))

    def _look_at_events(self, text: str) -> None:
        for line in text.splitlines():
            if not line.startswith("data:") or '"usage"' not in line:
                continue
            try:
                event = json.loads(line[5:])
            except ValueError:
                continue
            found = event.get("usage") or (event.get("message") or {}).get("usage")
            if isinstance(found, dict):
                self.final = self.final or event.get("type") == "message_delta"
                self.usage = {**(self.usage or {}), **{k: v for k, v in found.items() if v is not None}}


def _length(choice: object) -> int:
    delta = getattr(choice, "delta", None)
    said = [getattr(delta, name, None) for name in ("content", "reasoning_content")]
    called = [getattr(call, "function", None) for call in getattr(delta, "tool_calls", None) or ()]
    said += [getattr(function, name, None) for function in called for name in ("name", "arguments")]
    return sum(len(text) for text in said if isinstance(text, str))
