"""A request that cannot be served is its client's own trouble: it gets a 4xx, takes no model away from anybody else,
and what it said is nowhere on disk."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support import KEY, Mock, Stack, TaskMaster, wait_for

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
SECRET = "the-secret-ingredient-is-saffron, and a pinch of salt"
HELLO = [{"role": "user", "content": "Hello!"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
MCP = {"type": "mcp", "server_label": "x", "server_url": "litellm_proxy/mcp/x", "require_approval": "never"}
CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}],
}
WITNESSES = ("gpt-4o-mini", "gpt-4o", "claude-haiku-4-5", "gemini-2.5-flash")


def said(content: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "messages is a string": (CHAT, {"messages": SECRET}),
    "messages holds a number": (CHAT, {"messages": [*said(SECRET), 5]}),
    "content is a number": (CHAT, {"messages": [*said(SECRET), *said(5)]}),
    "a block is a number": (CHAT, {"messages": [*said(SECRET), *said([5])]}),
    "a block of no known type": (CHAT, {"messages": said([{"type": SECRET}])}),
    "an image without a URL": (CHAT, {"messages": said([{"type": "text", "text": SECRET}, {"type": "image_url"}])}),
    "response_format is a string": (CHAT, {"messages": said(SECRET), "response_format": SECRET}),
    "extra_headers is a number": (CHAT, {"messages": said(SECRET), "extra_headers": 5}),
    "extra_headers no header can hold": (CHAT, {"messages": said(SECRET), "extra_headers": {"x-a": "b\nc"}}),
    "timeout is a word": (CHAT, {"messages": said(SECRET), "timeout": "soon"}),
    "tool_choice is a number": (CHAT, {"messages": said(SECRET), "tools": [TOOL], "tool_choice": 5}),
    "stream_options is a number": (CHAT, {"messages": said(SECRET), "stream": True, "stream_options": 5}),
    "a streamed block of no known type": (CHAT, {"messages": said([{"type": SECRET}]), "stream": True}),
    "a streamed call with broken arguments": (CHAT, {"messages": [*said(SECRET), CALL], "stream": True}),
    "no messages": (CHAT, {"messages": []}),
    "prompt is an object": ("/v1/completions", {"prompt": {"a": SECRET}}),
    "input is a number": (RESPONSES, {"input": 5}),
    "an MCP tool of the proxy": (RESPONSES, {"input": SECRET, "tools": [MCP]}),
    "Messages: messages is a string": (MESSAGES, {"max_tokens": 5, "messages": SECRET}),
    "Messages: a tool is a number": (MESSAGES, {"max_tokens": 5, "messages": said(SECRET), "tools": [5]}),
}


EXHAUSTIVE = [pytest.param(model, marks=pytest.mark.exhaustive) for model in ("claude-haiku-4-5", "gemini-2.5-flash")]


@pytest.fixture(scope="module", autouse=True)
def rested(gateway: Stack, mock: Mock) -> None:
    """Whatever tests before these have let fail may still be cooling down."""
    mock.reset()
    wait_for(lambda: all(asked(gateway, witness) == 200 for witness in WITNESSES), 60, "every model")


@pytest.fixture(autouse=True)
def healthy(mock: Mock) -> Iterator[None]:
    mock.reset()
    yield
    mock.reset()


def asked(gateway: Stack, model: str) -> int:
    return gateway.post(CHAT, {"model": model, "messages": HELLO}, x_lm_no_fallback="1").status_code


@pytest.mark.parametrize("model", ["gpt-4o-mini", *EXHAUSTIVE, "auto"])
@pytest.mark.parametrize("name", BROKEN)
def test_nobody_else_loses_a_model_to_it(gateway: Stack, name: str, model: str) -> None:
    path, body = BROKEN[name]
    answer = gateway.post(path, {"model": model, **body})
    # Some of it llmock takes, which real providers would not.
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    assert answer.status_code not in (401, 429), answer.text
    assert {witness: asked(gateway, witness) for witness in WITNESSES} == dict.fromkeys(WITNESSES, 200)


UNSAYABLE = {
    "NaN": '"temperature": NaN',
    "infinity": '"max_tokens": 1e999',
    "infinity in metadata": '"metadata": {"a": -Infinity}',
    "infinity in an object": '"logit_bias": {"5": 1e999}',
    "NaN in a list": '"stop": [NaN]',
    "950 brackets": f'"tools": [{{"type": "function", "function": {{"name": "f"}}, "a": {"[" * 950 + "]" * 950}}}]',
}


@pytest.mark.parametrize("model", ["gpt-4o-mini", *EXHAUSTIVE])
@pytest.mark.parametrize("part", UNSAYABLE.values(), ids=UNSAYABLE)
def test_what_stock_reads_and_nobody_can_send_on(gateway: Stack, model: str, part: str) -> None:
    text = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}], {part}}}'
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    answer = httpx.post(gateway.url + CHAT, content=text, headers=headers, timeout=60, trust_env=False)
    assert answer.status_code in (200, 400), answer.text
    assert {witness: asked(gateway, witness) for witness in WITNESSES} == dict.fromkeys(WITNESSES, 200)


def test_a_clients_own_bad_key_says_nothing_of_ours(gateway: Stack, mock: Mock) -> None:
    mock.script({"type": "fail", "status": 401, "times": 1, "match": {"model": "gpt-4o"}})
    own = {"model": "gpt-4o", "messages": HELLO, "api_key": "sk-somebody-elses-0123"}
    assert gateway.post(CHAT, own, x_lm_no_fallback="1").status_code == 401
    assert {witness: asked(gateway, witness) for witness in WITNESSES} == dict.fromkeys(WITNESSES, 200)


def test_what_it_said_is_in_no_ledger_log_or_event(gateway: Stack, taskmaster: TaskMaster) -> None:
    calls = [
        gateway.post(path, {"model": model, **body}, x_task_id="broken")
        for path, body in BROKEN.values()
        for model in ("gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash")
    ]
    failed = [row for row in gateway.ask("requests", task="broken", limit=100) if row["status"] != "succeeded"]
    assert len(failed) > 30
    assert all(row["error_message"] for row in failed)
    attempted = [row for row in failed if row["attempts"]]
    taskmaster.events(attempted[0]["call_id"])
    written = {p: p.read_bytes() for p in (gateway.root / "logs").iterdir() if p.is_file()}
    written |= {"events": b"".join(body for _, _, body in taskmaster.received)}  # type: ignore[dict-item]
    for place, content in written.items():
        assert b"saffron" not in content, place
    assert any("saffron" in answer.text for answer in calls)  # its own client may read it


@pytest.mark.parametrize(
    "extra",
    [
        {"model": "gpt-4o-mini,gpt-4o,gpt-6-luna"},
        {"model": "gpt-4o-mini,gpt-4o", "fastest_response": True},
        {"fallbacks": [{"model": "gpt-4o", "api_base": "http://127.0.0.1:9"}]},
        {"fallbacks": ["nobody-serves-this"]},
        {"fallbacks": "gpt-4o"},
        {"context_window_fallbacks": [{"gpt-4o-mini": ["gpt-4o"]}]},
        {"content_policy_fallbacks": [{"gpt-4o-mini": ["gpt-4o"]}]},
        {"additional_drop_params": ["stream_options", "max_tokens"], "stream": True},
        {"extra_headers": {"Host": "evil.example"}},
    ],
)
def test_one_request_is_one_walk_over_models_of_ours(gateway: Stack, mock: Mock, extra: dict[str, Any]) -> None:
    mock.reset()
    answer = gateway.post(CHAT, {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], **extra})
    assert answer.status_code == 400, answer.text
    assert mock.requests() == []


@pytest.mark.parametrize("name", ["extra_headers", "provider_specific_header"])
def test_headers_that_a_client_brings_along_cool_nobody_down(gateway: Stack, mock: Mock, name: str) -> None:
    mock.reset()
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    mock.script({"type": "fail", "status": 401, "times": 1})
    headers: dict[str, Any] = {"Authorization": "Bearer broken"}
    if name == "provider_specific_header":
        headers = {"custom_llm_provider": "openai", "extra_headers": headers}
    own = {**body, name: headers}
    gateway.post(CHAT, own, x_lm_no_fallback="1")
    after = gateway.post(CHAT, body, x_lm_no_fallback="1")
    assert after.status_code == 200, after.text
