"""The ledger and the delivery by themselves: ``python -m bench.ledger [writes|usage|catchup|soak]``.

- writes: rows per second through the writer
- usage: the time of `lm usage` over ten million requests
- catchup: events per second after an outage that left 100,000
- soak: the memory of the proxy over 20,000 requests
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.faults.loaded_stack import LoadedStack
from bench.faults.post import Post
from bench.proxies import upstream
from lmstack.delivery.contract import Target
from lmstack.delivery.sender import Sender
from lmstack.ledger import queries, schema
from lmstack.ledger import writer as ledger_writer
from lmstack.ledger.migrations import DIMENSIONS
from lmstack.ledger.records import Attempt, Attribution, Call, Ended, Started, Usage
from lmstack.ledger.schema import migrate


def writes(folder: Path, requests: int = 50_000) -> float:
    """Write a start and a result per request, with events, through the queue and the writer thread; return rows per second."""
    writer = ledger_writer.Writer(ledger_writer.StoreOptions(folder / "litellm.db", events=True))
    began = time.perf_counter()
    for n in range(requests):
        call = Call(
            f"r{n}", f"c{n}", None, time.time(), "/v1/chat/completions", False, "auto", Attribution(f"t{n // 100}", "a")
        )
        call.attempts.append(
            Attempt("m", "m", "openai", "openai/m", 1, (0.15, 0.6), False, time.time(), 1.0, "succeeded")
        )
        while writer._queue.qsize() > ledger_writer.QUEUE_SIZE - 10:
            time.sleep(0.001)
        writer.post(Started(call))
        writer.post(Ended(call, "succeeded", time.time(), 1.0, Usage(1, 2), 0.001))
    writer.flush(120)
    took = time.perf_counter() - began
    writer.close()
    rows = requests * 5  # request (written twice), attempt, two events
    lost = writer.unrecorded
    print(f"writes: {requests / took:.0f} requests/s, {rows / took:.0f} rows/s, {lost} lost", file=sys.stderr)
    return rows / took


def fill(path: Path, rows: int) -> float:
    """Make a ledger of ninety days with 100 requests per task and 50 agents, by SQL. Return the time of its last row.

    It has the rollups that the writer makes.
    """
    conn = schema.connect(path)
    migrate(conn)
    now = time.time()
    conn.execute("PRAGMA synchronous = OFF")
    conn.execute("BEGIN")
    conn.execute(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1) "
        "INSERT INTO requests (id, started_at, status, requested_model, deployment, provider, tier, prompt_tokens, "
        "completion_tokens, cost_usd, task_id, agent_id, user, worker) SELECT 'r' || i, ?2 - 90 * 86400.0 + i * (90 * 86400.0 / ?1), "
        "CASE WHEN i % 50 THEN 'succeeded' ELSE 'failed' END, 'auto', 'model-' || (i % 12), 'provider-' || (i % 4), 1 + i % 3, "
        "100, 50, CASE WHEN i % 7 THEN 0.001 END, 'task-' || (i / 100), 'agent-' || (i / 100 % 50), 'user-' || (i % 20), 'w' FROM n",
        (rows, now),
    )
    for dimension, expression in DIMENSIONS.items():
        conn.execute(
            f"INSERT INTO rollups SELECT '{dimension}', {expression}, CAST(started_at AS INTEGER) / 3600, COUNT(*), SUM(status != 'succeeded'), "
            "SUM(prompt_tokens), SUM(completion_tokens), COALESCE(SUM(cost_usd), 0), SUM(status = 'succeeded' AND cost_usd IS NULL) "
            "FROM requests GROUP BY 2, 3"
        )
    conn.execute("COMMIT")
    conn.close()
    return now


def usage(folder: Path, rows: int = 10_000_000) -> None:
    """Print the time of each grouping."""
    path = folder / "litellm.db"
    now = fill(path, rows)
    print(f"usage over {rows} requests ({path.stat().st_size / 1e9:.1f} GB):")
    for by in (*DIMENSIONS, "day"):
        for since in (0.0, now - 86400):
            began = time.perf_counter()
            found = queries.ask(path, "usage", {"by": by, "since": since})
            span = "all" if not since else "24 h"
            print(
                f"    by {by:8} {span:5} {time.perf_counter() - began:6.3f} s  {len(found)} groups, {sum(r['requests'] for r in found)} requests"
            )


def catchup(folder: Path, events: int = 108_000) -> tuple[float, float]:
    """Deliver many waiting events; return the events per second with single posts, and with batches."""
    rates = []
    with upstream() as base:  # answers 200 to any post, in a process of its own
        for batch in (False, True):
            place = folder / f"batch-{batch}"
            place.mkdir()
            post = Post(place)
            post.add(events * 5 // 9)  # nine events for five requests
            waiting = sum(post.states().values())
            began = time.perf_counter()
            sender = Sender(post.path, Target(base, batch=batch))
            while not post.all_delivered():
                time.sleep(0.5)
            rates.append(waiting / (time.perf_counter() - began))
            sender.close()
            post.stop()
            print(
                f"catchup, {'batches' if batch else 'single posts'}: {waiting} events, {rates[-1]:.0f}/s",
                file=sys.stderr,
            )
    return rates[0], rates[1]


def soak(folder: Path, requests: int = 20_000) -> None:
    """Resident memory of the proxy, every 2,000 requests."""
    loaded = LoadedStack(folder)
    try:
        process = loaded.proxy()
        assert process is not None
        samples = []
        for done in range(0, requests + 1, 2000):
            if done:
                loaded.load(2000)
            samples.append(process.memory_info().rss / 1e6)
            print(f"    {done:6} requests: {samples[-1]:.0f} MB", flush=True)
        print(f"soak: {samples[-1] - samples[len(samples) // 2]:+.0f} MB over the second half; {loaded.balance(600)}")
    finally:
        loaded.close()


PARTS: dict[str, Callable[[Path], object]] = {"writes": writes, "usage": usage, "catchup": catchup, "soak": soak}


def main(argv: list[str]) -> None:
    """Run the named parts, or all."""
    for name in argv or PARTS:
        with tempfile.TemporaryDirectory(prefix="lmstack-bench-") as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
