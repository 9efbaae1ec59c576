"""backup, restore: save the stack's data as one file, and put it back."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lmstack import files
from lmstack.cli.app import Context, command
from lmstack.errors import LmError
from lmstack.operate import backup as flow
from lmstack.result import Result
from lmstack.runtime.base import READY_SECONDS


@command("backup", "lm backup")
def backup(
    context: Context,
    file: Annotated[Path | None, typer.Argument(help="The file to write. Default: backups/lmstack-TIME.tar.gz in the stack's folder.")] = None,
    env: Annotated[bool | None, typer.Option("--env/--no-env", help="Also save .env, which holds your keys. Default: lm asks.")] = None,
) -> Result:  # fmt: skip
    """Save the data of the stack as one file.

    It contains the ledger, its undelivered events, and models.yaml. The gateway can go on running.
    """
    context.project.require_stack()
    if env is None:
        env = context.may_ask and context.project.env_file.exists() and typer.confirm(
            "Put .env into the backup? It holds your keys", default=False, err=True
        )  # fmt: skip
    saved = flow.save(context.project, file or flow.default_target(context.project), env)
    held = "no ledger yet"
    if saved.ledger:
        held = f"{saved.ledger['requests']} requests, {saved.ledger['waiting_events']} undelivered events"
    lines = (
        f"{saved.file}: {_size(saved.size)}, {held}",
        f"It contains: {flow.titles(saved.parts)}",
        f"Restore it with: lm restore {saved.file}",
    )
    data = {"file": str(saved.file), "bytes": saved.size, "parts": saved.parts, "ledger": saved.ledger}
    return Result("backup", data, lines)


@command("restore", "lm restore backups/lmstack-20261123-120000.tar.gz")
def restore(
    context: Context,
    file: Annotated[Path, typer.Argument(help="A file that `lm backup` wrote.")],
    env: Annotated[bool, typer.Option("--env", help="Restore its .env too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the gateway.")] = READY_SECONDS,
) -> Result:
    """Restore a backup.

    lm checks the backup, saves the present state, stops the gateway, restores, and starts the gateway again. Events that
    were delivered after the backup are sent again, with the same ids.
    """
    project = context.project
    project.require_stack()
    with (
        files.locked(project.state / "lock", "lm restore"),
        tempfile.TemporaryDirectory(dir=flow.scratch_folder(project)) as name,
    ):
        opened = flow.open_backup(project, file, env, Path(name))
        question = f"Replace {flow.titles(opened.parts)} with the backup of {opened.at}?"
        if not yes and not typer.confirm(question, default=False, err=True):
            raise LmError("nothing was changed", "lm restore --yes does not ask")
        done = flow.restore(project, opened, timeout, context.say)
    held = f" ({done.ledger['requests']} requests)" if done.ledger else ""
    lines = (
        f"Restored: {flow.titles(opened.parts)}{held}, from {opened.at}",
        f"To undo it: {flow.undo_command(done.kept, opened)}",
    )
    data = {"file": str(file), "restored": opened.parts, "ledger": done.ledger, "kept": str(done.kept), "running": done.running}  # fmt: skip
    return Result("restore", data, lines, done.remarks)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{max(1, count // 1000)} kB"
