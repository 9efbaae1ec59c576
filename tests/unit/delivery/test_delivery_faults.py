"""Every call that the sender makes to the operating system fails once, in turn; no event is lost, swapped or dead.

The calls are not listed by hand. A first run notes each place at which a thread of the sender calls a C function of the
modules below. Each further run makes one of these places raise, once.
"""

import shutil
import sqlite3
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bench.faults.receiver import FaultyReceiver

from lmstack.delivery import poster, sender
from lmstack.delivery.contract import Target
from lmstack.ledger import outbox, schema
from support import wait_for

MODULES = {"posix", "time", "_socket", "socket", "select", "_thread", "_sqlite3"}
# These only count and wait inside the interpreter; no system makes them fail.
INTERNAL = {"allocate_lock", "get_ident", "get_native_id", "_set_sentinel", "acquire", "release", "locked", "__enter__",
            "__exit__", "daemon_threads_allowed", "RLock", "_is_owned", "_release_save", "_acquire_restore", "_count",
            "fspath", "getpid", "_make_thread_handle", "_get_main_thread_ident"}  # fmt: skip
TASKS = ("task:a", "task:b")
TRIES = 4
Place = tuple[str, str, int, int]  # the function, the file and line that call it, and the how-manieth time


def _error(module: str, name: str) -> Exception:
    if module == "_sqlite3":
        return sqlite3.OperationalError("disk I/O error")
    if name.startswith("start_"):
        return RuntimeError("can't start new thread")
    return OSError(5, "Input/output error")


@dataclass
class Calls:
    """A profile function: notes the calls of the sender's threads, and fails the one that is asked for."""

    fail: Place | None = None
    seen: list[Place] = field(default_factory=list)
    counts: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    failed: bool = False
    owner: threading.Thread | None = None
    lock: Any = field(default_factory=threading.Lock)

    def __call__(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if event != "c_call" or self.failed:
            return
        module, name = _named(arg)
        if module not in MODULES or name in INTERNAL or not self._ours():
            return
        site = (f"{module}.{name}", Path(frame.f_code.co_filename).name, frame.f_lineno)
        with self.lock:
            self.counts[site] += 1
            place = (*site, self.counts[site])
            self.seen.append(place)
            if place != self.fail:
                return
            self.failed = True
        raise _error(module, name)

    @staticmethod
    def _ours() -> bool:
        return threading.current_thread().name.startswith(("lmstack-sender", "ThreadPoolExecutor"))


def _named(function: Any) -> tuple[str, str]:
    """The module and the name of a C function or method, whatever it is bound to."""
    name = getattr(function, "__name__", "")
    bound = getattr(function, "__self__", None)
    if isinstance(bound, types.ModuleType):
        return bound.__name__, name
    module = type(bound).__module__
    for base in type(bound).__mro__:
        if base.__module__ in ("sqlite3", "_sqlite3"):
            return "_sqlite3", name
        if base.__module__ == "_socket":
            return "_socket", name
    return (getattr(function, "__module__", None) or module), name


@pytest.fixture(scope="module")
def receiver() -> Iterator[FaultyReceiver]:
    made = FaultyReceiver()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "litellm.db"
    conn = schema.connect(path)
    schema.migrate(conn)
    with schema.writing(conn):
        for number in range(4):
            outbox.put(conn, outbox.COST, TASKS[number % 2], {"number": number}, time.time())
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(sender, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(poster, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(outbox, "SCHEDULE", (0.02,) * 11)


def _events(path: Path) -> list[tuple[str, str, str]]:
    conn = sqlite3.connect(path)
    try:
        return conn.execute("SELECT event_id, order_key, state FROM outbox ORDER BY seq").fetchall()
    finally:
        conn.close()


def _delivered(path: Path) -> Callable[[], bool]:
    return lambda: {state for _, _, state in _events(path)} == {"delivered"}


def _run(calls: Calls, path: Path, receiver: FaultyReceiver, batch: bool) -> None:
    """Deliver all of the ledger while ``calls`` looks on, then stop."""
    threading.setprofile(calls)
    try:
        made = sender.Sender(path, Target(receiver.url + "/api/litellm/log", "key", "secret", batch=batch))
        try:
            wait_for(_delivered(path), 20, f"delivery with {calls.fail} failing")
            wait_for(lambda: made._inbox.under_way == 0, 5, f"no post under way after {calls.fail}")
            assert made._thread.is_alive(), calls.fail
        finally:
            made.close(20)
    finally:
        threading.setprofile(None)
    assert not made._thread.is_alive(), calls.fail


def _places(path: Path, receiver: FaultyReceiver, batch: bool, fails_first: bool) -> list[Place]:
    receiver.fails_first = int(fails_first)
    count = Calls()
    _run(count, path, receiver, batch)
    # A place inside a loop is tried at its first two turns.
    return sorted({place for place in count.seen if place[3] <= 2})


def _check(place: Place, path: Path, receiver: FaultyReceiver, said: list[str]) -> None:
    for task in TASKS:
        ids = [id_ for id_, key, _ in _events(path) if key == task]
        came = [id_ for arrived in receiver.order.values() for id_ in dict.fromkeys(arrived) if id_ in ids]
        assert came == ids, f"{place}: lost, or out of order"
    assert len(said) <= 1, f"{place}: said more than once: {said}"
    # httpcore itself overcomes some failures of a socket.
    assert said or place[0].startswith(("_socket.", "select.", "time.", "posix.open")), f"{place}: not said"


@pytest.mark.parametrize("case", ["single", "batch", "after a 503"])
def test_any_call_to_the_system_may_fail_once(
    template: Path, receiver: FaultyReceiver, tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    batch, fails_first = case == "batch", case == "after a 503"
    places = _places(Path(shutil.copy(template, tmp_path / "count.db")), receiver, False, False)
    assert len(places) > 50, "the counting run saw too little: the test proves nothing"
    if case != "single":  # only what this case adds
        known = {place[:3] for place in places}
        more = _places(Path(shutil.copy(template, tmp_path / "more.db")), receiver, batch, fails_first)
        places = [place for place in more if place[:3] not in known]
        assert places
    hit = 0
    for number, place in enumerate(places):
        # How often a loop turns, and which thread is first, differs from run to run: a place that was not met is tried
        # again.
        for turn in range(TRIES):
            receiver.order.clear()
            receiver.fails_first = int(fails_first)
            caplog.clear()
            path = Path(shutil.copy(template, tmp_path / f"{number}-{turn}.db"))
            calls = Calls(place)
            _run(calls, path, receiver, batch)
            if calls.failed:
                said = [record.getMessage() for record in caplog.records if record.name == sender.__name__]
                _check(place, path, receiver, said)
                hit += 1
                break
    assert hit > 0.8 * len(places)
