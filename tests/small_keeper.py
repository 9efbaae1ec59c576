"""A keeper with small servers in place of LiteLLM's, and something that restarts it as supervisord does."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from small_server import APP
from support import free_port, wait_for

SERVE = """
import os, sys
os.environ.setdefault("CONFIG_FILE_PATH", sys.argv[3])
from lmstack.gateway.app import keeper_line
from lmstack.gateway.app.output import Output
keeper = keeper_line.get()
if keeper.output is not None:
    Output.diverted_by_keeper(keeper.output)
print("release", os.environ["COLOUR"], flush=True)
from lmstack.gateway.app.replacing_server import ReplacingServer
ReplacingServer(target="small:app", address="127.0.0.1", port=int(sys.argv[1]), workers=int(sys.argv[2]), interface="asgi").serve()
"""


def lives(pid: int) -> bool:
    """Return whether a process runs. A zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Kept:
    """A keeper in a folder of its own. ``restarts``: start it again when it ends, as supervisord does."""

    def __init__(self, folder: Path, workers: int, restarts: bool = False, patch: str = "", **env: str) -> None:
        self._code = (
            f"import sys; from lmstack.gateway.app import keeper, ports; {patch}\nsys.exit(keeper.main(sys.argv[1]))"
        )
        self.folder, self.workers, self.port, self.env = folder, workers, free_port(), env
        (folder / "small.py").write_text(APP)
        self.log, self.files, self.config = folder / "log", folder / "server", folder / "config"
        self.config.write_text("one two")
        for slot in ("a", "b"):
            (self.files / slot).mkdir(parents=True)
        launch = {
            "slot": "a", "argv": self.argv(), "environ": self.environ("old"), "address": "127.0.0.1", "port": self.port,
            "workers": workers, "config_file": str(self.config),
        }  # fmt: skip
        (self.files / "launch.json").write_text(json.dumps(launch))
        self.restarts, self.ends = restarts, list[int]()
        self.waiting = subprocess.Popen(["sleep", "1000"])  # in place of lm
        self.process = self._started()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def argv(self) -> list[str]:
        return [sys.executable, "-c", SERVE, str(self.port), str(self.workers), str(self.config)]

    def environ(self, release: str) -> dict[str, str]:
        return {**os.environ, "COLOUR": release, **self.env}

    def _started(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            argv = [sys.executable, "-c", self._code, str(self.files)]
            return subprocess.Popen(argv, cwd=self.folder, stdout=log, stderr=log)

    def _watch(self) -> None:
        while True:
            self.ends.append(self.process.wait())
            if not self.restarts:
                return
            self.process = self._started()

    @property
    def report(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.files / "keeper.json").read_text())
            return dict(found) if found["pid"] == self.process.pid else {}
        return {}

    def server(self, slot: str) -> dict[str, Any]:
        """Return what the server of a slot reports."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.files / slot / "report.json").read_text()))
        return {}

    def order(self, do: str, slot: str = "b", release: str = "new", config: str = "one", names: str = "one", **more: Any) -> str:  # fmt: skip
        """Give an order, as `lm` does, and return its id. Each takeover has the id of its release."""
        found: dict[str, Any] = {"id": release, "do": do}
        if do == "start":
            trial = self.folder / "config.trial"
            trial.write_text(config)
            found |= {
                "lm": self.waiting.pid, "seconds": 30, "slot": slot, "argv": self.argv(), "environ": self.environ(release),
                "names": names.split(), "config": str(trial), **more,
            }  # fmt: skip
        (self.files / "order.json").write_text(json.dumps(found))
        os.kill(self.process.pid, signal.SIGUSR1)
        return release

    def state(self, wanted: str, *states: str) -> dict[str, str]:
        """Wait until a takeover is in one of these states."""

        def found() -> dict[str, str] | None:
            now: dict[str, str] = self.report.get("takeover", {})
            return now if now.get("id") == wanted and now["state"] in states else None

        return wait_for(found, what=f"{wanted} to be {states}: {self.log.read_text()[-2000:]}")

    def take_over(self, slot: str = "b", release: str = "new", **more: Any) -> None:
        """Let a server on trial serve."""
        found = self.state(self.order("start", slot, release, **more), "serving", "failed")
        assert found["state"] == "serving", found

    def keep(self, release: str = "new") -> None:
        """Let the server on trial stay."""
        self.order("keep", release=release)
        self.state(release, "kept")

    def answer(self) -> str:
        """Return the release that answers on a new connection. Raises OSError when none does in 5 seconds."""
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            asked.request("GET", "/")
            return str(json.load(asked.getresponse())["COLOUR"])
        finally:
            asked.close()

    def answers(self) -> str:
        """Return the release that answers, "" when none does."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.answer()
        return ""

    def processes(self, release: str) -> list[int]:
        """Return every process of a release that runs, its main process first."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:3] == [*self.argv()[:3]] and process.cmdline()[3] == str(self.port):
                    found += [process.pid] if process.environ().get("COLOUR") == release and lives(process.pid) else []
        return sorted(found)

    def stop(self) -> None:
        """Stop in order; nothing is left."""
        self.restarts = False
        self.waiting.kill()
        self.waiting.wait()
        with contextlib.suppress(OSError):
            self.process.terminate()
        self._watcher.join(50)
        left = [pid for release in ("old", "new", "newer") for pid in self.processes(release)]
        wait_for(lambda: not any(lives(pid) for pid in left), what="the end of all servers")


@contextlib.contextmanager
def keeping(folder: Path, workers: int, restarts: bool = False, patch: str = "", **env: str) -> Iterator[Kept]:
    """Run a keeper with a server that serves."""
    made = Kept(folder, workers, restarts, patch, **env)
    try:
        wait_for(made.answers, what="the first answer")
        wait_for(lambda: len(made.server("a").get("workers", ())) == workers, what="all workers")
        yield made
    finally:
        made.stop()


class Clients:
    """Clients that send requests, each on a connection of its own, and note what is refused or cut."""

    def __init__(self, kept: Kept, paths: list[str]) -> None:
        self.kept, self.faults, self.answers = kept, list[str](), list[str]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(path,)) for path in paths]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, path: str) -> None:
        while not self._stop.is_set():
            try:
                answer = httpx.get(f"http://127.0.0.1:{self.kept.port}{path}", trust_env=False, timeout=20)
                if answer.status_code != 200 or (path == "/stream" and not answer.text.endswith("[DONE]")):
                    self.faults.append(f"{path}: {answer.status_code}, {answer.text[-20:]}")
                self.answers.append("stream" if path == "/stream" else answer.json()["COLOUR"])
            except httpx.HTTPError as error:
                self.faults.append(f"{time.time():.2f} {path}: {type(error).__name__}: {error}")
