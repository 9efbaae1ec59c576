"""A server on trial: it takes the place of the present one when it serves, and stays when `lm` has tested it.

Until it stays, the present server is there and can take the connections back immediately. It goes on when the server on trial
ends, when `lm` ends, or when the time is over. Standard library only.
"""

import os
import select
import time
from contextlib import suppress
from typing import Any, Protocol

from lmstack.gateway.app.keeper_files import Order
from lmstack.gateway.app.keeper_line import SERVE, STAY
from lmstack.gateway.app.kept_server import KeptServer

# `lm` tests a new release with a few calls. A hanging `lm` must not keep two servers without end.
TEST_SECONDS = 900.0
WAITING, STARTING, SERVING, KEPT, FAILED = "waiting", "starting", "serving", "kept", "failed"


class Place(Protocol):
    """What a takeover needs of the keeper."""

    current: KeptServer

    def objection(self, slot: str) -> str:
        """Return why no server can start in this slot now, "" when one can."""

    def start(self, order: Order) -> KeptServer:
        """Start a server on trial. Raises OSError."""

    def steer(self, server: KeptServer) -> bool:
        """Give all new connections to this server; return whether the kernel does so."""

    def keep(self, server: KeptServer, order: Order) -> bool:
        """Make this server the present one, also for a restart. Raises OSError; then nothing has changed.

        Return whether its configuration has its final name.
        """

    def leave(self, server: KeptServer, stops: bool) -> None:
        """Let a server finish its requests and end. ``stops``: it has had no connections, and ends immediately."""

    def give_up(self, why: str) -> None:
        """End everything. A supervisor starts the server of before."""


class Takeover:
    """One order of `lm`, until it is done or has failed."""

    def __init__(self, place: Place, order: Order) -> None:
        self._place, self._order = place, order
        self._server: KeptServer | None = None
        self._deadline = time.monotonic() + order.seconds
        self.state, self.error = WAITING, ""
        self.lm: int | None = None  # a handle of the process that waits; readable when it has ended
        with suppress(OSError):
            self.lm = os.pidfd_open(order.lm)

    @property
    def id(self) -> str:
        """Return the name of the order."""
        return self._order.id

    @property
    def server(self) -> KeptServer | None:
        """Return the server on trial, None before its start and when the trial has ended."""
        return self._server

    @property
    def active(self) -> bool:
        """Return whether the takeover has not ended."""
        return self.state not in (KEPT, FAILED)

    @property
    def report(self) -> dict[str, Any]:
        """Return what `lm` reads."""
        return {"id": self.id, "state": self.state, "error": self.error}

    def look(self, workers: int) -> None:
        """Do what is due."""
        if not self.active:
            return
        why = self._fault()
        if why:
            self.fail(why)
        elif self._server is None:
            if not self._place.objection(self._order.slot):
                self._start()
        elif self.state == STARTING and len(self._server.serving) == workers:
            self._serve(self._server)

    def _fault(self) -> str:
        server = self._server
        if server and server.ended:
            return f"the new server ended with status {server.process.returncode}"
        if self.lm is None or select.select([self.lm], [], [], 0)[0]:
            return "lm has ended"
        if time.monotonic() < self._deadline:
            return ""
        late = {STARTING: "the new server did not serve every model in time", SERVING: "lm did not say in time whether it works"}  # fmt: skip
        return late.get(self.state) or self._place.objection(self._order.slot)

    def _start(self) -> None:
        try:
            self._server = self._place.start(self._order)
        except OSError as error:
            self.fail(f"the new server cannot be started ({error.strerror})")
            return
        self.state = STARTING

    def _serve(self, server: KeptServer) -> None:
        server.show_start_log()
        if not self._place.steer(server):
            self.fail("the kernel does not take the new program")
            return
        server.tell(SERVE)
        self.state, self._deadline = SERVING, time.monotonic() + TEST_SECONDS

    def keep(self) -> None:
        """Let the server on trial stay. Then the other one finishes its requests and ends."""
        server, before = self._server, self._place.current
        if self.state != SERVING or server is None or server.ended:
            return
        try:
            final = self._place.keep(server, self._order)
        except OSError as error:
            self.fail(f"the new configuration cannot be written ({error.strerror})")
            return
        self.state = KEPT
        self._forget()
        if final:
            server.tell(STAY)
        self._place.leave(before, stops=False)

    def fail(self, why: str) -> None:
        """End the trial: the present server gets all new connections again."""
        server, served, before = self._server, self.state == SERVING, self._place.current
        self.state, self.error = FAILED, why
        self._forget()
        if served and before.ended:  # The new one notices the end of the keeper, and finishes its requests.
            self._place.give_up(why)
            return
        if not served and server:
            server.show_start_log()
        self._place.steer(before)
        if server:
            self._place.leave(server, stops=not served)

    def _forget(self) -> None:
        if self.lm is not None:
            os.close(self.lm)
        self._server, self.lm = None, None
