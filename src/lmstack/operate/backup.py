"""Save the ledger with its outbox, models.yaml and, if wanted, .env as one archive, and put such an archive back."""

import contextlib
import itertools
import shlex
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmstack import __version__, files
from lmstack.catalog.models import parse_catalog
from lmstack.config.envfile import parse_env
from lmstack.config.settings import parse_settings
from lmstack.errors import ConfigError, LmError, NoLedgerError
from lmstack.ledger.backup import check_saved
from lmstack.operate import archive
from lmstack.operate.planning import flags_of_running, planned
from lmstack.operate.start import check, is_running, start, state_kept_on_failure
from lmstack.runtime import base
from lmstack.runtime.choose import current_runtime
from lmstack.runtime.compose_project import ComposeProject
from lmstack.runtime.ledger_file import ledger_errors
from lmstack.stack.project import Project, shipped_catalog

LEDGER, MODELS, ENV = "ledger.tar", "models.yaml", ".env"
_TITLES = {LEDGER: "the ledger with its events", MODELS: MODELS, ENV: ".env with your keys"}


@dataclass(frozen=True, slots=True)
class Saved:
    """A backup that was written. ``ledger`` counts what is in it; None when there was no ledger. ``size`` in bytes."""

    file: Path
    size: int
    parts: list[str]
    ledger: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A backup that was unpacked and checked. ``parts`` are those that will be restored; ``at`` is when it was made."""

    folder: Path
    parts: list[str]
    at: str


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored. ``kept`` is a backup of the state before; ``running``: whether the gateway was started again."""

    kept: Path
    running: bool
    ledger: dict[str, Any] | None
    remarks: tuple[str, ...] = ()


def default_target(project: Project) -> Path:
    """Return the name of a new backup in the stack's folder."""
    return project.root / "backups" / f"lmstack-{_timestamp()}.tar.gz"


def save(project: Project, target: Path, env: bool) -> Saved:
    """Write a backup, while the gateway runs or not; LmError when the file exists. ``env``: also save .env."""
    if target.exists():
        raise LmError(f"{target} exists already; nothing was written", "choose another name")
    settings = project.settings()
    with tempfile.TemporaryDirectory(dir=scratch_folder(project)) as name:
        parts: dict[str, Path] = {}
        summary: dict[str, Any] | None = None
        ledger = Path(name) / LEDGER
        try:
            summary = current_runtime(project).save_ledger(ledger)
            parts[LEDGER] = ledger
        except NoLedgerError:
            pass  # no request was recorded yet
        parts |= {MODELS: project.models_file} if project.models_file.exists() else {}
        parts |= {ENV: project.env_file} if env and project.env_file.exists() else {}
        about = {
            "lmstack": __version__, "litellm": settings.version, "ledger": summary,
            "at": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        }  # fmt: skip
        size = archive.pack(target, parts, about)
    return Saved(target, size, list(parts), summary)


def open_backup(project: Project, file: Path, env: bool, folder: Path) -> Opened:
    """Unpack a backup into ``folder`` and check that its parts are valid in this stack. Changes nothing else."""
    manifest = archive.unpack(file, folder)
    parts = [part for part in manifest["parts"] if part != ENV or env]
    if env and ENV not in parts:
        raise LmError(f"{file} holds no .env", "leave --env out")
    own = files.read(folder / MODELS) if MODELS in parts else files.read(project.models_file)
    catalog = parse_catalog(shipped_catalog(), own)
    if ENV in parts:
        parse_settings(parse_env(files.read(folder / ENV) or "", ".env of the backup"), {}, None, catalog.variables)
    if LEDGER in parts:
        with ledger_errors(project.ledger):
            check_saved(folder / LEDGER)
    return Opened(folder, parts, manifest["at"])


def restore(project: Project, opened: Opened, timeout: float, say: base.Progress) -> Restored:
    """Save the present state, stop the gateway, restore the parts, and start the gateway again if it ran.

    What would keep the gateway from starting with the restored files is reported before anything is changed.
    """
    running, flags, options = is_running(project), flags_of_running(project), base.UpOptions(timeout)
    runtime, after = current_runtime(project), _AfterRestore(project.root, opened)
    if running and base.load_state(project) is None:
        raise LmError("the gateway runs, but lm did not start it; nothing was changed", "stop it first: lm down")
    wanted = planned(after, flags)
    _refuse_other_docker_project(project, after, {runtime.name, wanted.runtime.name})
    if running:
        check(after, wanted, options)
        wanted.runtime.prepare(wanted.plan, wanted.config, options, say)
    kept = _free_name(project.root / "backups", f"before-restore-{_timestamp()}")
    save(project, kept, ENV in opened.parts)
    say(f"The present state is saved in {kept}")
    remarks: tuple[str, ...] = ()
    with _way_back_in_hint(kept, opened), state_kept_on_failure(project):
        if running:
            runtime.down(False, say)
        try:
            summary = runtime.load_ledger(opened.folder / LEDGER) if LEDGER in opened.parts else None
            for part, path, mode in ((MODELS, project.models_file, 0o644), (ENV, project.env_file, 0o600)):
                if part in opened.parts:
                    files.write(path, files.read(opened.folder / part) or "", mode)
        finally:
            if running:
                wanted = planned(project, flags)
                start(project, wanted, options, say)
                remarks = wanted.plan.messages
    return Restored(kept, running, summary, remarks)


@dataclass(frozen=True, slots=True)
class _AfterRestore(Project):
    """The stack's folder as it is after the restore: the files of the backup take the place of its own."""

    opened: Opened

    @property
    def env_file(self) -> Path:
        return self._file(ENV)

    @property
    def models_file(self) -> Path:
        return self._file(MODELS)

    def _file(self, part: str) -> Path:
        return (self.opened.folder if part in self.opened.parts else self.root) / part


def _refuse_other_docker_project(project: Project, after: Project, runtimes: set[str]) -> None:
    """Raise ConfigError when the restored .env names another Docker project: its volumes may be another stack's."""
    now, then = ComposeProject(project).name, ComposeProject(after).name
    if "docker" in runtimes and now != then:
        raise ConfigError(
            f"the .env of the backup names the Docker project '{then}', but this stack is '{now}'; nothing was changed",
            "restore without --env; or set COMPOSE_PROJECT_NAME in .env first, if that project is this stack's",
        )


def _free_name(folder: Path, name: str) -> Path:
    """Return the path of a backup that does not exist yet. Two restores within one second have the same ``name``."""
    tried = (
        folder / f"{name}{suffix}.tar.gz" for suffix in itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    )
    return next(path for path in tried if not path.exists())


@contextlib.contextmanager
def _way_back_in_hint(kept: Path, opened: Opened) -> Iterator[None]:
    """Add to the hint of an error how to undo a restore that ends half-way."""
    try:
        yield
    except LmError as error:
        error.hint = "; ".join(filter(None, (error.hint, f"to undo the restore: {undo_command(kept, opened)}")))
        raise


def undo_command(kept: Path, opened: Opened) -> str:
    """Return the command that brings back the state before a restore."""
    return f"lm restore {shlex.quote(str(kept))}{' --env' if ENV in opened.parts else ''}"


def scratch_folder(project: Project) -> Path:
    """Return a folder on the stack's own disk. The machine's temporary folder may be small and in memory."""
    files.ensure_writable_folder(project.state)
    return project.state


def titles(parts: list[str]) -> str:
    """Return the parts of a backup in words."""
    return ", ".join(_TITLES[part] for part in parts) or "nothing"


def _timestamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime())
