"""What a server does when its keeper speaks: show its output, use the final name of its configuration, or leave."""

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from granian.log import logger as log

from lmstack.gateway.app.keeper_line import LEAVE, SERVE, STAY, KeeperLine
from lmstack.gateway.app.output import Output
from lmstack.gateway.app.replacement import Replacements
from lmstack.gateway.app.worker_start import STARTED, Start

_CONFIG = "CONFIG_FILE_PATH"  # LiteLLM's variable: a worker reads it, and its --config only without it


class Kept:
    """A server with a keeper. ``leaves``: another server has taken its place."""

    def __init__(self, keeper: KeeperLine, replacements: Replacements) -> None:
        self._keeper, self._replacements, self._trial = keeper, replacements, keeper.trial
        self._tried: Path | None = None  # the configuration of the trial, which a starting worker may still read
        self.leaves, self._told = False, False

    @property
    def line(self) -> socket.socket:
        """Return the line to the keeper. It is closed when the keeper has died."""
        return self._keeper.line

    def wake_with(self, wake: Callable[[], None]) -> None:
        """Have this called when the keeper has said something, and once now."""
        self._keeper.wake = wake
        wake()

    def start(self) -> Start:
        """Return how a worker starts. On trial, each must serve all models."""
        return Start(names=self._trial.names, config_file=self._trial.config_file) if self._trial else Start()

    def obey(self, workers: Sequence[Any]) -> bool:
        """Do what the keeper has said; return whether it says that the workers must leave."""
        said = self._keeper.said()
        if SERVE in said:
            Output.restore()
        if STAY in said and self._trial:
            self._tried = Path(self._trial.config)
            os.environ[_CONFIG] = self._trial.config_file
            self._trial = None
        if self._tried and all(worker.begun.flags[STARTED] for worker in workers):
            self._tried.unlink(missing_ok=True)
            self._tried = None
        if LEAVE in said and not self.leaves:
            log.info("lmstack: another server takes the new connections; the workers of this one finish their requests")
            self.leaves = True
            self._replacements.leave([worker for worker in workers if worker.is_alive()])
            return True
        return False

    def has_left(self) -> bool:
        """Return whether all workers have left. Tell the keeper when none accepts any more."""
        if self.leaves and not self._told and self._replacements.old.have_left():
            self._keeper.tell_left()
            self._told = True
        return self.leaves and not self._replacements.old.workers
