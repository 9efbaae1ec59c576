"""Requests, tokens and open requests of a key, over several workers: exact, and right after a worker was killed."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmstack.gateway.app import pace
from lmstack.gateway.app.bodies import RefusedError
from lmstack.gateway.app.routes import Access, Recorded, Route
from lmstack.gateway.rates import Rates
from lmstack.keys.key import Key, KeyLimits
from lmstack.ledger import rates_file
from lmstack.ledger.rates_file import COLUMNS

CALL = Route("POST", "/v1/chat/completions", Access.KEY, Recorded.HOOKS)
FORK = multiprocessing.get_context("fork")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "litellm.rates"


@contextlib.contextmanager
def admitted(key: Key, route: Route, rates: Rates) -> Iterator[pace.Headers]:
    """Run ``pace.admitted`` around a block that is not asynchronous."""
    block = pace.admitted(key, route, rates)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        headers = loop.run_until_complete(block.__aenter__())
        try:
            yield headers
        except BaseException as error:
            if not loop.run_until_complete(block.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            loop.run_until_complete(block.__aexit__(None, None, None))


def admit(rates: Rates, key: Key, times: int) -> int:
    """Make so many requests, and return how many were admitted."""
    return sum(rates.begin(key).refused is None for _ in range(times))


def test_requests_of_the_last_minute_are_counted_by_the_second(path: Path) -> None:
    clock, key = Clock(), Key(3, "k", KeyLimits(rpm=10))
    rates = Rates(path, clock)
    assert admit(rates, key, 4) == 4
    clock.now += 30
    assert admit(rates, key, 9) == 6
    state = rates.begin(key)
    assert (state.refused, state.wait, state.requests) == ("requests", 30, 10)
    clock.now += 29
    assert admit(rates, key, 5) == 0
    clock.now += 1
    assert admit(rates, key, 9) == 4  # those of the first second are older than a minute
    clock.now += 600
    assert admit(rates, key, 20) == 10


def test_tokens_are_counted_when_they_are_known(path: Path) -> None:
    clock, key = Clock(), Key(3, "k", KeyLimits(tpm=100))
    rates = Rates(path, clock)
    assert admit(rates, key, 3) == 3
    rates.add_tokens(key.id, 60)
    clock.now += 10
    rates.add_tokens(key.id, 60)
    state = rates.begin(key)
    assert (state.refused, state.wait, state.tokens) == ("tokens", 50, 120)
    clock.now += 50
    assert admit(rates, key, 1) == 1


def test_a_clock_that_jumps_refuses_nobody_for_ever(path: Path) -> None:
    clock, key = Clock(), Key(3, "k", KeyLimits(rpm=2))
    rates = Rates(path, clock)
    assert admit(rates, key, 3) == 2
    clock.now -= 5  # a small step back gives nothing free
    assert admit(rates, key, 1) == 0
    clock.now -= 86400
    assert admit(rates, key, 3) == 2
    clock.now += 10 * 86400
    assert admit(rates, key, 3) == 2


def test_keys_do_not_share_anything(path: Path) -> None:
    rates = Rates(path)
    keys = [Key(number, "k", KeyLimits(rpm=number + 1, parallel=100)) for number in (0, 1, 2, 300, 5000)]
    assert [admit(rates, key, 20) for key in keys[:3]] == [1, 2, 3]
    assert admit(rates, keys[3], 20) == 20
    assert rates.state(keys[4]).requests == 0


def _spend(path: Path, key: Key, count: int, found: "multiprocessing.Queue[int]", start: Any = None) -> None:
    rates = Rates(path)
    rates.state(key)
    if start is not None:
        start.wait()
    found.put(admit(rates, key, count))
    time.sleep(60)  # it stays alive: its open requests count


def test_several_workers_admit_exactly_what_is_allowed(path: Path) -> None:
    for key in (Key(1, "k", KeyLimits(rpm=15_000)), Key(2, "k", KeyLimits(parallel=15_000))):
        found: multiprocessing.Queue[int] = FORK.Queue()
        start = FORK.Barrier(4)
        workers = [FORK.Process(target=_spend, args=(path, key, 8000, found, start)) for _ in range(4)]
        for worker in workers:
            worker.start()
        assert sum(found.get(timeout=60) for _ in workers) == (key.limits.rpm or key.limits.parallel)
        for worker in workers:
            worker.kill()
            worker.join(10)


def test_the_open_requests_of_a_killed_worker_do_not_count(path: Path) -> None:
    key, found = Key(1, "k", KeyLimits(parallel=5)), FORK.Queue()
    own = Rates(path)
    assert admit(own, key, 2) == 2
    worker = FORK.Process(target=_spend, args=(path, key, 9, found))
    worker.start()
    assert found.get(timeout=30) == 3
    assert own.begin(key).refused == "parallel"
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join(10)
    assert admit(own, key, 9) == 3
    for _ in range(5):
        own.end(key)
    assert own.state(key).open == 0


def test_a_worker_begins_without_the_open_requests_of_the_one_before(path: Path) -> None:
    key, found = Key(1, "k", KeyLimits(parallel=5)), FORK.Queue()
    worker = FORK.Process(target=_spend, args=(path, key, 5, found))
    worker.start()
    found.get(timeout=30)
    worker.kill()
    worker.join(10)
    assert Rates(path).state(key).open == 0


def test_a_stopped_worker_that_holds_a_lock_delays_the_others_by_milliseconds(path: Path) -> None:
    key, ready = Key(1, "k", KeyLimits(rpm=5)), FORK.Event()

    def hold() -> None:
        rates = Rates(path)
        with rates._row(key.id):
            ready.set()
            os.kill(os.getpid(), signal.SIGSTOP)

    worker = FORK.Process(target=hold)
    worker.start()
    assert ready.wait(10)
    rates = Rates(path)
    rates.state(Key(2, "other"))
    before, began = time.process_time(), time.perf_counter()
    assert rates.begin(key).refused is None
    assert time.process_time() - before < 0.05
    assert time.perf_counter() - began > 0.001  # it has waited for the lock
    worker.kill()
    os.kill(worker.pid or 0, signal.SIGCONT)
    worker.join(10)


def test_the_file_is_private_and_has_no_holes(path: Path) -> None:
    Rates(path).begin(Key(10_000, "k", KeyLimits(rpm=1)))
    found = path.stat()
    assert found.st_mode & 0o777 == 0o600
    assert found.st_blocks * 512 >= found.st_size


def test_a_folder_that_cannot_be_written_refuses_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rates, key = Rates(tmp_path / "file" / "litellm.rates"), Key(1, "k", KeyLimits(rpm=1, parallel=1))
    assert admit(rates, key, 5) == 5
    rates.end(key)
    rates.add_tokens(1, 5)


def test_a_refusal_names_limit_use_and_time(path: Path) -> None:
    rates, key = Rates(path), Key(1, "coder", KeyLimits(rpm=1, tpm=50))
    with admitted(key, CALL, rates) as headers:
        assert dict(headers)[b"x-ratelimit-remaining-requests"] == b"0"
        assert dict(headers)[b"x-ratelimit-limit-tokens"] == b"50"
    with pytest.raises(RefusedError) as refused, admitted(key, CALL, rates):
        pass
    error = refused.value
    assert (error.status, error.kind, error.fields) == (429, "rate_limit_exceeded", {"limit": {"kind": "requests", "limit": 1, "used": 1}})  # fmt: skip
    assert 1 <= int(error.headers["retry-after"]) <= 60
    assert error.headers["x-ratelimit-limit-requests"] == "1"


def test_a_request_that_ends_in_any_way_is_open_no_more(path: Path) -> None:
    rates, key = Rates(path), Key(1, "coder", KeyLimits(parallel=1))
    for _ in range(3):
        block = admitted(key, CALL, rates)
        block.__enter__()
        assert rates.state(key).open == 1
        error = ZeroDivisionError()
        assert not block.__exit__(ZeroDivisionError, error, None)
    assert rates.state(key).open == 0


def test_what_only_reads_is_not_counted(path: Path) -> None:
    rates, key = Rates(path), Key(1, "coder", KeyLimits(rpm=1))
    for _ in range(5):
        with admitted(key, Route("GET", "/v1/models", Access.KEY), rates) as headers:
            assert headers == []


def test_the_file_grows_and_the_locks_stay(path: Path) -> None:
    found: multiprocessing.Queue[int] = FORK.Queue()
    own, key = Rates(path), Key(1, "k", KeyLimits(parallel=5))
    assert admit(own, key, 5) == 5
    own.state(Key(COLUMNS * 100, "far"))  # mapped again
    worker = FORK.Process(target=_spend, args=(path, key, 1, found))
    worker.start()
    assert found.get(timeout=30) == 0
    worker.kill()
    worker.join(10)


def test_what_is_read_at_the_provider_is_counted_and_our_own_state_is_not(path: Path) -> None:
    rates, key = Rates(path), Key(1, "k", KeyLimits(rpm=1))
    for own in ("/me/usage", "/v1/models"):
        for _ in range(3):
            with admitted(key, Route("GET", own, Access.KEY), rates):
                pass
    stored = Route("GET", "/v1/files/{file_id:path}/content", Access.KEY)
    with admitted(key, stored, rates):
        pass
    with pytest.raises(RefusedError, match="1 are allowed"), admitted(key, stored, rates):
        pass


def _spend_and_count(path: Path, key: Key, found: "multiprocessing.Queue[int]") -> None:
    rates = Rates(path)
    rates.add_tokens(key.id, 30)
    found.put(admit(rates, key, 4))
    time.sleep(60)


def test_another_program_reads_the_counts_and_those_of_a_killed_worker_are_not_open(tmp_path: Path) -> None:
    ledger = tmp_path / "litellm.db"
    key, found = Key(7, "k", KeyLimits(parallel=9)), FORK.Queue()
    assert rates_file.read(ledger, 7, time.time()) is None
    worker = FORK.Process(target=_spend_and_count, args=(rates_file.beside(ledger), key, found))
    worker.start()
    assert found.get(timeout=30) == 4
    assert rates_file.read(ledger, 7, time.time()) == {"rpm": 4, "tpm": 30, "parallel": 4}
    assert rates_file.read(ledger, 7, time.time() + 61) == {"rpm": 0, "tpm": 0, "parallel": 4}
    assert rates_file.read(ledger, 6, time.time()) == {"rpm": 0, "tpm": 0, "parallel": 0}
    assert rates_file.read(ledger, 100_000, time.time()) is None
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join(10)
    assert rates_file.read(ledger, 7, time.time()) == {"rpm": 4, "tpm": 30, "parallel": 0}


def test_another_program_reads_the_sums_that_the_worker_has(tmp_path: Path) -> None:
    clock, key, ledger = Clock(), Key(3, "k", KeyLimits(rpm=1000, tpm=10**6)), tmp_path / "litellm.db"
    rates = Rates(rates_file.beside(ledger), clock)
    for number, pause in enumerate((0, 1, 20, 39, 1, 58, 59, 60, 61, 3, 600, 7)):
        clock.now += pause
        admit(rates, key, number + 1)
        rates.add_tokens(key.id, 10 * number)
        for later in (0, 1, 30, 59, 60, 100):
            read = rates_file.read(ledger, 3, clock.now + later) or {}
            assert {**read, "parallel": 0} == {**_at(rates, key, clock, later), "parallel": 0}, (number, later)


def _at(rates: Rates, key: Key, clock: Clock, later: float) -> dict[str, int]:
    """Return the sums at a later time, from the bytes of the file as they are now."""
    kept = rates._path.read_bytes()
    clock.now += later
    used = rates.used(key)
    clock.now -= later
    with rates._path.open("r+b") as file:
        file.write(kept)
    return used


@pytest.mark.parametrize(("total", "bucket"), [(0, 2), (2, 0)])
def test_a_worker_that_was_killed_between_two_writes_leaves_no_wrong_sum(path: Path, total: int, bucket: int) -> None:
    """A sum above its seconds would refuse the key as long as its client asks; one below them would raise in each request."""
    clock, key = Clock(), Key(1, "a", KeyLimits(rpm=2))
    rates = Rates(path, clock)
    with rates._row(key.id) as row:
        assert row is not None
        row[rates_file.AT] = int(clock.now)
        row[rates_file.REQUESTS] = total
        row[rates_file.BUCKETS + int(clock.now) % rates_file.SECONDS] = bucket
    for _ in range(4):
        clock.now += 20
        rates.state(key)
    assert admit(rates, key, 3) == 2
