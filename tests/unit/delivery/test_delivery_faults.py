"""Each call that the sender makes to the operating system fails once. No event is lost, swapped or dead."""

import shutil
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from bench.faults.receiver import FaultyReceiver

from faulty_calls import Place, SystemCalls, soon
from lmstack.delivery import poster, sender
from lmstack.delivery.contract import Target
from lmstack.ledger import events, outbox, retries, schema

pytestmark = pytest.mark.exhaustive

TASKS = ("task:a", "task:b")
THREADS = ("lmstack-sender", "ThreadPoolExecutor")


@pytest.fixture(scope="module")
def receiver() -> Iterator[FaultyReceiver]:
    made = FaultyReceiver()
    made.retry_after = ""
    yield made
    made.stop()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "litellm.db"
    conn = schema.connect(path)
    schema.migrate(conn)
    with schema.writing(conn):
        for number in range(4):
            outbox.put(conn, events.COST, TASKS[number % 2], {"number": number}, time.time())
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()
    return path


@pytest.fixture(scope="module")
def ssl_context() -> ssl.SSLContext:
    """Read the certificate store once. That takes longer than the rest of a run, and calls nothing that can be failed."""
    return httpx.create_ssl_context(trust_env=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, ssl_context: ssl.SSLContext) -> None:
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: ssl_context)
    monkeypatch.setattr(sender, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(sender, "RETRY_SECONDS", 0.01)
    # httpcore waits for an answer after a send that failed. A busy machine that needs longer only makes a post repeat.
    monkeypatch.setattr(poster, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(retries, "SCHEDULE", (0.02,) * 11)


def _copy(template: Path, path: Path) -> Path:
    """Copy the ledger. Its events get new ids, so that a late post of an earlier run cannot be taken for one of this."""
    shutil.copy(template, path)
    conn = sqlite3.connect(path)
    with conn:
        conn.execute("UPDATE outbox SET event_id = ? || seq", (f"{path.stem}-",))
    conn.close()
    return path


def _states(path: Path) -> list[tuple[str, str, str]]:
    conn = sqlite3.connect(path)
    try:
        return conn.execute("SELECT event_id, order_key, state FROM outbox ORDER BY seq").fetchall()
    finally:
        conn.close()


def _delivered(path: Path) -> Callable[[], bool]:
    return lambda: {state for _, _, state in _states(path)} == {"delivered"}


def _run(calls: SystemCalls, path: Path, receiver: FaultyReceiver, batch: bool) -> None:
    """Deliver all events of the ledger while ``calls`` watches, then stop."""
    with calls.watching():
        made = sender.Sender(path, Target(receiver.url + "/api/litellm/log", "key", "secret", batch=batch))
        try:
            soon(_delivered(path), f"delivery with {calls.fail} failing")
            soon(lambda: made._inbox.under_way == 0, f"the end of each post after {calls.fail}")
            assert made._thread.is_alive(), calls.fail
        finally:
            made.close(60)
    assert not made._thread.is_alive(), calls.fail


def _places(path: Path, receiver: FaultyReceiver, batch: bool, fails_first: bool, after: bool = False) -> list[Place]:
    receiver.fails_first = int(fails_first)
    count = SystemCalls(THREADS, after=after)
    _run(count, path, receiver, batch)
    return count.places(turns=2)


def _check(place: Place, path: Path, receiver: FaultyReceiver, logged: list[str]) -> None:
    for task in TASKS:
        ids = [id_ for id_, key, _ in _states(path) if key == task]
        came = [id_ for arrived in receiver.order.values() for id_ in dict.fromkeys(arrived) if id_ in ids]
        assert came == ids, f"{place}: lost, or out of order"
    assert len(logged) <= 1, f"{place}: logged more than once: {logged}"
    # httpcore itself overcomes some failures of a socket.
    assert logged or place[0].startswith(("_socket.", "select.", "time.", "posix.open")), f"{place}: not logged"


@pytest.mark.parametrize("case", ["single", "batch", "after a 503"])
def test_any_call_to_the_system_may_fail_once(
    template: Path, receiver: FaultyReceiver, tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    batch, fails_first = case == "batch", case == "after a 503"
    places = _places(_copy(template, tmp_path / "count.db"), receiver, False, False)
    assert len(places) > 50, "the counting run saw too little: the test proves nothing"
    if case != "single":  # only what this case adds
        known = {place[:3] for place in places}
        more = _places(_copy(template, tmp_path / "more.db"), receiver, batch, fails_first)
        places = [place for place in more if place[:3] not in known]
        assert places
    hit = 0
    for number, place in enumerate(places):
        # How often a loop turns, and which thread is first, differs a little from run to run: three runs may hit it.
        for run in range(3):
            receiver.order.clear()
            receiver.fails_first = int(fails_first)
            caplog.clear()
            path = _copy(template, tmp_path / f"{case}-{number}-{run}.db")
            calls = SystemCalls(THREADS, place)
            _run(calls, path, receiver, batch)
            if calls.failed:
                hit += 1
                logged = [record.getMessage() for record in caplog.records if record.name == sender.__name__]
                _check(place, path, receiver, logged)
                break
    assert hit > 0.8 * len(places)


def test_a_statement_of_sqlite_that_succeeds_and_reports_an_error_sends_no_event_twice_in_a_row(
    template: Path, receiver: FaultyReceiver, tmp_path: Path
) -> None:
    """A COMMIT can have its effect and raise all the same: a lease must not block its lane, an outcome not count twice."""
    found = _places(_copy(template, tmp_path / "count.db"), receiver, False, False, after=True)
    places = [place for place in found if place[0].startswith("_sqlite3.execute")]
    assert len(places) > 20
    hit = 0
    for number, place in enumerate(places):
        receiver.fails_first = 0
        path = _copy(template, tmp_path / f"after-{number}.db")
        calls = SystemCalls(THREADS, place, after=True)
        _run(calls, path, receiver, batch=False)
        hit += calls.failed
        for task in TASKS:
            ids = [id_ for id_, key, _ in _states(path) if key == task]
            came = [id_ for arrived in receiver.order.values() for id_ in dict.fromkeys(arrived) if id_ in ids]
            assert came == ids, f"{place}: lost, or out of order"
        conn = sqlite3.connect(path)
        assert conn.execute("SELECT COUNT(*) FROM lanes").fetchone() == (0,), f"{place}: a lane is left"
        assert conn.execute("SELECT COUNT(*) FROM outbox WHERE attempts != 1").fetchone() == (0,), (
            f"{place}: counted twice"
        )
        conn.close()
    assert hit > 0.8 * len(places)
