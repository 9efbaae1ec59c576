"""A provider that sends our key back in an error does not give it to a client."""

import asyncio
import gzip

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


def test_what_has_no_key_passes_unchanged() -> None:
    other = b'{"error": {"message": "Send Bearer sk-0123456789 \xff"}}'
    assert answer(404, other, length=7)[0]["headers"] == [(b"Content-Length", b"7")]
    assert answer(404, other, length=7)[1]["body"] == other
    assert answer(200, TOLD, length=len(TOLD))[1]["body"] == TOLD, "an answer is the provider's own text"
