"""Servers that finish their requests and end, because another one has their place. Standard library only."""

import signal
import sys
import time
from dataclasses import dataclass

from lmstack.gateway.app.keeper_line import LEAVE
from lmstack.gateway.app.kept_server import KeptServer

# From the death of a main process until its workers certainly accept no connection any more.
SETTLE_SECONDS = 1.0
# A server on trial that has no clients must end in this time. One that leaves has its own, shorter limit.
STOP_SECONDS, LEAVE_SECONDS = 10.0, 660.0
# More than so many old servers do not finish requests at the same time. Then the next takeover waits.
MAX_OLD = 2


@dataclass
class Leaver:
    """An old server. Times in monotonic seconds. ``is_free``: another server can use its slot."""

    server: KeptServer
    kill_at: float
    ended_at: float | None = None
    is_free: bool = False


class OldServers:
    """All old servers that have not ended. ``idle``: the slots in which no process accepts connections."""

    def __init__(self) -> None:
        self._leavers: list[Leaver] = []
        self.idle: set[str] = set()

    @property
    def servers(self) -> list[KeptServer]:
        """Return the servers."""
        return [leaver.server for leaver in self._leavers]

    def add(self, server: KeptServer, stops: bool) -> None:
        """Let a server leave. It gets no new connections. ``stops``: it had none, and ends immediately."""
        if stops:
            server.send_signal(signal.SIGTERM)
        else:
            server.tell(LEAVE)
        self._leavers.append(Leaver(server, time.monotonic() + (STOP_SECONDS if stops else LEAVE_SECONDS)))

    def look(self) -> None:
        """Note which have left, and kill those that do not end."""
        for leaver in list(self._leavers):
            self._look_at(leaver, time.monotonic())

    def objection(self, slot: str) -> str:
        """Return why no server can start in this slot now, "" when one can."""
        if len(self._leavers) >= MAX_OLD:
            return f"{len(self._leavers)} old servers still finish requests, such as long streams; try again later"
        return "" if slot in self.idle else "the server before the present one still takes connections; try again later"

    def _look_at(self, leaver: Leaver, now: float) -> None:
        server = leaver.server
        if server.ended:
            leaver.ended_at = leaver.ended_at or now
        elif now >= leaver.kill_at:
            say(f"the old server, process {server.process.pid}, does not end and is killed")
            server.kill()
        is_gone = leaver.ended_at is not None and now >= leaver.ended_at + SETTLE_SECONDS
        if not leaver.is_free and (server.left or is_gone):
            leaver.is_free = True
            self.idle.add(server.slot)
        if is_gone:
            self._leavers.remove(leaver)
            server.line.close()


def say(text: str) -> None:
    """Write a line to the log."""
    sys.stderr.write(f"lmstack: {text}\n")
    sys.stderr.flush()
