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
        """Read the change that `lm` asks for, and delete its file. Raises OSError or ValueError for an unreadable one."""
        text = self._read("next.json")
        if self.folder is None or text is None:
            return Change()
        (self.folder / "next.json").unlink()
        found: dict[str, Any] = json.loads(text)
        settings = {str(name): str(value) for name, value in found["environment"].items()}
        kept = {name: value for name, value in os.environ.items() if name not in self._settings()}
        return Change(
            found["id"], tuple(found["names"]), float(found["seconds"]), settings, {**kept, **settings}, found["config_file"], found["config"]
        )  # fmt: skip

    def take_order(self) -> dict[str, Any]:
        """Return what `lm` orders beside a change, and delete its file. Empty when there is none. Raises OSError, ValueError."""
        text = self._read("next.json")
        found: dict[str, Any] = json.loads(text) if text else {}
        if self.folder is None or "order" not in found:
            return {}
        (self.folder / "next.json").unlink()
        return found

    def to_take_over(self) -> tuple[str, ...] | None:
        """Return the models that this server must serve before it takes a running server's place; None without such a task."""
        text = self._read("take_over.json")
        return None if text is None else tuple(json.loads(text)["names"])

    def took_over(self) -> None:
        """Forget the task. When this server is started again, it opens sockets of its own."""
        if self.folder is not None:
            (self.folder / "take_over.json").unlink(missing_ok=True)

    def write_candidate(self, change: Change) -> str:
        """Write the new configuration beside the one in use, where LiteLLM finds our callback, and return its path."""
        path = _candidate(change)
        write(path, change.config)
        return str(path)

    def commit(self, change: Change) -> None:
        """Make a proven change the one that runs: its configuration, its settings, and this process's environment."""
        if not change.id or self.folder is None:
            return
        write(Path(change.config_file), change.config, keep_mode=True)
        write(self.folder / "environment.json", json.dumps(dict(change.settings)))
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


def write(path: Path, text: str, keep_mode: bool = False) -> None:
    """Replace a file in one step. It is private, or with ``keep_mode`` as open as it was. A link stays a link."""
    path = path.resolve()
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        if keep_mode and path.exists():
            shutil.copymode(path, made)
        Path(made).replace(path)
    except BaseException:
        Path(made).unlink()
        raise
