"""A backup as one file: a tar.gz. Its first member is a manifest with the size and the hash of each part.

A backup may come from anywhere. Nothing is written before the sizes and hashes of all parts are as in the manifest.
"""

import contextlib
import gzip
import hashlib
import json
import os
import shlex
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lmstack.errors import LmError
from lmstack.ledger.backup import add

MANIFEST = "manifest.json"
KIND = "lmstack-backup"
_LEVEL = 3  # a ledger of a gigabyte takes half a minute; the highest level takes five minutes
# The largest manifest, and the largest parts that users write by hand, in bytes.
_MOST_MANIFEST = 1_000_000
_MOST_BYTES = {"models.yaml": 10_000_000, ".env": 1_000_000}
# No member's header and no block is longer. A header that asks for more would fill the memory.
_MOST_READ = 4_000_000
# Free bytes that must remain on the disk after unpacking.
_SPARE_BYTES = 50_000_000
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    """What the manifest says about a part. An old backup has no ``size``."""

    digest: str
    size: int | None


def pack(target: Path, parts: Mapping[str, Path], about: Mapping[str, Any]) -> int:
    """Write ``parts`` (name -> file) to ``target``, readable by the user alone and never half-written; return its size."""
    manifest = {
        "kind": KIND,
        "version": 1,
        **about,
        "parts": {name: _digest(path) for name, path in parts.items()},
        "sizes": {name: path.stat().st_size for name, path in parts.items()},
    }
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(target, error) from None
    with written(target) as stream, tarfile.open(fileobj=stream, mode="w:gz", compresslevel=_LEVEL) as out:
        add(out, MANIFEST, json.dumps(manifest, indent=2).encode())
        for name, path in parts.items():
            out.add(path, name)
    return target.stat().st_size


def new_file(path: Path, force: bool) -> Path:
    """Return the path of a file to write, with its links followed. Call this before the work that fills the file.

    Raises LmError when the file exists (unless ``force``), when it is no regular file, or when its folder is missing.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise LmError(f"{path} is not a file; nothing was written", "give the name of a new file")
        if target.exists() and not force:
            raise LmError(
                f"{path} exists already; nothing was written", "choose another name, or replace it with --force"
            )
        if not target.parent.is_dir():
            raise LmError(
                f"there is no folder {path.parent}; nothing was written",
                f"make it: mkdir -p {shlex.quote(str(path.parent))}",
            )
    except (OSError, RuntimeError) as error:  # a name that is too long, or a loop of links
        raise _unwritable(path, error) from None
    return target


@contextlib.contextmanager
def written(target: Path) -> Iterator[IO[bytes]]:
    """Give a stream that becomes ``target`` when it is complete. Only the user can read the file."""
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".lmstack.", delete=False) as stream:
            made = Path(stream.name)  # mode 600
            try:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                made.replace(target)
            except BaseException:
                made.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise _unwritable(target, error) from None


def unpack(source: Path, folder: Path) -> dict[str, Any]:
    """Write the parts of a backup into ``folder`` and return its manifest. Raise LmError when any part is not as saved."""
    with _reporting(source):
        with _opened(source) as given:
            manifest = _manifest(given)
            parts = _parts(manifest)
            total = _verify(source, given, parts)
        free = shutil.disk_usage(folder).free
        if total + _SPARE_BYTES > free:
            raise LmError(
                f"{source} needs {total // 1_000_000} MB, but only {free // 1_000_000} MB are free in {folder}",
                f"make room there: df -h {shlex.quote(str(folder))}",
            )
        with _opened(source) as given:
            given.next()  # the manifest
            while (member := given.next()) is not None:
                with _content(given, member) as content, (folder / member.name).open("wb") as stream:
                    shutil.copyfileobj(content, stream)
    return manifest


def _verify(source: Path, given: tarfile.TarFile, parts: Mapping[str, _Part]) -> int:
    """Compare each part with the manifest. Writes nothing. Return the bytes of all parts."""
    missing = dict(parts)
    total = 0
    while (member := given.next()) is not None:
        part = missing.pop(member.name, None)
        if part is None:
            raise ValueError(f"{_short(member.name)!r} is in it, but not in its {MANIFEST}, or it is there twice")
        most = _MOST_BYTES.get(member.name)
        if most is not None and member.size > most:
            raise ValueError(f"{member.name} has {member.size} bytes, at most {most}")
        if part.size not in (None, member.size) or _digest_of(given, member) != part.digest:
            raise _changed(source, member.name)
        total += member.size
    for name in missing:
        raise _changed(source, name)
    return total


def _changed(source: Path, name: str) -> LmError:
    return LmError(f"{source} is damaged: {name} is not what was saved", "use another backup")


def _manifest(given: tarfile.TarFile) -> dict[str, Any]:
    member = given.next()
    if member is None or member.name != MANIFEST or member.size > _MOST_MANIFEST:
        raise ValueError(f"it has no {MANIFEST}, or too large a one")
    with _content(given, member) as content:
        manifest = json.loads(content.read())
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise ValueError(f"its {MANIFEST} is not of lmstack")
    if manifest["version"] != 1:
        raise ValueError("a newer lmstack wrote it")
    return manifest


def _parts(manifest: Mapping[str, Any]) -> dict[str, _Part]:
    digests, sizes = manifest["parts"], manifest.get("sizes", {})
    if not isinstance(digests, dict) or not isinstance(sizes, dict) or not isinstance(manifest.get("at", ""), str):
        raise ValueError(f"its {MANIFEST} has wrong types")
    for name in digests:
        if not name or "/" in name or "\0" in name or name.startswith("..") or name == ".":
            raise ValueError("it names files outside of itself")
    return {name: _Part(str(digest), sizes.get(name)) for name, digest in digests.items()}


class _Bounded:
    """A stream that refuses a long read: the header of a tar states its own length, and may be wrong."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_READ:
            raise ValueError(f"it has a header of {size} bytes")
        return self._stream.read(size)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    with gzip.open(source) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as given:  # type: ignore[call-overload, arg-type]
        yield given


def _content(given: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    """Return the content of a regular file. A tar can hold links, devices, and files with holes of any size."""
    content = given.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        raise ValueError(f"{_short(member.name)!r} is not a regular file")
    return content


@contextlib.contextmanager
def _reporting(source: Path) -> Iterator[None]:
    """Turn each error of an unreadable backup into one LmError."""
    try:
        yield
    except FileNotFoundError:
        raise LmError(f"there is no file {source}", "check the path") from None
    except RecursionError:
        raise LmError(f"{source} is not a backup of lmstack: its {MANIFEST} is nested too deeply", _HINT) from None
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, KeyError, TypeError) as error:
        raise LmError(f"{source} is not a backup of lmstack, or it is damaged: {_short(error)}", _HINT) from None
    except OSError as error:
        raise LmError(f"cannot read {source}: {error.strerror or error}", f"check it with: ls -l {source}") from None


_HINT = "make one with: lm backup"


def _unwritable(target: Path, error: BaseException) -> LmError:
    folder = shlex.quote(str(target.parent))
    reason = getattr(error, "strerror", None) or error
    return LmError(
        f"cannot write {_short(target)}: {reason}", f"check it with: ls -ld {_short(folder)}; df -h {_short(folder)}"
    )


def _short(text: object) -> str:
    return shown if len(shown := str(text)) <= 300 else f"{shown[:300]}…"


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return _digest_stream(stream)


def _digest_of(given: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    with _content(given, member) as content:
        return _digest_stream(content)


def _digest_stream(stream: IO[bytes]) -> str:
    total = hashlib.sha256()
    while block := stream.read(_BLOCK):
        total.update(block)
    return total.hexdigest()
