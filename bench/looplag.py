"""How long our hooks hold the event loop: they run as LiteLLM calls them, with the real writer, and nothing else does."""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Deployment(SimpleNamespace):
    """What our hooks read of a response."""


Lag = tuple[float, float, float]


async def lag(requests: int = 3000, at_once: int = 64, hooks: bool = True) -> Lag:
    """Return the milliseconds that one pass of the loop took: median, 99.9th percentile, worst.

    Without ``hooks`` the clients only wait. This shows the cost of the machine and of the garbage collector.
    """
    from lmstack.gateway.calls.hooks import handler

    gaps: list[float] = []
    done = asyncio.Event()

    async def ticker() -> None:
        last = time.perf_counter()
        while not done.is_set():
            await asyncio.sleep(0)
            now = time.perf_counter()
            gaps.append((now - last) * 1000)
            last = now

    left = iter(range(requests))

    async def client() -> None:
        for n in left:
            await (one(handler, n) if hooks else asyncio.sleep(0.001))

    watch = asyncio.create_task(ticker())
    await asyncio.gather(*(client() for _ in range(at_once)))
    done.set()
    await watch
    gaps.sort()
    return statistics.median(gaps), gaps[int(len(gaps) * 0.999)], gaps[-1]


async def one(handler: Any, n: int) -> None:
    """Call the hooks of one successful request, in their order."""
    info = {"id": "gpt-4o-mini", "lm_provider": "openai", "lm_tier": 1, "lm_rates": [0.15, 0.6]}
    headers = {"content-length": "120", "x-task-id": f"task-{n % 50}", "x-agent-id": "agent"}
    data: dict[str, Any] = {
        "model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}], "metadata": {},
        "litellm_call_id": f"call-{n}", "litellm_logging_obj": SimpleNamespace(),
        "proxy_server_request": {"url": "http://x/v1/chat/completions", "headers": headers, "body": {}},
    }  # fmt: skip
    await handler.async_pre_call_hook(None, None, data, "acompletion")
    attempt = {**data, "model": "openai/gpt-4o-mini", "model_info": info, "metadata": {"model_info": info}}
    await handler.async_pre_call_deployment_hook(attempt, "acompletion")
    usage = SimpleNamespace(prompt_tokens=8, completion_tokens=8)
    answer = Deployment(usage=usage, _hidden_params={"response_cost": 0.000006})
    await handler.async_post_call_success_hook(data, None, answer)
    await handler.async_post_call_response_headers_hook(data, None, answer)


async def requests_of(clients: int, requests: int) -> None:
    """Send ``requests`` requests through our hooks, with ``clients`` parallel clients."""
    from lmstack.gateway.calls.hooks import handler

    left = iter(range(requests))

    async def client() -> None:
        for n in left:
            await one(handler, n)

    await asyncio.gather(*(client() for _ in range(clients)))


def costs(requests: int = 3000, rounds: int = 5) -> dict[int, float]:
    """Return the CPU milliseconds of one request in our hooks and the writer thread, for 1, 8 and 64 parallel requests.

    The figures are medians of rounds. They are exact to a hundredth of the CPU time of a request in a proxy. A comparison of
    two whole proxies is less exact.
    """
    with ledger_in_a_folder():
        asyncio.run(requests_of(8, 300))
        found = {}
        for clients in (1, 8, 64):
            taken = []
            for _ in range(rounds):
                before = time.process_time()
                asyncio.run(requests_of(clients, requests))
                taken.append((time.process_time() - before) * 1000 / requests)
            found[clients] = statistics.median(taken)
        return found


def longest_steps(requests: int = 3000, at_once: int = 64) -> Lag:
    """Return the milliseconds that the loop was held by one step of a request in our hooks: median, 99.9th percentile, worst."""
    taken: list[float] = []
    plain = asyncio.events.Handle._run

    def timed(handle: asyncio.events.Handle) -> None:
        began = time.perf_counter()
        plain(handle)
        taken.append((time.perf_counter() - began) * 1000)

    with ledger_in_a_folder():
        asyncio.run(requests_of(at_once, 300))
        asyncio.events.Handle._run = timed  # type: ignore[method-assign]
        try:
            asyncio.run(requests_of(at_once, requests))
        finally:
            asyncio.events.Handle._run = plain  # type: ignore[method-assign]
    taken.sort()
    return statistics.median(taken), taken[int(len(taken) * 0.999)], taken[-1]


@contextmanager
def ledger_in_a_folder() -> Iterator[None]:
    """Open our worker with a ledger in a temporary folder, and close it at the end."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder:
        os.environ["LEDGER_PATH"] = str(Path(folder) / "litellm.db")
        os.environ["TASKMASTER_API_URL"] = ""
        from lmstack.gateway import worker

        worker._worker = None  # a process has one; here one after the other
        try:
            yield
        finally:
            worker.get().close()
            worker._worker = None


def main() -> tuple[Lag, Lag]:
    """Return the lag with our hooks, on a ledger in a temporary folder, and the lag without them."""
    with ledger_in_a_folder():
        asyncio.run(lag(300))  # imports, first commits
        return asyncio.run(lag()), asyncio.run(lag(hooks=False))


if __name__ == "__main__":
    for name, figures in zip(("our hooks", "control"), main(), strict=True):
        print("{}: one pass of the loop, ms: median {:.3f}, p99.9 {:.3f}, worst {:.3f}".format(name, *figures))
    print("one step of our hooks, ms: median {:.3f}, p99.9 {:.3f}, worst {:.3f}".format(*longest_steps()))
    print("CPU for each request, ms:", ", ".join(f"{n} parallel {ms:.2f}" for n, ms in costs().items()))
