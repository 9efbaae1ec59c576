"""The private files through which `lm` and the running server exchange a change.

``environment.json`` holds the settings that run, ``next.json`` those to try, ``report.json`` what the server does. The first
two hold keys, so all of them have mode 600. The other end is lmstack.runtime.server_control, and in Docker ask_server.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "LMSTACK_SERVER_FILES"
CANDIDATE = ".litellm-config.next.yaml"


@dataclass(frozen=True, slots=True)
class Change:
    """What `lm up` wants the server to run. ``names``: the models that a worker must serve. ``seconds``: for the first start.

    ``environ`` is the complete environment for new workers. Without an ``id``, only the workers change.
    """

    id: str = ""
    names: tuple[str, ...] = ()
    seconds: float = 120.0
    settings: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    config_file: str = ""
    config: str = ""


class UnreadableError(Exception):
    """A change cannot be read. ``id`` is empty when it is not known. The text has no part of the change: it holds keys."""

    def __init__(self, of: str, error: Exception) -> None:
        super().__init__(f"the change cannot be read ({type(error).__name__})")
        self.id = of


class ServerFiles:
    """The files of one server. Without a folder each method does nothing."""

    def __init__(self, folder: str | None) -> None:
        self.folder = Path(folder) if folder else None
        self._report = ""

    @property
    def start_log(self) -> Path | None:
        """Return the file for the output of the worker that proves a change."""
        return self.folder / "start.log" if self.folder else None

    def apply_environment(self) -> None:
        """Add the settings that should run to this process's environment."""
        os.environ.update(self._settings())

    def take_change(self) -> Change:
        """Read the change that `lm` asks for, and delete its file. Raises UnreadableError."""
        found: Any = None
        try:
            text = self._read("next.json")
            if self.folder is None or text is None:
                return Change()
            (self.folder / "next.json").unlink()
            found = json.loads(text)
            return self._change(found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnreadableError(str(found.get("id", "")) if isinstance(found, dict) else "", error) from None

    def _change(self, found: dict[str, Any]) -> Change:
        settings = {str(name): str(value) for name, value in found["environment"].items()}
        kept = {name: value for name, value in os.environ.items() if name not in self._settings()}
        return Change(
            found["id"], tuple(found["names"]), float(found["seconds"]), settings, {**kept, **settings}, found["config_file"], found["config"]
        )  # fmt: skip

    def write_candidate(self, change: Change) -> str:
        """Write the new configuration beside the one in use, where LiteLLM finds our callback, and return its path."""
        path = _candidate(change)
        write(path, change.config)
        return str(path)

    def commit(self, change: Change) -> None:
        """Make a proven change the one that runs: its configuration, its settings, and this process's environment.

        Raises OSError. Then the files are as before.
        """
        if not change.id or self.folder is None:
            return
        config, settings = Path(change.config_file).resolve(), self.folder / "environment.json"
        made: list[Path] = []
        try:
            made.append(written(config, change.config, keep_mode=True))
            made.append(written(settings, json.dumps(dict(change.settings))))
            if config.exists():
                made.append(written(config, "", keep_mode=True))
                shutil.copyfile(config, made[-1])
            _replace_both(config, settings, *made)
        finally:
            for path in made:
                path.unlink(missing_ok=True)
        replace_environment(change.environ)
        self.forget_candidate(change)

    def forget_candidate(self, change: Change) -> None:
        """Delete what is left of a try."""
        if change.id:
            _candidate(change).unlink(missing_ok=True)

    def report(self, found: Mapping[str, Any]) -> None:
        """Write what runs, when it differs from the last report. An error, such as a full disk, changes nothing."""
        text = json.dumps(found)
        if self.folder is None or text == self._report:
            return
        with suppress(OSError):
            write(self.folder / "report.json", text)
            self._report = text

    def _settings(self) -> dict[str, str]:
        return dict(json.loads(self._read("environment.json") or "{}"))

    def _read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text(encoding="utf-8") if self.folder else None
        except FileNotFoundError:
            return None


@contextmanager
def environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Have another environment within the block. A process that is started there inherits it."""
    before = dict(os.environ)
    replace_environment(wanted)
    try:
        yield
    finally:
        replace_environment(before)


def replace_environment(wanted: Mapping[str, str]) -> None:
    """Set exactly these environment variables."""
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def _candidate(change: Change) -> Path:
    return Path(change.config_file).with_name(CANDIDATE)


def _replace_both(
    config: Path, settings: Path, new_config: Path, new_settings: Path, old_config: Path | None = None
) -> None:
    """Rename both new files. When the second cannot be renamed, put the old configuration back and raise OSError."""
    new_config.replace(config)
    try:
        new_settings.replace(settings)
    except OSError:
        if old_config:
            old_config.replace(config)
        else:
            config.unlink()
        raise


def write(path: Path, text: str) -> None:
    """Replace a file in one step. It is private. A link stays a link."""
    path = path.resolve()
    made = written(path, text)
    try:
        made.replace(path)
    except BaseException:
        made.unlink()
        raise


def written(path: Path, text: str, keep_mode: bool = False) -> Path:
    """Write a file beside this one and return its path. It is private, or with ``keep_mode`` as open as this one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    made = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        if keep_mode and path.exists():
            shutil.copymode(path, made)
    except BaseException:
        made.unlink()
        raise
    return made
