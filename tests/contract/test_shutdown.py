"""SIGTERM: what is under way is finished, what is queued is committed, on one worker and on two."""

import concurrent.futures

import pytest

from support import Mock, Stack, wait_for

BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_under_load_leaves_no_answered_request_without_its_row(stack: Stack, mock: Mock, workers: str) -> None:
    mock.reset()
    stack.write_env(**mock.bases())
    stack.lm("up", "--workers", workers)
    answered: list[str] = []

    def ask(n: int) -> None:
        try:
            answer = stack.post("/v1/chat/completions", {**BODY, "stream": n % 2 == 0}, timeout=30)
        except Exception:
            return
        if answer.status_code == 200:
            answered.append(answer.headers["x-litellm-call-id"])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(ask, n) for n in range(120)]
        wait_for(lambda: len(answered) >= 40, what="40 answers")
        stack.lm("down")
        concurrent.futures.wait(jobs)
    rows = {r["call_id"]: r["status"] for r in stack.ask("requests", limit=500)}
    assert set(answered) <= rows.keys()
    assert {rows[call] for call in answered} == {"succeeded"}
    assert stack.pids() == []
