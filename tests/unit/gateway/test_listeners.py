"""The port, when the server's main process is killed: its workers give it up, and the next server gets every connection."""

import http.client
import json
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from lmstack.gateway.app.listeners import Listeners
from small_server import Server, running
from support import free_port, wait_for


def answer_on_a_new_connection(port: int) -> int:
    """Return the pid of the worker that answers."""
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        asked.request("GET", "/")
        return int(json.load(asked.getresponse())["pid"])
    finally:
        asked.close()


def runs(pid: int) -> bool:
    """Return whether a process runs. A zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_after_the_death_of_the_main_process_a_new_server_gets_every_connection(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    killed = Server(first, 2, CHUNKS="80")
    killed.wait_for_log("Started worker", 2)
    old = set(killed.worker_pids())
    texts: list[str] = []
    begun: list[int] = []

    def stream() -> None:
        with httpx.stream("GET", f"http://127.0.0.1:{killed.port}/stream", trust_env=False, timeout=30) as answer:
            parts = []
            for part in answer.iter_text():
                if not parts:
                    begun.append(1)
                parts.append(part)
            texts.append("".join(parts))

    clients = [threading.Thread(target=stream) for _ in range(6)]  # so that both workers have one
    for client in clients:
        client.start()
    wait_for(lambda: len(begun) == 6, what="all streams")
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    new = Server(second, 2, port=killed.port)
    try:
        new.wait_for_log("Started worker", 2)
        asked_at = time.monotonic()
        answers = {answer_on_a_new_connection(new.port) for _ in range(20)}
        assert time.monotonic() - asked_at < 5
        assert answers <= set(new.worker_pids())
        assert any(client.is_alive() for client in clients), "the streams were too short for this test"
        for client in clients:
            client.join(30)
        assert [text.endswith("[DONE]") for text in texts] == [True] * 6
        wait_for(lambda: not any(runs(pid) for pid in old), what="the end of the old workers")
    finally:
        assert new.stop() == 0, new.log.read_text()


def test_a_second_server_of_the_same_user_does_not_share_the_port(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with running(tmp_path, 2) as server:
        second = Server(other, 2, port=server.port)
        assert second.process.wait(30) == 1
        assert f"cannot listen on 127.0.0.1 port {server.port}" in second.log.read_text()
        assert [server.answer() in server.worker_pids() for _ in range(10)] == [True] * 10


def test_a_server_waits_until_the_port_is_free() -> None:
    port = free_port()
    before, found = Listeners(2), Listeners(2)
    before.open("127.0.0.1", port, 16)

    def leave() -> None:
        time.sleep(0.3)
        for one in before.sockets:
            one.shutdown(socket.SHUT_RD)

    leaver = threading.Thread(target=leave)
    leaver.start()
    found.open("127.0.0.1", port, 16)
    leaver.join()
    found.choose([(1, 0)])
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            found.of(1, 0).socket.settimeout(5)
            found.of(1, 0).socket.accept()[0].close()


@pytest.mark.parametrize("workers", [1, 70])
def test_every_worker_gets_connections_also_with_many(workers: int) -> None:
    port, found = free_port(), Listeners(workers)
    found.open("127.0.0.1", port, 16)
    assert len(found.sockets) == 2 * workers
    last = workers - 1
    found.choose([(last, 1)])
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        found.of(last, 1).socket.settimeout(5)
        found.of(last, 1).socket.accept()[0].close()
