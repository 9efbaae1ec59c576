"""The interface of a runtime, and what is the same in both: waiting for readiness, and the state file."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lmstack import files
from lmstack.errors import UnhealthyError
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project

READY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class State:
    """What `lm up` last started; in .lmstack/state.json. No secret is in it."""

    runtime: str
    digest: str
    url: str
    models: list[str]
    started_at: float
    image: str = ""
    image_digest: str = ""
    flags: dict[str, str] = field(default_factory=dict)  # what `lm up` was given, as settings
    settings: dict[str, str] = field(default_factory=dict)  # each setting's value; of a secret only a short digest


@dataclass(frozen=True, slots=True)
class Service:
    """One process or container. ``state`` is running, starting, restarting, stopped or failed."""

    name: str
    state: str
    detail: str = ""
    pid: int | None = None
    restarts: int = 0
    health: str = ""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which log lines are wanted. ``since`` in seconds before now."""

    follow: bool = False
    since: float | None = None
    level: str | None = None
    call_id: str | None = None
    service: str | None = None
    tail: int | None = None


@dataclass(frozen=True, slots=True)
class UpOptions:
    """How `lm up` was asked. ``timeout`` in seconds."""

    timeout: float = READY_SECONDS
    foreground: bool = False
    force: bool = False
    dry_run: bool = False  # touch nothing, not even to see whether a folder can be written
    own_port: int | None = None  # what the gateway that runs here already listens on


@dataclass(frozen=True, slots=True)
class Stopped:
    """What `lm down` did: whether anything ran, and which files or volumes are deleted."""

    ran: bool
    deleted: tuple[str, ...] = ()


Say = Callable[[str], None]


class Runtime(Protocol):
    """What a command may ask of either runtime; both raise LmError for expected failures."""

    name: str

    def check(self, plan: Plan, options: UpOptions) -> tuple[str, ...]:
        """Everything that can be known to fail, before anything is touched; returns remarks."""

    def code(self) -> str:
        """The source that would run in the proxy: a new version must be noticed as a change."""

    def prepare(self, plan: Plan, config: str, options: UpOptions, say: Say) -> None:
        """Get what a start needs, while what runs goes on: nothing is stopped before this has worked."""

    def up(self, plan: Plan, config: str, options: UpOptions, say: Say) -> None:
        """Start, or apply a change to, the stack; returns when its processes were started."""

    def down(self, volumes: bool, say: Say) -> Stopped:
        """Drain and stop everything; with ``volumes``, delete the data, also when nothing ran."""

    def services(self) -> list[Service]:
        """What runs."""

    def logs(self, query: LogQuery) -> Iterator[str]:
        """The chosen log lines, oldest first; with ``follow`` until Ctrl-C."""

    def log_tail(self, lines: int) -> str:
        """The proxy's last log lines, for an error message."""

    def query(self, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """Ask the ledger (lmstack.ledger.queries)."""

    def release_keys(self, version: str, say: Say) -> dict[str, Any]:
        """Get a LiteLLM release beside what runs, and ask it which configuration it takes (lmstack/config/legal_keys.py)."""

    def keep_releases(self, versions: set[str]) -> None:
        """Remove the LiteLLM releases that nobody goes back to."""

    def save_ledger(self, target: Path) -> dict[str, Any]:
        """Write the ledger into a tar (lmstack.ledger.backup), running or not; returns what is in it."""

    def load_ledger(self, source: Path) -> dict[str, Any]:
        """Replace the ledger by that of a tar; nothing may run."""


@dataclass
class Progress:
    """One line per change on stderr; on a terminal, the running second is shown in place."""

    quiet: bool = False
    _last: str = field(default="", init=False)

    def __call__(self, text: str) -> None:
        if self.quiet or text == self._last:
            return
        self._last = text
        with contextlib.suppress(BrokenPipeError):  # `lm up 2>&1 | head -1` must not end the start half-way
            print(text, file=sys.stderr, flush=True)

    def tick(self, text: str) -> None:
        """Show a passing state, terminals only."""
        if not self.quiet and sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the passing state."""
        if not self.quiet and sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def wait_ready(plan: Plan, runtime: Runtime, timeout: float, progress: Progress) -> float:
    """Poll until the proxy serves every planned name; returns the seconds it took, UnhealthyError with the log's end."""
    from lmstack.runtime.logs import last_error
    from lmstack.stack.health import missing_names

    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        missing = missing_names(plan)
        if not missing:
            progress.clear()
            return waited
        broken = [s for s in runtime.services() if s.state == "failed"]
        tail = runtime.log_tail(40).splitlines()
        if broken or waited > timeout:
            progress.clear()
            why = f"{broken[0].name} does not start" if broken else f"the proxy was not ready within {timeout:g} s"
            if missing != plan.names:
                why = f"the proxy runs but does not serve: {', '.join(missing)}"
            raise UnhealthyError(f"{why}. It said: {last_error(tail) or 'nothing'}", "see all of it with: lm logs")
        progress.tick(f"waiting for the proxy … {waited:.0f} s  {tail[-1][:60] if tail else ''}")
        time.sleep(0.25)  # the pace of a poll, not a wait for something known


def load_state(project: Project) -> State | None:
    """What was last started here, None when nothing was (or the file is from another version)."""
    text = files.read(project.state / "state.json")
    try:
        return State(**json.loads(text)) if text else None
    except (ValueError, TypeError):
        return None


def save_state(project: Project, state: State) -> None:
    """Remember what was started."""
    files.write(project.state / "state.json", json.dumps(asdict(state), indent=2) + "\n")


def clear_state(project: Project) -> None:
    """Nothing runs any more."""
    files.remove(project.state / "state.json")
