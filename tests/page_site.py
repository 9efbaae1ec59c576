"""The page over a ledger of made-up requests, in a process of its own. For tests, and for `make screenshots`.

``python -m page_site FOLDER PORT`` serves FOLDER/litellm.db.
"""

from __future__ import annotations

import contextlib
import math
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from lmstack.keys.secret import digest, new_secret
from lmstack.ledger import apply, keys
from lmstack.ledger.records import Attempt, Attribution, Call, Ended, Fault, Started, Usage
from lmstack.ledger.schema import connect, migrate
from lmstack.routing.candidates import Candidate
from lmstack.web.app import page_app
from lmstack.web.host import Facts, Host, ServedModel

KEY = "page-test-key-2f9c1b7a6d"
# Name, provider, tier, USD per million tokens in and out, milliseconds of a usual answer, share of the traffic.
MODELS = (
    ("gpt-4o-mini", "openai", 1, (0.15, 0.6), 620, 34),
    ("claude-haiku-5-5", "anthropic", 1, (0.1, 0.5), 540, 22),
    ("gemini-2.5-flash", "google", 1, (0.3, 2.5), 480, 14),
    ("gpt-6.1-sol", "openai", 2, (2.0, 10.0), 1900, 13),
    ("claude-sonnet-5-5", "anthropic", 3, (2.0, 10.0), 2600, 10),
    ("gemini-4-argon", "google", 3, (2.0, 10.0), 2300, 4),
    ("llama3.2", "ollama", 1, (0.0, 0.0), 900, 3),
)
TASKS = (
    "checkout-api",
    "invoice-import",
    "search-index",
    "onboarding-mail",
    "risk-report",
    "docs-site",
    "nightly-tests",
)
AGENTS = ("planner", "coder", "reviewer", "summarizer")
TEAMS = {"planner": "core", "coder": "core", "reviewer": "quality", "summarizer": "docs"}
VIEWER_SECRET = "sk-lm-" + "v1ewer" * 7 + "s"
FAULTS = (
    Fault("RateLimitError", "429", "Rate limit reached for requests per minute. Try again in 12 s."),
    Fault("Timeout", "408", "The provider did not answer within 120 s."),
    Fault("InternalServerError", "500", "The server had an error while processing the request."),
)  # fmt: skip
BUDGETS = (
    {"scope": "all", "name": "", "period": "day", "usd": 12.0},
    {"scope": "task", "name": "risk-report", "period": "total", "usd": 40.0},
    {"scope": "agent", "name": "*", "period": "day", "usd": 4.0},
)


def fill(path: Path, requests: int, days: float, seed: int = 1, now: float | None = None) -> None:
    """Write requests with attempts and events, more of them by day than by night, as the gateway's writer does."""
    random_ = random.Random(seed)  # noqa: S311 - made-up data
    end = time.time() if now is None else now
    conn = connect(path)
    migrate(conn)
    if conn.execute("SELECT 1 FROM keys").fetchone() is None:
        make_keys(conn, end)
    times = sorted(end - days * 86400 * random_.random() for _ in range(requests))
    batch: list[Started | Ended] = []
    for number, at in enumerate(times):
        hour = at % 86400 / 3600
        if random_.random() > 0.25 + 0.75 * max(0.0, math.sin((hour - 6) / 14 * math.pi)):
            continue
        batch += _one(random_, at, number)
        if len(batch) >= 400:
            apply.transaction(conn, batch, "worker-1", send_events=number > requests - 400)
            batch.clear()
    apply.transaction(conn, batch, "worker-1", send_events=True)
    conn.execute("INSERT OR REPLACE INTO workers VALUES ('worker-1', ?, ?)", (end - 86400, end + 86400))
    conn.execute("UPDATE outbox SET state = 'delivered', delivered_at = created_at + 1, attempts = 1 WHERE seq % 9 > 0")
    dead = "UPDATE outbox SET state = 'dead', attempts = 12, last_error = '503 Service Unavailable' WHERE seq % 90 = 0"
    conn.execute(dead)
    conn.close()


def make_keys(conn: sqlite3.Connection, now: float) -> None:
    """Make a key for each agent, one that was revoked, one that has expired, and one of a viewer (VIEWER_SECRET)."""
    made = (
        ("planner", {"team": "core", "budgets": {"day": 4.0, "month": 60.0}, "rpm": 60}, None),
        ("coder", {"team": "core", "tiers": [1, 2], "budgets": {"day": 6.0}, "rpm": 60, "tpm": 400_000}, None),
        ("reviewer", {"team": "quality", "models": ["claude-*"], "budgets": {"week": 20.0}}, None),
        ("summarizer", {"team": "docs", "agent": "*", "routes": ["chat"], "budgets": {"total": 500.0}}, now + 30 * 86400),
        ("trial", {"budgets": {"day": 1.0}}, now - 86400),
        ("old-bot", {}, None),
        ("finance", {"role": "viewer"}, None),
    )  # fmt: skip
    for name, limits, expires in made:
        secret = VIEWER_SECRET if name == "finance" else new_secret()
        keys.change(conn, "create", "ops@gateway", now - 40 * 86400, name, limits=limits, hash=digest(secret), expires_at=expires)  # fmt: skip
    keys.change(conn, "edit", "ops@gateway", now - 9 * 86400, "coder", limits={"rpm": 120, "parallel": 8})
    keys.change(conn, "rotate", "page:8fK2mQxA", now - 3 * 86400, "coder", hash=digest(new_secret()), keep_until=now)
    keys.change(conn, "revoke", "ops@gateway", now - 2 * 86400, "old-bot")


def _one(random_: random.Random, at: float, number: int) -> list[Started | Ended]:
    task, agent = random_.choice(TASKS), random_.choice(AGENTS)
    asked = random_.choices(("auto", "cheap", "premium", None), (60, 12, 6, 22))[0]
    name, provider, tier, rates, usual, _ = random_.choices(MODELS, [m[5] for m in MODELS])[0]
    who = Attribution(task_id=task, agent_id=agent, key_alias=agent, team=TEAMS[agent])
    stream = random_.random() < 0.6
    call = Call(f"req_{int(at * 1000):012x}{number:020x}", f"call-{number}", None, at, "/v1/chat/completions", stream, asked or name, who)  # fmt: skip
    started = at
    failed = random_.random() < 0.03
    if random_.random() < 0.05 or failed:
        first = random_.choice([m for m in MODELS if m[0] != name])
        call.attempts.append(_attempt(first, started, random_.uniform(80, 900), "failed", random_.choice(FAULTS)))
        started += (call.attempts[0].latency_ms or 0) / 1000
    latency = usual * random_.lognormvariate(0, 0.55)
    fault = random_.choice(FAULTS) if failed else None
    model = (name, provider, tier, rates, usual, 0)
    call.attempts.append(_attempt(model, started, latency, "failed" if failed else "succeeded", fault))
    if stream and not failed:
        call.ttft_ms = latency * random_.uniform(0.15, 0.5)
    prompt, completion = int(random_.lognormvariate(8.6, 0.9)), int(random_.lognormvariate(6.4, 0.8))
    cost = None if failed else (prompt * rates[0] + completion * rates[1]) / 1e6
    whole = (started - at) * 1000 + latency
    usage = Usage() if failed else Usage(prompt, completion)
    status = "failed" if failed else "succeeded"
    return [Started(call), Ended(call, status, at + whole / 1000, whole, usage, cost, fault=fault)]


def _attempt(model: tuple, at: float, latency: float, outcome: str, fault: Fault | None) -> Attempt:  # type: ignore[type-arg]
    name, provider, tier, rates = model[:4]
    made = Attempt(name, name, provider, f"{provider}/{name}", tier, rates, False, at)
    made.latency_ms, made.outcome, made.fault = latency, outcome, fault
    return made


def write_one(path: Path, status: str = "succeeded", task: str = "t", id_: str | None = None) -> str:
    """Write one more request that has just ended, and return its id."""
    conn = connect(path)
    migrate(conn)
    random_ = random.Random(id_ or time.time_ns())  # noqa: S311 - made-up data
    started, ended = _one(random_, time.time(), time.time_ns() % 10**9)
    assert isinstance(ended, Ended)
    object.__setattr__(started.call.attribution, "task_id", task)
    object.__setattr__(ended, "status", status)
    if id_:
        started.call.id = id_
    apply.transaction(conn, [started, ended], "worker-1", send_events=True)
    conn.close()
    return started.call.id


def facts() -> Facts:
    """Return what a gateway would know."""
    served = [
        ServedModel(name, provider, f"{provider}/{name}", tier, rates, None, 128_000, "healthy") for name, provider, tier, rates, _, _ in MODELS
    ]  # fmt: skip
    served[0] = ServedModel("gpt-4o-mini", "openai", "openai/gpt-4o-mini", 1, (0.15, 0.6), None, 128_000, "healthy", retires_on="2027-01-14")  # fmt: skip
    served[5] = ServedModel("gemini-4-argon", "google", "gemini/gemini-4-argon", 3, (2.0, 10.0), None, 1_048_576, "unhealthy", "RateLimitError", cooldown_seconds=14.0)  # fmt: skip
    premium = Candidate("claude-sonnet-5-5", "anthropic", 3, (2.0, 10.0))
    return Facts(served, BUDGETS, premium, ("declared",), lambda key: {"rpm": 17, "tpm": 96_000, "parallel": 2})


async def _facts() -> Facts:
    return facts()


def host(ledger: Path, key: str = KEY, **more: object) -> Host:
    """Return a host without a gateway."""
    return Host(ledger, lambda: key, _facts, **more)  # type: ignore[arg-type]


@contextlib.contextmanager
def serving(ledger: Path, port: int) -> Iterator[str]:
    """Serve the page in a process of its own, and yield its address."""
    argv = [sys.executable, "-m", "page_site", str(ledger), str(port)]
    process = subprocess.Popen(argv, cwd=Path(__file__).parent)
    url = f"http://localhost:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{url}/dashboard/login", trust_env=False)
                break
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def million(path: Path, rows: int = 1_000_000, days: float = 90.0) -> None:
    """Write so many rows with SQL, and their sums as the migration makes them. The writer would take minutes."""
    from lmstack.ledger.migrations import DIMENSIONS

    conn = connect(path)
    migrate(conn)
    end, step = time.time(), days * 86400 / rows
    make_keys(conn, end)
    models = [m[:4] for m in MODELS]

    def row(i: int) -> tuple[object, ...]:
        name, provider, tier, rates = models[i * 7919 % len(models)]
        failed, at = i % 41 == 0, end - i * step
        tokens = (200 + i * 31 % 3000, 20 + i * 17 % 700)
        cost = None if failed else (tokens[0] * rates[0] + tokens[1] * rates[1]) / 1e6
        return (
            f"req_{i:032x}", f"call-{i}", at, at + 1, "failed" if failed else "succeeded", "/v1/chat/completions", "auto", name, provider, tier,
            *tokens, cost, 300 + i * 13 % 4000, 90 + i * 7 % 900 if i % 2 else None, 1, TASKS[i % 7], AGENTS[i % 4], "worker-1",
        )  # fmt: skip

    conn.execute("BEGIN")
    conn.executemany(
        "INSERT INTO requests (id, call_id, started_at, ended_at, status, endpoint, requested_model, deployment, provider, tier, prompt_tokens,"
        "completion_tokens, cost_usd, latency_ms, ttft_ms, attempts, task_id, agent_id, worker) VALUES (" + ",".join("?" * 19) + ")",
        (row(i) for i in range(rows)),
    )  # fmt: skip
    for dimension, expression in DIMENSIONS.items():
        conn.execute(
            f"INSERT INTO rollups SELECT ?, {expression}, CAST(started_at AS INTEGER) / 3600, COUNT(*), SUM(status != 'succeeded'), "
            "COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0), COALESCE(SUM(cost_usd), 0.0), "
            "SUM(status IN ('succeeded','interrupted') AND cost_usd IS NULL) FROM requests GROUP BY 2, 3",
            (dimension,),
        )
    conn.execute("COMMIT")
    conn.close()


def rows_in(path: Path) -> int:
    """Return how many requests a ledger has."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        return int(conn.execute("SELECT COUNT(*) FROM requests").fetchone()[0])


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(page_app(host(Path(sys.argv[1]))), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
