"""What a request needs of a model: capabilities, room for its tokens. Reads chat, Messages and Responses bodies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
MAX_ITEMS = 50_000
_TEXTS = (
    "messages", "input", "prompt", "system", "instructions", "tools", "functions", "contents", "systemInstruction", "system_instruction",
    "query", "documents",
)  # fmt: skip
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
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
    config = body.get("generationConfig")
    told = [body.get(name) for name in _LIMITS] + [
        config.get("maxOutputTokens") if isinstance(config, Mapping) else None
    ]
    return max((count for value in told if (count := _count(value)) is not None), default=None)


def choices_of(body: Mapping[str, Any]) -> int:
    """How many answers are asked for; each is paid for."""
    asked = max((n for name in ("n", "best_of") if (n := _count(body.get(name))) is not None), default=1)
    return min(asked, MAX_CHOICES)


def _count(value: object) -> int | None:
    """A number of tokens as clients write it, 5, 5.0 or "5"; never more than MAX_TOKENS. None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return None
    return int(min(value, MAX_TOKENS)) or None


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
        self.items = 0

    def add(self, value: object) -> None:
        waiting: list[Iterator[object]] = [iter((value,))]
        while waiting:
            for item in waiting[-1]:
                self.items += 1
                if self.items > MAX_ITEMS:
                    return  # so many pieces are no prompt; to look at all of them would hold the event loop
                if isinstance(item, str):
                    self.tokens += tokens_of(item)
                elif isinstance(item, int) and not isinstance(item, bool):
                    self.tokens += 1  # the id of a token
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
