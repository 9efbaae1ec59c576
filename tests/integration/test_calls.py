"""Each kind of call through the real proxy: the answer, its ledger row, and what TaskMaster is told."""

import base64
import contextlib
import hashlib
import hmac
import re
import sqlite3
import subprocess
from typing import Any

import httpx
import pytest

from documented import check_schema
from lmstack.catalog.models import parse_catalog
from lmstack.stack.project import shipped_catalog
from support import KEY, Mock, Stack, TaskMaster, wait_for

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT, MESSAGES, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"


@pytest.fixture(autouse=True)
def _quiet_mock(mock: Mock) -> None:
    mock.reset()


def send(
    gateway: Stack, path: str, body: dict[str, Any], task: str, **headers: str
) -> tuple[httpx.Response, dict[str, Any]]:
    answer = gateway.post(path, body, x_task_id=task, x_agent_id=f"agent-{task}", **headers)
    return answer, gateway.row(answer.headers["x-litellm-call-id"])


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        (CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, "gpt-4o-mini"),
        (CHAT, {"model": "gpt-4o-mini", "messages": HELLO, "stream": True}, "gpt-4o-mini"),
        (MESSAGES, {"model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": 50}, "claude-haiku-4-5"),
        (
            MESSAGES,
            {"model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": 50, "stream": True},
            "claude-haiku-4-5",
        ),
        (RESPONSES, {"model": "gpt-4o-mini", "input": "Hello!"}, "gpt-4o-mini"),
        (RESPONSES, {"model": "gpt-4o-mini", "input": "Hello!", "stream": True}, "gpt-4o-mini"),
        (
            EMBEDDINGS,
            {"model": "text-embedding-3-small", "input": "Hello there, how are you?"},
            "text-embedding-3-small",
        ),
    ],
    ids=["chat", "chat-stream", "messages", "messages-stream", "responses", "responses-stream", "embeddings"],
)
def test_every_endpoint_leaves_a_priced_attributed_row_and_its_events(
    gateway: Stack, taskmaster: TaskMaster, request: pytest.FixtureRequest, path: str, body: dict[str, Any], model: str
) -> None:
    task = f"task-{request.node.callspec.id}"
    answer, row = send(gateway, path, body, task)
    assert answer.status_code == 200, answer.text
    assert (row["status"], row["served_model"], row["task_id"], row["agent_id"]) == (
        "succeeded",
        model,
        task,
        f"agent-{task}",
    )
    assert row["endpoint"] == path
    assert row["stream"] == int(body.get("stream", False))
    assert row["prompt_tokens"] is not None
    assert row["latency_ms"] > 0
    assert (row["ttft_ms"] is not None) == bool(body.get("stream"))
    assert row["attempts"] == 1
    prices = {"gpt-4o-mini": (0.15, 0.6), "claude-haiku-4-5": (1, 5), "text-embedding-3-small": (0.02, 0)}[model]
    expected = (row["prompt_tokens"] * prices[0] + row["completion_tokens"] * prices[1]) / 1e6
    assert row["cost_usd"] == pytest.approx(expected, abs=1e-12)
    ((headers, event),) = taskmaster.events(row["call_id"])
    assert headers["ce-type"] == "litellm.request.succeeded"
    assert (event["success"], event["task_id"], event["model"], event["cost"]) == (True, task, model, row["cost_usd"])
    assert (event["input_tokens"], event["output_tokens"]) == (row["prompt_tokens"], row["completion_tokens"])
    if expected:
        (cost,) = wait_for(lambda: taskmaster.costs(task), what="the cost event")
        assert (cost["cost"], cost["task_total"], cost["currency"]) == (row["cost_usd"], pytest.approx(expected), "USD")


@pytest.mark.parametrize(
    ("name", "served", "provider"),
    [
        ("gpt-4o", "gpt-4o", "openai"),
        ("gpt-4o-mini", "gpt-4o-mini", "openai"),
        ("claude-3.5-sonnet", "claude-sonnet-5-5", "anthropic"),
        ("claude-3-haiku", "claude-haiku-5-5", "anthropic"),
        ("gemini-2.0-flash", "gemini-2.5-flash-lite", "google"),
        ("llama3.2", "llama3.2", "ollama"),
        ("auto", "llama3.2", "ollama"),
        ("premium", "claude-sonnet-5-5", "anthropic"),
    ],
)
def test_the_guides_names_are_served_and_the_ledger_names_the_model_really_called(
    gateway: Stack, name: str, served: str, provider: str
) -> None:
    answer, row = send(gateway, CHAT, {"model": name, "messages": HELLO}, "names")
    assert answer.status_code == 200, answer.text
    assert (row["requested_model"], row["served_model"], row["provider"]) == (name, served, provider)
    assert (row["cost_usd"] == 0) == (provider == "ollama")


def test_the_guides_curls_work_word_for_word(gateway: Stack) -> None:
    guide = r"""
    curl -sS -X POST http://localhost:4000/v1/chat/completions \
      -H "Content-Type: application/json" \
      -H "Authorization: Bearer taskmaster-litellm-key" \
      -d '{
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "Hello!"}]
      }'
    echo
    curl -sS -X POST http://localhost:4000/v1/chat/completions \
      -H "Authorization: Bearer taskmaster-litellm-key" \
      -d '{"model": "claude-3-haiku", "messages": [{"role": "user", "content": "test"}]}'
    echo
    curl -sS -f http://localhost:4000/health
    echo
    curl -sS -f http://localhost:4000/models
    """.replace("4000", str(gateway.port))
    done = subprocess.run(["bash", "-ec", guide], capture_output=True, text=True, check=True)
    first, second, health, models = done.stdout.strip().splitlines()
    assert '"choices"' in first
    assert '"choices"' in second
    assert '"status":"' in health
    assert '"gpt-4o-mini"' in models


def test_everything_but_health_and_models_needs_the_key(gateway: Stack) -> None:
    assert httpx.get(gateway.url + "/v1/models", trust_env=False).status_code == 401
    body = {"model": "gpt-4o-mini", "messages": HELLO}
    assert gateway.post(CHAT, body, key=None).status_code == 401
    assert gateway.post(CHAT, body, key="wrong-key-0123456789").status_code == 401
    keyed = httpx.get(f"{gateway.url}/models", headers={"x-api-key": KEY}, trust_env=False)
    assert keyed.status_code == 200
    wrong = httpx.get(f"{gateway.url}/models", headers={"x-api-key": "wrong-key-0123456789"}, trust_env=False)
    assert wrong.status_code == 401


def test_an_unknown_model_leaves_a_row_and_a_failure_event(gateway: Stack, taskmaster: TaskMaster) -> None:
    answer, row = send(gateway, CHAT, {"model": "gpt-17", "messages": HELLO}, "unknown")
    assert answer.status_code == 400
    assert (row["status"], row["error_type"], row["attempts"]) == ("rejected", "ProxyModelNotFoundError", 0)
    assert len(taskmaster.events(row["call_id"])) == 1


def test_a_provider_500_leaves_a_failed_row_with_its_attempt_and_a_failure_event(
    gateway: Stack, taskmaster: TaskMaster, mock: Mock
) -> None:
    mock.script({"type": "fail", "status": 500, "times": 1})
    answer, row = send(
        gateway, CHAT, {"model": "gpt-6-astra", "messages": HELLO, "disable_fallbacks": True}, "five-hundred"
    )
    assert answer.status_code == 500
    assert (row["status"], row["error_code"], row["attempts"], row["cost_usd"]) == ("failed", "500", 1, None)
    assert [(a["outcome"], a["error_code"]) for a in row["attempt_list"]] == [("failed", "500")]
    ((_, event),) = taskmaster.events(row["call_id"])
    assert (event["success"], event["attempts"], event["error"]["code"]) == (False, 1, "500")


def test_a_time_out_leaves_a_failed_row_and_a_failure_event(gateway: Stack, taskmaster: TaskMaster, mock: Mock) -> None:
    mock.script({"type": "delay", "seconds": 5, "times": 1})
    body = {"model": "gpt-6.1-sol", "messages": HELLO, "disable_fallbacks": True, "timeout": 0.5}
    answer, row = send(gateway, CHAT, body, "timeout")
    assert answer.status_code == 408
    assert (row["status"], row["error_type"], row["error_code"]) == ("failed", "Timeout", "408")
    assert len(taskmaster.events(row["call_id"])) == 1


def test_a_failing_model_falls_back_and_both_attempts_stand_on_the_ledger(gateway: Stack, mock: Mock) -> None:
    mock.script({"type": "fail", "status": 503, "times": 1})
    answer, row = send(gateway, CHAT, {"model": "gemini-2.5-flash", "messages": HELLO}, "fallback")
    assert answer.status_code == 200
    assert (row["status"], row["requested_model"], row["deployment"]) == ("succeeded", "gemini-2.5-flash", "llama3.2")
    assert (row["attempts"], row["fallbacks"]) == (2, 1)
    assert [(a["deployment"], a["outcome"]) for a in row["attempt_list"]] == [
        ("gemini-2.5-flash", "failed"),
        ("llama3.2", "succeeded"),
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "gpt-4o-mini", "messages": HELLO}),
        (MESSAGES, {"model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": 50}),
        (RESPONSES, {"model": "gpt-4o-mini", "input": "Hello!"}),
    ],
    ids=["chat", "messages", "responses"],
)
def test_a_client_that_leaves_mid_stream_is_recorded_as_interrupted_and_charged(
    gateway: Stack, taskmaster: TaskMaster, mock: Mock, path: str, body: dict[str, Any]
) -> None:
    """Who hangs up before the usage is told has not got it for nothing."""
    mock.script({"type": "stream_fault", "kind": "stall", "stall_seconds": 20, "after_chunks": 6})
    headers = {"authorization": f"Bearer {KEY}", "x-task-id": "leaver"}
    with httpx.stream(
        "POST", gateway.url + path, json={**body, "stream": True}, headers=headers, trust_env=False, timeout=30
    ) as answer:
        call_id, seen = answer.headers["x-litellm-call-id"], ""
        for part in answer.iter_text():
            seen += part
            if seen.count("data:") >= 5:
                break
    row = gateway.row(call_id)
    assert (row["status"], row["error_type"], row["error_code"]) == ("interrupted", "ClientDisconnected", "499")
    model = parse_catalog(shipped_catalog()).models[body["model"]]
    # Two tokens went in, some words of the mock's came out.
    assert 2 * model.input / 1e6 < row["cost_usd"] < 100 * model.output / 1e6
    assert row["cost_estimated"] == 1
    ((_, event),) = taskmaster.events(call_id)
    assert (event["cost"], event["cost_estimated"]) == (pytest.approx(row["cost_usd"]), True)
    assert re.search(r"interrupted .* ~\$0\.0000", gateway.lm("requests", "--task", "leaver").stdout)


def test_attribution_comes_from_the_body_too(gateway: Stack) -> None:
    body = {
        "model": "gpt-4o-mini",
        "messages": HELLO,
        "user": "u-7",
        "metadata": {"task_id": "body-task", "agent_id": "body-agent"},
    }
    row = gateway.row(gateway.post(CHAT, body, x_litellm_tags="red, blue").headers["x-litellm-call-id"])
    assert (row["task_id"], row["agent_id"], row["user"], row["tags"]) == (
        "body-task",
        "body-agent",
        "u-7",
        '["red", "blue"]',
    )


def test_two_calls_with_one_client_chosen_call_id_are_two_rows(gateway: Stack) -> None:
    for _ in range(2):
        gateway.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, x_litellm_call_id="mine", x_task_id="same-id")
    rows = wait_for(
        lambda: [r for r in gateway.ask("requests", task="same-id") if r["status"] == "succeeded"][1:] or None
    )
    assert len(rows) == 1


def test_a_catalog_name_without_its_key_says_which_variable_to_set(gateway: Stack) -> None:
    answer = gateway.post(CHAT, {"model": "smollm2", "messages": HELLO})
    assert answer.status_code == 400  # the built-in model is not offered where a provider is


def test_events_carry_a_valid_standard_webhooks_signature(gateway: Stack, taskmaster: TaskMaster) -> None:
    send(gateway, CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, "signed")
    wait_for(lambda: taskmaster.costs("signed"))
    for headers, body, raw in list(taskmaster.received):
        text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + raw
        digest = base64.b64encode(hmac.new(b"test-secret", text, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"
        assert headers["ce-id"] == headers["webhook-id"], body


def test_no_secret_and_no_prompt_reaches_ledger_logs_or_files(gateway: Stack, mock: Mock) -> None:
    prompt = "the-secret-ingredient-is-saffron"
    send(gateway, CHAT, {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]}, "privacy")
    gateway.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, key="sk-wrong-9876543210")
    mock.script({"type": "fail", "status": 401, "times": 1})
    gateway.post(
        # A 401 cools down the whole provider; the tests after this one do not need Google.
        CHAT,
        {"model": "gemini-4-argon", "messages": [{"role": "user", "content": prompt}], "disable_fallbacks": True},
    )
    with sqlite3.connect(gateway.ledger) as conn:
        dump = "\n".join(conn.iterdump())
    texts = {"ledger": dump}
    # .env is where the keys belong, and a private file from which new workers read them. All else must be free of them.
    private = gateway.root / ".lmstack" / "server" / "a" / "environment.json"
    assert (private.stat().st_mode & 0o777, private.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    texts |= {
        str(p): p.read_text(errors="replace")
        for p in gateway.root.rglob("*")
        if p.is_file() and p.suffix != ".db" and p.name != ".env" and p != private
    }
    secrets = [v for k, v in mock.bases().items() if k.endswith("KEY")] + [
        KEY,
        "sk-wrong-9876543210",
        "dGVzdC1zZWNyZXQ=",
    ]
    for place, text in texts.items():
        allowed = (KEY,) if place.endswith((".env.example", ".py", "docker-compose.yml")) else ()  # the public default
        assert not [s for s in secrets if s in text and s not in allowed], place
        assert prompt not in text, place


@pytest.mark.parametrize(
    ("path", "body", "closing"),
    [
        (MESSAGES, {"model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": 50, "stream": True}, "message_stop"),
        (RESPONSES, {"model": "gpt-4o-mini", "input": "Hello!", "stream": True}, "response.completed"),
    ],
    ids=["messages", "responses"],
)
@pytest.mark.parametrize("kind", ["truncate", "disconnect"])
def test_a_stream_is_a_success_only_if_the_client_got_its_closing_event(
    gateway: Stack, taskmaster: TaskMaster, mock: Mock, path: str, body: dict[str, Any], closing: str, kind: str
) -> None:
    """A provider that cuts its stream before any content is fallen back from; after content nobody can mend it."""
    mock.script({"type": "stream_fault", "kind": kind, "after_chunks": 4})
    text = ""
    with httpx.stream(
        "POST", gateway.url + path, json=body, headers={"authorization": f"Bearer {KEY}"}, trust_env=False, timeout=30
    ) as answer:
        call_id = answer.headers["x-litellm-call-id"]
        with contextlib.suppress(httpx.HTTPError):
            for part in answer.iter_text():
                text += part
    row = gateway.row(call_id)
    complete = re.search(f'"type": ?"{closing}"', text) is not None
    assert (row["status"] == "succeeded") == complete, (row["status"], text)
    ((_, event),) = taskmaster.events(call_id)
    assert event["success"] == complete


def test_reasoning_and_cached_tokens_and_tool_calls_stand_on_the_row(gateway: Stack) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    answer, row = send(gateway, CHAT, {"model": "gpt-4o-mini", "messages": HELLO, "tools": tools}, "tools")
    assert answer.json()["choices"][0]["message"]["tool_calls"]
    assert (row["status"], row["cost_usd"] > 0) == ("succeeded", True)


def test_every_event_keeps_the_published_contract(gateway: Stack, taskmaster: TaskMaster) -> None:
    send(gateway, CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, "contract")
    wait_for(lambda: taskmaster.costs("contract"))
    for headers, body, _ in list(taskmaster.received):
        check_schema("CostEvent" if headers["ce-type"] == "litellm.cost.recorded" else "RequestEvent", body)
