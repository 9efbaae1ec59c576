"""The keeper of the port: one server takes the place of another, with a small app in place of LiteLLM's. Real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from lmstack.gateway.app.ports import Ports
from small_keeper import Clients, Kept, keeping, lives
from support import free_port, wait_for

PATHS = ["/", "/", "/", "/stream", "/stream"]


def test_a_new_server_takes_the_place_of_the_present_one_and_the_next_that_of_it(tmp_path: Path) -> None:
    with keeping(tmp_path, 2) as kept:
        with Clients(kept, PATHS) as clients:
            for n, (slot, release, before) in enumerate(
                (("b", "new", "old"), ("a", "newer", "new"), ("b", "old", "newer"))
            ):
                leaving = kept.processes(before)
                kept.take_over(slot, release, config=f"one {n}")
                assert {kept.answer() for _ in range(20)} == {release}
                kept.keep(release)
                assert kept.config.read_text() == f"one {n}"
                wait_for(lambda leaving=leaving: not any(lives(pid) for pid in leaving), what=f"the end of {before}")
                assert {kept.answer() for _ in range(20)} == {release}
        assert clients.faults == []
        assert {"old", "new", "newer", "stream"} <= set(clients.answers)
        wait_for(lambda: not (tmp_path / "config.trial").exists(), what="the end of the trial's configuration")
        assert json.loads((kept.files / "launch.json").read_text())["slot"] == "b"
        assert "release newer" in kept.log.read_text()  # The output of a trial is in the log.


def test_a_server_that_is_taken_back_leaves_the_present_one_as_it_was(tmp_path: Path) -> None:
    with keeping(tmp_path, 2) as kept:
        before = kept.processes("old")
        with Clients(kept, PATHS) as clients:
            kept.take_over()
            wait_for(lambda: "new" in clients.answers, what="answers of the new server")
            kept.order("back")
            assert kept.state("new", "failed")["error"] == "it was taken back"
            assert {kept.answer() for _ in range(20)} == {"old"}
            wait_for(lambda: not kept.processes("new"), what="the end of the new server")
        assert clients.faults == []
        assert kept.processes("old") == before
        assert kept.config.read_text() == "one two"
        assert json.loads((kept.files / "launch.json").read_text())["slot"] == "a"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"names": "one three"}, "the new server ended with status 1"),
        ({"argv": [sys.executable, "-c", "import sys; sys.exit('no such release')"]}, "the new server ended with status 1"),
        ({"argv": ["/no/such/python"]}, "the new server cannot be started (No such file or directory)"),
        ({"argv": ["sleep", "1000"], "seconds": 0.5}, "the new server did not serve every model in time"),
        ({"lm": 2**22 + 1}, "lm has ended"),
    ],
    ids=["a model is missing", "it ends", "no program", "too slow", "lm is gone"],
)  # fmt: skip
def test_a_server_that_does_not_serve_changes_nothing(tmp_path: Path, spoil: dict[str, object], says: str) -> None:
    with keeping(tmp_path, 1) as kept:
        before = kept.processes("old")
        with Clients(kept, ["/"]) as clients:
            assert kept.state(kept.order("start", **spoil), "failed", "serving")["error"] == says
        assert (clients.faults, set(clients.answers)) == ([], {"old"})
        assert kept.processes("old") == before
        assert kept.config.read_text() == "one two"
        wait_for(lambda: not kept.processes("new"), what="the end of the new server")
        # Another one can follow.
        kept.take_over(release="newer")
        assert kept.answer() == "newer"


def victim(kept: Kept, who: str) -> int:
    return {"keeper": kept.process.pid, "lm": kept.waiting.pid}.get(who) or kept.processes(who)[0]


# When something is killed, which release has the port in the end.
KILLS = [
    ("starting", "old", "old"), ("starting", "keeper", "old"), ("serving", "old", "new"), ("serving", "new", "old"),
    ("serving", "keeper", "old"), ("serving", "lm", "old"), ("kept", "keeper", "new"),
    *(pytest.param(*kill, marks=pytest.mark.exhaustive) for kill in (
        ("starting", "new", "old"), ("starting", "lm", "old"), ("kept", "old", "new"), ("kept", "new", "new"), ("kept", "lm", "new"),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("when", "who", "then"), KILLS)
def test_whatever_is_killed_one_release_has_the_port(tmp_path: Path, when: str, who: str, then: str) -> None:
    with keeping(tmp_path, 2, restarts=True, CHUNKS="15") as kept:
        if when == "starting":
            (tmp_path / "slow").touch()
            kept.order("start")
            wait_for(lambda: len(kept.processes("new")) == 3, what="the workers on trial")
        else:
            kept.take_over()
        with httpx.stream("GET", f"http://127.0.0.1:{kept.port}/stream", trust_env=False) as stream:
            texts = stream.iter_text()
            assert next(texts).startswith("data: 0")
            if when == "kept":
                kept.keep()
            os.kill(victim(kept, who), signal.SIGKILL)
            (tmp_path / "slow").unlink(missing_ok=True)
            if when == "serving" and who == "old":
                assert kept.answer() == "new"
                kept.keep()
            assert "".join(texts).endswith("[DONE]")  # The killed process was not the worker.

        def only() -> bool:
            return {kept.answers() for _ in range(10)} == {then}

        wait_for(only, what=f"answers of {then}: {kept.log.read_text()}")
        other = {"old": "new", "new": "old"}[then]
        wait_for(lambda: not kept.processes(other), what=f"the end of {other}")
        assert {kept.answer() for _ in range(30)} == {then}
        assert len(kept.processes(then)) == 3
        # `lm` can go on.
        kept.waiting = subprocess.Popen(["sleep", "1000"]) if kept.waiting.poll() is not None else kept.waiting
        slot = {"a": "b", "b": "a"}[wait_for(lambda: kept.report.get("slot"))]
        kept.take_over(slot, "newer")
        kept.keep("newer")
        assert {kept.answer() for _ in range(10)} == {"newer"}


def test_when_the_present_server_has_died_and_the_new_one_is_taken_back_the_old_release_starts_again(
    tmp_path: Path,
) -> None:
    with keeping(tmp_path, 1, restarts=True) as kept:
        kept.take_over()
        killed = victim(kept, "old")
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: not lives(killed), what="its death")
        assert kept.answer() == "new"
        kept.order("back")
        # The keeper ends with its own status or with that of the dead server, whichever it sees first.
        wait_for(lambda: len(kept.ends) == 1 and kept.answers() == "old", what="the old release")
        wait_for(lambda: not kept.processes("new"), what="the end of the new server")


def test_a_stop_finishes_requests(tmp_path: Path) -> None:
    with keeping(tmp_path, 1, CHUNKS="30") as kept:
        with httpx.stream("GET", f"http://127.0.0.1:{kept.port}/stream", trust_env=False) as stream:
            texts = stream.iter_text()
            assert next(texts).startswith("data: 0")
            kept.process.send_signal(signal.SIGTERM)
            assert "".join(texts).endswith("[DONE]")
        wait_for(lambda: kept.ends == [0], what="status 0")
        assert not kept.answers()


def test_a_server_that_ends_ends_the_keeper_with_its_status(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    kept = Kept(tmp_path, 2)
    wait_for(lambda: kept.ends == [1], what="status 1")
    kept.stop()
    assert "the server stops" in kept.log.read_text()


def test_where_the_kernel_cannot_steer_the_server_serves_and_none_can_take_its_place(tmp_path: Path) -> None:
    with keeping(tmp_path, 2, patch="ports.Ports._attach = lambda *_: False") as kept:
        assert {kept.answer() for _ in range(20)} == {"old"}
        assert kept.report["takes_over"] is False


def test_sighup_is_for_the_server(tmp_path: Path) -> None:
    with keeping(tmp_path, 2) as kept:
        before = {one["pid"] for one in kept.server("a")["workers"]}
        kept.process.send_signal(signal.SIGHUP)
        wait_for(lambda: not before & {one["pid"] for one in kept.server("a")["workers"]}, what="new workers")
        assert kept.answer() == "old"


def test_a_port_in_use_is_one_error_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("small_keeper.free_port", lambda: other.getsockname()[1])
            kept = Kept(tmp_path, 1)
        wait_for(lambda: kept.ends == [1], what="status 1")
        kept.stop()
    assert f"cannot listen on 127.0.0.1 port {kept.port}" in kept.log.read_text()
    assert "Traceback" not in kept.log.read_text()


def test_a_keeper_is_small_and_does_not_import_the_server() -> None:
    code = (
        "import sys, resource; from lmstack.gateway.app import keeper; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'__main__'}))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, 'src'); {code}"], capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "['lmstack']"


def test_sockets_of_another_slot_get_no_connection() -> None:
    ports, port = Ports(), free_port()
    ports.open("127.0.0.1", port, 64, workers=2, each=4, first=4)
    try:
        assert len(ports.sockets) == 8
        for wanted in ([4, 5], [1], [7], [0, 1, 4, 5]):
            assert ports.choose(wanted)
            held = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(20)]
            found = set()
            for number, one in enumerate(ports.sockets):
                try:
                    while True:
                        one.accept()[0].close()
                        found.add(number)
                except BlockingIOError:
                    continue
            assert found == set(wanted)
            for one in held:
                one.close()
    finally:
        ports.close()
