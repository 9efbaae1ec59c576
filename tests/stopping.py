"""A stop of a gateway while it works."""

import contextlib
from concurrent.futures import ThreadPoolExecutor, wait

import httpx

from support import Mock, Stack, wait_for


def stop_under_load(stack: Stack, mock: Mock) -> None:
    """Stop a gateway that works: open requests are finished, and every request that was answered has its row."""
    mock.reset()
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]}
    before = {row["call_id"] for row in stack.ask("requests", limit=10_000)}
    mock.script({"type": "delay", "seconds": 3, "times": 1})
    answered: list[str] = []

    def ask(number: int) -> None:
        with contextlib.suppress(httpx.HTTPError):
            answer = stack.post("/v1/chat/completions", {**body, "stream": number % 2 == 0}, timeout=30)
            if answer.status_code == 200:
                answered.append(answer.headers["x-litellm-call-id"])

    def under_way() -> bool:
        rows = stack.ask("requests", limit=10_000)
        return any(row["status"] == "started" and row["call_id"] not in before for row in rows)

    with ThreadPoolExecutor(9) as pool:
        slow = pool.submit(stack.post, "/v1/chat/completions", body)
        wait_for(under_way, what="the slow request to be under way")
        jobs = [pool.submit(ask, number) for number in range(120)]
        wait_for(lambda: len(answered) >= 40, what="40 answers")
        stack.lm("down")
        assert slow.result().status_code == 200
        wait(jobs)
    rows = {row["call_id"]: row["status"] for row in stack.ask("requests", limit=10_000)}
    assert {rows.get(call) for call in answered} == {"succeeded"}
    assert stack.pids() == []
