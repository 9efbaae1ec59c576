"""Reads and writes whole files. A write is atomic where possible, and every error names the file."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from lmstack.errors import LmError, Problem, invalid

PRIVATE = 0o600


def read(path: Path) -> str | None:
    """Return the text of a file, None when there is no file.

    Raises LmError when it cannot be read, and ConfigError with the line when it is not UTF-8.
    """
    try:
        # Text mode would turn CRLF into LF, and an edit would write that back.
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise invalid([Problem(f"{path.name}:{line}", "is not UTF-8 text", "save it as UTF-8 text")]) from None
    except OSError as error:
        raise LmError(f"cannot read {path}: {_reason(error)}", f"check it with: ls -l {path}") from None


def read_all(paths: Iterable[Path]) -> str:
    """Return the texts of several files, joined in the order of their names. Missing files are left out."""
    return "".join(read(path) or "" for path in sorted(paths))


def written_at(path: Path) -> float:
    """Return when a file was last written, in Unix seconds; 0 when there is no file."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def write(path: Path, text: str, mode: int = 0o644) -> bool:
    """Replace a file in one step; return False when it already had that text. Nothing is ever half-written.

    A link stays a link. An existing file keeps its owner, group, access list and mode. A secret file (``mode`` 600) loses
    access for others. A file with hard links, or one that cannot be replaced (a bind mount, another
    owner), is written in place. Line ends are written as they are in ``text``.
    """
    try:
        path = path.resolve() if path.is_symlink() else path
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, text.encode(), None, mode)
            return True
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):  # reading a pipe would wait for a writer
            raise OSError(errno.EINVAL, "it is not a regular file")
        if path.read_bytes() == text.encode():
            return False
        kept = before.st_mode & 0o7777
        mode = kept & ~0o007 if mode == PRIVATE else kept
        if before.st_nlink > 1 or not _replace(path, text.encode(), before, mode):
            _overwrite(path, text.encode(), mode)
    except OSError as error:
        raise LmError(
            f"cannot write {path}: {_reason(error)}", f"check it with: ls -ld {path.parent}; df -h {path.parent}"
        ) from None
    return True


def _replace(path: Path, content: bytes, before: os.stat_result | None, mode: int) -> bool:
    """Write a new file beside ``path`` and rename it; return False when that is impossible for an existing file."""
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if before is not None:
            os.chown(name, before.st_uid, before.st_gid)  # only root may give a file away
            shutil.copystat(path, name)  # with its access list
            os.utime(name)
        Path(name).chmod(mode)
        Path(name).replace(path)
    except OSError as error:
        if before is None or error.errno not in _NOT_REPLACEABLE:
            raise
        return False
    else:
        name = ""
        return True
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


# A mount point, a file of another owner, a folder without the right to write, a folder that is read-only.
_NOT_REPLACEABLE = (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EROFS)


def _overwrite(path: Path, content: bytes, mode: int) -> None:
    """Write into an existing file. When that fails, for example on a full disk, the old content is put back."""
    with path.open("r+b", buffering=0) as stream:
        old = stream.read()
        try:
            _write_all(stream, content)
        except BaseException:
            _write_all(stream, old)
            raise
        if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) != mode:
            with contextlib.suppress(PermissionError):  # only the owner may change the mode
                os.fchmod(stream.fileno(), mode)


def _write_all(stream: IO[bytes], content: bytes) -> None:
    stream.seek(0)
    written = 0
    while written < len(content):
        written += stream.write(content[written:])
    stream.truncate(len(content))
    os.fsync(stream.fileno())


def remove(path: Path) -> None:
    """Delete a file if it exists."""
    path.unlink(missing_ok=True)


def ensure_writable_folder(path: Path, mode: int = 0o755) -> None:
    """Create a folder if it is missing, and check that a file can be created in it. Raises LmError."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise LmError(
            f"cannot write to {path}: {_reason(error)}", f"correct it with: sudo chown -R $(id -u) {path}"
        ) from None


@contextlib.contextmanager
def locked(path: Path, command: str) -> Iterator[None]:
    """Hold a lock file while ``command`` changes the stack. A second command gets an LmError that names the holder."""
    import fcntl

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
                f"this stack is being changed right now by: {holder}", "wait until it ends, then try again"
            ) from None
        stream.truncate(0)
        stream.write(f"{command}, process {os.getpid()}, since {time.strftime('%H:%M:%S')}")
        stream.flush()
        yield
        stream.truncate(0)


def is_locked(path: Path) -> bool:
    """Return whether a command holds the lock file."""
    import fcntl

    try:
        with path.open(encoding="utf-8") as stream:
            if not stream.read(1):  # the holder writes its name, and removes it at the end
                return False
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False  # its holder was killed


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
