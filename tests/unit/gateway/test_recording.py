"""The row of a call that LiteLLM makes without our hooks, by the status of its answer."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from lmstack.gateway.app import recording
from lmstack.gateway.calls.current import RequestContext
from lmstack.ledger.records import Ended


class Worker:
    """Takes records in place of the ledger's writer."""

    def __init__(self) -> None:
        self.ends: list[Ended] = []

    async def write(self, record: object) -> Any:
        self.post(record)
        return SimpleNamespace(durable=True)

    def post(self, record: object) -> None:
        if isinstance(record, Ended):
            self.ends.append(record)


@pytest.mark.parametrize(
    ("status", "row"),
    [
        (200, ("succeeded", 0.0, None)),
        (404, ("failed", None, "404")),
        (None, ("interrupted", None, None)),
    ],
)
def test_the_status_of_the_answer_is_the_end_of_the_row(
    monkeypatch: pytest.MonkeyPatch, status: int | None, row: tuple[str, float | None, str | None]
) -> None:
    taker = Worker()
    monkeypatch.setattr(recording.worker, "get", lambda: taker)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if status is not None:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        return None

    context = RequestContext({}, "/v1/messages/count_tokens")
    asyncio.run(recording.record(app, {"type": "http"}, receive, send, context, b'{"model": "m"}'))
    (end,) = taker.ends
    assert (end.status, end.cost_usd, end.fault and end.fault.code) == row


def test_the_model_in_a_path_counts_and_not_the_one_in_the_body() -> None:
    """LiteLLM asks the model in the path, so a key must be allowed to use that one."""
    call = recording._call(RequestContext({}, "/v1beta/models/big:countTokens"), b'{"model": "small"}')
    assert call.requested_model == "big"
