"""A realtime session without a proxy: its tokens, its price, and what a client may send."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from lmstack.gateway.app.bodies import InFlight, RefusedError
from lmstack.gateway.app.credentials import subprotocol_key, without_key
from lmstack.gateway.app.handshake import Bounded, check_model, with_bearer
from lmstack.gateway.app.stored_ids import check as check_id
from lmstack.gateway.calls.realtime import RealtimeSession, asks_beside, tokens_of
from lmstack.ledger.records import Usage
from lmstack.routing.realtime import cost_by_map, longest_response

ENTRY = {
    "input_cost_per_token": 4e-6, "input_cost_per_audio_token": 32e-6, "cache_read_input_token_cost": 0.4e-6,
    "output_cost_per_token": 16e-6, "output_cost_per_audio_token": 64e-6, "max_input_tokens": 1000, "max_output_tokens": 100,
}  # fmt: skip


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({}, {}),
        ({"input_tokens": 5, "output_tokens": 7}, {"unknown_in": 5, "unknown_out": 7}),
        ({"input_tokens": -5, "output_tokens": "x", "input_token_details": [1]}, {}),
        (
            {"input_tokens": 9, "input_token_details": {"text_tokens": 4, "audio_tokens": 5, "cached_tokens": 6}},
            {"cached_text": 4, "cached_audio": 2, "audio_in": 3},
        ),
        (
            {"input_tokens": 9, "input_token_details": {"text_tokens": 4, "audio_tokens": 5, "cached_tokens": 3,
             "cached_tokens_details": {"text_tokens": 1, "audio_tokens": 2}}},
            {"text_in": 3, "cached_text": 1, "audio_in": 3, "cached_audio": 2},
        ),
        ({"output_tokens": 9, "output_token_details": {"text_tokens": 4, "audio_tokens": 5}}, {"text_out": 4, "audio_out": 5}),
    ],
)  # fmt: skip
def test_each_token_is_counted_once_and_by_its_kind(usage: dict[str, Any], tokens: dict[str, int]) -> None:
    assert tokens_of(usage) == tokens


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [
        ({}, 0.0),
        ({"text_in": 10, "cached_text": 10, "audio_out": 10}, 10 * 4e-6 + 10 * 0.4e-6 + 10 * 64e-6),
        ({"cached_audio": 10}, 10 * 32e-6),  # no price for cached audio: no discount
        ({"unknown_in": 10, "unknown_out": 1}, 10 * 32e-6 + 64e-6),
        ({"text_in": 10, "image_in": 1}, None),
        ({"seconds": 3}, None),
    ],
)
def test_the_price_map_prices_each_kind_or_the_cost_is_unknown(tokens: dict[str, int], cost: float | None) -> None:
    found = cost_by_map(Counter(tokens), ENTRY)
    assert found == (None if cost is None else pytest.approx(cost))


def test_what_a_session_reserves_needs_prices_of_text_and_audio() -> None:
    assert longest_response(ENTRY) == pytest.approx(1000 * 32e-6 + 100 * 64e-6)
    assert longest_response({k: v for k, v in ENTRY.items() if k != "output_cost_per_audio_token"}) is None
    assert longest_response({"input_cost_per_second": 0.001}) is None


@pytest.mark.parametrize(
    "text", ["", "{", '"response.done"', '{"type": "response.done", "response": 5}' * 2, "[" * 5000 + '"response.done"']
)
def test_a_message_that_cannot_be_read_tells_nothing(text: str) -> None:
    session = RealtimeSession()
    assert session.read(text) is False
    assert (session.done, session.usage) == (0, Usage())


def test_a_session_sums_its_responses() -> None:
    session = RealtimeSession()
    for event in (
        {"type": "session.created", "session": {}},
        {"type": "response.created"},
        {"type": "response.done", "response": {"usage": {"input_tokens": 3, "output_tokens": 2}}},
        {"type": "response.created"},
    ):
        session.read(json.dumps(event))
    assert (session.opened, session.running, session.usage) == (True, 1, Usage(3, 2, 0, None))
    assert session.has_unknown_kinds
    assert not session.unmetered


@pytest.mark.parametrize("kind", ["session", "transcription_session"])
def test_a_session_that_only_transcribes_is_open_and_each_transcription_counts_against_a_budget(kind: str) -> None:
    session = RealtimeSession()
    session.read(
        json.dumps({"type": f"{kind}.created", "session": {"input_audio_transcription": {"model": "whisper-1"}}})
    )
    done = {
        "type": "conversation.item.input_audio_transcription.completed",
        "usage": {"type": "duration", "seconds": 30},
    }
    assert session.opened
    assert session.read(json.dumps(done)) is True
    assert session.transcribed == {"whisper-1": {"seconds": 30}}


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"output_tokens": 2},
        {"input_tokens": -3, "output_tokens": 2},
        {"input_tokens": "x", "output_tokens": 2},
    ],
)
def test_a_response_whose_tokens_cannot_be_counted_makes_the_cost_unknown(usage: dict[str, Any] | None) -> None:
    session = RealtimeSession()
    session.read(json.dumps({"type": "response.done", "response": {"status": "completed", "usage": usage}}))
    assert session.unmetered


WHISPER = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"


@pytest.mark.parametrize(
    ("usage", "unmetered"),
    [({"type": "duration", "seconds": 1.2}, False), ({"input_tokens": 5, "output_tokens": 2}, False), ({}, True), (None, True)],
)  # fmt: skip
def test_a_transcription_costs_also_without_a_response_and_is_unmetered_without_its_usage(
    usage: dict[str, Any] | None, unmetered: bool
) -> None:
    session = RealtimeSession()
    assert session.read(json.dumps({"type": "session.created", "session": WHISPER})) is False
    assert session.read(json.dumps({"type": TRANSCRIBED, "usage": usage})) is True
    assert (session.unmetered, bool(session.transcribed)) == (unmetered, not unmetered)


@pytest.mark.parametrize(
    ("text", "beside"),
    [
        ('{"type": "response.create", "response": {"conversation": "none"}}', True),
        ('{"type": "response.create", "response": {"conversation": "n\\u006fne"}}', True),
        ('{"type": "response.create", "response": {"conversation": "none"}, "response": {}}', True),
        ('{"type": "response.create", "response": {"conversation": "auto"}}', False),
        ('{"type": "session.update", "session": {"tool_choice": "none"}}', False),
        ('{"type": "response.create", "response": {"input": "the conversation: \\"none\\""}}', False),
        ('{"response": {"c\\u006Fnversation"\n:\t"none"}}', True),
        (
            '{"response": {"instructions": "\\\\u0063onversation\\": \\"none\\"", "x": "\\u0022conversation\\u0022: \\u0022none\\u0022"}}',
            False,
        ),
        ('{"conversation": "\\\\u006eone"}', False),
        ('{"conversation": "none"', True),  # no JSON: the provider would refuse it anyway
        ("[" * 9000 + '"none"', False),
    ],
)
def test_a_response_beside_the_conversation_is_found_without_parsing_the_message(
    monkeypatch: pytest.MonkeyPatch, text: str, beside: bool
) -> None:
    monkeypatch.setattr(json, "loads", None)
    assert asks_beside(text) is beside


@given(
    st.recursive(
        st.sampled_from(["none", "auto", '"none"', "n\\u006fne", "é", '"conversation": "none"', None, 1]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["conversation", '"conversation"', "x\\"]), inner, max_size=3)
        ),
    ),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_a_response_beside_the_conversation_is_found_as_a_parser_finds_it(
    made: Any, plain: bool, indent: int | None
) -> None:
    def has(value: Any) -> bool:
        if isinstance(value, dict):
            return value.get("conversation") == "none" or any(map(has, value.values()))
        return isinstance(value, list) and any(map(has, value))

    assert asks_beside(json.dumps(made, ensure_ascii=plain, indent=indent)) is has(made)


class Line:
    """A client's side of a WebSocket: its messages, one after the other, and what it was sent."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.sent = list(texts), []  # type: ignore[var-annotated]

    async def receive(self) -> Message:
        return {"type": "websocket.receive", "text": self.texts.pop(0)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def test_the_messages_of_all_sessions_have_a_bound_together() -> None:
    memory = InFlight(10)
    first, second = Line("äbcde", "xy"), Line("12345")  # six bytes, and five
    one, two = (Bounded(line.receive, line.send, 100, memory) for line in (first, second))

    async def run() -> None:
        assert (await one.receive())["text"] == "äbcde"
        assert memory.held == 6
        assert (await two.receive())["type"] == "websocket.disconnect"
        assert [m["code"] for m in second.sent] == [1013]
        assert memory.held == 6
        assert (await one.receive())["text"] == "xy"
        assert memory.held == 2, "the app has asked for the next one"

    asyncio.run(run())
    one.let_go()
    assert memory.held == 0


def test_a_message_is_measured_in_bytes() -> None:
    line = Line("ä" * 6)
    assert asyncio.run(Bounded(line.receive, line.send, 10).receive())["type"] == "websocket.disconnect"
    assert [m["code"] for m in line.sent] == [1009]


def test_a_model_that_transcribes_by_itself_counts_it_in_its_responses() -> None:
    session = RealtimeSession()
    session.read(json.dumps({"type": "session.created", "session": {}}))
    session.read(json.dumps({"type": TRANSCRIBED, "transcript": "hello"}))
    assert not session.unmetered


def test_transcriptions_by_more_models_than_are_counted_make_the_cost_unknown() -> None:
    session = RealtimeSession()
    for number in range(12):
        named = {"audio": {"input": {"transcription": {"model": f"m{number}"}}}}
        session.read(json.dumps({"type": "session.updated", "session": named}))
        session.read(json.dumps({"type": TRANSCRIBED, "usage": {"input_tokens": 5}}))
    assert (len(session.transcribed), session.unmetered) == (10, True)


def test_a_key_in_a_subprotocol_is_found_and_taken_out() -> None:
    offered = b"openai-insecure-api-key.sk-1, realtime"
    assert subprotocol_key({b"sec-websocket-protocol": offered}) == "sk-1"
    assert without_key(offered) == b"realtime"
    given = [(b"x-api-key", b"old"), (b"sec-websocket-protocol", b"openai-insecure-api-key.sk-1"), (b"host", b"h")]
    assert with_bearer(given, "sk-1") == [(b"host", b"h"), (b"authorization", b"Bearer sk-1")]


@pytest.mark.parametrize(
    "query", [b"model=a&model=b", b"model=a%22", b"model=a%5C", b"model=a%0A", b"model=" + b"a" * 201]
)
def test_a_name_that_is_not_one_plain_text_is_refused(query: bytes) -> None:
    with pytest.raises(RefusedError):
        check_model(query)


def test_a_close_reaches_the_client_while_a_receive_waits() -> None:
    """Granian sends no close before the waiting receive has ended."""

    async def run() -> tuple[Message, list[Message], bool]:
        sent: list[Message] = []
        waits = asyncio.Event()
        ended = False

        async def receive() -> Message:
            nonlocal ended
            try:
                waits.set()
                await asyncio.Event().wait()
            finally:
                ended = True
            raise AssertionError

        async def send(message: Message) -> None:
            assert ended, "the close came while a receive was waiting"
            asyncio.get_running_loop().call_soon(slow.set)
            await slow.wait()
            assert not reader.done(), "the app heard of the close before the client"
            sent.append(message)

        link = Bounded(receive, send, 10)
        slow = asyncio.Event()
        reader = asyncio.ensure_future(link.receive())
        await waits.wait()
        await link.send({"type": "websocket.close", "code": 1011})
        await link.send({"type": "websocket.send", "text": "late"})
        return await reader, sent, reader.cancelled()

    message, sent, cancelled = asyncio.run(run())
    assert (message["type"], len(sent), cancelled) == ("websocket.disconnect", 1, False)


@pytest.mark.parametrize(
    "path", ["/v1/files/file-abc", "/files/zz/content", "/v1/batches/batch_bGl0ZQ", "/v1/models/litellm"]
)
def test_a_providers_own_id_passes(path: str) -> None:
    check_id(path)
