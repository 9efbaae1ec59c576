"""The only door to the disk: whole files, written atomically, with errors that name the file."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lmstack.errors import LmError

PRIVATE = 0o600


def read(path: Path) -> str | None:
    """The text of a file, None when there is none."""
    try:
        # Bytes, because text mode would turn CRLF into LF, and an edit would write that back.
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LmError(f"cannot read {path}: {_reason(error)}", f"check it with: ls -l {path}") from None


def read_all(paths: Iterable[Path]) -> str:
    """The texts of several files, in the order of their names; missing ones are left out."""
    return "".join(read(path) or "" for path in sorted(paths))


def write(path: Path, text: str, mode: int = 0o644) -> bool:
    """Replace a file in one step; False when it already had that text. Nothing is ever half-written.

    A link goes on to lead where it led. A file that is there keeps its owner and its mode, but a secret one (``mode`` 600)
    is never left open to others. Line ends are written as they are in ``text``.
    """
    try:
        if path.exists() and path.read_bytes() == text.encode():
            return False
        path = path.resolve() if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat() if path.exists() else None
        if before is not None and mode != PRIVATE:
            mode = before.st_mode & 0o7777
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(mode)
            if before is not None:
                with contextlib.suppress(PermissionError):  # only root may give a file away
                    os.chown(name, before.st_uid, before.st_gid)
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


def ensure_writable_folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder, with that mode if it is new, and prove that a file can be made in it."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise LmError(
            f"cannot write to {path}: {_reason(error)}", f"mend it with: sudo chown -R $(id -u) {path}"
        ) from None


@contextlib.contextmanager
def locked(path: Path, command: str) -> Iterator[None]:
    """Hold a lock file while ``command`` changes the stack; a second one is refused, and told who holds it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise LmError(f"cannot write {path}: {_reason(error)}", f"check it with: ls -ld {path.parent}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            holder = stream.read(200).strip() or "another lm command"
            raise LmError(
                f"this stack is being changed right now by: {holder}", "wait for it to end, then try again"
            ) from None
        stream.truncate(0)
        stream.write(f"{command}, process {os.getpid()}, since {time.strftime('%H:%M:%S')}")
        stream.flush()
        yield
        stream.truncate(0)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
