"""upgrade, rollback: move the stack to another LiteLLM release."""

from typing import Annotated

import typer

from lmstack.cli.app import Context, command
from lmstack.errors import UsageError
from lmstack.operate import upgrade as flow
from lmstack.releases import proven
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.result import Result
from lmstack.runtime.base import READY_SECONDS

_TIMEOUT = Annotated[float, typer.Option("--timeout", help="Seconds to wait for the new release.")]


@command("upgrade", "lm upgrade --check")
def upgrade(
    context: Context,
    check: Annotated[bool, typer.Option("--check", help="Change nothing. List releases, or check the one of --to.")] = False,
    to: Annotated[str | None, typer.Option("--to", help="The LiteLLM release to move to.")] = None,
    unproven: Annotated[bool, typer.Option("--unproven", help="Try a release that lmstack's tests have not passed with. Its test makes a few paid calls.")] = False,
    timeout: _TIMEOUT = READY_SECONDS,
) -> Result:  # fmt: skip
    """Move to another LiteLLM release, or list the releases.

    lm installs the release beside the one that runs and checks your configuration against it. Then it starts the new
    release and tests it. If anything fails, the release before runs again. A release is proven when lmstack's own tests
    have passed with it.
    """
    if to is None and unproven:
        raise UsageError("--unproven needs a release", "name it: lm upgrade --to RELEASE --unproven")
    if to is None:
        return _listed(flow.known_releases(context.project))
    return _moved("upgrade", flow.move(context.project, to, timeout, check, context.say, unproven), check)


@command("rollback", "lm rollback")
def rollback(context: Context, timeout: _TIMEOUT = READY_SECONDS) -> Result:
    """Go back to the LiteLLM release before the last `lm upgrade`. It is tested in the same way."""
    return _moved("rollback", flow.rollback(context.project, timeout, context.say), False)


def _listed(found: flow.Releases) -> Result:
    newer, known = found.newer, proven.proven()
    lines = [f"This stack uses LiteLLM {found.current} ({_verdict(found.current)}). This lmstack was tested with {', '.join(known)}."]  # fmt: skip
    shown = [f"{version} ({_verdict(version)})" for version in newer]
    lines += [f"Newer: {', '.join(shown[:8])}{' …' if len(shown) > 8 else ''}" if newer else "There is no newer release."]  # fmt: skip
    lines += [f"Refused: LiteLLM {version} {reason}" for version, reason in found.refused.items()]
    if newer:
        best = next((version for version in newer if version not in found.unproven), newer[0])
        lines += [f"Check a release first: lm upgrade --check --to {best}", f"Move to it: {proven.upgrade_command(best)}"]  # fmt: skip
    if found.rollback:
        lines += [f"Go back to {found.rollback}: lm rollback"]
    data = {"current": found.current, "tested": LITELLM_VERSION, "proven": list(known), "newer": newer, "unproven": found.unproven, "refused": found.refused, "rollback": found.rollback}  # fmt: skip
    return Result("upgrade", data, tuple(lines))


def _verdict(version: str) -> str:
    return "proven" if proven.is_proven(version) else "not proven"


def _moved(name: str, done: flow.Move, only_check: bool) -> Result:
    data = {"from": done.before, "to": done.to, "changed": done.changed, "checked": True, "running": done.running, "recorded": done.recorded or None, "proven": proven.is_proven(done.to)}  # fmt: skip
    pinned = [f"Recorded: {done.recorded}."] if done.recorded else []
    if done.to == done.before and done.changed:
        return Result(name, data, (f"LiteLLM {done.to}, which this stack uses, was missing and is now installed. Start it with: lm up", *pinned))  # fmt: skip
    if done.to == done.before:
        return Result(name, data, (f"This stack uses LiteLLM {done.to} already.", *pinned))
    if only_check:
        return Result(name, data, (f"LiteLLM {done.to} accepts this configuration. It is {_verdict(done.to)}. Move to it: {proven.upgrade_command(done.to)}", *pinned))  # fmt: skip
    lines = [f"This stack now uses LiteLLM {done.to} (before: {done.before}). It started, it serves every model, and it records calls."]  # fmt: skip
    lines += (
        ["A call, a fallback, a stream, a wrong key and a budget gave what they should."] if done.proved_more else []
    )
    lines += pinned
    lines += [] if done.running else ["It is stopped again, as before. Start it with: lm up"]
    lines += ["Go back with: lm rollback"]
    remark = (
        () if proven.is_proven(done.to) else (f"LiteLLM {done.to} is not proven; look at lm errors in the next days",)
    )
    return Result(name, data, tuple(lines), (*done.remarks, *remark))
