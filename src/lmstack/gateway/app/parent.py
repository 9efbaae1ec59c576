"""What a worker does when the server's main process has died."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence

from granian.log import logger as log

from lmstack.gateway.app.keeper_line import wait_until_closed
from lmstack.gateway.app.ports import stop_listening

CHECK_SECONDS = 1.0
# From the signal until no worker of this server accepts. Granian cannot stop any more when its socket ends before.
SETTLE_SECONDS = 1.0
# A worker that must stop has this time to finish its requests, for example long streams, before it is killed.
FINISH_SECONDS = 600.0


def stop_with_parent(listening: Sequence[socket.socket], line: socket.socket | None) -> None:
    """Close the server's port and stop this worker in order when the main process has died.

    Without this the worker would serve the old configuration beside the server that replaces the dead one. With a ``line``
    to a keeper, the port is the keeper's: another server may use it. It is closed when the keeper has died too.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    threading.Thread(target=_watch, args=(parent.pid, listening, line), name="lmstack-parent", daemon=True).start()


def _watch(pid: int, listening: Sequence[socket.socket], line: socket.socket | None) -> None:
    _wait_for_end(pid)
    log.warning("lmstack: the main process of the server has died; this worker stops")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SETTLE_SECONDS)
    deadline = time.monotonic() + FINISH_SECONDS
    if line:
        wait_until_closed(line, FINISH_SECONDS)
    stop_listening(listening)
    time.sleep(max(0.0, deadline - time.monotonic()))
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_end(pid: int) -> None:
    """Return when the process, our parent, has ended: on Linux immediately, elsewhere within CHECK_SECONDS."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # another system, an old kernel, or the parent is gone
        while os.getppid() == pid:
            time.sleep(CHECK_SECONDS)
        return
    while os.getppid() == pid:
        multiprocessing.connection.wait([handle], CHECK_SECONDS)
    os.close(handle)
