"""A stream's usage is the same wherever its bytes are cut, and nothing in it raises."""

import json
from types import SimpleNamespace

import pytest
from litellm.types.utils import Delta, ModelResponseStream, StreamingChoices
from litellm.types.utils import Usage as Usage_

from lmstack.gateway.calls import error_text
from lmstack.gateway.calls.streams import StreamUsage, is_usage_only
from lmstack.gateway.calls.usage import usage_of
from lmstack.ledger.records import Usage

MESSAGES = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 11, "output_tokens": 1}}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": 'ü says "message_stop"'}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
    {"type": "message_stop"},
]
GEMINI = [
    {"candidates": [{"content": {"parts": [{"text": "Hü"}]}}], "usageMetadata": {"promptTokenCount": 5}},
    {
        "candidates": [{"content": {"parts": [{"text": "llo"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "cachedContentTokenCount": 1},
    },
]  # fmt: skip


def read(*chunks: bytes) -> tuple[Usage, bool, bool, int]:
    seen = StreamUsage()
    for chunk in chunks:
        seen.read(chunk)
    return usage_of(seen.usage), seen.is_complete(None), seen.final, seen.characters(None)


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(
    ("events", "usage"), [(MESSAGES, Usage(11, 7)), (GEMINI, Usage(5, 5, 1, 2))], ids=["messages", "gemini"]
)
def test_every_split_of_a_stream_tells_the_same(events: list[dict[str, object]], usage: Usage, end: str) -> None:
    raw = "".join(f"data: {json.dumps(e, ensure_ascii=False)}{end}{end}" for e in events).encode()
    whole = read(raw)
    assert whole[:3] == (usage, True, True)
    assert read(*(raw[i : i + 1] for i in range(len(raw)))) == whole
    for cut in range(len(raw)):
        assert read(raw[:cut], raw[cut:]) == whole


def test_a_stream_without_anything_is_not_complete_and_has_no_content() -> None:
    seen = StreamUsage()
    seen.finish()
    assert (seen.is_complete(None), seen.has_content(None)) == (False, False)
    seen.read(SimpleNamespace())
    assert (seen.is_complete(None), seen.has_content(None)) == (True, True)


def test_the_name_of_the_closing_event_within_the_answer_closes_nothing() -> None:
    assert read(f"data: {json.dumps(MESSAGES[1])}\n\n".encode())[1] is False


@pytest.mark.parametrize(
    "chunk", [b'data: {"message":"x","of":"usage"}\n\n', b"data: [\"usage\"]\n\n", b"\xff\n\n", SimpleNamespace(_hidden_params=3, usage=1)]
)  # fmt: skip
def test_an_odd_event_never_raises(chunk: object) -> None:
    StreamUsage().read(chunk)


@pytest.mark.parametrize("count", [-1, 10**15, float("nan"), float("inf")])
def test_a_count_that_none_can_be_is_unknown(count: float) -> None:
    assert usage_of({"prompt_tokens": count}).prompt is None


def test_an_error_does_not_repeat_the_last_turn_after_a_long_system_prompt() -> None:
    turn = "my very own secret question of today"
    request = {"messages": [{"content": "a system prompt " * 2000}, {"content": turn}], "tools": [{"x": "y " * 9999}]}
    assert turn not in error_text.message_of(f"bad: {turn}!", request)


def chunk(usage: object = None, finish_reason: str | None = None, **delta: object) -> ModelResponseStream:
    choice = StreamingChoices(finish_reason=finish_reason, delta=Delta(**delta))
    return ModelResponseStream(choices=[choice], usage=usage)


def test_only_a_chunk_without_any_of_the_answer_holds_nothing_but_usage() -> None:
    spent = Usage_(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    assert is_usage_only(chunk(spent))
    assert is_usage_only(SimpleNamespace(usage=spent, choices=[]))
    assert not is_usage_only(chunk(spent, content="hi"))
    assert not is_usage_only(chunk(spent, finish_reason="stop"))
    assert not is_usage_only(SimpleNamespace(usage=spent, choices=[SimpleNamespace(text="hi")]))
    assert not is_usage_only(chunk())
    assert not is_usage_only(b"data: {}\n\n")
