"""The gateway without the private names of LiteLLM: it starts, answers, records, says what it does without, and changes."""

from pathlib import Path
from typing import Any

import pytest

import missing_names
from lmstack.gateway.stock.uses import GRANIAN, USES, Use
from support import Mock, Stack

CHAT, HELLO = "/v1/chat/completions", [{"role": "user", "content": "Hello!"}]
RULES = "budgets: {agents: {daily: {day: 0.000001}}}\n"


@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param(USES, id="all", marks=pytest.mark.exhaustive),
        *(pytest.param((use,), id=use.place, marks=pytest.mark.campaign) for use in USES),
    ],
)
def test_the_gateway_serves_and_records_without_private_names(
    stack: Stack, mock: Mock, tmp_path: Path, hidden: tuple[Use, ...]
) -> None:
    stack.env |= missing_names.environment(tmp_path / "seam", hidden)
    stack.write_env(**mock.bases())
    (stack.root / "models.yaml").write_text(RULES)
    stack.lm("up")
    _check_answers(stack, mock)
    expected = {use.place for first in hidden for use in missing_names.also_hidden(first)}
    found = {f["what"].rsplit(" ", 1)[-1]: f for f in _findings(stack)}
    assert set(found) == expected
    assert all(found[use.place]["why"] == use.without for use in USES if use.place in expected)
    told = [
        line for line in (stack.root / "logs" / "litellm-proxy.log").read_text().splitlines() if "lacks names" in line
    ]
    assert len(told) == 1
    assert all(f"{name} (" in told[0] for name in expected)
    _check_change(stack, mock, "restart" if expected & {use.place for use in GRANIAN} else "reload")
    stack.lm("down")
    assert {row["status"] for row in stack.ask("requests", limit=100)} <= {"succeeded", "failed", "rejected"}


def _check_change(stack: Stack, mock: Mock, action: str) -> None:
    """Check that `lm up` applies a changed setting, by a reload or, without a name of Granian, by a restart."""
    stack.write_env(**mock.bases(), LITELLM_TIMEOUT="99")
    assert stack.json("up", "--dry-run")["data"]["action"] == action
    assert stack.json("up")["data"]["changed"]
    assert stack.json("up", "--dry-run")["data"]["action"] == "nothing"
    answer = stack.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO})
    assert answer.status_code == 200, answer.text
    assert stack.row(answer.headers["x-litellm-call-id"])["status"] == "succeeded"


def _findings(stack: Stack) -> list[dict[str, Any]]:
    data = stack.json("doctor", check=False)["data"]
    return [finding for finding in data["findings"] if finding["name"] == "litellm parts"]


def _check_answers(stack: Stack, mock: Mock) -> None:
    """Check an answer, a stream, a fallback, a refusal by a budget, and one by the key, each with its row."""
    plain = stack.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO})
    assert plain.status_code == 200, plain.text
    assert stack.row(plain.headers["x-litellm-call-id"])["cost_usd"] > 0
    stream = stack.post(CHAT, {"model": "auto", "messages": HELLO, "stream": True})
    assert stream.text.rstrip().endswith("data: [DONE]")
    row = stack.row(stream.headers["x-litellm-call-id"])
    assert row["status"] == "succeeded"
    assert row["completion_tokens"] > 0
    mock.script({"type": "fail", "status": 500, "times": 1})
    replaced = stack.post(CHAT, {"model": "auto", "messages": HELLO})
    mock.reset()
    assert replaced.status_code == 200, replaced.text
    assert stack.row(replaced.headers["x-litellm-call-id"])["attempts"] == 2
    body = {"model": "gpt-4o", "messages": HELLO}
    first, refused = (stack.post(CHAT, body, x_agent_id="daily") for _ in range(2))
    assert first.status_code == 200, first.text
    assert refused.status_code == 429, refused.text
    assert refused.json()["error"]["type"] == "budget_exceeded"
    assert stack.post(CHAT, body, key="sk-wrong").status_code == 401
