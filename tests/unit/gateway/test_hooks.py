"""Requests that are torn down where LiteLLM calls no hook: their rows must end all the same."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmstack.gateway import worker
from lmstack.gateway.app import middleware
from lmstack.gateway.calls import hooks
from lmstack.gateway.calls.streams import StreamUsage
from lmstack.ledger import queries
from support import wait_for


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "litellm.db"
    mine = worker.Worker(path, None)
    monkeypatch.setattr(worker, "get", lambda: mine)
    yield path
    mine.close()


def body(**more: object) -> dict[str, Any]:
    said = [{"role": "user", "content": "Hello!"}]
    return {"model": "m", "messages": said, "litellm_call_id": "c", "litellm_logging_obj": SimpleNamespace(), **more}


def row(ledger: Path) -> dict[str, Any]:
    (found,) = wait_for(lambda: [r for r in queries.ask(ledger, "requests", {}) if r["status"] != "started"])
    return found


async def unanswered(begun: asyncio.Event) -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        await hooks.handler.async_pre_call_hook(None, None, body(), "acompletion")
        begun.set()
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [(b"x-task-id", b"t")]}
    await middleware.GatewayMiddleware(app)(scope, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["cancelled", "dropped"])
def test_a_request_that_no_hook_ends_is_ended_when_it_is_over(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(middleware, "ABANDONED_SECONDS", 0.01)
    loop, begun = asyncio.new_event_loop(), asyncio.Event()
    coroutine = unanswered(begun)
    request = loop.create_task(coroutine)
    loop.run_until_complete(begun.wait())
    if how == "cancelled":
        request.cancel()
        loop.run_until_complete(asyncio.wait([request]))
        loop.run_until_complete(asyncio.to_thread(row, ledger))
    loop.close()
    coroutine.close()  # as Python does with what the server has dropped
    found = row(ledger)
    assert (found["status"], found["error_type"]) == ("interrupted", "Abandoned")
    assert (found["endpoint"], found["call_id"]) == ("/v1/chat/completions", "c")


def test_a_client_that_leaves_while_the_usage_of_its_stream_is_awaited(ledger: Path) -> None:
    data = body(stream=True)
    all_said = asyncio.Event()

    async def chunks() -> AsyncIterator[object]:
        yield SimpleNamespace()
        all_said.set()

    async def read() -> None:
        await hooks.handler.async_pre_call_hook(None, None, data, "acompletion")
        async for _ in hooks.handler.async_post_call_streaming_iterator_hook(None, chunks(), data):
            pass

    async def serve() -> None:
        reading = asyncio.create_task(read())
        await all_said.wait()
        reading.cancel()
        await asyncio.wait([reading])

    asyncio.run(serve())
    found = row(ledger)
    assert (found["status"], found["error_type"]) == ("interrupted", "ClientDisconnected")


@pytest.mark.parametrize(
    ("chunks", "characters"),
    [
        ([b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"a \\"b\\" c"}}\n\n'], 7),
        ([b'data: {"delta": {"partial_json": "{"}}\n\ndata: {"delta": {"thinking": "so"}}\n\n'], 3),
        (
            [SimpleNamespace(type="response.output_text.delta", delta="abc"), SimpleNamespace(type="response.created")],
            3,
        ),
    ],
)
def test_what_came_of_an_answer_is_measured_while_it_passes(chunks: list[object], characters: int) -> None:
    seen = StreamUsage()
    for chunk in chunks:
        seen.read(chunk)
    assert seen.characters(None) == characters


def test_what_came_of_a_chat_answer_includes_reasoning_and_calls() -> None:
    function = SimpleNamespace(name="look", arguments='{"a":1}')
    deltas = [
        SimpleNamespace(content="hello", reasoning_content="hm"),
        SimpleNamespace(content=None, tool_calls=[SimpleNamespace(function=function)]),
    ]
    chunks = [SimpleNamespace(choices=[SimpleNamespace(delta=delta)]) for delta in deltas]
    assert StreamUsage().characters(SimpleNamespace(chunks=chunks)) == len("hellohmlook") + len('{"a":1}')
