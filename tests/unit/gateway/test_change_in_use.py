"""A change of settings while the server runs, with a small app in place of LiteLLM's: real processes, signals and sockets."""

import concurrent.futures
import json
import os
import signal
import socket
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from small_server import Server, running
from support import wait_for

APPLY = """
from lmstack.gateway.app import server_files as f
f.ServerFiles(f.os.environ[f.FOLDER_VARIABLE]).apply_environment()
"""
FAST = "from lmstack.gateway.app import worker_memory as m; m.INTERVAL, m.MIN_AGE = 0.2, 0.0"


def clients(server: Server, stop: threading.Event, path: str, faults: list[str], counts: list[int]) -> None:
    """Send requests, each on a connection of its own, until ``stop``. Note what is refused or cut."""
    while not stop.is_set():
        try:
            answer = httpx.get(f"http://127.0.0.1:{server.port}{path}", trust_env=False, timeout=30)
            if answer.status_code != 200 or (path == "/stream" and not answer.text.endswith("[DONE]")):
                faults.append(f"{path}: {answer.status_code}, {answer.text[-20:]}")
            counts.append(1)
        except httpx.HTTPError as error:
            faults.append(f"{path}: {type(error).__name__}: {error}")


@pytest.mark.parametrize("workers", [1, 3])
def test_changes_under_load_refuse_and_cut_nothing(tmp_path: Path, workers: int) -> None:
    faults: list[str] = []
    counts: list[int] = []
    stop = threading.Event()
    with running(tmp_path, workers) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        paths = ["/", "/", "/", "/stream", "/stream", "/stream"]
        jobs = [pool.submit(clients, server, stop, path, faults, counts) for path in paths]
        try:
            for n in range(2):
                old = server.worker_pids()
                assert server.change("one", "one", COLOUR=str(n))["state"] == "done"
                assert server.get()["COLOUR"] == str(n)
                # Streams are cut if they may not outlive the change.
                wait_for(lambda old=old: not set(old) & set(server.worker_pids()), what="the end of the old workers")
        finally:
            stop.set()
        concurrent.futures.wait(jobs)
    assert faults == []
    assert len(counts) > 50


@pytest.mark.parametrize("workers", [1, 2])
def test_a_change_brings_new_settings_and_removes_old_ones(tmp_path: Path, workers: int) -> None:
    files = tmp_path / "server"
    files.mkdir()
    (files / "environment.json").write_text('{"TASTE": "sweet"}')
    with running(tmp_path, workers, APPLY) as server:
        assert server.get()["TASTE"] == "sweet"
        assert server.change("three", "one two three", COLOUR="blue")["state"] == "done"
        found = [server.get() for _ in range(8)]
        assert {(one["COLOUR"], one["TASTE"]) for one in found} == {("blue", None)}
        assert server.config.read_text() == "one two three"
        assert json.loads((files / "environment.json").read_text()) == {"COLOUR": "blue"}
        assert not (files / "next.json").exists()
        # A worker that dies later has the new settings too.
        (tmp_path / "killed").write_text("0")
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
        assert server.get()["COLOUR"] == "blue"


@pytest.mark.parametrize(("names", "broken"), [("three", False), ("one", True)])
def test_a_change_that_does_not_work_changes_nothing(tmp_path: Path, names: str, broken: bool) -> None:
    with running(tmp_path, 2) as server:
        old = set(server.worker_pids())
        if broken:
            (tmp_path / "broken").touch()
        found = server.change(names, "one", COLOUR="blue")
        assert found["state"] == "failed"
        assert "before it had started" in found["error"]
        assert set(server.worker_pids()) == old
        assert server.get()["COLOUR"] is None
        assert server.config.read_text() == "one two"
        assert sorted(path.name for path in server.files.iterdir()) == ["report.json", "start.log"]
        assert not list(tmp_path.glob(".litellm*"))
        if not broken:
            assert "does not serve: three" in (server.files / "start.log").read_text()
            assert "does not serve: three" in server.log.read_text()


def test_a_worker_above_the_memory_limit_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, 1, FAST, LITELLM_WORKER_MAX_MB="300") as server:
        (old,) = server.worker_pids()
        assert server.get("/grow")["pid"] == old
        wait_for(lambda: old not in server.worker_pids(), what="a new worker")
        assert server.answer() != old
        assert f"worker-1 (PID {old}) uses" in server.log.read_text()


def test_a_worker_at_the_age_limit_is_replaced_once(tmp_path: Path) -> None:
    short = "from lmstack.gateway.app import worker_age as a; a.HOUR = 1.0"
    with running(tmp_path, 2, short, LITELLM_WORKER_MAX_HOURS="2") as server:
        old = set(server.worker_pids())
        faults: list[str] = []
        counts: list[int] = []
        stop = threading.Event()
        client = threading.Thread(target=clients, args=(server, stop, "/", faults, counts))
        client.start()
        wait_for(lambda: not old & set(server.worker_pids()), what="new workers")
        stop.set()
        client.join()
        assert (faults, len(counts) > 5) == ([], True)
        for pid in old:
            assert server.log.read_text().count(f"(PID {pid}) is 2 hours old") == 1


def test_connections_that_wait_at_a_worker_of_several_survive_its_death(tmp_path: Path) -> None:
    """With a socket of its own, a dead worker's connections would be reset."""
    with running(tmp_path, 2) as server:
        pids = server.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            wait_for(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED, what="a stopped worker")
        waiting = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(8)]
        for one in waiting:
            one.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        answers = [one.makefile("rb").read() for one in waiting]
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 8


def test_new_connections_go_to_the_other_worker_while_one_does_not_serve(tmp_path: Path) -> None:
    with running(tmp_path, 2) as server:
        (tmp_path / "killed").write_text("2")  # The next two starts fail, so that the successor serves after 3 s.
        dead, alive = server.worker_pids()
        os.kill(dead, signal.SIGKILL)
        server.wait_for_log("before it had started")
        assert [server.answer() for _ in range(20)] == [alive] * 20
        server.wait_for_log("Started worker", 3)
        wait_for(lambda: server.answer() != alive, what="an answer of the successor")
