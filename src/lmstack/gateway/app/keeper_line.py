"""The server's end of the line to its keeper, the process that holds the port open (keeper.py). Standard library only."""

import functools
import json
import os
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

VARIABLE = "LMSTACK_KEEPER"
# What the keeper says: the server gets the new connections; it stays; its workers must finish and end.
SERVE, STAY, LEAVE = "serve", "stay", "leave"


@dataclass(frozen=True)
class Trial:
    """What a server on trial must serve, the file of its configuration, and the name that this gets when the server stays."""

    names: tuple[str, ...]
    config: str
    config_file: str


class KeeperLine:
    """What the keeper handed over, and the line to it. The server and its workers end when the keeper has died."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.sockets = [socket.socket(fileno=number) for number in found["sockets"]]
        self.line = socket.socket(fileno=found["line"])
        self.line.set_inheritable(False)
        self.output: int | None = found["output"]  # where this server's output goes once it serves
        trial = found["trial"]
        self.trial = Trial(tuple(trial["names"]), trial["config"], trial["config_file"]) if trial else None
        self.wake: Callable[[], None] = lambda: None  # called when the keeper has said something
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._told: list[int] = []
        threading.Thread(target=self._listen, name="lmstack-keeper", daemon=True).start()

    def tell_serving(self, numbers: Sequence[int]) -> None:
        """Tell the keeper which of the sockets have a worker that serves."""
        if list(numbers) != self._told:
            self._told = list(numbers)
            self._tell({"serving": self._told})

    def tell_left(self) -> None:
        """Tell the keeper that no worker accepts connections any more."""
        self._tell({"left": True})

    def tell_plain(self) -> None:
        """Tell the keeper that this server opens its own sockets."""
        self._tell({"plain": True})

    def said(self) -> list[str]:
        """Return what the keeper has said since the last call."""
        found = []
        while not self._said.empty():
            found.append(self._said.get())
        return found

    def _tell(self, found: dict[str, Any]) -> None:
        try:
            self.line.sendall(json.dumps(found).encode() + b"\n")
        except OSError:  # The keeper has died, and the thread ends this process.
            return

    def _listen(self) -> None:
        with self.line.makefile("rb") as lines:
            for line in lines:
                self._said.put(line.decode().strip())
                self.wake()
        sys.stderr.write("lmstack: the keeper of the port has died; this server ends, and its workers finish\n")
        os._exit(1)


@functools.cache
def get() -> KeeperLine | None:
    """Return the line to the keeper that started this process, None when there is none."""
    text = os.environ.pop(VARIABLE, "")
    return KeeperLine(json.loads(text)) if text else None


def wait_until_closed(line: socket.socket, seconds: float) -> None:
    """Return when the other end of the line has ended, or after this time. Reads nothing."""
    poll, deadline = select.poll(), time.monotonic() + seconds
    poll.register(line, 0)  # A hang-up is always reported.
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(min(left, 60.0) * 1000):
            return
