"""The rates of keys over several hosts, through a real Redis: one limit for all, and what happens when Redis does not answer."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from lmstack.gateway import redis_link
from lmstack.gateway.app import pace
from lmstack.gateway.app.bodies import RefusedError
from lmstack.gateway.app.routes import Access, Recorded, Route
from lmstack.gateway.rates import Rates
from lmstack.gateway.redis_link import connector
from lmstack.gateway.shared_rates import SharedRates, shared_from
from lmstack.keys.key import Key, KeyLimits
from support import RedisServer, redis_server

CALL = Route("POST", "/v1/chat/completions", Access.KEY, Recorded.HOOKS)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis"), "secret") as made:
        yield made


_numbers = iter(range(1000))


def new_key(**limits: int) -> Key:
    """Return a key that Redis has not seen."""
    number = next(_numbers)
    return Key(1, f"k{number}", KeyLimits(**limits), shared_name=f"name-{number}")  # type: ignore[arg-type]


def hosts(redis: RedisServer, count: int = 2, lease: float = 10.0) -> list[SharedRates]:
    connect = connector({"REDIS_URL": redis.url})
    assert connect is not None
    return [SharedRates(connect, lease) for _ in range(count)]


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test, and end the connections that it has made."""

    async def whole() -> None:
        await test()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # type: ignore[arg-type]
            task.cancel()

    asyncio.run(whole())


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Wait until ``check`` returns True."""
    end = time.monotonic() + seconds
    while not await check():
        assert time.monotonic() < end, check
        await asyncio.sleep(0.02)


async def admit(host: SharedRates, key: Key, times: int) -> int:
    states = await asyncio.gather(*(host.begin(key, host.new_request()) for _ in range(times)))
    assert all(state is not None for state in states), "Redis did not answer"
    return sum(state is not None and state.refused is None for state in states)


def test_two_hosts_have_one_limit_of_requests(redis: RedisServer) -> None:
    async def test() -> None:
        key, (one, two) = new_key(rpm=10), hosts(redis)
        assert await admit(one, key, 4) + await admit(two, key, 20) == 10
        state = await one.begin(key, "x")
        assert state is not None
        assert (state.refused, state.requests, 58 <= state.wait <= 60) == ("requests", 10, True)
        looked = await two.state(key)
        assert looked is not None
        assert (looked.requests, looked.refused) == (10, None)

    run(test)


def test_tokens_of_another_host_count(redis: RedisServer) -> None:
    async def test() -> None:
        key, (one, two) = new_key(tpm=100), hosts(redis)
        assert await admit(one, key, 1) == 1
        one.add_tokens(key.id, 60)
        await asyncio.to_thread(one.add_tokens, key.id, 50)

        async def is_refused() -> bool:
            state = await two.begin(key, two.new_request())
            return state is not None and (state.refused, state.tokens) == ("tokens", 110)

        await until(is_refused)

    run(test)


def test_open_requests_of_another_host_count_until_they_end(redis: RedisServer) -> None:
    async def test() -> None:
        key, (one, two) = new_key(parallel=2), hosts(redis)
        requests = [one.new_request() for _ in range(2)]
        for request in requests:
            await one.begin(key, request)
        assert await admit(two, key, 3) == 0
        one.end(key, requests[0])
        one.end(key, requests[0])  # twice is once
        await until(lambda: _opens(two, key, 1))
        assert await admit(two, key, 3) == 1

    run(test)


async def _opens(host: SharedRates, key: Key, count: int) -> bool:
    state = await host.state(key)
    return state is not None and state.open == count


def test_an_open_request_of_a_dead_host_ends_with_its_lease_and_that_of_a_living_one_does_not(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("lmstack.gateway.shared_rates.RENEW_SECONDS", 0.1)

    async def test() -> None:
        key, (alive, dead) = new_key(parallel=9), hosts(redis, lease=0.5)
        await admit(alive, key, 2)
        await admit(dead, key, 3)
        assert await _opens(alive, key, 5)
        assert dead._renewing is not None
        dead._renewing.cancel()
        await until(lambda: _opens(alive, key, 2), 3)
        await asyncio.sleep(0.6)  # longer than a lease: those of the living host were renewed
        assert await _opens(alive, key, 2)

    run(test)


def test_a_cancelled_request_is_open_no_more(redis: RedisServer) -> None:
    async def test() -> None:
        key, (one, two) = new_key(parallel=1), hosts(redis)
        await two.state(key)
        task = asyncio.create_task(one.begin(key, one.new_request()))
        await one.state(new_key())  # now its question is on its way, or answered
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for request in [name for names in one._open.values() for name in names]:
            one.end(key, request)
        await until(lambda: _opens(two, key, 0))

    run(test)


def test_the_counts_leave_redis_and_reveal_nothing(redis: RedisServer) -> None:
    async def test() -> None:
        key, (one, _) = new_key(rpm=5, parallel=5), hosts(redis)
        await admit(one, key, 1)

    redis.ask("FLUSHALL")
    run(test)
    names = redis.ask("KEYS", "*").split()
    assert len(names) == 2
    assert all(0 < int(redis.ask("PTTL", name)) <= 120_000 for name in names)


def test_requests_leave_the_count_after_a_minute(redis: RedisServer) -> None:
    """Redis's clock cannot be set, so the second in which the count was last changed is."""

    async def test() -> None:
        key, (one, two) = new_key(rpm=3), hosts(redis)
        assert await admit(one, key, 5) == 3
        name = f"lmstack:{{{key.shared_name}}}:counts"
        at = int(redis.ask("HGET", name, "at"))
        values = dict(zip(*[iter(redis.ask("HGETALL", name).split())] * 2, strict=True))
        buckets = {field: count for field, count in values.items() if field[1:].isdigit()}
        assert buckets == {f"r{at % 60}": "3"}
        # The same three requests, made 59 seconds ago.
        redis.ask("HDEL", name, *buckets)
        redis.ask("HSET", name, "at", str(at - 59), f"r{(at - 59) % 60}", "3")
        state = await two.begin(key, "x")
        assert state is not None
        assert (state.refused, state.wait) in (("requests", 1), (None, 0))
        await until(lambda: _admits(two, key), 3)
        state = await one.state(key)
        assert state is not None
        assert state.requests <= 2

    run(test)


async def _admits(host: SharedRates, key: Key) -> bool:
    return await admit(host, key, 1) == 1


def test_a_stopped_redis_costs_one_short_wait_and_then_nothing(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(redis_link, "CONNECT_SECONDS", 0.1)

    async def test() -> None:
        key, (one, two) = new_key(rpm=1000, parallel=50), hosts(redis)
        assert await admit(one, key, 1) == 1
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert await asyncio.gather(*(one.begin(key, f"r{n}") for n in range(20))) == [None] * 20
            assert time.monotonic() - began < 0.15
            assert await two.begin(key, "first") is None  # it connects, and gets no answer
            for moment in range(30):  # over several tries to connect
                began = time.monotonic()
                assert await one.begin(key, f"later-{moment}") is None
                assert time.monotonic() - began < 0.02
                await asyncio.sleep(0.02)
        finally:
            os.kill(redis.pid, signal.SIGCONT)
        await until(lambda: _is_reached(one, key))
        await until(lambda: _opens(one, key, 1 + 20 + 1 + 30))  # the open requests of the outage are counted again

    with caplog.at_level(logging.WARNING):
        run(test)
    lines = [record.getMessage() for record in caplog.records if "Redis" in record.getMessage()]
    assert len(lines) == 2, lines  # one of each host
    assert "no answer within 50 ms" in lines[0]
    assert "secret" not in caplog.text


async def _is_reached(host: SharedRates, key: Key) -> bool:
    return await host.state(key) is not None


def test_without_a_redis_nobody_waits_and_the_local_count_decides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        shared = shared_from({"REDIS_URL": "redis://:pass-word@127.0.0.1:1/0"})
        key, rates = new_key(rpm=2, parallel=2), Rates(tmp_path / "rates")
        admitted = 0
        for _ in range(3):
            with contextlib.suppress(RefusedError):
                async with pace.admitted(key, CALL, rates, shared):
                    admitted += 1
        assert admitted == 2
        assert rates.state(key).open == 0

    with caplog.at_level(logging.WARNING):
        run(test)
    assert "Error 111" in caplog.text
    assert "pass-word" not in caplog.text


def test_what_another_host_has_used_up_is_refused_and_not_counted_here(redis: RedisServer, tmp_path: Path) -> None:
    async def test() -> None:
        key, (here, there) = new_key(rpm=3, parallel=3), hosts(redis)
        rates = Rates(tmp_path / "rates")
        async with pace.admitted(key, CALL, rates, here) as headers:
            assert dict(headers)[b"x-ratelimit-remaining-requests"] == b"2"
        assert await admit(there, key, 2) == 2
        for _ in range(4):
            with pytest.raises(RefusedError, match="3 requests in the last minute, and 3 are allowed"):
                async with pace.admitted(key, CALL, rates, here):
                    pass
        state = rates.state(key)
        assert (state.requests, state.open) == (1, 0)
        await until(lambda: _opens(here, key, 2))

    run(test)


def test_a_flushed_redis_is_taken_into_use_again(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_link, "RETRY_SECONDS", 0.05)

    async def test() -> None:
        key, (one, _) = new_key(rpm=100), hosts(redis)
        assert await admit(one, key, 1) == 1
        redis.ask("SCRIPT", "FLUSH")
        assert await one.begin(key, "x") is None
        await until(lambda: _is_reached(one, key))

    run(test)


@pytest.mark.parametrize(
    ("environ", "is_shared"),
    [({}, False), ({"LITELLM_REDIS": "off", "REDIS_PASSWORD": "x"}, False), ({"LITELLM_REDIS": "on"}, True), ({"REDIS_URL": "redis://h"}, True)],
)  # fmt: skip
def test_only_a_configured_redis_is_used(environ: dict[str, str], is_shared: bool) -> None:
    assert (shared_from(environ) is not None) is is_shared


def test_nothing_of_redis_is_imported_without_one() -> None:
    code = "import sys; from lmstack.gateway.shared_rates import shared_from; assert shared_from({}) is None; assert 'redis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
