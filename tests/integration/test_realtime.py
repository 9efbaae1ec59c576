"""Realtime sessions through the real proxy: who may open one, what its row says, and what a budget does to it."""

import contextlib
import json
import os
import secrets
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from realtime_provider import RealtimeProvider
from support import KEY, Stack, running, wait_for

# 80 + 40 cached text and 120 + 60 cached audio tokens in, 30 text and 70 audio tokens out, in USD per million.
COST = (80 * 4 + 120 * 32 + 100 * 0.4 + 30 * 16 + 70 * 64) / 1e6
MODELS = """
models:
  talk: {provider: openai, model: gpt-realtime, mode: realtime}
  new: {provider: openai, model: gpt-realtime-of-tomorrow, mode: realtime}
  flat: {provider: openai, model: gpt-realtime-of-today, mode: realtime, input: 10, output: 20}
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[RealtimeProvider]:
    one = RealtimeProvider()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory, provider: RealtimeProvider) -> Iterator[Stack]:
    keys = {"OPENAI_API_KEY": "sk-test-openai-0123456789", "OPENAI_API_BASE": provider.url, "LITELLM_MAX_BODY_MB": "1"}
    with running(tmp_path_factory.mktemp("realtime"), MODELS, **keys) as made:
        yield made


def dial(stack: Stack, query: str = "model=talk", path: str = "/v1/realtime", **options: Any) -> ClientConnection:
    headers = {"authorization": f"Bearer {KEY}", **options.pop("headers", {})}
    return connect(
        f"ws://localhost:{stack.port}{path}?{query}", additional_headers=headers, proxy=None, **options,
    )  # fmt: skip


def hear(link: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next event of a kind."""
    while True:
        event: dict[str, Any] = json.loads(link.recv(timeout=30))
        if event["type"] == kind:
            return event


def hear_end(link: ClientConnection) -> tuple[int, str]:
    """Return code and reason with which the server closes."""
    while True:
        try:
            link.recv(timeout=30)
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (0, "the connection broke")


def ask(link: ClientConnection, do: str = "", until: str = "response.done") -> dict[str, Any]:
    link.send(json.dumps({"type": "response.create", "response": {"metadata": {"do": do}}}))
    return hear(link, until)


def new_task() -> str:
    return f"talk-{secrets.token_hex(4)}"


def row_of(stack: Stack, task: str) -> dict[str, Any]:
    (row,) = wait_for(lambda: [r for r in stack.ask("requests", task=task) if r["ended_at"]], what=f"the row of {task}")
    return row


@pytest.mark.parametrize("path", ["/v1/realtime", "/realtime"])
def test_a_session_has_one_row_with_the_usage_and_cost_of_all_its_responses(
    talking: Stack, provider: RealtimeProvider, path: str
) -> None:
    task = new_task()
    with dial(talking, path=path, headers={"x-task-id": task, "x-agent-id": "ear"}) as link:
        hear(link, "session.created")
        (row,) = talking.ask("requests", task=task)
        assert (row["status"], row["requested_model"], row["endpoint"]) == ("started", "talk", path)
        ask(link)
        ask(link)
    row = row_of(talking, task)
    assert (row["status"], row["served_model"], row["agent_id"], row["stream"]) == (
        "succeeded",
        "gpt-realtime",
        "ear",
        1,
    )
    assert (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]) == (600, 200, 200)
    assert row["cost_usd"] == pytest.approx(2 * COST)
    assert (row["cost_estimated"], row["attempts"], row["error_type"]) == (0, 1, None)
    assert provider.asked[-1]["path"] == "/v1/realtime?model=gpt-realtime"
    assert provider.asked[-1]["key"] == "Bearer sk-test-openai-0123456789"


def test_a_session_with_a_key_of_its_own(talking: Stack) -> None:
    secret = talking.json("key", "create", "ear", "--models", "talk", "--parallel", "1", "--budget", "5/day")["data"][
        "secret"
    ]
    own = {"headers": {"authorization": f"Bearer {secret}", "x-agent-id": "ceo", "x-task-id": new_task()}}
    wait_for(lambda: _opens(talking, own), 5, "the key")
    with dial(talking, **own) as link:
        hear(link, "session.created")
        with pytest.raises(InvalidStatus):  # one session at a time
            dial(talking, **own)
        ask(link)
    row = next(r for r in talking.ask("requests", task=own["headers"]["x-task-id"]) if r["completion_tokens"])
    assert (row["key_alias"], row["agent_id"], row["status"]) == ("ear", "ear", "succeeded")
    wait_for(lambda: _opens(talking, own), 5, "the end of the session")
    with dial(talking, "model=new", **own) as link:
        error = hear(link, "error")["error"]
    assert (error["type"], "model" in error["message"]) == ("model_not_allowed", True)
    talking.lm("key", "revoke", "ear")
    wait_for(lambda: not _opens(talking, own), 2, "the revocation")


def _opens(stack: Stack, own: dict[str, Any]) -> bool:
    """Return whether a session with a key begins. Each is over before this returns."""
    try:
        with dial(stack, **own) as link:
            hear(link, "session.created")
        return True
    except (InvalidStatus, ConnectionClosed):
        return False


@pytest.mark.parametrize(
    ("model", "do", "cost"),
    [("talk", "transcribe", COST + 30 * 0.0001), ("flat", "", (300 * 10 + 100 * 20) / 1e6), ("new", "", None),
     ("talk", "no usage", None)],
)  # fmt: skip
def test_the_cost_is_the_users_price_or_that_of_the_map_or_unknown(
    talking: Stack, model: str, do: str, cost: float | None
) -> None:
    task = new_task()
    with dial(talking, f"model={model}", headers={"x-task-id": task}) as link:
        ask(link, do)
    row = row_of(talking, task)
    assert (row["status"], row["cost_estimated"]) == ("succeeded", 0)
    assert row["cost_usd"] == (None if cost is None else pytest.approx(cost))


def test_a_session_that_breaks_or_is_left_during_a_response_is_interrupted(talking: Stack) -> None:
    broken, left = new_task(), new_task()
    with dial(talking, headers={"x-task-id": broken}) as link:
        ask(link)
        link.send(json.dumps({"type": "response.create", "response": {"metadata": {"do": "break"}}}))
        assert hear_end(link) == (1011, "the model has gone")
    row = row_of(talking, broken)
    assert (row["status"], row["error_type"], row["error_code"]) == ("interrupted", "SessionFailed", "1011")
    assert (row["cost_usd"], row["cost_estimated"]) == (pytest.approx(COST), 1)
    with dial(talking, headers={"x-task-id": left}) as link:
        ask(link, "hang", until="response.created")
    row = row_of(talking, left)
    assert (row["status"], row["error_type"], row["cost_usd"]) == ("interrupted", "ClientDisconnected", None)


def test_a_session_that_the_provider_refuses_or_whose_responses_all_fail_has_failed(
    talking: Stack, provider: RealtimeProvider
) -> None:
    refused, failed = new_task(), new_task()
    provider.refuse_with = 401
    try:
        with dial(talking, headers={"x-task-id": refused}) as link:
            assert hear_end(link) == (1008, "Upstream realtime handshake rejected with HTTP 401")
    finally:
        provider.refuse_with = None
    row = row_of(talking, refused)
    assert (row["status"], row["error_code"], row["cost_usd"]) == ("failed", "1008", None)
    with dial(talking, headers={"x-task-id": failed}) as link:
        ask(link, "fail")
    row = row_of(talking, failed)
    assert (row["status"], row["error_type"], row["error_message"]) == ("failed", "ResponseFailed", "no room for '***'")


def test_a_redirect_takes_neither_the_session_nor_the_key_to_another_host(
    talking: Stack, provider: RealtimeProvider
) -> None:
    task, other = new_task(), RealtimeProvider()
    provider.refuse_with, provider.redirect_to = 307, f"{other.url.replace('http', 'ws')}/realtime"
    try:
        with dial(talking, headers={"x-task-id": task}) as link:
            assert hear_end(link) == (1011, "Upstream realtime handshake rejected with HTTP 307")
    finally:
        provider.refuse_with, provider.redirect_to = None, ""
        other.stop()
    assert other.asked == []
    assert row_of(talking, task)["status"] == "failed"


@pytest.mark.parametrize(
    ("query", "words"),
    [("model=auto", "'auto' has the mode chat, but this endpoint needs realtime"),
     ("model=cheap", "'cheap' has the mode chat"), ("model=gpt-4o-mini", "'gpt-4o-mini' has the mode chat"),
     ("model=nothing", "'nothing' is not served"), ("model=talk,talk", "one name is expected")],
)  # fmt: skip
def test_a_name_without_realtime_is_refused_with_its_reason(
    talking: Stack, provider: RealtimeProvider, query: str, words: str
) -> None:
    task, before = new_task(), len(provider.asked)
    with dial(talking, query, headers={"x-task-id": task}) as link:
        error = hear(link, "error")["error"]
        code, _ = hear_end(link)
    assert (error["type"], error["code"], code) == ("invalid_request_error", "400", 1008)
    assert words in error["message"]
    row = row_of(talking, task)
    assert (row["status"], row["cost_usd"], row["error_code"]) == ("rejected", None, "400")
    assert len(provider.asked) == before


def test_under_a_budget_a_session_of_unknown_price_is_refused_and_one_that_has_used_it_up_is_ended(
    talking: Stack, provider: RealtimeProvider
) -> None:
    task, before = new_task(), len(provider.asked)
    with dial(talking, "model=new", headers={"x-task-id": task, "x-task-budget": "5"}) as link:
        error = hear(link, "error")["error"]
    assert error["type"] == "cost_unknown"
    assert "cannot be known in advance" in error["message"]
    assert (row_of(talking, task)["status"], len(provider.asked)) == ("rejected", before)
    task, budget = new_task(), str(1.5 * COST)
    with dial(talking, headers={"x-task-id": task, "x-task-budget": budget}) as link:
        ask(link)
        ask(link)
        assert hear(link, "error")["error"]["type"] == "budget_exceeded"
        assert hear_end(link)[0] == 1008
    row = row_of(talking, task)
    assert (row["status"], row["error_type"]) == ("interrupted", "budget_exceeded")
    assert row["cost_usd"] == pytest.approx(2 * COST)
    with dial(talking, headers={"x-task-id": task, "x-task-budget": budget}) as link:
        assert hear(link, "error")["error"]["type"] == "budget_exceeded"


def test_a_budget_counts_transcriptions_without_a_response_and_allows_one_response_at_a_time(
    talking: Stack, provider: RealtimeProvider
) -> None:
    task = new_task()
    with dial(talking, headers={"x-task-id": task, "x-task-budget": "0.004"}) as link:
        hear(link, "session.created")
        link.send(json.dumps({"type": "response.create", "response": {"conversation": "none"}}))
        assert "one response may run at a time" in hear(link, "error")["error"]["message"].lower()
        assert provider.asked[-1]["events"] == []
        for _ in range(2):  # 30 seconds each
            link.send(json.dumps({"type": "input_audio_buffer.commit"}))
        assert hear(link, "error")["error"]["type"] == "budget_exceeded"
        assert hear_end(link)[0] == 1008
    row = row_of(talking, task)
    assert (row["status"], row["error_type"]) == ("interrupted", "budget_exceeded")
    assert (row["cost_usd"], row["cost_estimated"]) == (pytest.approx(60 * 0.0001), 0)


@pytest.mark.parametrize(
    ("query", "headers", "protocols"),
    [
        ("model=talk", {"authorization": ""}, None),
        ("model=talk", {"authorization": "Bearer wrong"}, None),
        ("model=talk", {"authorization": f"Bearer {KEY[:-1]}"}, None),
        (f"model=talk&api_key={KEY}&key={KEY}", {"authorization": ""}, None),
        ("model=talk", {"authorization": ""}, ["realtime", "openai-insecure-api-key.wrong"]),
        ("model=talk", {"authorization": ""}, ["realtime", f"openai-insecure-api-key.{KEY[:-1]}"]),
        ("model=talk", {"authorization": "Bearer wrong"}, ["realtime", f"openai-insecure-api-key.{KEY}"]),
        ("model=talk", {"origin": "https://evil.example"}, None),
        ("model=talk", {"origin": "null"}, None),
    ],
)
def test_a_stranger_opens_no_session_and_leaves_no_row(
    talking: Stack, provider: RealtimeProvider, query: str, headers: dict[str, str], protocols: Any
) -> None:
    task, before = new_task(), len(provider.asked)
    with pytest.raises(InvalidStatus) as refused, dial(talking, query, headers={"x-task-id": task, **headers}, subprotocols=protocols):  # fmt: skip
        pass
    assert refused.value.response.status_code == 403
    assert talking.ask("requests", task=task) == []
    assert len(provider.asked) == before


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("model=talk%22%2C%22mock_response%22%3A%22x", "model: a name without quotes is expected."),
        ("model=talk&model=new", "model: one name is expected."),
        ("", "model query parameter is required"),
    ],
)
def test_a_session_that_is_refused_before_our_hooks_has_one_row(
    talking: Stack, provider: RealtimeProvider, query: str, message: str
) -> None:
    task, before = new_task(), len(provider.asked)
    with pytest.raises(InvalidStatus) as refused, dial(talking, query, headers={"x-task-id": task}):
        pass
    assert refused.value.response.status_code == 403
    row = row_of(talking, task)
    assert (row["status"], row["error_message"], row["endpoint"]) == ("rejected", message, "/v1/realtime")
    assert len(provider.asked) == before


@pytest.mark.parametrize("path", ["/openai/v1/realtime", "/v1/responses", "/vertex_ai/live"])
def test_another_websocket_is_not_served(talking: Stack, path: str) -> None:
    with pytest.raises(InvalidStatus), dial(talking, path=path):
        pass


def test_a_browsers_key_in_the_subprotocol_opens_a_session_and_does_not_come_back(
    talking: Stack, provider: RealtimeProvider
) -> None:
    secret = f"openai-insecure-api-key.{KEY}"
    origin = {"authorization": "", "origin": "http://localhost:3000"}
    with dial(talking, headers=origin, subprotocols=[secret, "realtime"]) as link:  # type: ignore[list-item]
        hear(link, "session.created")
        assert link.subprotocol == "realtime"


@pytest.mark.parametrize(
    ("message", "code"), [("x" * 1_100_000, 1009), (b"audio", 1003), ("[" * 200 + "]" * 200, 1008)]
)  # fmt: skip
def test_a_message_out_of_bounds_ends_the_session_and_reaches_no_provider(
    talking: Stack, provider: RealtimeProvider, message: str | bytes, code: int
) -> None:
    task = new_task()
    with dial(talking, headers={"x-task-id": task}) as link:
        hear(link, "session.created")
        link.send(message)
        assert hear_end(link)[0] == code
    assert row_of(talking, task)["status"] == "succeeded"
    assert provider.asked[-1]["events"] == []


def test_openais_own_client_works(talking: Stack) -> None:
    from openai import OpenAI

    task = new_task()
    client = OpenAI(api_key=KEY, base_url=f"{talking.url}/v1")
    with client.realtime.connect(model="talk", extra_headers={"x-task-id": task}) as session:
        session.response.create(response={"metadata": {"do": ""}})
        kinds = []
        for event in session:
            kinds.append(event.type)
            if event.type == "response.done":
                break
    assert "session.created" in kinds
    assert row_of(talking, task)["cost_usd"] == pytest.approx(COST)


def test_a_killed_worker_leaves_the_row_to_the_recovery(talking: Stack) -> None:
    """The last test of this file: it kills the worker."""
    task = new_task()
    with dial(talking, headers={"x-task-id": task, "x-task-budget": "5"}) as link:
        ask(link)
        (row,) = talking.ask("requests", task=task)
        os.kill(int(str(row["worker"]).split(":")[1]), signal.SIGKILL)
        with contextlib.suppress(ConnectionClosed):
            while True:
                link.recv(timeout=30)
    row = row_of(talking, task)
    assert (row["status"], row["cost_estimated"]) == ("interrupted", 1)
    assert row["cost_usd"] > COST, "what was reserved: one response of the greatest length"
