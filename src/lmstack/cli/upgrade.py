"""upgrade, rollback: move the stack to another LiteLLM release."""

from typing import Annotated

import typer

from lmstack.cli.app import Context, command
from lmstack.operate import upgrade as flow
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.result import Result
from lmstack.runtime.base import READY_SECONDS

_TIMEOUT = Annotated[float, typer.Option("--timeout", help="Seconds to wait for the new release.")]


@command("upgrade", "lm upgrade --check")
def upgrade(
    context: Context,
    check: Annotated[bool, typer.Option("--check", help="Change nothing. List releases, or check the one of --to.")] = False,
    to: Annotated[str | None, typer.Option("--to", help="The LiteLLM release to move to.")] = None,
    timeout: _TIMEOUT = READY_SECONDS,
) -> Result:  # fmt: skip
    """Move to another LiteLLM release, or list the releases.

    lm installs the release beside the one that runs and checks your configuration against it. Then it starts the new
    release and tests it. If anything fails, the release before runs again.
    """
    if to is None:
        return _listed(flow.known_releases(context.project))
    return _moved("upgrade", flow.move(context.project, to, timeout, check, context.say), check)


@command("rollback", "lm rollback")
def rollback(context: Context, timeout: _TIMEOUT = READY_SECONDS) -> Result:
    """Go back to the LiteLLM release before the last `lm upgrade`. It is tested in the same way."""
    to = flow.release_before(context.project)
    return _moved("rollback", flow.move(context.project, to, timeout, False, context.say), False)


def _listed(found: flow.Releases) -> Result:
    newer = found.newer
    lines = [f"This stack uses LiteLLM {found.current}. This lmstack was tested with {LITELLM_VERSION}."]
    lines += [f"Newer: {', '.join(newer[:8])}{' …' if len(newer) > 8 else ''}" if newer else "There is no newer release."]  # fmt: skip
    lines += [f"Refused: LiteLLM {version} {reason}" for version, reason in found.refused.items()]
    if newer:
        lines += [f"Check a release first: lm upgrade --check --to {newer[0]}", f"Move to it: lm upgrade --to {newer[0]}"]  # fmt: skip
    if found.rollback:
        lines += [f"Go back to {found.rollback}: lm rollback"]
    data = {"current": found.current, "tested": LITELLM_VERSION, "newer": newer, "refused": found.refused, "rollback": found.rollback}  # fmt: skip
    return Result("upgrade", data, tuple(lines))


def _moved(name: str, done: flow.Move, only_check: bool) -> Result:
    data = {"from": done.before, "to": done.to, "changed": done.changed, "checked": True, "running": done.running, "recorded": done.recorded or None}  # fmt: skip
    pinned = [f"Recorded: {done.recorded}."] if done.recorded else []
    if done.to == done.before and done.changed:
        return Result(name, data, (f"LiteLLM {done.to}, which this stack uses, was missing and is now installed. Start it with: lm up", *pinned))  # fmt: skip
    if done.to == done.before:
        return Result(name, data, (f"This stack uses LiteLLM {done.to} already.", *pinned))
    if only_check:
        return Result(name, data, (f"LiteLLM {done.to} accepts this configuration. Move to it: lm upgrade --to {done.to}", *pinned))  # fmt: skip
    lines = [f"This stack now uses LiteLLM {done.to} (before: {done.before}). It started, it serves every model, and it records calls."]  # fmt: skip
    lines += pinned
    lines += [] if done.running else ["It is stopped again, as before. Start it with: lm up"]
    lines += ["Go back with: lm rollback"]
    tested = done.to == LITELLM_VERSION
    remark = () if tested else (f"this lmstack was tested with LiteLLM {LITELLM_VERSION}; look at lm errors in the next days",)  # fmt: skip
    return Result(name, data, tuple(lines), (*done.remarks, *remark))
