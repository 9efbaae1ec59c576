"""What the gateway serves, and to whom. Every route of LiteLLM's app is tried: without a key, with a wrong one, with the right one."""

import json
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from lmstack.gateway.app import routes
from lmstack.gateway.app.routes import Access
from support import KEY, ROOT, Mock, Stack, TaskMaster, wait_for

KNOWN = ROOT / "tests" / "data" / "litellm_routes.txt"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
REFUSED = {401, 403, 404, 405}
ANONYMOUS = 100_000


@pytest.fixture(autouse=True)
def _recorded(gateway: Stack) -> None:
    """Send one request that is served, so that the ledger has its tables."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    assert gateway.post("/v1/chat/completions", body).status_code == 200


def _known() -> list[tuple[str, str]]:
    pairs = [tuple(line.split(" ", 1)) for line in KNOWN.read_text().splitlines()]
    return [(method, path) for method, path in pairs]


def _urls() -> Iterator[tuple[str, str]]:
    """Every pair of method and URL; a mounted app is tried at its root and below, a WebSocket by a plain GET."""
    for method, path in _known():
        url = re.sub(r"\{[^}]*\}", "zz", path)
        for plain in METHODS if method == "MOUNT" else ("GET",) if method == "WS" else (method,):
            yield plain, url
            if method == "MOUNT":
                yield plain, f"{url}/zz"


@pytest.mark.exhaustive  # it imports all of LiteLLM once more
@pytest.mark.pinned_release("tests/data/litellm_routes.txt lists its routes; any other route is closed")
def test_this_release_of_litellm_has_the_routes_that_we_know() -> None:
    """A new route is closed, but somebody has to look at it: run tests/litellm_routes.py > tests/data/litellm_routes.txt."""
    script = ROOT / "tests" / "litellm_routes.py"
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.splitlines() == KNOWN.read_text().splitlines()


def test_every_route_in_our_table_exists_in_litellm() -> None:
    known = {(method, re.sub(r"\{\w+", "{x", path)) for method, path in _known()}
    theirs = [r for r in routes.ROUTES if r.access is not Access.PAGE and r.path != "/me/usage"]
    missing = [r for r in theirs if (r.method, re.sub(r"\{\w+", "{x", r.path)) not in known]
    assert missing == []


def _without_messages(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what the sweep cannot have caused: a request that a test before it gave up may arrive late."""
    return [request for request in asked if "messages" not in (request["body"] or {})]


@pytest.mark.parametrize("key", ["", "wrong", KEY[:-1], KEY])
def test_no_route_answers_but_those_in_the_table(gateway: Stack, mock: Mock, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    before, rows = len(mock.requests()), gateway.ask("requests", limit=1000)
    answered = []
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=30, trust_env=False) as client:
        for method, url in _urls():
            route = routes.find(method, url)
            if route is not None and (route.access is Access.ANYONE or key == KEY):
                continue
            status = client.request(method, url, json={} if method in ("POST", "PUT", "PATCH") else None).status_code
            if status not in REFUSED or (route is None and status != 404):
                answered.append((method, url, status))
    assert answered == []
    assert _without_messages(mock.requests()[before:]) == []
    assert gateway.ask("requests", limit=1000) == rows


@pytest.mark.parametrize(
    ("path", "body", "statuses"),
    [
        # llmock counts no tokens. From 1.108 on LiteLLM passes the provider's 404 on; before, it estimated the count itself.
        ("/v1/messages/count_tokens", {"model": "claude-3-haiku", "messages": [{"role": "user", "content": "hi"}]}, (404, 200)),
        ("/v1beta/models/gemini-2.0-flash:countTokens", {"contents": [{"parts": [{"text": "hi"}]}]}, (404, 200)),
        ("/v1/messages/count_tokens", {"model": "claude-3-haiku"}, (400,)),
    ],
)  # fmt: skip
def test_a_call_that_litellm_makes_without_hooks_has_a_row(
    gateway: Stack, path: str, body: dict[str, Any], statuses: tuple[int, ...]
) -> None:
    task = f"counted-{secrets.token_hex(4)}"
    given = gateway.post(path, body, x_task_id=task, x_agent_id="counter").status_code
    (row,) = wait_for(lambda: [r for r in gateway.ask("requests", task=task) if r["ended_at"]], what="the row")
    assert given in statuses
    wanted = ("succeeded", None, 0.0) if given == 200 else ("failed", str(given), None)
    assert (row["status"], row["error_code"], row["cost_usd"]) == wanted
    assert (row["endpoint"], row["agent_id"]) == (path, "counter")
    assert row["requested_model"] in ("claude-3-haiku", "gemini-2.0-flash")


MODELS = {"messages": "claude-3-haiku", "embeddings": "text-embedding-3-small", "count_tokens": "claude-3-haiku"}
JSON, FORM = "application/json", "multipart/form-data"
# Bodies that the gate refuses, that LiteLLM's forms refuse (422, 400, 500), and that reach our hooks.
BROKEN: dict[str, tuple[bytes | dict[str, object], str]] = {
    "nothing": (b"", JSON),
    "no JSON": (b"{", JSON),
    "a list": (b"[]", JSON),
    "too deep": (b'{"a": ' + b"[" * 101 + b"]" * 101 + b"}", JSON),
    "a callback": ({"success_callback": ["langfuse"]}, JSON),
    "no field": (b"{}", JSON),
    "tools is true": ({"tools": True}, JSON),
    "model is a number": ({"model": 5}, JSON),
    "fields of no use": ({"messages": 5, "input": 5, "prompt": 5, "contents": 5, "query": 5}, JSON),
    "metadata is a text": ({"metadata": "x"}, JSON),
    "no boundary": (b"hello", FORM),
    "a form without its file": (b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n', f"{FORM}; boundary=x"),
    "a form in an address": (b"model=m", "application/x-www-form-urlencoded"),
}  # fmt: skip
RECORDED = [route for route in routes.ROUTES if route.recorded is not routes.Recorded.NO and route.method != routes.WEBSOCKET]  # fmt: skip


@pytest.mark.parametrize(
    "recorded",
    [[r for r in RECORDED if r.path.startswith("/v")], pytest.param(RECORDED, marks=pytest.mark.exhaustive)],
    ids=["v1", "all"],
)
def test_each_call_with_a_key_leaves_one_row_whatever_its_body(gateway: Stack, recorded: list[routes.Route]) -> None:
    asked: dict[str, tuple[str, str, int]] = {}
    with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as client:
        for route in recorded:
            model = MODELS.get(re.split("[/:]", route.path)[-1], "gemini-2.0-flash" if "models/" in route.path else "gpt-4o-mini")  # fmt: skip
            path = re.sub(r"\{[^}]*\}", "zz", re.sub(r"\{model[^}]*\}", model, route.path))
            for name, (body, kind) in BROKEN.items():
                task = f"broken-{secrets.token_hex(6)}"
                content = json.dumps({"model": model, **body}).encode() if isinstance(body, dict) else body
                headers = {
                    "authorization": f"Bearer {KEY}",
                    "content-type": kind,
                    "x-task-id": task,
                    "x-lm-no-fallback": "1",
                }
                answer = client.request(route.method, path, content=content, headers=headers)
                asked[task] = (f"{route.method} {path}", name, answer.status_code)
            client.request(
                route.method, path, content=content, headers={"content-type": kind, "x-task-id": f"no-{task}"}
            )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in gateway.ask("requests", limit=100_000):
        found.setdefault(str(row["task_id"]), []).append(row)
    assert [(*what, found.get(task)) for task, what in asked.items() if len(found.get(task, ())) != 1] == []
    assert [task for task in found if task.startswith("no-")] == [], "a caller without a key"
    for task, (call, name, status) in asked.items():
        (row,) = found[task]
        assert row["ended_at"], (call, name)
        assert call.endswith(f" {row['endpoint']}")
        if status >= 400:
            assert row["status"] in ("rejected", "failed"), (call, name, status, row)
            assert row["cost_usd"] is None
    refused = {name: next(row for task, (row,) in found.items() if asked.get(task, ("", ""))[1] == name) for name in ("too deep", "a callback")}  # fmt: skip
    assert "nested more than 100 levels" in refused["too deep"]["error_message"]
    assert refused["a callback"]["error_message"].startswith("success_callback: ")


def test_no_client_cools_a_model_down_with_the_wrong_endpoint(gateway: Stack, mock: Mock) -> None:
    """The provider answers 404 to a chat model there. That must say nothing about the model's chat."""
    before = len(mock.requests())
    for path, body in (
        ("/v1/audio/speech", {"input": "hi", "voice": "alloy"}),
        ("/v1/images/generations", {"prompt": "a cat"}),
        ("/v1/moderations", {"input": "hi"}),
        ("/v1/rerank", {"query": "q", "documents": ["a"]}),
        ("/v1/embeddings", {"input": "hi"}),
    ):
        answer = gateway.post(path, {"model": "gpt-4o-mini", **body})
        assert (answer.status_code, "has the mode chat" in answer.text) == (400, True), (path, answer.text)
    assert len(mock.requests()) == before


def _pipelined(port: int, count: int) -> list[bytes]:
    """Send requests without a key on one connection, many at a time; return the status lines."""
    ask = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-task-id: victim-%d\r\nx-agent-id: ceo\r\n"
        b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )
    empty = b"GET /models HTTP/1.1\r\nhost: localhost\r\nauthorization:\r\nx-task-id: victim-%d\r\nx-api-key: \r\n\r\n"
    statuses: list[bytes] = []
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection, connection.makefile("rb") as answers:
        for begin in range(0, count, 200):
            batch = range(begin, min(count, begin + 200))
            connection.sendall(b"".join((empty if n % 10 == 0 else ask) % n for n in batch))
            for _ in batch:
                statuses.append(answers.readline())
                size = 0
                while (line := answers.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        size = int(line.split(b":")[1])
                answers.read(size)
    return statuses


def test_callers_without_a_key_neither_fill_the_ledger_nor_choose_whom_a_row_is_charged_to(
    gateway: Stack, taskmaster: TaskMaster
) -> None:
    rows, size = gateway.ask("requests", limit=10_000), gateway.ledger.stat().st_size
    events = len(taskmaster.received)
    before = sum(row["count"] for row in gateway.ask("refused")[0]["counts"])
    with ThreadPoolExecutor(4) as pool:
        statuses = [
            line for lines in pool.map(lambda _: _pipelined(gateway.port, ANONYMOUS // 4), range(4)) for line in lines
        ]
    assert {line.split()[1] for line in statuses} == {b"401", b"200"}

    def counted() -> bool:
        found = gateway.ask("refused")[0]
        # The refusals of an earlier test may be written only now: counts are written every two seconds.
        return (
            sum(row["count"] for row in found["counts"]) - before >= ANONYMOUS * 9 // 10 and len(found["last"]) <= 100
        )

    wait_for(counted, what="the counts of refused requests")
    kept = {row["id"] for row in gateway.ask("requests", limit=10_000)}
    assert {row["id"] for row in rows} <= kept
    assert gateway.ask("requests", task="victim-1") == []
    assert all(not str(body.get("task_id")).startswith("victim") for _, body, _ in taskmaster.received[events:])
    assert gateway.ledger.stat().st_size - size < 1_000_000
    shown = gateway.json("errors")["data"]["refused"]
    assert shown["counts"][0]["reason"] == "auth_error"
    assert shown["last"][0]["path"] == "/v1/chat/completions"
    assert "Refused before LiteLLM saw them, so lm requests does not show them: " in gateway.lm("errors").stdout
