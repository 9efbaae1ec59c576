"""The campaign against routing: one of four providers is dead and one fails at 30 %."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

from bench.faults.loaded_stack import HELLO, Counts, Given, LoadedStack, asked, loaded_stack
from lmstack.catalog.models import Catalog, parse_catalog
from lmstack.stack.project import shipped_catalog
from support import Mock, free_port

MIXED: tuple[tuple[str, dict[str, object]], ...] = (
    ("/v1/chat/completions", {"messages": HELLO}),
    ("/v1/chat/completions", {"messages": HELLO, "stream": True}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 20}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 20, "stream": True}),
    ("/v1/responses", {"input": "Hello!"}),
    ("/v1/responses", {"input": "Hello!", "stream": True}),
    ("/v1/embeddings", {"input": "Hello!"}),
)


NAMES = ("cheap", "standard", "premium", "auto", "claude-3-haiku", "gemini-2.0-flash", "claude-opus-5-5", "gpt-4o")
ENDS = ("[DONE]", "message_stop", "response.completed")


def routing(short: bool, _: Given = None) -> Counts:
    """Send requests of four kinds, streams or not, while one of four providers is dead and one fails at 30 %.

    A healthy model answers every request. The attempts agree with what the providers counted, the costs with the
    catalog.
    """
    count = 120 if short else 1000
    flaky = Mock("127.0.0.1", "--error-rate", "503=0.3")
    dead = {"ANTHROPIC_API_BASE": f"http://127.0.0.1:{free_port()}", "GEMINI_API_BASE": f"{flaky.url}/gemini/v1beta"}
    try:
        with loaded_stack(workers=2, **dead) as loaded:
            for mock in (loaded.mock, flaky):
                mock.reset()
            with ThreadPoolExecutor(8) as pool:
                answered = sum(pool.map(lambda number: _is_answered(loaded, number), range(count)))
            counts = loaded.balance()
            return _routing_counts(loaded, asked(loaded.mock, flaky), count, answered, int(counts["lost"]))
    finally:
        flaky.stop()


def _is_answered(loaded: LoadedStack, number: int) -> bool:
    path, body = MIXED[number % len(MIXED)]
    model = "text-embedding-3-small" if path == "/v1/embeddings" else NAMES[number // len(MIXED) % len(NAMES)]
    answer = loaded.post(path, {**body, "model": model})
    complete = not body.get("stream") or any(end in answer.text for end in ENDS)
    return answer.status_code == 200 and complete


def _routing_counts(
    loaded: LoadedStack, requests: list[dict[str, object]], count: int, answered: int, lost: int
) -> Counts:
    with sqlite3.connect(loaded.stack.ledger) as conn:
        good = conn.execute("SELECT COUNT(*) FROM attempts WHERE outcome = 'succeeded'").fetchone()[0]
        tried = dict(conn.execute("SELECT provider, COUNT(*) FROM attempts GROUP BY provider").fetchall())
        rows = conn.execute(
            "SELECT deployment, status, cost_usd, prompt_tokens, completion_tokens FROM requests"
        ).fetchall()
    unequal = abs(good - sum(request["status"] == 200 for request in requests))
    alive = sum(number for provider, number in tried.items() if provider != "anthropic")
    catalog = parse_catalog(shipped_catalog())
    wrong = sum(1 for row in rows if row[1] != "succeeded" or not _cost_is_right(catalog, *row))
    return {
        "asked": count,
        "answered (200, complete)": answered,
        "providers counted": len(requests),
        "attempts in the ledger": alive,
        "attempts at the dead one": tried.get("anthropic", 0),
        "wrong status or cost": wrong,
        "outcomes that differ": unequal,
        "lost": count - answered + abs(len(requests) - alive) + wrong + unequal + lost,
    }


def _cost_is_right(catalog: Catalog, name: str, _: str, cost: float | None, into: int, out: int) -> bool:
    model = catalog.resolve(catalog.models[name])
    expected = (into * (model.input or 0) + out * (model.output or 0)) / 1e6
    return cost is not None and abs(cost - expected) < 1e-12
