"""Keep a port open while one server takes the place of another, for example of another LiteLLM release.

``python -m lmstack.gateway.app.keeper FOLDER`` opens the listening sockets and starts the server of ``launch.json``, which
inherits them. Only this process decides which server gets new connections. It uses the standard library only, so it is small.
SIGHUP and SIGTERM are for the server. SIGUSR1 says that ``lm`` has written an order. When the server ends, this process does.
"""

import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from lmstack.gateway.app.keeper_files import SLOTS, KeeperFiles, Order
from lmstack.gateway.app.kept_server import KeptServer
from lmstack.gateway.app.old_servers import OldServers, say
from lmstack.gateway.app.ports import Ports, stop_listening
from lmstack.gateway.app.takeover import Takeover

# As Granian's default.
BACKLOG = 1024
LOOK_SECONDS = 0.1
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)


class Keeper:
    """The port, the present server, perhaps one on trial, and those that finish requests."""

    current: KeptServer

    def __init__(self, folder: Path) -> None:
        self._files = KeeperFiles(folder)
        self._ports, self._signals = Ports(), set[int]()
        self._takeover: Takeover | None = None
        self._old = OldServers()
        self._stops = False
        self._status: int | None = None  # how to end, when something other than the server decides it

    def run(self) -> int:
        """Serve until the server ends, or a signal ends it; return its status."""
        self._woken, wake = os.pipe()
        for handle in (self._woken, wake):
            os.set_blocking(handle, False)
        for number in _SIGNALS:
            signal.signal(number, self._note)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._files.forget_order()
        self._launch = found = self._files.read_launch()
        first = SLOTS.index(found.slot) * 2 * found.workers
        try:
            self._ports.open(found.address, found.port, BACKLOG, found.workers, 2 * len(SLOTS), first)
        except OSError as error:
            say(f"cannot listen on {found.address} port {found.port}: {error}. Is another program using it?")
            return 1
        self.current = self._steered = self._server(found.slot, found.argv, found.environ, None)
        if self._ports.steers:
            self._old.idle = {slot for slot in SLOTS if slot != found.slot}
        while not self._is_over():
            self._report()
            self._wait()
            self._obey()
            self._look()
        return self._end()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.add(number)

    def _wait(self) -> None:
        """Wait for a signal, a word of a server, the end of `lm`, or a connection that no process accepts."""
        poll = select.poll()
        watched: list[Any] = [self._woken, *(server.line for server in self._servers() if not server.ended)]
        if self._takeover and self._takeover.lm is not None:
            watched.append(self._takeover.lm)
        if not self._stops:
            watched += [one for slot in self._old.idle for one in self._sockets(slot)]
        for one in watched:
            poll.register(one, select.POLLIN)
        busy = self._old.servers or (self._takeover and self._takeover.active)
        poll.poll(LOOK_SECONDS * 1000 if busy else None)
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _obey(self) -> None:
        """Do what the signals say."""
        came, self._signals = self._signals, set()
        if came & {signal.SIGTERM, signal.SIGINT}:
            self._stop()
        if signal.SIGHUP in came and not (self._takeover and self._takeover.active):
            self.current.send_signal(signal.SIGHUP)
        if signal.SIGUSR1 in came and not self._stops:
            self._take_order()

    def _take_order(self) -> None:
        try:
            order = self._files.take_order()
        except (OSError, ValueError, TypeError) as error:
            say(f"an order of lm cannot be read ({type(error).__name__})")
            return
        found = self._takeover
        if order is None:
            return
        if order.do == "start":
            if found and found.active:
                found.fail("another takeover was ordered")
            self._takeover = Takeover(self, order)
        elif found and found.active and found.id == order.id:
            if order.do == "keep":
                found.keep()
            else:
                found.fail("it was taken back")

    def _look(self) -> None:
        for server in self._servers():
            server.read()
        if self.current.plain and self._ports.steers:
            self._give_port_up()
        if self._takeover and not self._stops:
            self._takeover.look(self._launch.workers)
        self._old.look()
        if not self._stops:
            self.steer(self._steered)
            self._refuse_lost()

    def _give_port_up(self) -> None:
        """Leave the port to a server that opens its own sockets: no process accepts from ours. Nothing can take over then."""
        stop_listening(self._ports.sockets)
        self._ports.steers = False
        self._old.idle.clear()

    def _refuse_lost(self) -> None:
        """End connections that came too late for a server which has left. They would wait without end."""
        for one in (one for slot in self._old.idle for one in self._sockets(slot)):
            with suppress(OSError):
                while True:
                    lost, _ = one.accept()
                    lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    lost.close()

    def objection(self, slot: str) -> str:
        """Return why no server can start in this slot now, "" when one can."""
        return self._old.objection(slot)

    def start(self, order: Order) -> KeptServer:
        """Start a server on trial. Raises OSError."""
        launch = self._launch
        argv = [order.config if word == launch.config_file else word for word in order.argv]
        trial = {"names": order.names, "config": order.config, "config_file": launch.config_file}
        made = self._server(order.slot, argv, dict(order.environ or {}), trial)
        self._old.idle.discard(order.slot)
        return made

    def steer(self, server: KeptServer) -> bool:
        """Give all new connections to this server; return whether the kernel does so."""
        self._steered = server
        first = self._first(server.slot)
        return not server.serving or self._ports.choose([first + number for number in server.serving])

    def keep(self, server: KeptServer, order: Order) -> bool:
        """Make this server the present one, also for a restart; return whether its configuration has its final name."""
        self._launch = self._files.commit(
            replace(self._launch, slot=order.slot, argv=list(order.argv), environ=dict(order.environ or {}), release=order.release, pending=order.config)
        )  # fmt: skip
        self.current = server
        say(
            f"the new server, process {server.process.pid}, takes the place of the old one, which finishes its requests"
        )
        return not self._launch.pending

    def leave(self, server: KeptServer, stops: bool) -> None:
        """Let a server finish its requests and end."""
        self._old.add(server, stops)

    def give_up(self, why: str) -> None:
        """End everything with status 1."""
        say(f"{why}, and the server before it has ended: starting again")
        self._status = 1

    def _stop(self) -> None:
        """Stop all servers in order."""
        if self._takeover and self._takeover.active:
            self._takeover.fail("the gateway is stopped")
        self._stops = True
        for server in self._servers():
            server.send_signal(signal.SIGTERM)

    def _is_over(self) -> bool:
        if self._status is not None:
            return True
        if self._stops:
            return all(server.ended for server in self._servers())
        # A server on trial that serves goes on without the present one. It then decides when this ends.
        tested = self._takeover.server if self._takeover else None
        return self.current.ended and not (tested is self._steered and tested is not None)

    def _end(self) -> int:
        """Return how to end. The servers and workers that are left notice it, close the port, and finish their requests."""
        status = self._status if self._status is not None else self.current.process.returncode
        return status if status >= 0 else 128 - status

    def _report(self) -> None:
        can = self._ports.steers and hasattr(os, "pidfd_open")
        self._files.report(
            {"pid": os.getpid(), "slot": self.current.slot, "server": self.current.process.pid, "takes_over": can, "leaving": len(self._old.servers), "takeover": self._takeover.report if self._takeover else {}}
        )  # fmt: skip

    def _servers(self) -> list[KeptServer]:
        tested = self._takeover.server if self._takeover else None
        return [self.current, *([tested] if tested else []), *self._old.servers]

    def _server(
        self, slot: str, argv: list[str], environ: dict[str, str], trial: Mapping[str, Any] | None
    ) -> KeptServer:
        return KeptServer(self._files.folder, slot, argv, environ, self._sockets(slot), trial)

    def _sockets(self, slot: str) -> list[socket.socket]:
        """Return the sockets of a slot; all of them where the kernel cannot steer."""
        first = self._first(slot)
        return (
            self._ports.sockets[first : first + 2 * self._launch.workers] if self._ports.steers else self._ports.sockets
        )

    def _first(self, slot: str) -> int:
        return SLOTS.index(slot) * 2 * self._launch.workers


def main(folder: str) -> int:
    """Run a keeper; return its status."""
    keeper = Keeper(Path(folder))
    try:
        return keeper.run()
    except (OSError, ValueError, TypeError) as error:
        say(f"the port cannot be kept: {error}")
        return 1


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    sys.exit(main(sys.argv[1]))
