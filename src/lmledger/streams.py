"""What a stream tells while it passes: usage, cost, and whether it was complete. Knows chunk shapes, not LiteLLM."""

import json
from typing import Any

# How Messages and Responses streams say that they are over; anything else is a cut.
CLOSING_EVENTS = ("message_stop", "response.completed", "response.incomplete")


class StreamUsage:
    """Collects usage from chunks: chat (attribute), Responses (final event), Messages (server-sent event bytes)."""

    def __init__(self) -> None:
        self.usage: Any = None
        self.cost: float | None = None
        self.raw = False  # the stream has a closing event of its own to look for
        self.closed = False

    def look(self, chunk: Any) -> None:
        """Read one chunk; a malformed one says nothing."""
        if isinstance(chunk, bytes | str):
            text = chunk.decode("utf-8", "replace") if isinstance(chunk, bytes) else chunk
            self.raw = True
            self.closed = self.closed or any(mark in text for mark in CLOSING_EVENTS)
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
        if usage is not None:
            self.usage = usage
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
        chunks = getattr(response, "chunks", None)
        if self.raw or not isinstance(chunks, list):
            return True
        return any(_content(choice) for c in chunks for choice in getattr(c, "choices", ()))

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
                self.usage = {**(self.usage or {}), **{k: v for k, v in found.items() if v is not None}}


def _content(choice: object) -> bool:
    delta = getattr(choice, "delta", None)
    return bool(getattr(delta, "content", None) or getattr(delta, "tool_calls", None))
