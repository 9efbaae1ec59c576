"""No view holds the event loop, which belongs to the requests: not with many rows, and not for a large answer."""

import asyncio
import gc
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import page_site
from lmstack.web.api import json_of
from lmstack.web.app import page_app

MOST_MS = 5.0
PATHS = (
    "/dashboard?since=90d", "/dashboard?since=90d&by=task&show=requests", "/dashboard/requests", "/dashboard/models", "/dashboard/errors", "/dashboard/keys", "/dashboard/keys/coder?since=90d", "/api/v1/keys",
    "/metrics", "/api/v1/requests?since=90d&limit=10000", "/api/v1/requests?since=90d&limit=10000&format=csv",
)  # fmt: skip


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, str]]]:
    """Collect the milliseconds of CPU of each callback. CPU time, because other programs may have the processor."""
    found: list[tuple[float, str]] = []
    run = asyncio.events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        found.append(((time.thread_time() - began) * 1000, repr(handle)[:200]))

    monkeypatch.setattr(asyncio.events.Handle, "_run", timed)
    gc.disable()  # pytest's own objects would be looked through in one of the callbacks
    yield found
    gc.enable()


def test_no_view_holds_the_event_loop(tmp_path: Path, longest: list[tuple[float, str]]) -> None:
    page_site.million(tmp_path / "litellm.db", 20_000)
    app = page_app(page_site.host(tmp_path / "litellm.db"))

    async def ask() -> None:
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        headers = {"authorization": f"Bearer {page_site.KEY}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:4000", headers=headers) as client:
            for path, turn in itertools.product(PATHS, range(3)):
                # Each address is new: an answer that is kept for a second would be no work on a fast machine.
                address = f"{path}{'&' if '?' in path else '?'}turn={turn}"
                assert (await client.get(address)).status_code == 200, address

    asyncio.run(ask())
    assert len(longest) > 100
    assert max(longest)[0] < MOST_MS, sorted(longest, reverse=True)[:3]


def test_the_json_of_many_rows_lets_the_event_loop_run(tmp_path: Path) -> None:
    """One call of json.dumps keeps the interpreter until it has ended, also in a thread."""
    rows = [{f"column{j}": f"text {i} {j}" if j % 3 else i * j for j in range(40)} for i in range(10_000)]
    assert json_of({"requests": rows[:2], "n": 1}) == json.dumps({"requests": rows[:2], "n": 1})
    longest, has_ended = 0.0, threading.Event()

    def write() -> None:
        time.sleep(0.02)  # the other thread measures already
        json_of({"requests": rows})
        has_ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not has_ended.is_set():
        began = time.process_time()  # what the other thread has used while this one slept and then waited
        time.sleep(0.0005)
        longest = max(longest, time.process_time() - began)
    writer.join()
    assert longest < 0.05, f"{longest:.3f} s"
