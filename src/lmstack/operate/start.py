"""Start a stack, or find that nothing has to be done. All checks come before the first effect."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lmstack.errors import LmError
from lmstack.operate import changes
from lmstack.operate.planning import Planned
from lmstack.runtime import base
from lmstack.runtime.choose import current_runtime, own_address, running_runtime
from lmstack.runtime.readiness import ProgramEndedError, wait_ready
from lmstack.stack import registry
from lmstack.stack.project import PROXY_SERVICE, Project


@dataclass(frozen=True, slots=True)
class Started:
    """The result of a start. ``took``: seconds until every model was served. ``remarks``: what the checks remarked."""

    took: float
    remarks: tuple[str, ...] = ()


def is_running(project: Project) -> bool:
    """Return whether this stack runs, however it was started. A service that fails or restarts counts: it should run."""
    return any(service.state != "stopped" for service in current_runtime(project).services())


def is_unchanged(project: Project, wanted: Planned) -> bool:
    """Return whether exactly this plan runs with all its services, and serves every model."""
    from lmstack.stack.health import missing_names

    state = base.load_state(project)
    if state is None or state.runtime != wanted.runtime.name or state.digest != wanted.digest:
        return False
    services = wanted.runtime.services()
    all_run = bool(services) and all(service.state == "running" for service in services)
    return all_run and wanted.runtime.runs(wanted.plan) and not missing_names(wanted.plan)


def restart_reasons(project: Project, wanted: Planned) -> list[str] | None:
    """Return why the running gateway must stop for a change; empty when it need not, None when nothing runs."""
    state = base.load_state(project)
    if state is None or own_address(project) is None:
        return None
    reasons = changes.restart_reasons(state, wanted)
    all_run = all(service.state == "running" for service in wanted.runtime.services())
    return reasons or ([] if all_run and wanted.runtime.can_change() else ["not everything of it runs"])


def hands_over(project: Project, wanted: Planned) -> bool:
    """Return whether a new server can take the place of the running one, where a reload is not enough."""
    state = base.load_state(project)
    if state is None or not changes.listens_alike(state, wanted):
        return False
    needs_server = not wanted.runtime.runs(wanted.plan) or state.digest != wanted.digest
    all_run = all(service.state == "running" for service in wanted.runtime.services())
    return needs_server and all_run and wanted.runtime.can_hand_over()


def check(project: Project, wanted: Planned, options: base.UpOptions) -> tuple[str, ...]:
    """Check everything that can fail, before anything is changed; return remarks."""
    return wanted.runtime.check(wanted.plan, replace(options, own_address=own_address(project)))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` has found. ``reasons`` is as of ``restart_reasons``: empty for a change of the running server."""

    remarks: tuple[str, ...]
    reasons: list[str] | None


def start(
    project: Project,
    wanted: Planned,
    options: base.UpOptions,
    say: base.Progress,
    prove: Callable[[], None] = lambda: None,
) -> Started:
    """Check, start, and wait until every planned model is served; raise UnhealthyError when that does not happen.

    ``prove`` is called then. If it raises while a server that ran before is still there, that server goes on.
    """
    return start_prepared(project, wanted, options, say, prepare(project, wanted, options, say), prove)


def prepare(
    project: Project, wanted: Planned, options: base.UpOptions, say: base.Progress, stops: bool = False
) -> Prepared:
    """Check, and get what the start needs. What runs is not touched. ``stops``: it will be stopped before the start."""
    remarks = check(project, wanted, options)
    for change in changes.since_the_last_start(base.load_state(project), wanted):
        say(f"Changed: {change}")
    reasons = None if stops else restart_reasons(project, wanted)
    if reasons != []:  # The running server writes the files itself, after it has proven the change.
        wanted.runtime.prepare(wanted.plan, wanted.config, options, say)
    return Prepared(remarks, reasons)


def start_prepared(
    project: Project, wanted: Planned, options: base.UpOptions, say: base.Progress, prepared: Prepared, prove: Callable[[], None] = lambda: None
) -> Started:  # fmt: skip
    """Start what `prepare` prepared, wait until every planned model is served, and call ``prove``."""
    if prepared.reasons and hands_over(project, wanted):
        return Started(_hand_over(project, wanted, options, say, prove), prepared.remarks)
    took = _start(project, wanted, options, say, prepared)
    prove()
    return Started(took, prepared.remarks)


def _start(project: Project, wanted: Planned, options: base.UpOptions, say: base.Progress, prepared: Prepared) -> float:
    if prepared.reasons == []:
        return _change_running(project, wanted, options, say)
    if prepared.reasons:
        say(f"This needs a restart, and the gateway does not answer meanwhile: {'; '.join(prepared.reasons)}")
    with state_kept_on_failure(project):
        return _replace_running(project, wanted, options, say)


def _change_running(project: Project, wanted: Planned, options: base.UpOptions, say: base.Progress) -> float:
    """Let the running server apply the plan, and return the seconds that it took. If it fails, nothing has changed."""
    began, state = time.monotonic(), base.load_state(project)
    wanted.runtime.change(wanted.plan, wanted.config, options, say)
    return _changed(project, wanted, state.started_at if state else time.time(), began)


def _hand_over(
    project: Project, wanted: Planned, options: base.UpOptions, say: base.Progress, prove: Callable[[], None]
) -> float:
    """Let a new server take the place of the running one; return the seconds until it stayed. If it fails, nothing has changed."""
    began = time.monotonic()
    say(
        "Starting a new server beside the running one. It takes its place when it serves all models; no request is refused …"
    )
    wanted.runtime.hand_over(wanted.plan, wanted.config, options, say, prove)
    return _changed(project, wanted, time.time(), began)


def _changed(project: Project, wanted: Planned, started_at: float, began: float) -> float:
    base.save_state(project, _state(wanted, started_at))
    wanted.runtime.settle()
    return time.monotonic() - began


@contextlib.contextmanager
def state_kept_on_failure(project: Project) -> Iterator[None]:
    """Put the state of the last start back when the block fails and left none: it holds the flags for a new attempt."""
    before = base.load_state(project)
    try:
        yield
    except BaseException:
        if before is not None and base.load_state(project) is None:
            base.save_state(project, before)
        raise


def _replace_running(project: Project, wanted: Planned, options: base.UpOptions, say: base.Progress) -> float:
    """Stop what runs in another runtime, start the plan, and return the seconds until it was ready."""
    plan, runtime = wanted.plan, wanted.runtime
    _stop_other_runtime(project, runtime.name, say)
    kind = {"docker": "a Docker stack", "local": "a local process"}[runtime.name]
    say(f"Starting lmstack as {kind} ({wanted.why}): {_count(len(plan.deployments), 'model')} on {plan.url}")
    try:
        runtime.up(plan, wanted.config, options, say)
        base.save_state(project, _state(wanted, time.time()))
        registry.remember(project.root)
        took = wait_ready(plan, runtime, options.timeout, say)
        runtime.settle()
    except LmError as error:
        if isinstance(error, ProgramEndedError) or not _proxy_runs(runtime):
            with contextlib.suppress(LmError):  # the first error is the one to show
                runtime.give_up(say)
        raise
    return took


def _proxy_runs(runtime: base.Runtime) -> bool:
    """Return whether the proxy runs, or may run."""
    return any(s.name == PROXY_SERVICE and (s.state == "running" or not s.is_known) for s in runtime.services())


def _stop_other_runtime(project: Project, name: str, say: base.Say) -> None:
    state = base.load_state(project)
    if state is not None and state.runtime != name:
        say(f"Stopping the {state.runtime} runtime first …")
        running_runtime(project).down(False, say)


def _state(wanted: Planned, now: float) -> base.State:
    place = wanted.runtime.placement()
    return base.State(
        wanted.runtime.name, wanted.digest, wanted.plan.url, list(wanted.plan.names), now, place.image, place.image_digest,
        wanted.flags, changes.marks(wanted.plan.settings), place.engine, changes.parts(wanted),
    )  # fmt: skip


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
