"""Start, change, stop and restart a stack. All checks come before the first effect. Reports progress and prints nothing itself."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lmstack import files
from lmstack.errors import LmError
from lmstack.operate import keys
from lmstack.operate.changes import since_the_last_start
from lmstack.operate.foreground import sigterm_as_ctrl_c, stop_ignoring_signals
from lmstack.operate.planning import Planned, flags_of_running, planned
from lmstack.operate.start import (
    Started,
    check,
    hands_over,
    is_unchanged,
    prepare,
    restart_reasons,
    start_prepared,
    state_kept_on_failure,
)
from lmstack.runtime import base
from lmstack.runtime.choose import current_runtime, running_runtime
from lmstack.runtime.leftovers import leftovers, stop_leftovers
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project


@dataclass(frozen=True, slots=True)
class Up:
    """What `lm up` did. There is no ``started`` when the gateway ran already and nothing had changed.

    ``keys``: the remark about the keys that models.yaml declares.
    """

    wanted: Planned
    started: Started | None
    keys: str = ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return the remarks of plan and checks."""
        started = self.started.remarks if self.started else ()
        return (*self.wanted.plan.messages, *started, *([self.keys] if self.keys else []))


@dataclass(frozen=True, slots=True)
class Preview:
    """What `lm up` would do. ``changes`` has a sentence for each setting.

    ``action`` is start, reload, handover (a new server takes the place of the running one), restart or nothing.
    ``restart_reasons`` says why it must be a restart.
    """

    wanted: Planned
    action: str
    changes: list[str]
    remarks: tuple[str, ...]
    restart_reasons: tuple[str, ...] = ()


def up(project: Project, flags: dict[str, str], options: base.UpOptions, say: base.Progress) -> Up:
    """Start the gateway, or apply changed settings. In an empty folder, create the stack first.

    Ctrl-C leaves the stack starting in the background. With ``options.foreground`` it stops the stack. Before the first
    effect, Ctrl-C changes nothing: what ran before goes on.
    """
    _create_if_empty(project, flags, say)
    project.require_stack()
    with files.locked(project.state / "lock", "lm up"):
        wanted = planned(project, flags)
        with sigterm_as_ctrl_c() if options.foreground else contextlib.nullcontext():
            if is_unchanged(project, wanted):
                return _with_keys(project, Up(wanted, None))
            prepared = prepare(project, wanted, options, say)
            with _handled_ctrl_c(wanted.runtime, options, say):
                return _with_keys(project, Up(wanted, start_prepared(project, wanted, options, say, prepared)))


def _with_keys(project: Project, done: Up) -> Up:
    """Apply the limits of the keys that models.yaml declares. The gateway serves already: a failure is no failed start."""
    try:
        changed = keys.apply_declared(project)
    except LmError as error:
        return replace(done, keys=f"the limits of keys in models.yaml were not applied: {error}")
    return replace(done, keys=f"models.yaml has new limits for: {', '.join(changed)}" if changed else "")


@contextlib.contextmanager
def _handled_ctrl_c(runtime: base.Runtime, options: base.UpOptions, say: base.Progress) -> Iterator[None]:
    """Stop what was started in the foreground when Ctrl-C ends it, or print that it goes on in the background."""
    try:
        yield
    except KeyboardInterrupt:
        if options.foreground:
            stop_ignoring_signals(runtime, say)
        else:
            say("Interrupted. A start goes on in the background. See it with: lm status. Stop it with: lm down")
        raise


def preview(project: Project, flags: dict[str, str], options: base.UpOptions) -> Preview:
    """Return what `lm up` would do. Runs the same checks and changes nothing."""
    wanted = planned(project, flags)
    if not project.is_new:
        project.require_stack()
    changes = since_the_last_start(base.load_state(project), wanted)
    unchanged = is_unchanged(project, wanted)
    remarks = () if unchanged else check(project, wanted, replace(options, dry_run=True))
    reasons = None if unchanged else restart_reasons(project, wanted)
    action = "nothing" if unchanged else _action(project, wanted, reasons)
    shown = tuple(reasons or ()) if action == "restart" else ()
    return Preview(wanted, action, changes, (*wanted.plan.messages, *remarks), shown)


def _action(project: Project, wanted: Planned, reasons: list[str] | None) -> str:
    if reasons is None:
        return "start"
    if not reasons:
        return "reload"
    return "handover" if hands_over(project, wanted) else "restart"


def down(project: Project, volumes: bool, say: base.Progress) -> base.Stopped:
    """Finish open requests and stop everything; with ``volumes``, delete the data too.

    Also stops a stack after its folder was deleted; its Docker volumes stay.
    """
    if leftovers(project):
        return stop_leftovers(project)
    project.require_stack()
    with files.locked(project.state / "lock", "lm down"):
        return current_runtime(project).down(volumes, say)


def require_stoppable(project: Project) -> None:
    """Raise ConfigError when the folder holds no stack and nothing of a deleted stack runs."""
    if not leftovers(project):
        project.require_stack()


def restart(project: Project, timeout: float, say: base.Progress) -> Up:
    """Stop the gateway and start it with the settings on disk and the flags of the last `lm up`."""
    project.require_stack()
    runtime = running_runtime(project)
    with files.locked(project.state / "lock", "lm restart"):
        wanted, options = planned(project, flags_of_running(project)), base.UpOptions(timeout)
        prepared = prepare(project, wanted, options, say, stops=True)
        with state_kept_on_failure(project):
            runtime.down(False, say)
            return _with_keys(project, Up(wanted, start_prepared(project, wanted, options, say, prepared)))


def _create_if_empty(project: Project, flags: dict[str, str], say: base.Progress) -> None:
    if not project.is_new:
        return
    # What is wrong with options, environment or tools is reported before any file is made.
    wanted = planned(project, flags)
    wanted.runtime.require_tools(wanted.plan)
    say(f"{project.root} is empty: creating a stack in it (lm init)")
    lay_down(project, files.read(project.env_file))
