"""Steady load while workers are killed and settings change: what did clients notice? Shared by the short and the long form."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from support import KEY, Stack, wait_for

USAGE = {"prompt_tokens": 8, "completion_tokens": 8, "total_tokens": 16}
CHUNKS = 20


class SlowProvider:
    """An OpenAI that answers at once, and whose streams take ``seconds``: CHUNKS chunks with equal pauses."""

    def __init__(self, seconds: float, host: str = "127.0.0.1") -> None:
        self.host, self.seconds, self._ready = host, seconds, threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, self.host, 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                body = json.loads(await reader.readexactly(size) or b"{}")
                await (self._stream(writer) if body.get("stream") else self._answer(writer))
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello!"}}
        text = json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(text) + text
        )
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(CHUNKS):
            delta = {"role": "assistant", "content": f"{number} "}
            await self._event(writer, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            await asyncio.sleep(self.seconds / CHUNKS)
        await self._event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()

    async def _event(self, writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
        text = b"data: " + json.dumps({**HEAD, "object": "chat.completion.chunk", **chunk}).encode() + b"\n\n"
        writer.write(b"%x\r\n" % len(text) + text + b"\r\n")
        await writer.drain()


HEAD = {"id": "chatcmpl-slow", "created": 1, "model": "gpt-4o-mini"}


@dataclass
class Load:
    """Requests at a steady rate, every second one a stream. Every fourth goes over a kept connection, the others over new ones."""

    stack: Stack
    per_second: float = 10.0
    margin: float = 0.2  # seconds that a kill may take
    sent: int = 0
    answered: int = 0
    streams: int = 0
    longest: float = 0.0  # seconds to the first byte
    kills: list[float] = field(default_factory=list)  # when a worker was killed (Unix seconds)
    failed: list[tuple[str, float, str]] = field(default_factory=list)  # task, when it was sent (Unix seconds), error
    ended: dict[str, float] = field(default_factory=dict)  # when a failed request ended, by task (Unix seconds)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Send while the block runs; afterwards wait until each request has ended."""
        stop = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._send(stop)))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    async def _send(self, stop: threading.Event) -> None:
        once = httpx.Limits(max_keepalive_connections=0, max_connections=1000)
        options: dict[str, Any] = {"trust_env": False, "timeout": 60, "headers": {"authorization": f"Bearer {KEY}"}}
        async with httpx.AsyncClient(**options) as kept, httpx.AsyncClient(limits=once, **options) as new:
            jobs = []
            due = time.monotonic()
            while not stop.is_set():
                self.sent += 1
                jobs.append(asyncio.create_task(self._ask(kept if self.sent % 4 < 2 else new, self.sent)))
                due += 1 / self.per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*jobs)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}], "stream": number % 2 == 0}
        task, began, wall = f"load-{os.getpid()}-{number}", time.monotonic(), time.time()
        try:
            async with client.stream("POST", f"{self.stack.url}/v1/chat/completions", json=body, headers={"x-task-id": task}) as got:  # fmt: skip
                self.longest = max(self.longest, time.monotonic() - began)
                text = (await got.aread()).decode()
        except httpx.HTTPError as error:
            self.failed.append((task, wall, f"{type(error).__name__}: {error}"))
            self.ended[task] = time.time()
            return
        if got.status_code != 200:
            self.failed.append((task, wall, f"status {got.status_code}: {text[:200]}"))
        elif body["stream"] and not (text.rstrip().endswith("[DONE]") and text.count("data: ") > CHUNKS):
            self.failed.append((task, wall, f"cut stream: {text[-60:]}"))
        else:
            self.answered += 1
            self.streams += bool(body["stream"])

    def beyond_killed_workers(self) -> list[str]:
        """Return the failures that no killed worker explains: a request that it had in hand has an interrupted row."""
        wait_for(
            lambda: not [task for task, _, _ in self.failed if self._statuses(task) == ["started"]], 90, "ended rows"
        )
        return [f"{task}: {error}; {self._statuses(task)}" for task, sent, error in self.failed if not self._explained(task, sent)]  # fmt: skip

    def _statuses(self, task: str) -> list[str]:
        return [row["status"] for row in self.stack.ask("requests", task=task)]

    def _explained(self, task: str, sent: float) -> bool:
        """Return whether a killed worker had this request in hand: shortly after its arrival it has no row yet.

        The signal itself takes a moment on a busy machine.
        """
        found = self._statuses(task)
        if found == ["succeeded"]:  # killed between the commit of the end and the last bytes of the answer
            return any(kill < self.ended.get(task, 0) < kill + self.margin + 1 for kill in self.kills)
        return found == ["interrupted"] or (
            not found and any(kill - 1 < sent < kill + self.margin for kill in self.kills)
        )


def kill_a_worker(load: Load) -> float:
    """Kill a worker that serves; return the seconds until it was replaced."""
    stack = load.stack
    before = {worker["pid"] for worker in stack.json("status")["data"]["workers"]}
    began = time.monotonic()
    load.kills.append(time.time())
    victim = min(before)
    if stack.env.get("LITELLM_RUNTIME") == "docker":  # the pids are those inside the container
        stack.shell(f"docker compose exec -T litellm-proxy sh -c 'kill -9 {victim}'")
    else:
        os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        now = {worker["pid"] for worker in stack.json("status")["data"]["workers"]}
        return len(now) == len(before) and victim not in now

    wait_for(replaced, what="a new worker")
    return time.monotonic() - began


def campaign(stack: Stack, env: dict[str, str], rounds: int) -> None:
    """Kill a worker and change a setting in each round; clients notice nothing, but for killed workers.

    Prints one line with the numbers.
    """
    load, took = Load(stack), []
    if stack.env.get("LITELLM_RUNTIME") == "docker":
        load.margin = 1.5  # `docker compose exec` takes this time
    with load.running():
        for n in range(rounds):
            wait_for(lambda began=load.answered: load.answered >= began + 30, what="30 answers")
            kill_a_worker(load)
            stack.write_env(**env, LITELLM_TIMEOUT=str(100 + n), TASKMASTER_API_URL=f"http://127.0.0.1:{9 + n}")
            took.append(changed(stack))
    unexplained = load.beyond_killed_workers()
    print("\n".join(unexplained))
    print(
        f"{stack.env['LITELLM_RUNTIME']}, {env['LITELLM_WORKERS']} workers, {rounds} kills and changes: sent {load.sent}, "
        f"answered {load.answered} of which {load.streams} streams, lost with a killed worker "
        f"{len(load.failed) - len(unexplained)}, else {len(unexplained)}, longest wait {load.longest:.2f} s, "
        f"changes {min(took):.1f} to {max(took):.1f} s"
    )
    assert unexplained == []
    assert load.answered + len(load.failed) == load.sent


def changed(stack: Stack) -> float:
    """Run `lm up`, which must not need a restart, and return the seconds that it took."""
    preview = stack.json("up", "--dry-run")["data"]
    assert preview["action"] == "reload", preview
    done = stack.json("up")
    return float(done["data"]["ready_seconds"])
