"""Read what a provider sends in a realtime session: how many responses there were, and what they used."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lmstack.gateway.calls.fields import mapping
from lmstack.gateway.calls.usage import token_count
from lmstack.ledger.records import Usage
from lmstack.routing.realtime import CACHED, INPUT, OUTPUT, UNKNOWN_KIND, total

_TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
# Most messages are parts of audio. They are not parsed.
_TOLD = re.compile(
    rf'"(?:response\.(?:created|done)|(?:transcription_)?session\.(?:created|updated)|error|{re.escape(_TRANSCRIBED)})"'
)


def _spelled(word: str) -> str:
    """Return a pattern for a word of JSON, in which each letter may be written as ``\\uXXXX``."""
    return "".join(rf"(?:{letter}|(?i:\\u{ord(letter):04x}))" for letter in word)


_BESIDE = re.compile(rf'"{_spelled("conversation")}"\s*:\s*"{_spelled("none")}"')
_OPENING = ("session.created", "session.updated", "transcription_session.created", "transcription_session.updated")
_MAX_MODELS = 10  # that transcribe, in one session
_MAX_ERROR = 4000


class RealtimeSession:
    """The sums of one session. ``read`` never raises: a message that cannot be read tells nothing.

    ``opened``: the provider has begun the session. ``running``: responses that have begun and not ended. ``tokens`` are
    those of the model, ``transcribed`` those of each model that transcribes the user's audio.
    """

    def __init__(self) -> None:
        self.opened = False
        self.created = self.done = self.failed = 0
        self.unmetered = False  # a response or a transcription came without its usage
        self.error = ""  # the last error that was sent to the client
        self.tokens: Counter[str] = Counter()
        self.reasoning = 0
        self.transcribed: dict[str, Counter[str]] = {}
        self._transcriber = ""

    @property
    def running(self) -> int:
        """Return the number of responses that have not ended."""
        return max(0, self.created - self.done)

    @property
    def has_unknown_kinds(self) -> bool:
        """Return whether the provider counted tokens without telling whether they are text or audio."""
        return any(self.tokens[kind] for kind in UNKNOWN_KIND)

    @property
    def usage(self) -> Usage:
        """Return the tokens for the row; empty when no response has ended."""
        if not self.done:
            return Usage()
        into, out, cached = (total(self.tokens, names) for names in (INPUT, OUTPUT, CACHED))
        return Usage(into, out, cached, self.reasoning or None)

    def read(self, text: str) -> bool:
        """Read a message for the client. Return whether something has ended that costs: a response or a transcription."""
        if not _TOLD.search(text):
            return False
        try:
            event = json.loads(text)
            return self._read(event) if isinstance(event, dict) else False
        except (ValueError, RecursionError):
            return False

    def _read(self, event: Mapping[str, Any]) -> bool:
        kind = event.get("type")
        if kind == "response.done":
            self._end(mapping(event.get("response")))
        elif kind == "response.created":
            self.created += 1
        elif kind in _OPENING:
            self.opened = True
            self._transcriber = _transcriber(mapping(event.get("session"))) or self._transcriber
        elif kind == "error":
            self.error = str(mapping(event.get("error")).get("message") or "")[:_MAX_ERROR]
        elif kind == _TRANSCRIBED:
            self._transcribe(mapping(event.get("usage")))
        return kind in ("response.done", _TRANSCRIBED)

    def _transcribe(self, usage: Mapping[str, Any]) -> None:
        """Count a transcription. A session without a model for it has it from its own model, which counts it there."""
        spent, is_counted = _transcription(usage), self._transcriber in self.transcribed
        if (self._transcriber and not usage) or not (is_counted or len(self.transcribed) < _MAX_MODELS):
            self.unmetered = True
            return
        self.transcribed.setdefault(self._transcriber, Counter()).update(spent)

    def _end(self, response: Mapping[str, Any]) -> None:
        self.done += 1
        if response.get("status") == "failed":
            self.failed += 1
            details = mapping(mapping(response.get("status_details")).get("error"))
            self.error = str(details.get("message") or details.get("code") or "a response failed")[:_MAX_ERROR]
        usage = mapping(response.get("usage"))
        counts = (token_count(usage.get("input_tokens")), token_count(usage.get("output_tokens")))
        self.unmetered = self.unmetered or (None in counts if usage else response.get("status") != "failed")
        self.tokens.update(tokens_of(usage))
        self.reasoning += token_count(mapping(usage.get("output_token_details")).get("reasoning_tokens")) or 0


def asks_beside(text: str) -> bool:
    """Return whether a client's message asks for a response beside the conversation: any number of them may run at the same time.

    LiteLLM parses each message, and the text may be large. So it is searched here, and not parsed once more. A field of this name
    counts anywhere in a message. Within a text its quotes would have a backslash.
    """
    return _BESIDE.search(text) is not None


def tokens_of(usage: Mapping[str, Any]) -> "Counter[str]":
    """Return the tokens of one response by kind. What the provider counts without a kind is of unknown kind."""
    given, written = mapping(usage.get("input_token_details")), mapping(usage.get("output_token_details"))
    cached = mapping(given.get("cached_tokens_details"))
    found: Counter[str] = Counter()
    left = token_count(given.get("cached_tokens")) or 0
    for kind in ("text", "audio", "image"):
        count = token_count(given.get(f"{kind}_tokens")) or 0
        here = token_count(cached.get(f"{kind}_tokens")) if cached else left
        here = min(here or 0, count, left)
        left -= here
        found[f"cached_{kind}"], found[f"{kind}_in"] = here, count - here
    for kind in ("text", "audio"):
        found[f"{kind}_out"] = token_count(written.get(f"{kind}_tokens")) or 0
    found["unknown_in"] = max(0, (token_count(usage.get("input_tokens")) or 0) - total(found, INPUT))
    found["unknown_out"] = max(0, (token_count(usage.get("output_tokens")) or 0) - total(found, OUTPUT))
    return +found


def _transcription(usage: Mapping[str, Any]) -> "Counter[str]":
    seconds = usage.get("seconds")
    if isinstance(seconds, int | float) and 0 < seconds < 1e6:
        return Counter({"seconds": -int(-seconds // 1)})
    return tokens_of(usage)


def _transcriber(session: Mapping[str, Any]) -> str | None:
    """Return the model that transcribes the user's audio, in the words of either version of OpenAI's protocol."""
    current = mapping(mapping(mapping(session.get("audio")).get("input")).get("transcription"))
    name = current.get("model") or mapping(session.get("input_audio_transcription")).get("model")
    return name if isinstance(name, str) else None
