"""Our server with a small app in place of LiteLLM's, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from support import free_port, wait_for

# Answers with its process id. Its start fails while a file `broken` is there. A file `killed` has a number: so many
# starts end as if by the kernel, which kills a process when the machine has no memory left. A file `slow` makes the
# import take longer than a stop may take.
APP = """
import asyncio, json, os, pathlib, time
grown = []
if os.path.exists("slow"):
    print("importing", flush=True)
    time.sleep(300)
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if os.path.exists("broken"):
            os._exit(7)
        killed = pathlib.Path("killed")
        times = int(killed.read_text()) if killed.exists() else 0
        if times:
            killed.write_text(str(times - 1))
            os.kill(os.getpid(), 9)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/v1/models":
        names = open(os.environ["CONFIG_FILE_PATH"]).read().split()
        await send({"type": "http.response.body", "body": json.dumps({"data": [{"id": n} for n in names]}).encode()})
        return
    if scope["path"] == "/stream":
        for n in range(int(os.environ.get("CHUNKS", "20"))):
            await send({"type": "http.response.body", "body": b"data: %d\\n" % n, "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"data: [DONE]"})
        return
    if scope["path"] == "/grow":
        grown.append(bytearray(os.urandom(1_000_000) * 400))
    found = {name: os.environ.get(name) for name in ("COLOUR", "TASTE")}
    await send({"type": "http.response.body", "body": json.dumps({"pid": os.getpid(), **found}).encode()})
"""
SERVE = """
import sys
from lmstack.gateway.app.replacing_server import ReplacingServer
{extra}
ReplacingServer(target="small:app", address="127.0.0.1", port=int(sys.argv[1]), workers=int(sys.argv[2]), interface="asgi").serve()
"""


def _serves(worker: psutil.Process) -> bool:
    try:
        return worker.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Server:
    """One server process in a folder of its own."""

    def __init__(self, folder: Path, workers: int, port: int | None = None, extra: str = "", **env: str) -> None:
        self.folder, self.port = folder, port or free_port()
        (folder / "small.py").write_text(APP)
        self.log = folder / "log"
        self.files = folder / "server"
        self.files.mkdir(exist_ok=True)
        self.config = folder / "config"
        self.config.write_text("one two")
        environ = {**os.environ, "LMSTACK_SERVER_FILES": str(self.files), "CONFIG_FILE_PATH": str(self.config), **env}
        with self.log.open("wb") as log:
            argv = [sys.executable, "-c", SERVE.format(extra=extra), str(self.port), str(workers)]
            self.process = subprocess.Popen(argv, cwd=folder, env=environ, stdout=log, stderr=log)

    def worker_pids(self) -> list[int]:
        return [p.pid for p in psutil.Process(self.process.pid).children() if _serves(p)]

    def answer(self) -> int:
        return int(self.get()["pid"])

    def get(self, path: str = "/") -> dict[str, Any]:
        return dict(httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False, timeout=20).json())

    def change(self, names: str, config: str, **environ: str) -> dict[str, str]:
        """Ask for a change, as `lm up` does, and return what the server reports at its end."""
        asked = {
            "id": f"{config}/{environ}", "names": names.split(), "seconds": 20, "environment": environ,
            "config_file": str(self.config), "config": config,
        }  # fmt: skip
        (self.files / "next.json").write_text(json.dumps(asked))
        self.process.send_signal(signal.SIGHUP)

        def ended() -> dict[str, str] | None:
            found: dict[str, str] = json.loads((self.files / "report.json").read_text())["reload"]
            return found if found.get("id") == asked["id"] and found["state"] != "running" else None

        return wait_for(ended, what="the end of the change")

    def answers(self) -> bool:
        try:
            return self.answer() > 0
        except httpx.HTTPError:
            return False

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def wait_for_log(self, text: str, times: int = 1) -> None:
        wait_for(lambda: self.log.read_text().count(text) >= times, what=f"{times} times {text!r} in the log")


@contextlib.contextmanager
def running(folder: Path, workers: int, extra: str = "", **env: str) -> Iterator[Server]:
    """Run a server in which all workers have started. It must then stop with status 0."""
    made = Server(folder, workers, extra=extra, **env)
    try:
        wait_for(made.answers, what="the first answer")
        made.wait_for_log("Started worker", workers)
        yield made
    finally:
        status = made.stop()
    assert status == 0, made.log.read_text()
