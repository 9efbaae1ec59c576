"""Granian as we run it, with a small app in place of LiteLLM's: real processes, real signals, real sockets."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from support import free_port, wait_for

# Answers with its process id. Its start fails while a file `broken` is there.
APP = """
import os, sys
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if os.path.exists("broken"):
            os._exit(7)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
SERVE = """
import sys
from lmstack.gateway.app.replacing_server import ReplacingServer
ReplacingServer(target="small:app", address="127.0.0.1", port=int(sys.argv[1]), workers=int(sys.argv[2]), interface="asgi").serve()
"""


class Server:
    """One server process in a folder of its own."""

    def __init__(self, folder: Path, workers: int, port: int | None = None) -> None:
        self.folder, self.port = folder, port or free_port()
        (folder / "small.py").write_text(APP)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            argv = [sys.executable, "-c", SERVE, str(self.port), str(workers)]
            self.process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log)

    def worker_pids(self) -> list[int]:
        return [p.pid for p in psutil.Process(self.process.pid).children() if p.status() != psutil.STATUS_ZOMBIE]

    def answer(self) -> int:
        return int(httpx.get(f"http://127.0.0.1:{self.port}/", trust_env=False, timeout=20).text)

    def answers(self) -> bool:
        try:
            return self.answer() > 0
        except httpx.HTTPError:
            return False

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that answers, with as many workers as the test's parameter says."""
    made = Server(tmp_path, request.param)
    wait_for(made.answers, what="the first answer")
    wait_for(lambda: made.log.read_text().count("Started worker") == request.param, what="all workers")
    yield made
    assert made.stop() == 0, made.log.read_text()


@pytest.mark.parametrize("server", [1], indirect=True)
def test_requests_wait_while_a_single_worker_is_replaced(server: Server) -> None:
    parent = psutil.Process(server.process.pid)
    for _ in range(3):  # More than twice in 5.5 s, which Granian itself takes for a crash loop.
        (old,) = server.worker_pids()
        parent.suspend()  # So that nothing replaces the worker before the request arrives.
        os.kill(old, signal.SIGKILL)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as waiting:
            waiting.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            parent.resume()
            with waiting.makefile("rb") as stream:
                answer = stream.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert int(answer.rpartition(b"\r\n\r\n")[2]) not in (old, server.process.pid)
        assert f"worker-1 (PID {old}) was ended by SIGKILL; a new worker replaces it" in server.log.read_text()
    assert server.process.poll() is None


@pytest.mark.parametrize("server", [3], indirect=True)
def test_workers_that_die_at_once_are_all_replaced(server: Server) -> None:
    old = server.worker_pids()
    for pid in old[:2]:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(set(server.worker_pids()) - set(old)) == 2, what="two new workers")
    assert old[2] in server.worker_pids()
    assert server.answers()


def test_a_worker_that_cannot_start_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    made = Server(tmp_path, 2)
    assert made.process.wait(30) == 1
    assert "ended with status 7 before it had started; the server stops" in made.log.read_text()


def test_a_replacement_that_cannot_start_ends_the_server(tmp_path: Path) -> None:
    made = Server(tmp_path, 1)
    wait_for(made.answers)
    (tmp_path / "broken").touch()
    os.kill(made.worker_pids()[0], signal.SIGKILL)
    assert made.process.wait(30) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_in_use_is_one_error_line(tmp_path: Path, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        made = Server(tmp_path, workers, port)
        assert made.process.wait(30) == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in made.log.read_text()
    assert "Traceback" not in made.log.read_text()
