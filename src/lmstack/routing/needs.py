"""What a request needs of a model: capabilities, room for its tokens. Reads chat, Messages and Responses bodies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

# Tokens assumed for an answer when the request sets no limit, for each image (OpenAI: 85 to 1,445; Anthropic: up to 1,600),
# and for a file that is only named.
ASSUMED_OUTPUT = 1000
ASSUMED_IMAGE = 1000
ASSUMED_FILE = 2000
# Bytes of a file to a token. A page of a PDF has about 80 kB and 2,000 tokens (Anthropic: 1,500 to 3,000). A second of
# audio has about 16 kB and 32 tokens (Google; OpenAI: 10), one of video about 250 kB and 263 tokens (Google).
_FILE_BYTES, _AUDIO_BYTES, _VIDEO_BYTES = 40, 500, 1000
# No model takes or gives more; a larger number in a request is its client's, and no number of tokens.
MAX_TOKENS = 100_000_000
MAX_CHOICES = 128
_TEXTS = (
    "messages", "input", "prompt", "system", "instructions", "tools", "functions", "contents", "systemInstruction", "system_instruction",
)  # fmt: skip
_IMAGES = ("image_url", "image", "input_image")
_FILES = ("file", "input_file", "document")
# A token is about 4 bytes of English or code, and 3 bytes of other scripts (bench/routing measures it).
BYTES_PER_TOKEN, _OTHER_BYTES_PER_TOKEN = 4, 3


@dataclass(frozen=True, slots=True)
class Needs:
    """``can``: capabilities it asks for; tokens: an estimate; ``capped``: the request itself limits its answer;
    ``choices``: how many answers it asks for, of ``tokens_out`` each."""

    can: frozenset[str]
    tokens_in: int
    tokens_out: int
    capped: bool
    choices: int = 1

    @property
    def paid_out(self) -> int:
        """The tokens of all answers together."""
        return self.tokens_out * self.choices


def needs_of(body: Mapping[str, Any]) -> Needs:
    """Look through a request body once. Time grows with the number of blocks, not with their length."""
    counted = _Count()
    for name in _TEXTS:
        counted.add(body.get(name))
    tokens_out = output_limit(body)
    can = set()
    if body.get("tools") or body.get("functions"):
        can.add("tools")
    if counted.images:
        can.add("vision")
    if _wants_json(body):
        can.add("json")
    return Needs(frozenset(can), counted.tokens, tokens_out or ASSUMED_OUTPUT, tokens_out is not None, choices_of(body))


def output_limit(body: Mapping[str, Any]) -> int | None:
    """The most tokens of an answer that the request itself allows, None when it sets no limit."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens")
    return min(limit, MAX_TOKENS) if _is_count(limit) else None


def choices_of(body: Mapping[str, Any]) -> int:
    """How many answers are asked for; each is paid for."""
    asked = max((n for name in ("n", "best_of") if _is_count(n := body.get(name))), default=1)
    return min(asked, MAX_CHOICES)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def tokens_of(text: str) -> int:
    """An estimate of how many tokens a text has."""
    if text.isascii():
        return -(-len(text) // BYTES_PER_TOKEN)
    return -(-len(text.encode("utf-8", "replace")) // _OTHER_BYTES_PER_TOKEN)


def user_texts(messages: object) -> list[str]:
    """The text of each user turn of a conversation, oldest first; tool results are not the user's words."""
    if isinstance(messages, str):
        return [messages]
    turns = messages if isinstance(messages, list) else []
    found = (_text(turn.get("content")) for turn in turns if isinstance(turn, Mapping) and turn.get("role") == "user")
    return [text for text in found if text]


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return "\n".join(text for text in texts if isinstance(text, str))


@dataclass(frozen=True, slots=True)
class _Media:
    tokens: int
    image: bool = False


def _media(block: Mapping[str, Any]) -> _Media | None:
    """What a block of content that is no text counts for, in any dialect; None for everything else."""
    kind = block.get("type")
    if kind in _IMAGES:
        return _Media(ASSUMED_IMAGE, True)
    if kind == "input_audio":
        return _Media(_size(_part(block, "input_audio").get("data")) // _AUDIO_BYTES)
    if kind in _FILES:
        return _file(block)
    inline = _part(block, "inlineData") or _part(block, "inline_data")
    if inline:
        return _inline(str(inline.get("mimeType") or inline.get("mime_type") or ""), inline.get("data"))
    return None


def _file(block: Mapping[str, Any]) -> _Media | None:
    source = _part(block, "source")
    if source.get("type") in ("text", "content"):
        return None  # Anthropic's plain documents are read as text
    data = source.get("data") or _part(block, "file").get("file_data") or block.get("file_data")
    return _Media(max(ASSUMED_FILE, _size(data) // _FILE_BYTES))


def _inline(mime: str, data: object) -> _Media:
    kind = mime.partition("/")[0]
    if kind == "image":
        return _Media(ASSUMED_IMAGE, True)
    return _Media(_size(data) // {"audio": _AUDIO_BYTES, "video": _VIDEO_BYTES}.get(kind, _FILE_BYTES))


def _part(block: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = block.get(name)
    return value if isinstance(value, Mapping) else {}


def _size(data: object) -> int:
    """The bytes behind base64."""
    return len(data) * 3 // 4 if isinstance(data, str) else 0


class _Count:
    def __init__(self) -> None:
        self.tokens = 0
        self.images = 0

    def add(self, value: object) -> None:
        waiting: list[Iterator[object]] = [iter((value,))]
        while waiting:
            for item in waiting[-1]:
                if isinstance(item, str):
                    self.tokens += tokens_of(item)
                elif isinstance(item, Mapping):
                    media = _media(item)
                    if media is None:
                        waiting.append(iter(item.values()))
                        break
                    self.images += media.image
                    self.tokens += media.tokens
                elif isinstance(item, list):
                    waiting.append(iter(item))
                    break
            else:
                waiting.pop()


def _wants_json(body: Mapping[str, Any]) -> bool:
    wanted = body.get("response_format")
    text = body.get("text")
    if not isinstance(wanted, Mapping) and isinstance(text, Mapping):
        wanted = text.get("format")
    return isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema")
