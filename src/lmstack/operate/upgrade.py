"""Move a stack to another LiteLLM release. The release must prove that it works; otherwise the release before it returns."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmstack import files
from lmstack.config.check_litellm import check_litellm_config
from lmstack.config.envfile import set_line, unset_line
from lmstack.config.kinds import KINDS
from lmstack.config.settings import Settings
from lmstack.errors import ConfigError, LmError, MissingToolError, UnhealthyError, UsageError
from lmstack.operate import proof
from lmstack.operate.planning import Planned, flags_of_running, planned
from lmstack.operate.start import is_running, is_unchanged, start
from lmstack.releases.allowed import numbers, version_objection
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.releases.proven import is_proven, upgrade_command
from lmstack.runtime import base, releases
from lmstack.stack.project import Project


@dataclass(frozen=True, slots=True)
class Releases:
    """The releases that ``lm upgrade`` lists. ``refused`` gives the reason for each; ``rollback``: the release to go back to.

    ``unproven``: those of the newer ones with which lmstack's tests did not pass, or did not run.
    """

    current: str
    newer: list[str]
    unproven: list[str]
    refused: dict[str, str]
    rollback: str | None


@dataclass(frozen=True, slots=True)
class Move:
    """What a move to a release did. ``running``: whether the gateway runs, before the move and after it.

    ``changed`` with the same release before and after: it was missing and is now installed. ``recorded``: what pins the
    release, the digest of its image or the lock with its hashes. ``proved_more``: it also answered, streamed and so on.
    """

    before: str
    to: str
    changed: bool = False
    running: bool = False
    remarks: tuple[str, ...] = ()
    recorded: str = ""
    proved_more: bool = False


def known_releases(project: Project) -> Releases:
    """List the releases that are newer than the one in use. Asks the package index."""
    current = project.settings().version
    newer = [version for version in releases.available() if numbers(version) > numbers(current)]
    refused = {version: reason for version in newer if (reason := version_objection(version))}
    accepted = [version for version in newer if version not in refused]
    last = _last_move(project)
    unproven = [version for version in accepted if not is_proven(version)]
    return Releases(current, accepted, unproven, refused, last["before"] if last else None)


def release_before(project: Project) -> str:
    """Return the release that was in use before the last upgrade; LmError when the current one did not come by an upgrade."""
    last, current = _last_move(project), project.settings().version
    if not last or last["now"] != current:
        raise LmError(f"there is nothing to go back to: LiteLLM {current} was not installed by lm upgrade", "see the releases: lm upgrade --check")  # fmt: skip
    return last["before"]


def rollback(project: Project, timeout: float, say: base.Progress) -> Move:
    """Move to the release before the last upgrade, with the same proof. It may be one that is not proven: it was in use here."""
    to = release_before(project)
    _refuse(project.settings(), to)
    return _move(project, to, _Way(timeout), say)


def move(
    project: Project, to: str, timeout: float, only_check: bool, say: base.Progress, unproven: bool = False
) -> Move:
    """Move to release ``to``. If it does not start, serve and record, return to the release before it: UnhealthyError.

    With ``only_check``, only ask that release whether it accepts the configuration. A release that is not proven needs
    ``unproven``, and proves more: UsageError without it.
    """
    _refuse(project.settings(), to)
    if not (only_check or unproven or is_proven(to)):
        raise UsageError(f"LiteLLM {to} is not proven: lmstack's tests have not passed with it", f"try it, and go back if it fails: {upgrade_command(to)}")  # fmt: skip
    return _move(project, to, _Way(timeout, only_check, not is_proven(to)), say)


@dataclass(frozen=True, slots=True)
class _Way:
    """How to move. ``timeout``: seconds to wait for the release. ``proves_more``: it must also answer, stream and so on."""

    timeout: float
    only_check: bool = False
    proves_more: bool = False


def _move(project: Project, to: str, way: _Way, say: base.Progress) -> Move:
    current = project.settings().version
    project.require_stack()
    if to == current:
        return _install_missing(project, to, say)
    with files.locked(project.state / "lock", "lm upgrade"):
        running, flags = is_running(project), flags_of_running(project)
        wanted = planned(project, {**flags, "LITELLM_VERSION": to})
        _check_configuration(wanted, to, wanted.runtime.release_keys(to, say))
        if way.only_check:
            return Move(current, to, running=running, recorded=wanted.runtime.recorded(to))
        remarks = _replace_release(project, to, flags, running, way, say)
    return Move(current, to, True, running, remarks, wanted.runtime.recorded(to), way.proves_more)


def _replace_release(
    project: Project, to: str, flags: dict[str, str], running: bool, way: _Way, say: base.Progress
) -> tuple[str, ...]:
    current = project.settings().version
    before = {path: files.read(path) for path in (project.env_file, _record(project))}
    # The record comes first: if lm is killed after this line, `lm rollback` can go back.
    files.write(_record(project), json.dumps({"now": to, "before": current, "at": time.time()}) + "\n")
    _write_version(project, before[project.env_file], to)
    try:
        moved = planned(project, flags)
        found: list[str] = []

        def prove() -> None:
            proof.verify(moved, to)
            found.extend(proof.verify_more(moved, say) if way.proves_more else ())

        started = _started(project, moved, way, say, prove)
    except (LmError, KeyboardInterrupt) as error:
        say(f"LiteLLM {to} does not work here. Going back to {current} …")
        _restore_files(before)
        left = _back_to_before(project, flags, running, way.timeout, say)
        moved_before = _last_move(project) or {}
        planned(project, flags).runtime.keep_releases({current, moved_before.get("before", current)})
        raise UnhealthyError(
            _failure_text(to, error, f"LiteLLM {current} {left}"), "see its log: lm logs --since 5m"
        ) from None
    moved.runtime.keep_releases({to, current})
    if not running:
        moved.runtime.down(False, say)
    return (*moved.plan.messages, *started, *found)


def _started(
    project: Project, moved: Planned, way: _Way, say: base.Progress, prove: Callable[[], None]
) -> tuple[str, ...]:
    """Start the release and prove it; return the remarks. It may run already, when an upgrade was killed."""
    if is_unchanged(project, moved):
        prove()
        return ()
    return start(project, moved, base.UpOptions(way.timeout), say, prove).remarks


def _install_missing(project: Project, version: str, say: base.Progress) -> Move:
    """Get the release of the settings when it is not here, as after an edit of .env."""
    wanted = planned(project, flags_of_running(project))
    try:
        wanted.runtime.require_tools(wanted.plan)
    except MissingToolError:
        with files.locked(project.state / "lock", "lm upgrade"):
            _check_configuration(wanted, version, wanted.runtime.release_keys(version, say))
        return Move(version, version, changed=True, recorded=wanted.runtime.recorded(version))
    return Move(version, version, recorded=wanted.runtime.recorded(version))


def _refuse(settings: Settings, to: str) -> None:
    """Raise when ``to`` is no release, must not run, or would be overruled by a setting."""
    wrong = KINDS["version"](to)
    if wrong:
        raise UsageError(f"--to {wrong}", "see the releases: lm upgrade --check")
    objection = version_objection(to)
    if objection:
        raise ConfigError(f"LiteLLM {to} {objection} and is refused", "see the releases: lm upgrade --check")
    for name in ("LITELLM_IMAGE", "LITELLM_VERSION"):
        value = settings.values[name]
        if value.text and (name == "LITELLM_IMAGE" or value.source == "environment"):
            fix = f"unset {name}" if value.source == "environment" else f"lm config unset {name}"
            raise ConfigError(f"{name} is set ({value.source}) and decides which release runs", f"remove it: {fix}, then try again")  # fmt: skip


def _check_configuration(wanted: Planned, to: str, keys: dict[str, Any]) -> None:
    """Raise when the release is not what it should be, or does not know a key of our configuration."""
    if keys["litellm"] != to:
        raise ConfigError(f"the release that was installed as LiteLLM {to} says that it is {keys['litellm']}; nothing was changed", "check the package index or the image registry")  # fmt: skip
    problems = tuple(p for p in check_litellm_config(wanted.config, "litellm-config.yaml", keys) if not p.warning)
    if problems:
        raise ConfigError(f"LiteLLM {to} does not accept this configuration; nothing was changed", "choose another release: lm upgrade --check", problems)  # fmt: skip


def _write_version(project: Project, text: str | None, version: str) -> None:
    """Write the release into .env. The pinned release gets no line, so that the next lmstack can move it."""
    old = text or ""
    pinned = version == LITELLM_VERSION
    new = unset_line(old, "LITELLM_VERSION") if pinned else set_line(old, "LITELLM_VERSION", version)
    files.write(project.env_file, new, 0o600)


def _restore_files(before: dict[Path, str | None]) -> None:
    for path, text in before.items():
        if text is None:
            files.remove(path)
        else:
            files.write(path, text, 0o600)


def _back_to_before(project: Project, flags: dict[str, str], running: bool, timeout: float, say: base.Progress) -> str:
    """Bring the gateway back to what it was before the upgrade; return what the release before does now."""
    wanted = planned(project, flags)
    if not running:
        wanted.runtime.down(False, say)
        return "is in use as before"
    if is_unchanged(project, wanted):
        return "runs as before"
    start(project, wanted, base.UpOptions(timeout), say)
    return "runs again"


def _failure_text(to: str, error: BaseException, left: str) -> str:
    why = "it was interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    return f"LiteLLM {to} does not work here: {why}\n{left}; nothing was changed."


def _record(project: Project) -> Path:
    return project.state / "release.json"


def _last_move(project: Project) -> dict[str, str] | None:
    """Return the record of the last upgrade; None when there is none, or when it is damaged."""
    try:
        found = json.loads(files.read(_record(project)) or "null")
        return {"now": str(found["now"]), "before": str(found["before"])} if found else None
    except (ValueError, TypeError, LookupError):
        return None
