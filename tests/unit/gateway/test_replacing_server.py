"""Granian as we run it, with a small app in place of LiteLLM's: real processes, real signals, real sockets."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from small_server import Server, running
from support import wait_for

# The first death, that of worker 1, is reported to Granian only after its successor has been made.
LATE_REPORT = """
import time
from granian.server.common import AbstractWorker
watch, dead = AbstractWorker._watcher, []
def late(self):
    self.inner.join()
    print("worker", self.idx + 1, "is dead", flush=True)
    dead.append(self)
    while self is dead[0] and self in self.parent.wrks:
        time.sleep(0.01)
    watch(self)
    print("reported worker", self.idx + 1, flush=True)
AbstractWorker._watcher = late
"""
# No process can be made while a file `no-fork` is there.
NO_FORK = """
import errno, os
fork = os.fork
def refusing():
    if os.path.exists("no-fork"):
        os.remove("no-fork")
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = refusing
"""


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that answers, with as many workers as the test's parameter says."""
    with running(tmp_path, request.param) as made:
        yield made


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
        assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["pid"] not in (old, server.process.pid)
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


@pytest.mark.parametrize("server", [3], indirect=True)
def test_a_failed_start_is_tried_again_while_other_workers_serve(server: Server) -> None:
    old = server.worker_pids()
    (server.folder / "killed").write_text("2")
    os.kill(old[0], signal.SIGKILL)
    server.wait_for_log("Started worker", 4)
    assert len(server.worker_pids()) == 3
    assert set(old[1:]) < set(server.worker_pids())  # Nobody stopped the healthy ones.
    log = server.log.read_text()
    failure = r"worker-1 \(PID \d+\) was ended by SIGKILL before it had started; .*the next try is in (\d+) s"
    assert re.findall(failure, log) == ["1", "2"]


def test_a_process_that_cannot_be_made_is_a_failed_start(tmp_path: Path) -> None:
    with running(tmp_path, 2, NO_FORK) as server:
        (tmp_path / "no-fork").touch()
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        server.wait_for_log("Started worker", 3)
        assert "worker-1 cannot be created ([Errno 11]" in server.log.read_text()
        assert len(server.worker_pids()) == 2


def test_a_death_that_is_reported_late_does_not_stop_the_new_worker(tmp_path: Path) -> None:
    with running(tmp_path, 3, LATE_REPORT) as server:
        old = [int(pid) for pid in re.findall(r"Spawning worker-\d with PID: (\d+)", server.log.read_text())]
        os.kill(old[0], signal.SIGKILL)  # worker 1: its id need not be the lowest, because ids begin again
        server.wait_for_log("worker 1 is dead")  # So that the report of worker 2's death makes the server find both.
        os.kill(old[1], signal.SIGKILL)
        server.wait_for_log("reported worker 1")
        # The server handles the late report before this third death, or with it.
        os.kill(old[2], signal.SIGKILL)
        server.wait_for_log("Started worker", 6)
        log = server.log.read_text()
        assert [log.count(f"Spawning worker-{n} ") for n in (1, 2, 3)] == [2, 2, 2]


@pytest.mark.parametrize("server", [2], indirect=True)
def test_sighup_replaces_all_workers(server: Server) -> None:
    old = server.worker_pids()
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log("Stopped old worker", 2)
    assert not set(old) & set(server.worker_pids())
    assert server.answers()


@pytest.mark.parametrize("server", [1], indirect=True)
def test_a_signal_without_a_name_does_not_end_the_server(server: Server) -> None:
    os.kill(server.worker_pids()[0], signal.SIGRTMIN + 1)
    server.wait_for_log("Started worker", 2)
    assert f"was ended by signal {signal.SIGRTMIN + 1}; a new worker replaces it" in server.log.read_text()


def test_a_stop_ends_workers_that_have_not_started(tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    made = Server(tmp_path, 2)
    made.wait_for_log("importing", 2)
    assert made.stop() == 0
    assert "Killing worker" not in made.log.read_text()


def test_a_worker_that_cannot_start_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    made = Server(tmp_path, 2)
    assert made.process.wait(30) == 1
    assert "ended with status 7 before it had started; the server stops" in made.log.read_text().splitlines()[-1]


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


BETWEEN_TWO_RUNS = """
import asyncio, os, signal, uvloop
from granian import _signals
from lmstack.gateway.app.worker_start import set_plain_signals
class Event:
    def set(self):
        print("stop", flush=True)
_signals.WorkerSignal = Event
loop = uvloop.new_event_loop()
{function}(loop)
loop.run_until_complete(asyncio.sleep(0))
os.kill(os.getpid(), signal.SIGTERM)
loop.run_until_complete(asyncio.sleep(0.1))
"""


@pytest.mark.parametrize(("function", "printed"), [("set_plain_signals", "stop\n"), ("_signals.set_loop_signals", "")])
def test_a_stop_signal_between_two_runs_of_the_loop_counts(function: str, printed: str) -> None:
    """With Granian's own function it does not. Then a stop of a worker that has just started takes 40 seconds."""
    argv = [sys.executable, "-c", BETWEEN_TWO_RUNS.format(function=function)]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == printed


def test_a_worker_that_gets_a_stop_signal_knows_that_it_leaves() -> None:
    """The streams of the page end then: a stop must not wait for an open page."""
    code = (
        "import os, signal; from lmstack.gateway.app import leaving, worker_start; worker_start.set_plain_signals(None); "
        "before = leaving.has_begun(); os.kill(os.getpid(), signal.SIGTERM); print(before, leaving.has_begun())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
