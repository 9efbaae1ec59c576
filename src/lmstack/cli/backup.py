"""backup, restore: the ledger with its outbox, models.yaml and, when asked, .env, as one archive."""

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from lmstack import __version__, files
from lmstack.catalog.models import parse_catalog
from lmstack.cli.app import Context, command
from lmstack.config.envfile import parse_env
from lmstack.config.settings import parse_settings
from lmstack.errors import LmError, NoLedgerError
from lmstack.ledger.backup import check_saved
from lmstack.operate import archive
from lmstack.operate.planning import flags_of_running, planned
from lmstack.operate.start import check, start
from lmstack.result import Result
from lmstack.runtime import base
from lmstack.runtime.choose import current_runtime
from lmstack.runtime.ledger_file import ledger_errors
from lmstack.stack.project import shipped_catalog

LEDGER, MODELS, ENV = "ledger.tar", "models.yaml", ".env"
_TITLES = {LEDGER: "the ledger with its events", MODELS: MODELS, ENV: ".env with your keys"}


@command("backup", "lm backup")
def backup(
    context: Context,
    file: Annotated[Path | None, typer.Argument(help="Default: backups/lmstack-TIME.tar.gz in the stack's folder.")] = None,
    env: Annotated[bool | None, typer.Option("--env/--no-env", help="With .env, which holds your keys; asked if left out.")] = None,
) -> Result:  # fmt: skip
    """Save the ledger, events that are not delivered yet, and models.yaml, while everything runs."""
    context.project.require_stack()
    if env is None:
        env = context.may_ask and context.project.env_file.exists() and typer.confirm(
            "Put .env into the backup? It holds your keys", default=False, err=True
        )  # fmt: skip
    target = file or context.project.root / "backups" / f"lmstack-{_stamp()}.tar.gz"
    if target.exists():
        raise LmError(f"{target} exists already; nothing was written", "choose another name")
    data = _save(context, target, env)
    summary = data["ledger"]
    held = (
        f"{summary['requests']} requests, {summary['waiting_events']} events not yet delivered"
        if summary
        else "no ledger yet"
    )
    lines = (
        f"{target}: {_size(data['bytes'])}, {held}",
        f"In it: {_listed(data['parts'])}",
        f"Back: lm restore {target}",
    )
    return Result("backup", data, lines)


@command("restore", "lm restore backups/lmstack-20261123-120000.tar.gz")
def restore(
    context: Context,
    file: Annotated[Path, typer.Argument(help="What `lm backup` wrote.")],
    env: Annotated[bool, typer.Option("--env", help="Put its .env back too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait until the gateway answers again.")] = base.READY_SECONDS,
) -> Result:  # fmt: skip
    """Put a backup back: checked first, the present state saved, the gateway stopped and started again around it.
    Events that were delivered since then are sent once more, with their old ids."""
    context.project.require_stack()
    with (
        files.locked(context.project.state / "lock", "lm restore"),
        tempfile.TemporaryDirectory(dir=_scratch(context)) as name,
    ):
        folder = Path(name)
        manifest = archive.unpack(file, folder)
        parts = [part for part in manifest["parts"] if part != ENV or env]
        if env and ENV not in parts:
            raise LmError(f"{file} holds no .env", "leave --env out")
        _check(context, folder, parts)
        if not yes and not typer.confirm(
            f"Replace {_listed(parts)} by what it was at {manifest['at']}?", default=False, err=True
        ):
            raise LmError("nothing was changed", "lm restore --yes does not ask")
        kept = context.project.root / "backups" / f"before-restore-{_stamp()}.tar.gz"
        _save(context, kept, ENV in parts)
        context.say(f"What was here until now is in {kept}")
        running, flags = base.load_state(context.project) is not None, flags_of_running(context.project)
        runtime = current_runtime(context.project.settings(), context.project)
        if running:
            before = planned(context.project, flags)
            check(context.project, before, base.UpOptions(timeout))
            runtime.down(False, context.say)
        try:
            summary = runtime.load_ledger(folder / LEDGER) if LEDGER in parts else None
            _put_back(context, folder, parts)
        finally:
            if running:
                wanted = planned(context.project, flags)
                start(context.project, wanted, base.UpOptions(timeout), context.say)
    data: dict[str, Any] = {
        "file": str(file), "restored": parts, "ledger": summary, "kept": str(kept), "running": running,
    }  # fmt: skip
    held = f" ({summary['requests']} requests)" if summary else ""
    lines = (
        f"Put back: {_listed(parts)}{held}, as of {manifest['at']}.",
        f"Undo: lm restore {kept}{' --env' if ENV in parts else ''}",
    )
    return Result("restore", data, lines, wanted.plan.messages if running else ())


def _save(context: Context, target: Path, env: bool) -> dict[str, Any]:
    project, settings = context.project, context.project.settings()
    with tempfile.TemporaryDirectory(dir=_scratch(context)) as name:
        parts: dict[str, Path] = {}
        summary: dict[str, Any] | None = None
        saved = Path(name) / LEDGER
        try:
            summary = current_runtime(settings, project).save_ledger(saved)
            parts[LEDGER] = saved
        except NoLedgerError:
            pass  # nothing was asked yet
        parts |= {MODELS: project.models_file} if project.models_file.exists() else {}
        parts |= {ENV: project.env_file} if env and project.env_file.exists() else {}
        about = {
            "lmstack": __version__, "litellm": settings.version, "ledger": summary,
            "at": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        }  # fmt: skip
        size = archive.pack(target, parts, about)
    return {"file": str(target), "bytes": size, "parts": list(parts), "ledger": summary}


def _check(context: Context, folder: Path, parts: list[str]) -> None:
    """What would be put back must be valid here, before anything is stopped; LmError otherwise."""
    own = files.read(folder / MODELS) if MODELS in parts else files.read(context.project.models_file)
    catalog = parse_catalog(shipped_catalog(), own)
    if ENV in parts:
        parse_settings(parse_env(files.read(folder / ENV) or "", ".env of the backup"), {}, None, catalog.variables)
    if LEDGER in parts:
        with ledger_errors(context.project.ledger):
            check_saved(folder / LEDGER)


def _put_back(context: Context, folder: Path, parts: list[str]) -> None:
    for part, path, mode in ((MODELS, context.project.models_file, 0o644), (ENV, context.project.env_file, 0o600)):
        if part in parts:
            files.write(path, files.read(folder / part) or "", mode)


def _scratch(context: Context) -> Path:
    """On the stack's own disk; the machine's temporary folder may be a small one in memory."""
    files.ensure_writable_folder(context.project.state)
    return context.project.state


def _listed(parts: list[str]) -> str:
    return ", ".join(_TITLES[part] for part in parts) or "nothing"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{max(1, count // 1000)} kB"


def _stamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime())
