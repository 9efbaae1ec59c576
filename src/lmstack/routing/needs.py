"""What a request needs of a model: capabilities, room for its tokens. Reads chat, Messages and Responses bodies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Tokens assumed for an answer when the request sets no limit, and for each image.
ASSUMED_OUTPUT = 1000
ASSUMED_IMAGE = 1000
_TEXTS = ("messages", "input", "prompt", "system", "instructions", "tools", "functions")
_IMAGES = ("image_url", "image", "input_image")
# A token is about 4 bytes of English or code, and 3 bytes of other scripts (bench/routing measures it).
BYTES_PER_TOKEN, _OTHER_BYTES_PER_TOKEN = 4, 3


@dataclass(frozen=True, slots=True)
class Needs:
    """``can``: capabilities it asks for; tokens: an estimate; ``capped``: the request itself limits its answer."""

    can: frozenset[str]
    tokens_in: int
    tokens_out: int
    capped: bool


def needs_of(body: Mapping[str, Any]) -> Needs:
    """Look through a request body once. Time grows with the number of blocks, not with their length."""
    counted = _Count()
    for name in _TEXTS:
        counted.add(body.get(name))
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens")
    tokens_out = limit if isinstance(limit, int) and limit > 0 else None
    can = set()
    if body.get("tools") or body.get("functions"):
        can.add("tools")
    if counted.images:
        can.add("vision")
    if _wants_json(body):
        can.add("json")
    return Needs(frozenset(can), counted.tokens, tokens_out or ASSUMED_OUTPUT, tokens_out is not None)


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
                    if item.get("type") in _IMAGES:
                        self.images += 1
                        self.tokens += ASSUMED_IMAGE
                    else:
                        waiting.append(iter(item.values()))
                        break
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
