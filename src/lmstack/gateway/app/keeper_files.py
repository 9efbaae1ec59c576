"""The private files of a keeper: what it starts, what `lm` orders, what it reports. Standard library only.

``launch.json`` holds the server that a restart starts. It is replaced in one step, so that this is one release or the other.
The files have mode 600. The other end is lmstack.runtime.keeper_control.
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lmstack.gateway.app.server_files import write, written

LAUNCH, ORDER, REPORT, START_LOG = "launch.json", "order.json", "keeper.json", "start.log"
# Two servers may listen at the same time. Each has a slot: a folder for its files, and sockets.
SLOTS = ("a", "b")


@dataclass(frozen=True)
class Launch:
    """A server to start. ``pending``: a configuration that must still be moved to ``config_file``."""

    slot: str
    argv: list[str]
    environ: dict[str, str]
    address: str
    port: int
    workers: int
    config_file: str
    release: str = ""  # of LiteLLM, for `lm`
    pending: str = ""


@dataclass(frozen=True)
class Order:
    """What `lm` wants. ``do``: start (a server on trial), keep or back. The other fields are only for a start.

    ``lm`` is the process that waits; the order ends with it. ``config``: the file of the new configuration.
    """

    id: str
    do: str
    lm: int = 0
    seconds: float = 0.0
    slot: str = ""
    argv: tuple[str, ...] = ()
    environ: Mapping[str, str] | None = None
    names: tuple[str, ...] = ()
    config: str = ""
    release: str = ""


class KeeperFiles:
    """The files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reported = ""

    def read_launch(self) -> Launch:
        """Return the server to start, after moving its configuration in place. Raises OSError, ValueError or TypeError."""
        found = Launch(**json.loads((self.folder / LAUNCH).read_text(encoding="utf-8")))
        return self._finish(found) if found.pending else found

    def commit(self, launch: Launch) -> Launch:
        """Make this server the one that a restart starts, with its configuration. Raises OSError; then nothing has changed."""
        made = _copied(launch)  # First: the disk may be full.
        try:
            write(self.folder / LAUNCH, json.dumps(asdict(launch)))
        except OSError:
            made.unlink()
            raise
        with suppress(OSError):  # If this fails, the next start does it.
            return self._finish(launch, made)
        return launch

    def _finish(self, launch: Launch, made: Path | None = None) -> Launch:
        """Move the configuration in place, and forget that it is pending."""
        if Path(launch.pending).exists():
            (made or _copied(launch)).replace(Path(launch.config_file).resolve())
        done = replace(launch, pending="")
        write(self.folder / LAUNCH, json.dumps(asdict(done)))
        return done

    def take_order(self) -> Order | None:
        """Read the order and delete its file; None when there is none. Raises OSError, ValueError or TypeError."""
        path = self.folder / ORDER
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        path.unlink()
        return Order(**json.loads(text))

    def forget_order(self) -> None:
        """Delete an order to a keeper that has died."""
        (self.folder / ORDER).unlink(missing_ok=True)

    def report(self, found: Mapping[str, Any]) -> None:
        """Write what runs, when it differs from the last report. An error, such as a full disk, changes nothing."""
        text = json.dumps(found)
        with suppress(OSError):
            if text != self._reported:
                write(self.folder / REPORT, text)
                self._reported = text


def _copied(launch: Launch) -> Path:
    """Copy the pending configuration to a file beside the one in use, and return its path."""
    made = written(Path(launch.config_file).resolve(), "", keep_mode=True)
    shutil.copyfile(launch.pending, made)
    return made
