"""Errors of native Gemini calls have the fields that Google's SDKs read."""

import asyncio
import gzip
import json

import pytest
from starlette.types import Message

from lmstack.gateway.app.gemini_errors import GeminiErrors


def answer(status: int, *parts: bytes) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        shown = GeminiErrors(send)
        headers = [(b"Content-Length", b"1"), (b"x-lm-model", b"m")]
        await shown({"type": "http.response.start", "status": status, "headers": headers})
        for number, part in enumerate(parts, 1):
            await shown({"type": "http.response.body", "body": part, "more_body": number < len(parts)})

    asyncio.run(run())
    return sent


@pytest.mark.parametrize(
    ("status", "name"),
    [(400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (404, "NOT_FOUND"), (422, "INVALID_ARGUMENT"), (429, "RESOURCE_EXHAUSTED"),
     (500, "INTERNAL"), (502, "UNAVAILABLE"), (503, "UNAVAILABLE"), (599, "INTERNAL")],
)  # fmt: skip
def test_an_error_has_a_whole_number_and_a_status(status: int, name: str) -> None:
    start, body = answer(status, b'{"error": {"message": "m", "type": "t", "code": "400"}}')
    error = json.loads(body["body"])["error"]
    assert error == {"message": "m", "type": "t", "code": status, "status": name}
    assert dict(start["headers"]) == {b"x-lm-model": b"m", b"content-length": str(len(body["body"])).encode()}


@pytest.mark.parametrize(
    "body", [b"", b"no JSON", b"[]", b"5", b'{"error": "text"}', b'{"detail": "x"}', b"[" * 5000, gzip.compress(b"{}", mtime=0)]
)
def test_what_is_no_such_error_passes_unchanged(body: bytes) -> None:
    start, sent = answer(400, body)
    assert (start["headers"][0], sent["body"]) == ((b"Content-Length", b"1"), body)


def test_an_answer_passes_part_by_part() -> None:
    sent = answer(200, b'{"error": {}}', b"2")
    assert [message.get("body") for message in sent] == [None, b'{"error": {}}', b"2"]
