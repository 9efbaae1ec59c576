"""A backup from anywhere: a bomb, a link, a wrong size or a deep manifest is one clear error, and nothing is written."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmstack.errors import LmError
from lmstack.ledger import backup, schema
from lmstack.operate import archive

MODELS = b"models: {}\n"


def manifest_of(parts: dict[str, bytes], **more: Any) -> bytes:
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    sizes = {name: len(content) for name, content in parts.items()}
    about = {"kind": archive.KIND, "version": 1, "at": "today", "parts": digests, "sizes": sizes}
    return json.dumps({**about, **more}).encode()


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf() + content + b"\0" * (-len(content) % 512)


def tar(*entries: bytes) -> bytes:
    return gzip.compress(b"".join(entries) + b"\0" * 1024, 1)


def header_of(size: int) -> bytes:
    """Return the head of an extended header that says that it is very long."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.GNU_FORMAT)


GOOD = manifest_of({"models.yaml": MODELS})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    return made


def unpack(tmp_path: Path, content: bytes, folder: Path) -> dict[str, Any]:
    source = tmp_path / "b.tar.gz"
    source.write_bytes(content)
    return archive.unpack(source, folder)


@pytest.mark.parametrize("more", [{}, {"sizes": {}}], ids=["with sizes", "of an older lmstack"])
def test_a_sound_backup_is_unpacked(tmp_path: Path, folder: Path, more: dict[str, Any]) -> None:
    manifest = manifest_of({"models.yaml": MODELS}, **more)
    assert (
        unpack(tmp_path, tar(entry("manifest.json", manifest), entry("models.yaml", MODELS)), folder)["at"] == "today"
    )
    assert (folder / "models.yaml").read_bytes() == MODELS


def test_what_is_packed_is_unpacked(tmp_path: Path, folder: Path) -> None:
    part = tmp_path / "some"
    part.write_bytes(b"x" * 3_000_000)
    archive.pack(tmp_path / "b.tar.gz", {"ledger.tar": part}, {"at": "today"})
    manifest = archive.unpack(tmp_path / "b.tar.gz", folder)
    assert manifest["sizes"] == {"ledger.tar": 3_000_000}
    assert (folder / "ledger.tar").read_bytes() == part.read_bytes()


ZEROS = bytes(30_000_000)
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb in place of a part": (
        lambda: tar(entry("manifest.json", GOOD), entry("models.yaml", ZEROS)), "models.yaml has 30000000 bytes",
    ),
    "a part longer than the manifest says": (
        lambda: tar(entry("manifest.json", manifest_of({"ledger.tar": b"x"})), entry("ledger.tar", ZEROS)),
        "ledger.tar is not what was saved",
    ),
    "a part of the right size with another content": (
        lambda: tar(entry("manifest.json", GOOD), entry("models.yaml", MODELS[::-1])), "models.yaml is not what was saved",
    ),
    "a part that is missing": (lambda: tar(entry("manifest.json", GOOD)), "models.yaml is not what was saved"),
    "a part that is there twice": (
        lambda: tar(entry("manifest.json", GOOD), entry("models.yaml", MODELS), entry("models.yaml", MODELS)), "or it is there twice",
    ),
    "a file that the manifest does not name": (
        lambda: tar(entry("manifest.json", GOOD), entry("models.yaml", MODELS), entry("more", ZEROS)), "'more' is in it",
    ),
    "a symbolic link": (
        lambda: tar(entry("manifest.json", GOOD), entry("models.yaml", kind=tarfile.SYMTYPE, linkname="/etc/passwd")), "not what was saved",
    ),
    "a hard link of the right name": (
        lambda: tar(
            entry("manifest.json", manifest_of({"a": b"", "b": b""})), entry("a"), entry("b", kind=tarfile.LNKTYPE, linkname="a")
        ),
        "'b' is not a regular file",
    ),
    "a device": (
        lambda: tar(entry("manifest.json", manifest_of({"a": b""})), entry("a", kind=tarfile.CHRTYPE)), "'a' is not a regular file",
    ),
    "a header of ten gigabytes": (
        lambda: tar(entry("manifest.json", GOOD), header_of(10**10), ZEROS), "a header of 10000000000 bytes",
    ),
    "a manifest of 30 MB": (lambda: tar(entry("manifest.json", ZEROS)), "too large a one"),
    "a deep manifest": (lambda: tar(entry("manifest.json", b"[" * 500_000)), "nested too deeply"),
    "a manifest that is a list": (lambda: tar(entry("manifest.json", b"[]")), "is not of lmstack"),
    "a manifest that is no JSON": (lambda: tar(entry("manifest.json", b"\xff")), "or it is damaged"),
    "parts that are a list": (lambda: tar(entry("manifest.json", json.dumps({**json.loads(GOOD), "parts": ["a"]}).encode())), "wrong types"),
    "a time that is a mapping": (lambda: tar(entry("manifest.json", manifest_of({}, at={}))), "wrong types"),
    "a part outside of the folder": (lambda: tar(entry("manifest.json", manifest_of({"../x": b""}))), "outside of itself"),
    "a manifest that does not come first": (
        lambda: tar(entry("models.yaml", MODELS), entry("manifest.json", GOOD)), "it has no manifest.json",
    ),
    "no manifest": (lambda: tar(), "it has no manifest.json"),
    "a version of tomorrow": (lambda: tar(entry("manifest.json", manifest_of({}, version=2))), "a newer lmstack wrote it"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_backup_is_one_error_and_writes_nothing(tmp_path: Path, folder: Path, name: str) -> None:
    make, says = BAD[name]
    with pytest.raises(LmError) as raised:
        unpack(tmp_path, make(), folder)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert list(folder.iterdir()) == []


def test_a_sparse_file_is_refused(tmp_path: Path, folder: Path) -> None:
    """Some bytes of a sparse member can stand for a terabyte."""
    manifest = manifest_of({"a": b""}, sizes={})
    with pytest.raises(LmError, match="not a regular file"):
        unpack(tmp_path, tar(entry("manifest.json", manifest), _sparse("a")), folder)
    assert list(folder.iterdir()) == []


def test_a_backup_that_does_not_fit_on_the_disk_is_refused_before_it_fills_it(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 40_000_000))
    with pytest.raises(LmError, match="only 40 MB are free"):
        unpack(
            tmp_path,
            tar(entry("manifest.json", manifest_of({"ledger.tar": ZEROS})), entry("ledger.tar", ZEROS)),
            folder,
        )
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["packed", "sparse", "link"])
def test_a_ledger_inside_a_backup_may_not_be_a_bomb_either(tmp_path: Path, kind: str) -> None:
    good = io.BytesIO()
    conn = schema.connect(tmp_path / "litellm.db")
    schema.migrate(conn)
    conn.close()
    backup.save(tmp_path / "litellm.db", good)
    plain = good.getvalue()
    bad = {
        "packed": gzip.compress(plain),
        "link": entry("litellm.db", kind=tarfile.SYMTYPE, linkname="/etc/passwd") + b"\0" * 1024,
        "sparse": _sparse("litellm.db") + b"\0" * 1024,
    }[kind]
    saved = tmp_path / "ledger.tar"
    saved.write_bytes(bad)
    with pytest.raises(backup.BackupError):
        backup.check_saved(saved)
    saved.write_bytes(plain)
    assert backup.check_saved(saved)["requests"] == 0


def _sparse(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"00010000000\0"  # the size with its holes
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    return bytes(header)
