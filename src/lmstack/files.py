"""The only door to the disk: whole files, written atomically, with errors that name the file."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lmstack.errors import LmError


def read(path: Path) -> str | None:
    """The text of a file, None when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LmError(f"cannot read {path}: {_reason(error)}", f"check it with: ls -l {path}") from None


def read_all(paths: Iterable[Path]) -> str:
    """The texts of several files, in the order of their names; missing ones are left out."""
    return "".join(read(path) or "" for path in sorted(paths))


def write(path: Path, text: str, mode: int = 0o644) -> bool:
    """Replace a file in one step; False when it already had that text. Nothing is ever half-written."""
    try:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise LmError(
            f"cannot write {path}: {_reason(error)}", f"check it with: ls -ld {path.parent}; df -h {path.parent}"
        ) from None
    return True


def remove(path: Path) -> None:
    """Delete a file if it is there."""
    path.unlink(missing_ok=True)


def ensure_writable_folder(path: Path) -> None:
    """Make a folder and prove that a file can be made in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise LmError(
            f"cannot write to {path}: {_reason(error)}", f"mend it with: sudo chown -R $(id -u) {path}"
        ) from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; a second `lm` that would change the stack at the same time is refused, not interleaved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LmError(
                "another lm command is changing this stack right now", "wait for it to end, then try again"
            ) from None
        yield


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
