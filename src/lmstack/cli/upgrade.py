"""upgrade, rollback: another LiteLLM release, proven before it stays."""

import json
import secrets
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from lmstack import files
from lmstack.cli.app import Context, command
from lmstack.config.check_litellm import check_litellm_config
from lmstack.config.envfile import set_line, unset_line
from lmstack.config.kinds import KINDS
from lmstack.config.settings import Settings
from lmstack.errors import ConfigError, LmError, UnhealthyError, UsageError
from lmstack.operate.planning import Planned, flags_of_running, planned
from lmstack.operate.start import is_unchanged, start
from lmstack.releases.allowed import numbers, version_objection
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.result import Result
from lmstack.runtime import base, releases
from lmstack.stack import health

PROOF_SECONDS = 15.0
_TIMEOUT = Annotated[float, typer.Option("--timeout", help="Seconds that the new release may take to answer.")]


@command("upgrade", "lm upgrade --to 1.2.3")
def upgrade(
    context: Context,
    check: Annotated[bool, typer.Option("--check", help="Change nothing: list releases, or check the one of --to.")] = False,
    to: Annotated[str | None, typer.Option("--to", help="The LiteLLM release to go to.")] = None,
    timeout: _TIMEOUT = base.READY_SECONDS,
) -> Result:  # fmt: skip
    """Go to another LiteLLM release: package or image are got first, this configuration is checked against what that
    release knows, and a start must prove it. If anything fails, the release before runs again."""
    if to is None:
        return _known_releases(context)
    return _move(context, "upgrade", to, timeout, check)


@command("rollback", "lm rollback")
def rollback(context: Context, timeout: _TIMEOUT = base.READY_SECONDS) -> Result:
    """Go back to the LiteLLM release before the last `lm upgrade`, proven in the same way."""
    last = _last_move(context)
    now = context.project.settings().version
    if not last or last["now"] != now:
        raise LmError(
            f"LiteLLM {now} did not come by 'lm upgrade', so there is nothing to go back to", "lm upgrade --check"
        )
    return _move(context, "rollback", last["before"], timeout, False)


def _known_releases(context: Context) -> Result:
    now = context.project.settings().version
    listed = releases.available()
    newer = [v for v in listed if numbers(v) > numbers(now)]
    refused = {v: version_objection(v) for v in newer if version_objection(v)}
    good = [v for v in newer if v not in refused]
    last = _last_move(context)
    data = {
        "current": now,
        "tested": LITELLM_VERSION,
        "newer": good,
        "refused": refused,
        "rollback": last["before"] if last else None,
    }
    lines = [f"LiteLLM {now} is used here; this lmstack was tested with {LITELLM_VERSION}."]
    lines += [f"Newer: {', '.join(good[:8])}{' …' if len(good) > 8 else ''}" if good else "There is no newer release."]
    lines += [f"Refused: LiteLLM {v} {why}" for v, why in refused.items()]
    lines += (
        [f"Next: lm upgrade --check --to {good[0]} (asks that release), lm upgrade --to {good[0]} (goes there)"]
        if good
        else []
    )
    return Result("upgrade", data, tuple(lines))


def _move(context: Context, name: str, to: str, timeout: float, only_check: bool) -> Result:
    """To another release and, unless that proves itself, back."""
    settings = context.project.settings()
    now = settings.version
    _refuse(settings, to)
    data: dict[str, Any] = {"from": now, "to": to, "changed": False, "checked": True, "running": False}
    if to == now:
        return Result(name, data, (f"LiteLLM {now} is what is used here already.",))
    context.project.require_stack()
    with files.locked(context.project.state / "lock", "lm upgrade"):
        running = base.load_state(context.project) is not None
        data["running"] = running
        flags = flags_of_running(context.project)
        wanted = planned(context.project, {**flags, "LITELLM_VERSION": to})
        _accepts(wanted, to, wanted.runtime.release_keys(to, context.say))
        if only_check:
            return Result(name, data, (f"LiteLLM {to} takes this configuration. Go there with: lm upgrade --to {to}",))
        env, record = context.project.env_file, _record(context)
        before = {path: files.read(path) for path in (env, record)}
        # First the way back: whoever is killed from here on finds it with `lm rollback`.
        files.write(record, json.dumps({"now": to, "before": now, "at": time.time()}) + "\n")
        _pin(context, before[env], to)
        try:
            moved = planned(context.project, flags)
            started = start(context.project, moved, base.UpOptions(timeout), context.say)
            _prove(moved, to)
        except (LmError, KeyboardInterrupt) as error:
            context.say(f"LiteLLM {to} has not proven itself; returning to {now} …")
            _restore(before)
            _start_again(context, flags, running, timeout)
            wanted.runtime.keep_releases({now, (_last_move(context) or {}).get("before", now)})
            raise UnhealthyError(_failed(to, now, running, error), "what it said: lm logs --since 5m") from None
        moved.runtime.keep_releases({to, now})
        if not running:
            moved.runtime.down(False, context.say)
    lines = (
        f"LiteLLM {to} is used from now on (before: {now}). It started, serves every model, and its calls are on the ledger.",
        "" if running else "It is stopped again, as it was. Start it with: lm up",
        "Back: lm rollback",
    )
    remark = (
        ()
        if to == LITELLM_VERSION
        else (f"this lmstack was tested with LiteLLM {LITELLM_VERSION}; watch `lm errors` for a while",)
    )
    return Result(
        name,
        {**data, "changed": True},
        tuple(line for line in lines if line),
        (*moved.plan.messages, *started.remarks, *remark),
    )


def _refuse(settings: Settings, to: str) -> None:
    wrong = KINDS["version"](to)
    if wrong:
        raise UsageError(f"--to {wrong}", "see which there are: lm upgrade --check")
    objection = version_objection(to)
    if objection:
        raise ConfigError(f"LiteLLM {to} {objection} and is refused", "see which there are: lm upgrade --check")
    for name in ("LITELLM_IMAGE", "LITELLM_VERSION"):
        value = settings.values[name]
        if value.text and (name == "LITELLM_IMAGE" or value.source == "environment"):
            where = f"{name} is set ({value.source}) and decides what runs"
            mend = f"unset {name}" if value.source == "environment" else f"lm config unset {name}"
            raise ConfigError(where, f"{mend}, then try again")


def _accepts(wanted: Planned, to: str, keys: dict[str, Any]) -> None:
    if keys["litellm"] != to:
        raise ConfigError(f"what was got as LiteLLM {to} calls itself {keys['litellm']}; nothing was changed", "look at where it came from")  # fmt: skip
    problems = tuple(p for p in check_litellm_config(wanted.config, "litellm-config.yaml", keys) if not p.warning)
    if problems:
        raise ConfigError(f"LiteLLM {to} does not take this configuration; nothing was changed", "choose another release: lm upgrade --check", problems)  # fmt: skip


def _pin(context: Context, text: str | None, version: str) -> None:
    """The pinned release needs no line: with the next lmstack it is another one."""
    old = text or ""
    new = (
        unset_line(old, "LITELLM_VERSION") if version == LITELLM_VERSION else set_line(old, "LITELLM_VERSION", version)
    )
    files.write(context.project.env_file, new, 0o600)


def _restore(before: dict[Path, str | None]) -> None:
    for path, text in before.items():
        if text is None:
            files.remove(path)
        else:
            files.write(path, text, 0o600)


def _start_again(context: Context, flags: dict[str, str], running: bool, timeout: float) -> None:
    wanted = planned(context.project, flags)
    if running and not is_unchanged(context.project, wanted):
        start(context.project, wanted, base.UpOptions(timeout), context.say)
    else:
        wanted.runtime.down(False, context.say)


def _failed(to: str, now: str, running: bool, error: BaseException) -> str:
    why = "it was interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    left = f"LiteLLM {now} runs again" if running else f"LiteLLM {now} is used as before"
    return f"LiteLLM {to} does not work here: {why}\n{left}; nothing was changed."


def _prove(moved: Planned, version: str) -> None:
    """Beyond serving its names: it is that release, and a call (refused before any provider is asked) is on the ledger."""
    name = f"lm-proof-{secrets.token_hex(4)}"
    key = moved.plan.settings.master_key
    said = health.release(moved.plan.url, key)
    if said not in ("", version):
        raise UnhealthyError(f"what answers on {moved.plan.url} is LiteLLM {said}")
    # Keyless and paid for by nobody: our route, which the release loads by its startup hook.
    if health.get(f"{moved.plan.url}/health").status != 200:
        raise UnhealthyError("the gateway's own /health is not there: our side does not work with this release")
    status, call_id = health.refused_call(moved.plan.url, key, name)
    if not 400 <= status < 500:
        raise UnhealthyError(f"a call for a model that does not exist was answered with {status or 'nothing'}")
    deadline = time.monotonic() + PROOF_SECONDS
    while not moved.runtime.query("request", {"id": call_id}):
        if time.monotonic() > deadline:
            raise UnhealthyError(
                "a call was answered, but is not on the ledger: our callback does not work with this release"
            )
        time.sleep(0.25)  # the pace of a poll


def _record(context: Context) -> Path:
    return context.project.state / "release.json"


def _last_move(context: Context) -> dict[str, Any] | None:
    text = files.read(_record(context))
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found
