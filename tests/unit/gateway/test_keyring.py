"""The keys that a worker knows: read once, then only what changes, whatever happens to the ledger meanwhile."""

import sqlite3
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmstack.gateway.app.auth import identify
from lmstack.gateway.app.bodies import RefusedError
from lmstack.gateway.keyring import Keyring
from lmstack.keys.secret import PREFIX, digest, new_secret
from lmstack.ledger import keys, schema
from support import wait_for


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    made = schema.connect(tmp_path / "litellm.db")
    schema.migrate(made)
    yield made
    made.close()


def make(conn: sqlite3.Connection, name: str) -> str:
    secret = new_secret()
    keys.change(conn, "create", "me", 0.0, name, limits={}, hash=digest(secret))
    return secret


def test_a_new_key_an_edit_a_rotation_and_a_revocation_are_noticed(conn: sqlite3.Connection, tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "litellm.db", poll=0.01)
    ring.start()
    secret, new = make(conn, "a"), new_secret()
    key = wait_for(lambda: ring.find(secret), 2)
    assert key.name == "a"
    keys.change(conn, "edit", "me", 0.0, "a", limits={"rpm": 7})
    wait_for(lambda: (found := ring.find(secret)) and found.limits.rpm == 7, 2)
    keys.change(conn, "rotate", "me", time.time(), "a", hash=digest(new), keep_until=time.time() + 0.2)
    wait_for(lambda: ring.find(new), 2)
    wait_for(lambda: ring.find(secret) is None, 2)
    keys.change(conn, "revoke", "me", 5.0, "a")
    wait_for(lambda: (found := ring.find(new)) and found.revoked_at == 5.0, 2)
    ring.close()


def test_a_change_keeps_the_other_keys(conn: sqlite3.Connection, tmp_path: Path) -> None:
    secrets = [make(conn, f"k{number}") for number in range(50)]
    ring = Keyring(tmp_path / "litellm.db")
    ring.read()
    keys.change(conn, "revoke", "me", 5.0, "k7")
    make(conn, "late")
    ring.read()
    assert [found.revoked_at is None for one in secrets if (found := ring.find(one))] == [n != 7 for n in range(50)]


def test_without_a_ledger_there_are_no_keys_until_one_is_made(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "litellm.db")
    ring.read()
    assert ring.is_read
    made = schema.connect(tmp_path / "litellm.db")
    ring.read()  # the file has no tables yet
    schema.migrate(made)
    secret = make(made, "a")
    ring.read()
    assert ring.find(secret) is not None
    made.close()


def test_another_file_in_the_same_place_brings_its_own_keys(conn: sqlite3.Connection, tmp_path: Path) -> None:
    path = tmp_path / "litellm.db"
    old = make(conn, "old")
    ring = Keyring(path)
    ring.read()
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"litellm.db{suffix}").rename(tmp_path / f"aside{suffix}")
    other = schema.connect(path)
    schema.migrate(other)
    new = make(other, "new")
    ring.read()
    assert (ring.find(old), ring.find(new) is not None) == (None, True)
    other.close()


def test_a_new_ledger_without_keys_ends_those_of_the_old_one(conn: sqlite3.Connection, tmp_path: Path) -> None:
    """As after a damaged ledger: `lm key revoke` could not name such a key any more."""
    path = tmp_path / "litellm.db"
    old = make(conn, "old")
    ring = Keyring(path)
    ring.read()
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"litellm.db{suffix}").rename(tmp_path / f"aside{suffix}")
    other = schema.connect(path)
    schema.migrate(other)
    ring.read()
    assert ring.find(old) is None
    other.close()


def test_a_ledger_that_cannot_be_read_keeps_the_known_keys(conn: sqlite3.Connection, tmp_path: Path) -> None:
    path = tmp_path / "litellm.db"
    secret = make(conn, "a")
    ring = Keyring(path)
    ring.read()
    ring._conn.close()  # type: ignore[union-attr]
    path.rename(tmp_path / "aside")
    path.write_bytes(b"no database" * 1000)
    ring._guarded_read()
    assert ring.find(secret) is not None
    assert identify(secret, "master-key-of-the-operator", ring) is not None


def test_before_the_first_reading_a_key_is_not_refused_for_good(tmp_path: Path) -> None:
    (tmp_path / "litellm.db").write_bytes(b"no database" * 1000)
    ring = Keyring(tmp_path / "litellm.db")
    ring._guarded_read()
    for given, status in ((new_secret(), 503), ("wrong", 401), ("", 401), (None, 401)):
        with pytest.raises(RefusedError) as refused:
            identify(given, "master-key-of-the-operator", ring)
        assert refused.value.status == status
    assert identify("master-key-of-the-operator", "master-key-of-the-operator", ring) is None


def test_an_empty_master_key_lets_nothing_in(conn: sqlite3.Connection, tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "litellm.db")
    ring.read()
    for given, master in (("", ""), ("", None), (None, ""), ("x", "")):
        with pytest.raises(RefusedError):
            identify(given, master, ring)


def test_the_time_of_a_search_does_not_depend_on_how_much_of_a_secret_is_right(
    conn: sqlite3.Connection, tmp_path: Path
) -> None:
    """Each guess is hashed first, so a right beginning leads nowhere nearer. The medians of many searches are alike."""
    secret = [make(conn, f"k{number}") for number in range(100)][50]
    ring = Keyring(tmp_path / "litellm.db")
    ring.read()
    near, far = secret[:-1] + ("A" if secret[-1] != "A" else "B"), new_secret()

    def median(given: str) -> float:
        times = []
        for _ in range(3000):
            began = time.perf_counter_ns()
            ring.find(given)
            times.append(time.perf_counter_ns() - began)
        return statistics.median(times)

    rounds = [median(near) / median(far) for _ in range(15)]
    assert 0.9 < statistics.median(rounds) < 1.1


def lines_run(given: str, ring: Keyring) -> tuple[str, list[tuple[str, int]]]:
    """Return how a text is refused, and each line of lmstack that runs for it, in order."""
    lines: list[tuple[str, int]] = []

    def trace(frame: Any, event: str, argument: object) -> Any:
        if "lmstack" not in frame.f_code.co_filename:
            return None
        if event == "line":
            lines.append(
                (
                    frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname") else frame.f_code.co_name,
                    frame.f_lineno,
                )
            )
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        identify(given, "master-key-of-the-operator", ring)
    except RefusedError as refused:
        return f"{refused.status} {refused.kind} {refused.message}", lines
    finally:
        sys.settrace(before)
    raise AssertionError(f"{given} was accepted")


def test_every_text_that_is_no_secret_takes_the_same_path(conn: sqlite3.Connection, tmp_path: Path) -> None:
    """A search is a hash and one look into a table, whatever is wrong. Only the whole secret learns that its key was revoked."""
    good, revoked, rotated = make(conn, "good"), make(conn, "revoked"), make(conn, "rotated")
    keys.change(conn, "revoke", "me", 5.0, "revoked")
    ring = Keyring(tmp_path / "litellm.db")
    ring.read()
    hashes = [digest(secret) for secret in (good, revoked, rotated)]
    one_letter = [secret[:place] + ("a" if secret[place] != "a" else "b") + secret[place + 1 :] for secret in (good, revoked) for place in (0, 6, 20, -1)]  # fmt: skip
    texts = [
        new_secret(), good[:-1], good + "A", good.lower(), good.swapcase(), PREFIX, PREFIX + hashes[0], *hashes, hashes[0].upper(), *one_letter,
        "good", "key:good", "x", "master-key-of-the-operatoR", "master-key-of-the-operator ", "sk-\udce9", "é" * 40,
    ]  # fmt: skip
    answer, path = lines_run(new_secret(), ring)
    assert answer.startswith("401 auth_error")
    assert len(path) > 5
    for text in texts:
        assert lines_run(text, ring) == (answer, path), text
    refused, longer = lines_run(revoked, ring)
    assert refused.startswith("401 key_revoked")
    assert longer[:6] == path[:6]  # they part when the key is found
    assert [line for line in longer if line[0] == "digest"] == [line for line in path if line[0] == "digest"]
