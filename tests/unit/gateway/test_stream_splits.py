"""Recorded streams of each dialect, cut everywhere, through the real hook: the client's bytes and the row are the same."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmstack.gateway import worker
from lmstack.gateway.calls import hooks, outcome
from lmstack.gateway.calls.streams import StreamUsage
from lmstack.gateway.calls.usage import usage_of
from lmstack.gateway.results import Results
from lmstack.ledger.records import Attempt, Attribution, Call, Ended, Fault, Usage, Verdict
from support import ROOT

STREAMS = sorted((ROOT / "tests" / "data" / "streams").glob("*.sse"))


class Recorder:
    """In the place of this worker: keeps what would be written."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []
        self.results = Results()

    async def write(self, record: Ended) -> Verdict:
        self.post(record)
        return Verdict(True)

    def post(self, record: Ended) -> None:
        self.ended.append(record)


def a_call() -> Call:
    call = Call("r", "c", None, 0.0, "/", True, "m", Attribution())
    call.attempts.append(Attempt("m", "m", "p", "p/m", 1, (1.0, 5.0), True, 0.0, sent=True))
    return call


def through_the_hook(recorder: Recorder, chunks: list[bytes]) -> tuple[bytes, tuple[Any, ...]]:
    """What the client gets, and what the row says."""
    call = a_call()
    data: dict[str, Any] = {"litellm_logging_obj": SimpleNamespace(lm_call=call), "messages": []}

    async def provider() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def client() -> list[bytes]:
        return [chunk async for chunk in hooks.handler.async_post_call_streaming_iterator_hook(None, provider(), data)]

    got = asyncio.run(client())
    end = recorder.ended.pop()
    assert got == chunks, "each chunk is handed on as it came"
    return b"".join(got), (end.status, end.usage, end.cost_usd, end.cost_estimated)


@pytest.mark.parametrize("path", STREAMS, ids=lambda p: p.stem)
@pytest.mark.parametrize("crlf", [False, True], ids=["lf", "crlf"])
def test_every_split_of_a_recorded_stream_gives_the_same_row(
    path: Path, crlf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(worker, "get", lambda: recorder)
    raw = path.read_bytes()
    raw = raw.replace(b"\n", b"\r\n") if crlf else raw
    whole = through_the_hook(recorder, [raw])
    status, usage, cost, estimated = whole[1]
    assert (status, estimated) == ("succeeded", False)
    assert usage.completion
    assert cost
    assert through_the_hook(recorder, [raw[i : i + 1] for i in range(len(raw))]) == whole
    for cut in range(0, len(raw), 1 if len(raw) < 2000 else 3):
        assert through_the_hook(recorder, [raw[:cut], raw[cut:]]) == whole, cut


@pytest.mark.parametrize("path", STREAMS, ids=lambda p: p.stem)
def test_a_stream_that_is_cut_off_is_no_success(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(worker, "get", lambda: recorder)
    raw = path.read_bytes()
    _, (status, *_) = through_the_hook(recorder, [raw[: len(raw) // 2]])
    assert status == "interrupted"


FAULT = Fault("E", None, "m")


@pytest.mark.parametrize(
    ("usage", "final", "begun", "content", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 4}, True, True, True, ("interrupted", Usage(10, 4), 30e-6, False)),
        ({"prompt_tokens": 10, "completion_tokens": 1}, False, True, True, ("interrupted", Usage(10), 60e-6, True)),
        (None, False, True, True, ("interrupted", Usage(), 150e-6, True)),
        (None, False, False, True, ("failed", Usage(), 150e-6, True)),
        (None, False, True, False, ("failed", Usage(), None, False)),
    ],
)
def test_the_ending_of_a_broken_stream(
    usage: dict[str, int] | None, final: bool, begun: bool, content: bool, expected: tuple[Any, ...]
) -> None:
    seen, call = StreamUsage(), a_call()
    seen.usage, seen.final = usage, final
    call.ttft_ms = 1.0 if begun else None
    found = outcome.ending_of(seen, call, tokens_in=100, characters=40, content=content)
    assert (found.status, found.usage, found.cost and pytest.approx(found.cost), found.estimated) == expected


def test_every_dialect_of_usage_is_read() -> None:
    assert usage_of({"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 2}) == Usage(5, 5, None, 2)


def _chat(*came: tuple[int, int]) -> SimpleNamespace:
    """Return LiteLLM's stream after chunks of some choices: their index, and how many characters came."""
    deltas = [SimpleNamespace(index=index, delta=SimpleNamespace(content="x" * size)) for index, size in came]
    return SimpleNamespace(chunks=[SimpleNamespace(choices=[choice]) for choice in deltas])


@pytest.mark.parametrize(
    ("asked", "came", "tokens"),
    [
        ({"n": 50}, _chat((0, 400)), 50 * 100),
        ({"n": 3}, _chat((0, 400), (1, 800), (0, 400)), 3 * 200),
        ({}, _chat((0, 400), (0, 400)), 200),
        ({"generationConfig": {"candidateCount": 4}}, {"candidates": [{"index": 1, "content": {"parts": [{"text": "x" * 40}]}}]}, 4 * 10),
    ],
)  # fmt: skip
def test_a_client_that_hangs_up_pays_for_all_choices(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], came: Any, tokens: int
) -> None:
    """A provider writes all choices at the same time, whichever of them have come."""
    recorder, seen, call = Recorder(), StreamUsage(), a_call()
    monkeypatch.setattr(worker, "get", lambda: recorder)
    call.ttft_ms = 1.0
    if isinstance(came, dict):
        seen.read(f"data: {json.dumps(came)}\n\n".encode())
    outcome.interrupt(call, seen, FAULT, {"messages": [], **asked}, came)
    (end,) = recorder.ended
    assert (end.cost_usd, end.cost_estimated) == (pytest.approx(tokens * 5e-6), True)
