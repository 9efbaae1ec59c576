"""What a request needs of a model: capabilities, and room for its tokens.

Reads the bodies of chat, Messages, Responses, embeddings and native Gemini requests. Pure.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# The tokens that are assumed for an answer without a limit, for an image, and for a file of unknown size.
# Images have 85 to 1,445 tokens at OpenAI, and up to 1,600 at Anthropic.
ASSUMED_OUTPUT, ASSUMED_IMAGE, ASSUMED_FILE = 1000, 1000, 2000
# Bytes of a file per token. A page of a PDF has about 80 kB and 2,000 tokens (Anthropic: 1,500 to 3,000). A second of
# audio has about 16 kB and 32 tokens (Google; OpenAI: 10). A second of video has about 250 kB and 263 tokens (Google).
_FILE_BYTES, _AUDIO_BYTES, _VIDEO_BYTES = 40, 500, 1000
# No model reads or writes more tokens than this. A larger number in a request is an error of its client.
MAX_TOKENS = 100_000_000
MAX_CHOICES = 128
MAX_PROMPTS = 2048
# Looking at more parts than this would block the event loop.
MAX_PARTS = 50_000
_TEXT_FIELDS = (
    "messages", "input", "prompt", "system", "instructions", "tools", "functions", "contents", "systemInstruction", "system_instruction",
    "query", "documents",
)  # fmt: skip
_LIMIT_FIELDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_IMAGES = ("image_url", "image", "input_image")
_FILES = ("file", "input_file", "document")
# A token is about 4 bytes of English or code, and 3 bytes of other scripts (measured by bench/routing).
BYTES_PER_TOKEN, _OTHER_BYTES_PER_TOKEN = 4, 3


@dataclass(frozen=True, slots=True)
class Needs:
    """``tokens_in`` and ``tokens_out`` are estimates; ``tokens_out`` is for each of the ``choices``.

    ``capped``: the request itself limits its answer.
    """

    capabilities: frozenset[str]
    tokens_in: int
    tokens_out: int
    capped: bool
    choices: int = 1

    @property
    def paid_out(self) -> int:
        """Return the tokens of all answers together."""
        return self.tokens_out * self.choices

    @property
    def context(self) -> int:
        """Return the tokens that must fit into a model's context window."""
        return self.tokens_in + (self.tokens_out if self.capped else 0)


def needs_of(body: Mapping[str, Any], size: int | None = None) -> Needs:
    """Return the needs of a request. ``size`` is the length of the body in bytes, None when it is unknown.

    The time grows with the number of parts of the body, not with their length.
    """
    counter = _Counter()
    for name in _TEXT_FIELDS:
        counter.add(body.get(name))
    tokens_in = counter.tokens
    if counter.full:  # the parts that were not read may not be free of charge
        tokens_in = max(tokens_in, (size or 0) // BYTES_PER_TOKEN)
    tokens_out = output_limit(body)
    return Needs(
        _capabilities(body, counter.images > 0), tokens_in, tokens_out or ASSUMED_OUTPUT, tokens_out is not None, choices_of(body)
    )  # fmt: skip


def has_special_content(body: Mapping[str, Any]) -> bool:
    """Return whether a request has tools, asks for JSON, or has content in blocks, which may be images. Fast."""
    if body.get("tools") or body.get("functions") or body.get("response_format") or body.get("text"):
        return True
    if body.get("contents"):  # of native Gemini, always in parts
        return True
    turns = body.get("messages") or body.get("input")
    return isinstance(turns, list) and any(isinstance(t, Mapping) and isinstance(t.get("content"), list) for t in turns)


def output_limit(body: Mapping[str, Any]) -> int | None:
    """Return the most tokens that the request allows for an answer; None when it sets no limit."""
    if "contents" in body:  # LiteLLM passes on this field of one of the two, and no other limit
        config = body["config"] if body.get("config") is not None else body.get("generationConfig")
        return _parse_count(config.get("maxOutputTokens")) if isinstance(config, Mapping) else None
    values = [body.get(name) for name in _LIMIT_FIELDS]
    return max((count for value in values if (count := _parse_count(value)) is not None), default=None)


def choices_of(body: Mapping[str, Any]) -> int:
    """Return how many answers the request asks for; each one is paid for. A list of prompts has one answer for each."""
    prompt = body.get("prompt")
    values = [body.get("n"), body.get("best_of"), *_gemini_options(body, "candidateCount", "candidate_count")]
    choices = max((count for value in values if (count := _parse_count(value)) is not None), default=1)
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    return min(choices, MAX_CHOICES) * min(prompts, MAX_PROMPTS)


def _gemini_options(body: Mapping[str, Any], *names: str) -> list[object]:
    """Return an option of a native Gemini request under each of its names. LiteLLM also reads ``config``."""
    configs = [found for key in ("generationConfig", "config") if isinstance(found := body.get(key), Mapping)]
    return [config.get(name) for config in configs for name in names]


def tokens_of(text: str) -> int:
    """Return an estimate of the tokens in a text."""
    if text.isascii():
        return -(-len(text) // BYTES_PER_TOKEN)
    return -(-len(text.encode("utf-8", "replace")) // _OTHER_BYTES_PER_TOKEN)


def user_texts(messages: object) -> list[str]:
    """Return the text of each user turn of a conversation, the oldest first. Tool results are left out."""
    if isinstance(messages, str):
        return [messages]
    turns = messages if isinstance(messages, list) else [messages]
    users = (turn for turn in turns if isinstance(turn, Mapping) and turn.get("role", _role_of(turn)) == "user")
    return [text for turn in users if (text := _text(turn.get("content") or turn.get("parts")))]


def _role_of(turn: Mapping[str, Any]) -> str | None:
    """Return the role of a turn that names none: Google reads such parts as the user's."""
    return "user" if "parts" in turn else None


def _parse_count(value: object) -> int | None:
    """Return a number that a client wrote as 5, 5.0, "5" or "5.0", at most MAX_TOKENS; None for anything else."""
    if isinstance(value, str) and len(value) < 20:
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return None
    return int(min(value, MAX_TOKENS)) or None


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return "\n".join(text for text in texts if isinstance(text, str))


def _capabilities(body: Mapping[str, Any], has_images: bool) -> frozenset[str]:
    found = {"tools": body.get("tools") or body.get("functions"), "vision": has_images, "json": _wants_json(body)}
    return frozenset(name for name, needed in found.items() if needed)


def _wants_json(body: Mapping[str, Any]) -> bool:
    if "application/json" in _gemini_options(body, "responseMimeType", "response_mime_type"):
        return True
    wanted = body.get("response_format")
    text = body.get("text")
    if not isinstance(wanted, Mapping) and isinstance(text, Mapping):
        wanted = text.get("format")
    return isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema")


@dataclass(frozen=True, slots=True)
class _Media:
    tokens: int
    image: bool = False


def _media(block: Mapping[str, Any]) -> _Media | None:
    """Return what an image, a file or audio counts for, in any dialect; None for a block of text."""
    kind = block.get("type")
    if kind in _IMAGES:
        return _Media(ASSUMED_IMAGE, True)
    if kind == "input_audio":
        return _Media(_decoded_size(_part(block, "input_audio").get("data")) // _AUDIO_BYTES)
    if kind in _FILES:
        return _file(block)
    inline = _part(block, "inlineData") or _part(block, "inline_data")
    if inline:
        return _inline(str(inline.get("mimeType") or inline.get("mime_type") or ""), inline.get("data"))
    return None


def _file(block: Mapping[str, Any]) -> _Media | None:
    source = _part(block, "source")
    if source.get("type") in ("text", "content"):
        return None  # Anthropic's plain documents are counted as text
    data = source.get("data") or _part(block, "file").get("file_data") or block.get("file_data")
    return _Media(max(ASSUMED_FILE, _decoded_size(data) // _FILE_BYTES))


def _inline(mime: str, data: object) -> _Media:
    kind = mime.partition("/")[0]
    if kind == "image":
        return _Media(ASSUMED_IMAGE, True)
    return _Media(_decoded_size(data) // {"audio": _AUDIO_BYTES, "video": _VIDEO_BYTES}.get(kind, _FILE_BYTES))


def _part(block: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = block.get(name)
    return value if isinstance(value, Mapping) else {}


def _decoded_size(data: object) -> int:
    """Return the number of bytes that a base64 text encodes."""
    return len(data) * 3 // 4 if isinstance(data, str) else 0


class _Counter:
    """Counts the tokens and images of JSON values. ``full``: it stopped after MAX_PARTS parts."""

    def __init__(self) -> None:
        self.tokens = 0
        self.images = 0
        self.full = False
        self._parts = 0

    def add(self, value: object) -> None:
        waiting: list[Iterator[object]] = [iter((value,))]
        while waiting:
            for item in waiting[-1]:
                self._parts += 1
                if self._parts > MAX_PARTS:
                    self.full = True
                    return
                inner = self._count(item)
                if inner is not None:
                    waiting.append(inner)
                    break
            else:
                waiting.pop()

    def _count(self, item: object) -> Iterator[object] | None:
        """Count a value, or return the values in it that have to be counted."""
        if isinstance(item, str):
            self.tokens += tokens_of(item)
        elif isinstance(item, int) and not isinstance(item, bool):
            self.tokens += 1  # the id of a token
        elif isinstance(item, list):
            if set(map(type, item)) != {int}:
                return iter(item)
            self.tokens += len(item)  # ids of tokens
        elif isinstance(item, Mapping):
            media = _media(item)
            if media is None:
                return iter(item.values())
            self.images += media.image
            self.tokens += media.tokens
        return None
