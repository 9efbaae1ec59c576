"""A backup as one file: a tar.gz whose first member says what is in it, with the hash of every part."""

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
from pathlib import Path
from typing import IO, Any

from lmstack.errors import LmError
from lmstack.ledger.backup import add

MANIFEST = "manifest.json"
KIND = "lmstack-backup"
_LEVEL = 3  # a ledger of a gigabyte takes half a minute; the highest level takes five


def pack(target: Path, parts: Mapping[str, Path], about: Mapping[str, Any]) -> int:
    """Write ``parts`` (name -> file) to ``target``, readable by the user alone and never half-written; returns bytes."""
    manifest = {"kind": KIND, "version": 1, **about, "parts": {name: _digest(path) for name, path in parts.items()}}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(target, error) from None
    with written(target) as stream, tarfile.open(fileobj=stream, mode="w:gz", compresslevel=_LEVEL) as out:
        add(out, MANIFEST, json.dumps(manifest, indent=2).encode())
        for name, path in parts.items():
            out.add(path, name)
    return target.stat().st_size


def new_file(path: Path, force: bool) -> Path:
    """The file that a user wants written, its links followed; LmError when it is there (unless ``force``), when it is
    anything but a file, or when its folder is missing. Asked before the work whose result is written."""
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
    except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
        raise _unwritable(path, error) from None
    return target


@contextlib.contextmanager
def written(target: Path) -> Iterator[IO[bytes]]:
    """A stream that becomes ``target``, readable by the user alone, once it is complete: never half-written."""
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


def _unwritable(target: Path, error: BaseException) -> LmError:
    folder = shlex.quote(str(target.parent))
    reason = getattr(error, "strerror", None) or error
    return LmError(
        f"cannot write {_short(target)}: {reason}", f"check it with: ls -ld {_short(folder)}; df -h {_short(folder)}"
    )


def _short(text: object) -> str:
    return shown if len(shown := str(text)) <= 300 else f"{shown[:300]}…"


def unpack(source: Path, folder: Path) -> dict[str, Any]:
    """Write the parts of a backup into ``folder`` and return its manifest; LmError unless every part is as it was."""
    try:
        with tarfile.open(source, "r:gz") as given:
            first = given.next()
            manifest = _manifest(given, first)
            for member in given:
                content = given.extractfile(member) if member.name in manifest["parts"] else None
                if content is not None:
                    with (folder / member.name).open("wb") as stream:
                        shutil.copyfileobj(content, stream)
    except FileNotFoundError:
        raise LmError(f"there is no file {source}", "check the path") from None
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, KeyError, TypeError) as error:
        raise LmError(
            f"{source} is no backup of lmstack, or a damaged one: {error}", "make one with: lm backup"
        ) from None
    except OSError as error:
        raise LmError(f"cannot read {source}: {error.strerror or error}", f"check it with: ls -l {source}") from None
    for name, digest in manifest["parts"].items():
        if not (folder / name).exists() or _digest(folder / name) != digest:
            raise LmError(f"{source} is damaged: {name} is not what was saved", "use another backup")
    return manifest


def _manifest(given: tarfile.TarFile, member: tarfile.TarInfo | None) -> dict[str, Any]:
    content = given.extractfile(member) if member is not None and member.name == MANIFEST else None
    manifest = json.loads(content.read()) if content is not None else {}
    if manifest.get("kind") != KIND:
        raise ValueError(f"it has no {MANIFEST}")
    if manifest["version"] != 1:
        raise ValueError("a newer lmstack wrote it")
    if any("/" in name or name.startswith("..") for name in manifest["parts"]):
        raise ValueError("it names files outside of itself")
    return dict(manifest)


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    return total.hexdigest()
