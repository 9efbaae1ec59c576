"""What the gate and the middleware cost for each request: CPU time without a proxy, on a request that they let through."""

import asyncio
import json
import os
import statistics
import time
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEY = "sk-bench"
BODIES = {"0.1 kB": 20, "100 kB": 100_000}  # how large the body is -> letters of the prompt


def costs(requests: int = 3000, rounds: int = 5) -> dict[str, float]:
    """Return the CPU milliseconds of one request in the gate and the middleware, for each size of the body.

    The rounds with and without them alternate, and the cost is the median of the differences.
    """
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # the import below asks the network for prices without it
    from lmstack.gateway.app.gate import GateSettings, RequestGate
    from lmstack.gateway.app.middleware import GatewayMiddleware
    from lmstack.gateway.app.origins import origins_from

    settings = GateSettings(origins_from({}), 50_000_000, False)
    gated = RequestGate(GatewayMiddleware(_answer), lambda: KEY, lambda *refusal: None, _record, settings)
    found = {}
    for name, letters in BODIES.items():
        body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * letters}]}).encode()
        one_round = partial(_round, requests, body)
        gaps = [one_round(gated) - one_round(_answer) for _ in range(rounds + 1)]
        found[name] = statistics.median(gaps[1:])  # the first round is the warm-up
    return found


def _round(requests: int, body: bytes, app: ASGIApp) -> float:
    """Return the CPU milliseconds of one request."""

    async def all_of_them() -> None:
        for _ in range(requests):
            await app(_scope(body), _receive_of(body), _send)

    before = time.process_time()
    asyncio.run(all_of_them())
    return (time.process_time() - before) * 1000 / requests


def _scope(body: bytes) -> Scope:
    headers = {"host": "localhost:4000", "authorization": f"Bearer {KEY}", "content-type": "application/json",
               "content-length": str(len(body)), "x-task-id": "task-1", "x-agent-id": "agent"}  # fmt: skip
    return {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"",
        "client": ("127.0.0.1", 50_000), "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip


def _receive_of(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Take the place of LiteLLM's app and of our hooks: read the body, and answer with the headers that LiteLLM sends."""
    from lmstack.gateway.calls.current import request_context
    from lmstack.ledger.records import Attribution, Call

    await receive()
    context = request_context.get()
    if context is not None:
        context.calls.append(Call("", None, None, 0.0, "", False, None, Attribution(), ended=True))
    headers = [(b"content-type", b"application/json"), (b"x-litellm-call-id", b"1"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


async def _record(*refusal: object) -> None:
    """Take the place of the ledger. No request of the benchmark is refused."""


async def _send(message: Message) -> None:
    """Drop the answer. A refusal is cheaper, so it must not be measured."""
    if message.get("status", 200) != 200:
        raise RuntimeError(f"the gate refused the request of the benchmark: {message}")


if __name__ == "__main__":
    for size, milliseconds in costs().items():
        print(f"body of {size}: {milliseconds:.3f} ms of CPU for each request")
