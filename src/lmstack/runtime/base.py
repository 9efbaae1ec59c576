"""The interface of a runtime, the options and results of its methods, and the state file of the last start."""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from lmstack import files
from lmstack.runtime.workers import Workers
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project

READY_SECONDS = 120.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]?")


@dataclass(frozen=True, slots=True)
class State:
    """What `lm up` started last, as .lmstack/state.json holds it. No secret is in it."""

    runtime: str
    digest: str
    url: str
    models: list[str]
    started_at: float
    image: str = ""
    image_digest: str = ""
    flags: dict[str, str] = field(default_factory=dict)  # the options of `lm up`, as settings
    settings: dict[str, str] = field(default_factory=dict)  # each setting's value; of a secret only a short digest
    engine: dict[str, str] = field(default_factory=dict)  # the Docker engine, as fields of engine.Engine
    parts: dict[str, str] = field(default_factory=dict)  # what else the digest depends on: see operate.changes.parts


@dataclass(frozen=True, slots=True)
class Service:
    """One process or container. ``state`` is running, starting, restarting, stopped or failed.

    ``is_known`` is False when the engine did not answer: whether the service runs is not known then.
    """

    name: str
    state: str
    detail: str = ""
    pid: int | None = None
    restarts: int = 0
    health: str = ""
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which log lines a command shows. ``since`` in seconds before now. ``until``: ``follow`` ends when it returns True."""

    follow: bool = False
    since: float | None = None
    level: str | None = None
    call_id: str | None = None
    service: str | None = None
    tail: int | None = None
    until: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """Where a gateway listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `lm up`. ``timeout`` in seconds."""

    timeout: float = READY_SECONDS
    foreground: bool = False
    force: bool = False
    dry_run: bool = False  # change nothing, not even to see whether a folder can be written
    own_address: Address | None = None  # of the gateway that runs here already


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a stack was started: its image with digest, and the Docker engine. Empty for the local runtime."""

    image: str = ""
    image_digest: str = ""
    engine: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stopped:
    """What `lm down` did: whether anything ran, which files or volumes are deleted, and which volumes it cannot delete."""

    ran: bool
    deleted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


Say = Callable[[str], None]


class Runtime(Protocol):
    """What both runtimes can do. Every method raises LmError for an expected failure."""

    name: str
    service_names: tuple[str, ...]  # the services that can have a log

    def require_tools(self, plan: Plan) -> None:
        """Raise MissingToolError when a program or package that a start needs is missing."""

    def check(self, plan: Plan, options: UpOptions) -> tuple[str, ...]:
        """Check everything that can fail, before anything is changed; return remarks."""

    def code(self) -> str:
        """Return the source that would run in the proxy. A new version of it counts as a change."""

    def prepare(self, plan: Plan, config: str, options: UpOptions, say: Say) -> None:
        """Get what a start needs. What runs already is not touched."""

    def up(self, plan: Plan, config: str, options: UpOptions, say: Say) -> None:
        """Start the stack, or apply a change; return when its processes were started."""

    def can_change(self) -> bool:
        """Return whether the running server can apply a change without a restart."""

    def change(self, plan: Plan, config: str, options: UpOptions, say: Say) -> None:
        """Have the running server apply a change with new workers. If it fails, everything is as before."""

    def runs(self, plan: Plan) -> bool:
        """Return whether the release of this plan is the one that runs, as far as the runtime can tell."""

    def can_hand_over(self) -> bool:
        """Return whether a new server can take the place of the running one, which goes on until then."""

    def hand_over(self, plan: Plan, config: str, options: UpOptions, say: Say, prove: Callable[[], None]) -> None:
        """Let a new server take the place of the running one. If it fails or ``prove`` raises, everything is as before."""

    def workers(self) -> Workers:
        """Return the worker processes; none when they are not known."""

    def settle(self) -> None:
        """Record what runs, once every model is served."""

    def placement(self) -> Placement:
        """Return where the stack runs."""

    def give_up(self, say: Say) -> None:
        """Stop a stack that could not start. Its log stays readable."""

    def down(self, volumes: bool, say: Say) -> Stopped:
        """Let open requests finish and stop everything. With ``volumes``, delete the data, also when nothing ran."""

    def services(self) -> list[Service]:
        """Return what runs."""

    def logs(self, query: LogQuery) -> Iterator[str]:
        """Return the chosen log lines, oldest first; with ``follow`` until Ctrl-C."""

    def log_tail(self, lines: int) -> str:
        """Return the proxy's last log lines, for an error message."""

    def query(self, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the answer of a ledger query (lmstack.ledger.queries)."""

    def release_keys(self, version: str, say: Say) -> dict[str, Any]:
        """Get a LiteLLM release beside the running one; return which configuration keys it knows."""

    def recorded(self, version: str) -> str:
        """Return what pins a release: its image's digest, or its lock with hashes. "" when it is installed with lm."""

    def keep_releases(self, versions: set[str]) -> None:
        """Remove all other LiteLLM releases."""

    def save_ledger(self, target: Path) -> dict[str, Any]:
        """Write the ledger into a tar file (lmstack.ledger.backup), running or not; return what is in it."""

    def load_ledger(self, source: Path) -> dict[str, Any]:
        """Replace the ledger by that of a tar file. Nothing may run."""


@dataclass
class Progress:
    """Prints progress to stderr, one line for each step. On a terminal, ``tick`` shows a passing state in place."""

    quiet: bool = False
    _last: str = field(default="", init=False)

    def __call__(self, text: str) -> None:
        """Print one line, unless it repeats the last one."""
        if self.quiet or text == self._last:
            return
        self._last = text
        with contextlib.suppress(BrokenPipeError):  # `lm up 2>&1 | head -1` must not end the start half-way
            print(text, file=sys.stderr, flush=True)

    @property
    def on_terminal(self) -> bool:
        """Return whether ``tick`` shows anything."""
        return not self.quiet and sys.stderr.isatty()

    def tick(self, text: str) -> None:
        """Show a passing state; on terminals only. Colours and control characters of a log line are removed."""
        if self.on_terminal:
            plain = "".join(letter for letter in _COLOUR.sub("", text) if letter.isprintable())
            print(f"\r\033[K{plain}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the passing state."""
        if self.on_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def load_state(project: Project) -> State | None:
    """Return what was last started here; None when nothing was, or when the file is damaged."""
    # A newer lmstack may have written more fields. They are ignored: what runs must be seen and stopped.
    text = files.read(project.state / "state.json")
    try:
        return _state(json.loads(text)) if text else None
    except (ValueError, TypeError, AttributeError):
        return None


def _state(found: dict[str, Any]) -> State:
    from lmstack.runtime.engine import Engine

    known = _known_fields(State, found)
    return State(**{**known, "engine": _known_fields(Engine, known.get("engine") or {})})


def _known_fields(kind: type, found: dict[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in found.items() if name in names}


def save_state(project: Project, state: State) -> None:
    """Write what was started."""
    files.write(project.state / "state.json", json.dumps(asdict(state), indent=2) + "\n")


def clear_state(project: Project, runtime: str) -> None:
    """Delete the state file: nothing of this runtime runs any more. What another runtime started stays known."""
    state = load_state(project)
    if state is not None and state.runtime != runtime:
        return
    files.remove(project.state / "state.json")
