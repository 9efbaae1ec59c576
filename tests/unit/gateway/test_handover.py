"""One server takes the place of another on the same port, under load: real processes, signals and sockets."""

import concurrent.futures
import json
import signal
import threading
from pathlib import Path

import psutil
import pytest

from clients import send_until
from small_server import Server, running
from support import wait_for


def order(server: Server, **found: object) -> None:
    """Give a server an order, as `lm` does."""
    (server.files / "next.json").write_text(json.dumps(found))
    server.process.send_signal(signal.SIGHUP)


def report(server: Server) -> dict[str, object]:
    """Return what a server reports; empty before its first report."""
    path = server.files / "report.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def successor(folder: Path, running_one: Server, workers: int, names: str = "one two") -> Server:
    """Start a server that must take the place of the running one, and let that one send its sockets."""
    (folder / "server").mkdir(parents=True)
    (folder / "server" / "take_over.json").write_text(json.dumps({"names": names.split()}))
    made = Server(folder, workers, port=running_one.port)
    door = made.files / "take.sock"
    wait_for(door.exists, what="the new server's socket")
    order(running_one, order="hand_over", socket=str(door))
    return made


@pytest.mark.parametrize("workers", [1, 3])
def test_a_new_server_takes_the_place_of_the_running_one_under_load(tmp_path: Path, workers: int) -> None:
    faults: list[str] = []
    counts: list[int] = []
    stop = threading.Event()
    (tmp_path / "a").mkdir()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        first = Server(tmp_path / "a", workers)
        servers = [first]
        wait_for(first.answers, what="the first answer")
        try:
            jobs = [pool.submit(send_until, first, stop, path, faults, counts) for path in ["/", "/stream", "/stream"]]
            for turn in ("b", "c"):  # more than once: each has the sockets of the one before
                old, new = servers[-1], successor(tmp_path / turn, servers[-1], workers)
                servers.append(new)
                wait_for(lambda new=new: report(new).get("serves"), what="the new server")
                pids = set(new.worker_pids())
                assert {new.answer() for _ in range(20)} <= pids
                order(old, order="leave", supervisor=None)
                assert old.process.wait(30) == 0, old.log.read_text()
                assert {new.answer() for _ in range(20)} <= pids
        finally:
            stop.set()
            concurrent.futures.wait(jobs)
            statuses = [one.stop() for one in servers if one.process.poll() is None]
    assert (faults, statuses) == ([], [0])
    assert len(counts) > 50


def test_a_new_server_that_does_not_work_gets_no_connection(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with running(tmp_path / "a", 2) as first:
        pids = set(first.worker_pids())
        bad = successor(tmp_path / "b", first, 2, names="three")
        assert bad.process.wait(30) == 1
        assert "does not serve: three" in bad.log.read_text()
        order(first, order="keep")
        assert {first.answer() for _ in range(20)} == pids
        # A worker of the running server dies later: it still gives its connections to the others.
        victim = first.worker_pids()[0]
        psutil.Process(victim).kill()
        wait_for(lambda: victim not in first.worker_pids() and len(first.worker_pids()) == 2, what="a new worker")
        assert {first.answer() for _ in range(20)} == set(first.worker_pids())


def test_an_order_that_cannot_be_followed_is_one_line_in_the_log(tmp_path: Path) -> None:
    with running(tmp_path, 1) as server:
        order(server, order="hand_over", socket=str(tmp_path / "nobody.sock"))
        server.wait_for_log("an order of lm cannot be followed (FileNotFoundError")
        assert server.answers()
