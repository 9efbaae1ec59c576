"""What happens in a worker process before it serves: signals, output, LiteLLM's start, and the proof of a new configuration."""

import importlib
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from granian import _signals
from granian.log import logger as log
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmstack.gateway.app import leaving, parent
from lmstack.gateway.app.output import Output
from lmstack.gateway.app.serve import collect_and_freeze

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STARTED, LEAVING = 0, 1


@dataclass(frozen=True)
class Start:
    """How one worker starts. ``flags`` are shared with the main process: the worker has started, and it must leave soon.

    ``names`` are the models that it must serve, or else its start fails. ``log`` gets its output until it has started.
    ``config_file`` is the name that a candidate file will get.
    """

    flags: Any = field(default_factory=lambda: RawArray("b", 2))
    names: tuple[str, ...] = ()
    log: Path | None = None
    config_file: str = ""


def start_with_blocked_signals(start: Callable[[], None]) -> None:
    """Start a worker process. A stop signal reaches it only after ``run_worker`` has unblocked it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_worker(
    start: Start,
    listening: Sequence[socket.socket],
    line: socket.socket | None,
    target: Callable[..., None],
    *args: Any,
) -> None:
    """Run a worker. Until it has its own signal handlers, a stop signal ends it immediately.

    A fork keeps the handlers of the main process. They would drop the signal, and the server would wait until it kills.
    ``listening``: all listening sockets of the server. ``line``: to its keeper, if it has one.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # One for the whole group: the main process handles it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if start.log:
        Output.divert(start.log)
    _signals.set_loop_signals = set_plain_signals
    parent.stop_with_parent(listening, line)
    target(*args)


def set_plain_signals(loop: object) -> Any:
    """Let a stop signal end the worker, and return the event that it sets.

    Granian itself uses the event loop's handlers. The loop runs twice: the app starts in the first run and serves in
    the second. uvloop drops a signal that comes between them. The server would then wait until it kills.
    """
    event = _signals.set_sync_signals()  # type: ignore[no-untyped-call]
    end = signal.getsignal(signal.SIGTERM)

    def leave(number: int, frame: FrameType | None) -> None:
        leaving.begin()
        if callable(end):
            end(number, frame)

    for number in STOP_SIGNALS:
        signal.signal(number, leave)
    return event


def load_app(target: str, start: Start) -> ASGIApp:
    """Return the app named ``module:attribute`` for one worker. It notes that the worker has started.

    While the worker leaves, each answer ends its connection, so that the client's next request goes to another worker.
    """
    module, _, name = target.partition(":")
    app: ASGIApp = getattr(importlib.import_module(module), name)

    def noting(send: Send) -> Send:
        async def note(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                message = await _proven(app, start, message)
            await send(message)

        return note

    def closing(send: Send) -> Send:
        async def close(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        return close

    def serve(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return app(scope, receive, noting(send))
        leaves = start.flags[LEAVING] and scope["type"] == "http" and scope.get("http_version", "").startswith("1")
        return app(scope, receive, closing(send) if leaves else send)

    return serve


async def _proven(app: ASGIApp, start: Start, complete: Message) -> Message:
    """Return the message that ends the start: it failed when the worker does not serve every model."""
    missing = await _missing(app, start.names) if start.names else ()
    if missing:
        log.error(f"lmstack: the new configuration does not serve: {', '.join(missing)}")
        return {"type": "lifespan.startup.failed", "message": "not every model is served"}
    _use_final_name(start.config_file)
    collect_and_freeze()
    Output.restore()
    start.flags[STARTED] = 1
    return complete


async def _missing(app: ASGIApp, names: tuple[str, ...]) -> tuple[str, ...]:
    """Ask the app for its models, as a client with the master key does. Return the names that it does not serve."""
    key = {"authorization": f"Bearer {os.environ.get('LITELLM_MASTER_KEY', '')}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        answer = await client.get("/v1/models", headers=key)
    served = {model.get("id") for model in answer.json().get("data", [])} if answer.status_code == 200 else set()
    return tuple(name for name in names if name not in served)


def _use_final_name(config_file: str) -> None:
    """Let LiteLLM find its configuration under the name that the candidate gets now."""
    server = sys.modules.get("litellm.proxy.proxy_server")
    if config_file and server is not None:
        server.user_config_file_path = config_file  # type: ignore[attr-defined]
