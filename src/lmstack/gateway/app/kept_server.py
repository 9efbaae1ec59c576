"""One server process, as its keeper sees it. Standard library only."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmstack.gateway.app.keeper_files import START_LOG
from lmstack.gateway.app.keeper_line import VARIABLE
from lmstack.gateway.app.server_files import FOLDER_VARIABLE


class KeptServer:
    """A running server with its slot, its sockets and the line to it.

    ``trial`` is what it must serve before its output goes to the log; None for a server without trial.
    """

    def __init__(
        self, folder: Path, slot: str, argv: Sequence[str], environ: Mapping[str, str], sockets: Sequence[socket.socket], trial: Mapping[str, Any] | None
    ) -> None:  # fmt: skip
        self.slot, self.serving, self.left, self.plain = slot, list[int](), False, False
        self.start_log = folder / slot / START_LOG
        self.line, theirs = socket.socketpair()
        self.line.setblocking(False)
        self._text = b""
        output = os.dup(1) if trial else None
        numbers = [one.fileno() for one in sockets]
        found = {"sockets": numbers, "line": theirs.fileno(), "output": output, "trial": trial}
        given = {**environ, FOLDER_VARIABLE: str(folder / slot), VARIABLE: json.dumps(found)}
        log = os.open(self.start_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600) if trial else None
        passed = [*numbers, theirs.fileno(), *([] if output is None else [output])]
        try:
            self.process = subprocess.Popen(argv, env=given, pass_fds=passed, stdout=log, stderr=log)
        except BaseException:
            self.line.close()
            raise
        finally:
            theirs.close()
            for handle in (output, log):
                if handle is not None:
                    os.close(handle)

    @property
    def ended(self) -> bool:
        """Return whether the main process has ended."""
        return self.process.poll() is not None

    def read(self) -> None:
        """Note what the server says: which sockets have a worker that serves, or that none accepts any more."""
        with suppress(BlockingIOError, ConnectionError):
            while data := self.line.recv(65536):
                self._text += data
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            found = json.loads(line)
            self.serving = found.get("serving", self.serving)
            self.left = found.get("left", self.left)
            self.plain = found.get("plain", self.plain)

    def tell(self, word: str) -> None:
        """Say a word of keeper_line to the server."""
        with suppress(OSError):  # It has ended.
            self.line.sendall(word.encode() + b"\n")

    def send_signal(self, number: int) -> None:
        """Send a signal to the main process, unless it has ended."""
        with suppress(OSError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """End the main process. Its workers notice it."""
        self.send_signal(signal.SIGKILL)

    def show_start_log(self) -> None:
        """Add the output of the start to the keeper's own."""
        with suppress(OSError):
            os.write(2, self.start_log.read_bytes())
