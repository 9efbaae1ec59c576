"""A provider that sends our key back in an error does not give it to a client."""

import asyncio
import gzip
import json

import pytest
from starlette.types import Message

from lmstack.gateway.app.own_keys import WithoutKeys
from lmstack.gateway.calls import fields

SECRET = "odd.shape.of.a.key"
TOLD = b'{"error": {"message": "you sent odd.shape.of.a.key"}}'
CLEAN = b'{"error": {"message": "you sent ***"}}'


def answer(status: int, *parts: bytes, length: int | None, encoding: bytes = b"") -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        shown = WithoutKeys(send)
        headers = [] if length is None else [(b"Content-Length", str(length).encode())]
        headers += [(b"content-encoding", encoding)] if encoding else []
        await shown({"type": "http.response.start", "status": status, "headers": headers})
        for part in parts[:-1]:
            await shown({"type": "http.response.body", "body": part, "more_body": True})
        await shown({"type": "http.response.body", "body": parts[-1]})

    asyncio.run(run())
    return sent


@pytest.fixture(autouse=True)
def own_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "_own_secrets", lambda: (SECRET,))


@pytest.mark.parametrize("parts", [(TOLD,), (TOLD[:30], TOLD[30:35], TOLD[35:]), (TOLD, b"")])
def test_an_error_comes_without_our_key_and_with_its_length(parts: tuple[bytes, ...]) -> None:
    start, body = answer(400, *parts, length=len(TOLD))
    assert (start["status"], body["body"]) == (400, CLEAN)
    assert start["headers"] == [(b"content-length", str(len(CLEAN)).encode())]


def test_an_error_that_litellm_has_compressed_comes_without_our_key_too() -> None:
    start, body = answer(400, gzip.compress(TOLD), length=77, encoding=b"gzip")
    assert (start["headers"], body["body"]) == ([(b"content-length", str(len(CLEAN)).encode())], CLEAN)
    other = gzip.compress(b"{}")
    assert answer(400, other, length=22, encoding=b"gzip")[1]["body"] == other


def test_an_error_within_a_stream_comes_without_our_key() -> None:
    sent = answer(200, b"data: 1\n\n", b"data: " + TOLD + b"\n\n", b"", length=None)
    assert [message.get("body") for message in sent[1:]] == [b"data: 1\n\n", b"data: " + CLEAN + b"\n\n", b""]


HUGE = gzip.compress(b'{"error": "' + TOLD * 20_000 + b'"}')


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (HUGE, b"gzip"),
        (gzip.compress(TOLD)[:-9], b"gzip"),
        (b"no gzip at all, but odd.shape.of.a.key", b"gzip"),
        (gzip.compress(TOLD) + b"odd.shape.of.a.key", b"gzip"),
        (gzip.compress(gzip.compress(TOLD)), b"gzip, gzip"),
        (TOLD, b"br"),
        (TOLD * 20_000, b""),
    ],
    ids=["a bomb", "cut off", "no gzip", "more behind it", "packed twice", "of another kind", "too large"],
)
def test_an_error_that_cannot_be_looked_through_is_replaced(body: bytes, encoding: bytes) -> None:
    start, sent = answer(429, body[:50], body[50:], length=len(body), encoding=encoding)
    error = json.loads(sent["body"])["error"]
    assert (start["status"], error["type"], error["code"]) == (429, "unreadable_error", "429")
    assert SECRET.encode() not in sent["body"]
    assert dict(start["headers"]) == {
        b"content-length": str(len(sent["body"])).encode(), b"content-type": b"application/json",
    }  # fmt: skip


EVENT = b"data: " + TOLD + b"\n\n"


@pytest.mark.parametrize("place", range(1, len(EVENT)))
def test_an_error_in_a_stream_may_be_cut_anywhere(place: int) -> None:
    more = b"data: odd.shape of something else\n\n"
    sent = answer(200, b"data: 1\n\n", EVENT[:place], EVENT[place:], more, length=None)
    assert b"".join(message["body"] for message in sent[1:]) == b"data: 1\n\ndata: " + CLEAN + b"\n\n" + more


def test_an_error_of_several_lines_may_be_cut_after_each_of_them() -> None:
    lines = json.dumps({"error": {"code": 400, "message": SECRET}}, indent=1).encode().splitlines(keepends=True)
    sent = answer(200, *lines, b"\n\n", length=None)
    assert SECRET.encode() not in b"".join(message["body"] for message in sent[1:])


def test_what_may_be_a_key_waits_only_within_an_error() -> None:
    sent = answer(200, b"odd.shape", b" of", b'\n"error": odd.s', b"hort odd.shape.of", length=None)
    assert [m["body"] for m in sent[1:]] == [b"odd.shape", b" of", b'\n"error": ', b"odd.short odd.shape.of"]


def test_what_has_no_key_passes_unchanged() -> None:
    other = b'{"error": {"message": "Send Bearer sk-0123456789 \xff"}}'
    assert answer(404, other, length=7)[0]["headers"] == [(b"Content-Length", b"7")]
    assert answer(404, other, length=7)[1]["body"] == other
    assert answer(200, TOLD, length=len(TOLD))[1]["body"] == TOLD, "an answer is the provider's own text"
