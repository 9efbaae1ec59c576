"""Alerts through the real proxy with two workers: a provider that fails and returns, a budget, a dead webhook, restarts."""

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from documented import check_json_keys
from lmstack.delivery.contract import sign
from support import Mock, Stack, TaskMaster, running, wait_for

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]}
MODELS = """
models:
  gpt-4o: {deprecated: "2026-01-01"}
budgets:
  agents: {spender: {day: 0.00004}}
alerts:
  every: 1
  provider_down: {failures: 2}
  failure_rate: false
  to:
    chat: {url: CHAT_HOOK, form: slack, rules: [provider_down]}
    ops: {url: OPS_HOOK, secret: OPS_SECRET}
    gone: {url: GONE_HOOK}
    unset: {url: UNSET_HOOK}
"""
SECRET, HIDDEN = "whsec_b3BzLXNlY3JldA==", "T0PSECRET"


class Hooks:
    """Two webhooks, and one that refuses."""

    def __init__(self, server: HTTPServer) -> None:
        self.bodies: dict[str, list[dict[str, Any]]] = {"chat": [], "ops": []}
        self.signed: list[bool] = []
        self.server = server
        for name in self.bodies:
            server.expect_request(f"/{name}/{HIDDEN}", method="POST").respond_with_handler(self._take)
        server.expect_request(f"/gone/{HIDDEN}").respond_with_data("", status=404)

    def _take(self, request: Request) -> Response:
        name = request.path.split("/")[1]
        body = json.loads(request.data)
        if name == "ops":
            id_, when = request.headers["webhook-id"], int(request.headers["webhook-timestamp"])
            self.signed.append(request.headers["webhook-signature"] == sign(SECRET, id_, when, request.data.decode()))
        self.bodies[name].append(body)
        return Response("ok")

    def ops(self, rule: str) -> list[dict[str, Any]]:
        return [body for body in self.bodies["ops"] if body["rule"] == rule]


@pytest.fixture(scope="module")
def hooks() -> Iterator[Hooks]:
    with HTTPServer(host="127.0.0.1") as server:
        yield Hooks(server)


@pytest.fixture(scope="module")
def alerted(tmp_path_factory: pytest.TempPathFactory, mock: Mock, taskmaster: TaskMaster, hooks: Hooks) -> Iterator[Stack]:  # fmt: skip
    mock.reset()
    url = f"http://127.0.0.1:{hooks.server.port}"
    addresses = {f"{name.upper()}_HOOK": f"{url}/{name}/{HIDDEN}" for name in ("chat", "ops", "gone")}
    settings = {"LITELLM_WORKERS": "2", "TASKMASTER_API_URL": taskmaster.url, "OPS_SECRET": SECRET, **addresses}
    folder = tmp_path_factory.mktemp("alerts")
    with running(folder, MODELS, **mock.bases(), **settings) as made:
        yield made


def test_a_provider_that_is_down_and_back_is_reported_once_to_each_target(
    alerted: Stack, mock: Mock, hooks: Hooks, taskmaster: TaskMaster
) -> None:
    mock.script({"type": "fail", "times": None, "status": 500})
    for model in ("gpt-4o-mini", "gpt-4o") * 4:  # a model that failed cools down in its worker
        alerted.post(CHAT, {**BODY, "model": model}, x_lm_no_fallback="1")
    (fired,) = wait_for(lambda: hooks.ops("provider_down"), 20)
    assert (fired["state"], fired["subject"], fired["threshold"]) == ("firing", "openai", 2)
    wait_for(lambda: hooks.bodies["chat"], 20)
    shown = alerted.json("alerts", "show")["data"]
    assert [one["subject"] for one in shown["firing"] if one["rule"] == "provider_down"] == ["openai"]
    mock.reset()

    def ended() -> bool:
        alerted.post(CHAT, BODY)  # until the model has cooled down, another one answers
        return bool(hooks.ops("provider_down")[1:])

    wait_for(ended, 60, "an answer of the provider, and the end of the alert")
    assert [body["state"] for body in hooks.ops("provider_down")] == ["firing", "ended"]
    wait_for(lambda: len(hooks.bodies["chat"]) == 2, 20)
    assert [body["text"][:1] for body in hooks.bodies["chat"]] == ["⚠", "✅"]

    def told() -> list[str]:
        return [h["ce-type"] for h, b, _ in list(taskmaster.received) if b.get("rule") == "provider_down"]

    wait_for(lambda: len(told()) == 2, 20)
    assert told() == ["litellm.alert.firing", "litellm.alert.ended"]
    assert all(hooks.signed)


def test_a_budget_is_reported_at_80_and_100_percent_once(alerted: Stack, hooks: Hooks, taskmaster: TaskMaster) -> None:
    statuses = [alerted.post(CHAT, BODY, x_agent_id="spender").status_code for _ in range(40)]
    assert statuses[-1] == 429
    wait_for(lambda: any(body["value"] >= body["threshold"] >= 0.00004 for body in hooks.ops("budget")), 20)
    warnings = [b for h, b, _ in list(taskmaster.received) if h["ce-type"] == "litellm.budget.warning" and b["name"] == "spender"]  # fmt: skip
    assert [round(b["soft_limit_usd"] / b["limit_usd"], 3) for b in warnings] == [0.8, 1.0]
    assert len(hooks.ops("budget")) in (1, 2)


def test_a_model_that_ends_is_reported_and_new_workers_repeat_nothing(
    alerted: Stack, hooks: Hooks, taskmaster: TaskMaster
) -> None:
    (body,) = wait_for(lambda: [one for one in hooks.ops("model_retires") if one["subject"] == "gpt-4o"], 20)
    assert "ended it on 2026-01-01" in body["text"]
    before, pids = len(hooks.bodies["ops"]), _workers(alerted)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not pids & _workers(alerted) and alerted.serves(), 60)
    checked = _next_check(alerted)
    wait_for(lambda: _next_check(alerted) > checked + 2, 20, "two checks of the new workers")
    alerted.json("alerts", "test", check=False)
    assert [one["rule"] for one in hooks.bodies["ops"][before:]] == ["test"]


def _workers(stack: Stack) -> set[int]:
    return {worker["pid"] for worker in stack.json("status")["data"]["workers"]}


def _next_check(stack: Stack) -> float:
    with contextlib.closing(sqlite3.connect(stack.ledger)) as conn:
        return float(conn.execute("SELECT next_at FROM alert_turn").fetchone()[0])


def test_the_commands_show_the_rules_and_what_came_back(alerted: Stack, hooks: Hooks) -> None:
    answer = alerted.json("alerts", "test", check=False)
    check_json_keys("alerts test", answer)
    found = answer["data"]["targets"]
    assert [(one["target"], one["delivered"], one["error"]) for one in found] == [
        ("taskmaster", True, None), ("chat", True, None), ("ops", True, None), ("gone", False, "HTTP 404")
    ]  # fmt: skip
    done = alerted.lm("alerts", "test", check=False)
    assert (done.returncode, "gone: HTTP 404" in done.stdout) == (5, True)
    text = alerted.lm("alerts", "show").stdout
    assert "failure_rate" in text
    assert "UNSET_HOOK is not set" in text
    assert "dead, HTTP 404" in text


def test_no_address_and_no_secret_is_written_anywhere(alerted: Stack) -> None:
    """Only .env, and the environment that the server of a slot reads at its start, hold the addresses."""
    server = alerted.root / ".lmstack" / "server"
    allowed = {alerted.root / ".env", *(server / slot / "environment.json" for slot in "ab")}
    holding = [path for path in alerted.root.rglob("*") if path.is_file() and path not in allowed and _holds(path)]
    assert holding == []
    assert "GONE_HOOK" in (alerted.root / "litellm-config.yaml").read_text()


def _holds(path: Path) -> bool:
    data = path.read_bytes()
    return HIDDEN.encode() in data or SECRET.encode() in data
