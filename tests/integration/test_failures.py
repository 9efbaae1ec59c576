"""What each failure of a provider does to a request: one test per row of the table in docs/routing.md.

Every failing model is alone at its provider; `backup` stands in for all of them.
"""

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from support import ROOT, Mock, Stack, free_port, running, wait_for

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT = "/v1/chat/completions"
TIMEOUT, DEADLINE = 2, 5


@dataclass(frozen=True)
class Row:
    """``base`` of the provider, ``{mock}`` and ``{bad}`` filled in; ``cools``: the next request does not ask it again."""

    name: str
    base: str
    error: str
    cools: bool = True
    fail: dict[str, Any] | None = None  # llmock's script
    prefix: str = "openai"
    slowest: float = 1.5  # seconds for the first request, over the time of a healthy one


ROWS = (
    Row("500", "{mock}/v1", "InternalServerError", fail={"status": 500}),
    Row("503", "{mock}/v1", "ServiceUnavailableError", fail={"status": 503}),
    Row("429 without Retry-After", "{mock}/v1", "RateLimitError", fail={"status": 429}),
    Row("429 with Retry-After", "{bad}/retry-after/v1", "RateLimitError"),
    Row("401", "{mock}/v1", "AuthenticationError", fail={"status": 401}),
    Row("402", "{bad}/payment/v1", "APIError"),
    Row("403", "{mock}/v1", "APIError", fail={"status": 403}),
    Row("422", "{mock}/v1", "BadRequestError", cools=False, fail={"status": 422}),
    Row("connection refused", "{closed}/v1", "InternalServerError"),
    Row("connection refused, Gemini", "{closed}/gemini/v1beta", "APIConnectionError", prefix="gemini"),
    Row("DNS failure", "http://provider.invalid/v1", "InternalServerError"),
    Row("TLS error", "{tls}/v1", "InternalServerError"),
    Row("read time-out", "{bad}/hang/v1", "Timeout", slowest=TIMEOUT + 1.5),
    Row("connection dropped", "{bad}/drop/v1", "InternalServerError"),
    Row("malformed JSON", "{bad}/garbage/v1", "InternalServerError"),
    Row("malformed JSON, Anthropic", "{bad}/garbage/anthropic", "APIConnectionError", prefix="anthropic"),
    Row("empty choices", "{bad}/empty/v1", "EmptyAnswer", cools=False),
)


def slug(name: str) -> str:
    return "m-" + re.sub(r"[^a-z0-9]+", "-", name.lower())


@pytest.fixture(scope="module")
def bad() -> Iterator[HTTPServer]:
    """A provider that misbehaves in ways that llmock cannot."""
    server = HTTPServer(host="127.0.0.1", threaded=True)
    over = threading.Event()

    def hang(_: Request) -> Response:
        over.wait(30)
        return Response("late", 200)

    def slow(request: Request) -> Response:
        over.wait(1)
        return Response(answer(request), 200, content_type="application/json")

    def drop(request: Request) -> Response:
        request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return Response("", 200)

    def answer(_: Request) -> bytes:
        return b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"slow but sure"}}],"usage":{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6}}'

    server.expect_request(re.compile("/hang/.*")).respond_with_handler(hang)
    server.expect_request(re.compile("/slow/.*")).respond_with_handler(slow)
    server.expect_request(re.compile("/drop/.*")).respond_with_handler(drop)
    server.expect_request(re.compile("/garbage/.*")).respond_with_data(
        "<html>oops", 200, content_type="application/json"
    )
    server.expect_request(re.compile("/payment/.*")).respond_with_json({"error": {"message": "no credit"}}, 402)
    server.expect_request(re.compile("/retry-after/.*")).respond_with_json({"error": {"message": "slow down"}}, 429, {"retry-after": "7"})  # fmt: skip
    server.expect_request(re.compile("/empty/.*")).respond_with_json(
        {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}}
    )  # fmt: skip
    server.start()
    yield server
    over.set()
    server.stop()


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory, mock: Mock, bad: HTTPServer) -> Iterator[Stack]:
    """A gateway with one provider per row."""
    bad_url = f"http://127.0.0.1:{bad.port}"
    places = {"mock": mock.url, "bad": bad_url, "closed": f"http://127.0.0.1:{free_port()}", "tls": bad_url.replace("http:", "https:")}  # fmt: skip
    env, providers, models = {"OK_API_KEY": "sk-ok-0123456789", "OK_API_BASE": f"{mock.url}/v1"}, ["  ok: {prefix: openai, base: OK_API_BASE}"], []  # fmt: skip
    extra = (
        Row("slow", "{bad}/slow/v1", ""), Row("hang a", "{bad}/hang/v1", ""), Row("hang b", "{bad}/hang/v1", ""),
        Row("hang c", "{bad}/hang/v1", ""), Row("hang d", "{bad}/hang/v1", ""), Row("big", "{mock}/v1", ""),
        Row("cut", "{mock}/v1", ""), Row("late", "{mock}/gemini/v1beta", "", prefix="gemini"),
    )  # fmt: skip
    for row in (*ROWS, *extra):
        name = slug(row.name)
        var = name.replace("-", "_").upper()
        env |= {f"P{var}_API_KEY": f"sk-test-{name}-012345", f"P{var}_API_BASE": row.base.format(**places)}
        providers.append(f"  p-{name}: {{prefix: {row.prefix}, key: P{var}_API_KEY, base: P{var}_API_BASE}}")
        models.append(f"  {name}: {{provider: p-{name}, model: {name}, tier: 3}}")
    # A second model of the provider that hangs: it must not cost a second time-out.
    models.append("  m-read-time-out-2: {provider: p-m-read-time-out, model: second, tier: 3}")
    models += [f"  m-{code}-2: {{provider: p-m-{code}, model: second-{code}, tier: 3}}" for code in (401, 403)]
    models.append("  vectors: {provider: ok, model: vectors, mode: embedding}")
    models.append("  backup: {provider: ok, model: backup, tier: 3, input: 1, output: 1, context: 100000}")
    models.append("  huge: {provider: ok, model: huge, tier: 2, input: 2, output: 2, context: 900000}\n")
    text = "\n".join(["providers:", *providers, "models:", *models])
    env |= {"LITELLM_TIMEOUT": str(TIMEOUT), "LITELLM_DEADLINE": str(DEADLINE)}
    with running(tmp_path_factory.mktemp("failing"), text, **env) as made:
        made.post(CHAT, {"model": "backup", "messages": HELLO})  # the first request of a worker is slower
        yield made


def ask(stack: Stack, model: str, **more: Any) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    headers = more.pop("headers", {})
    answer = stack.post(CHAT, {"model": model, "messages": HELLO, **more}, **headers)
    return answer, time.monotonic() - started


def ask_beside_healthy(stack: Stack, model: str, **more: Any) -> tuple[httpx.Response, float]:
    """Return the answer, and how much longer it took than a healthy request: a busy machine makes both slow."""
    before = ask(stack, "backup")[1]
    answer, took = ask(stack, model, **more)
    return answer, took - max(before, ask(stack, "backup")[1])


def attempts(stack: Stack, answer: httpx.Response) -> list[dict[str, Any]]:
    return list(stack.row(answer.headers["x-litellm-call-id"])["attempt_list"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_next_model_answers_and_the_dead_one_is_spared(failing: Stack, mock: Mock, row: Row) -> None:
    mock.reset()
    name = slug(row.name)
    if row.fail:
        mock.script({"type": "fail", "times": None, "match": {"model": name}, **row.fail})
    first, took = ask_beside_healthy(failing, name)
    assert first.status_code == 200, first.text
    assert took < row.slowest
    assert (first.headers["x-lm-model"], first.headers["x-lm-fallbacks"]) == ("backup", "1")
    tried = attempts(failing, first)
    assert [(a["deployment"], a["outcome"]) for a in tried] == [(name, "failed"), ("backup", "succeeded")]
    assert tried[0]["error_type"] == row.error
    second, took = ask_beside_healthy(failing, name)
    assert second.status_code == 200, second.text
    assert [a["deployment"] for a in attempts(failing, second)] == (["backup"] if row.cools else [name, "backup"])
    assert took < 1.5


def test_the_documented_table_is_the_tested_one() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| [^|]+ \| [^|]+ \| [^|]+ \|$", (ROOT / "docs" / "routing.md").read_text(), re.M)
    assert {row.name for row in ROWS} <= set(rows)


def test_a_dead_provider_costs_one_time_out_for_all_its_models(failing: Stack) -> None:
    ask(failing, "m-read-time-out")
    answer, took = ask_beside_healthy(failing, "m-read-time-out-2")
    assert (answer.status_code, took < 1.5) == (200, True)
    assert [a["deployment"] for a in attempts(failing, answer)] == ["backup"]


@pytest.mark.parametrize(("code", "served"), [(401, "backup"), (403, "second-403")])
def test_a_bad_key_spares_the_whole_provider_a_forbidden_model_only_itself(
    failing: Stack, mock: Mock, code: int, served: str
) -> None:
    mock.reset()
    mock.script({"type": "fail", "times": None, "match": {"model": f"m-{code}"}, "status": code})
    # A test before may have let it fail: then the provider is only asked when its cool-down is over.
    wait_for(lambda: attempts(failing, ask(failing, f"m-{code}")[0])[0]["deployment"] == f"m-{code}", 60)
    assert ask(failing, f"m-{code}-2")[0].headers["x-lm-model"] == served


def test_a_slow_first_byte_within_the_time_out_is_waited_for(failing: Stack) -> None:
    answer, took = ask_beside_healthy(failing, "m-slow")
    assert answer.json()["choices"][0]["message"]["content"] == "slow but sure"
    assert took < TIMEOUT
    assert ask(failing, "m-slow")[1] >= 1


def test_the_whole_request_ends_at_its_deadline(failing: Stack) -> None:
    """Four models that hang for two seconds each would take eight; the deadline is five."""
    answer, took = ask_beside_healthy(failing, "m-hang-a", fallbacks=["m-hang-b", "m-hang-c", "m-hang-d"])
    assert answer.status_code == 504, answer.text
    assert "LITELLM_DEADLINE" in answer.json()["error"]["message"]
    assert took < DEADLINE + 1
    row = failing.row(answer.headers["x-litellm-call-id"])
    assert (row["status"], row["error_code"], row["attempts"]) == ("failed", "504", 3)


def test_no_fallback_means_none(failing: Stack, mock: Mock) -> None:
    mock.reset()
    mock.script({"type": "fail", "times": None, "match": {"model": "m-big"}, "status": 500})
    for word in ("x_lm_no_fallback", "metadata"):
        given = {"headers": {word: "1"}} if word.startswith("x_") else {"metadata": {"lm_no_fallback": "1"}}
        answer, _ = ask(failing, "m-big", **given)
        assert answer.status_code in (500, 503), answer.text  # 503 with Retry-After while it cools down
    assert ask(failing, "m-big")[0].headers["x-lm-model"] == "backup"


def test_a_prompt_too_long_goes_to_the_cheapest_model_with_room(failing: Stack) -> None:
    answer = failing.post(CHAT, {"model": "backup", "messages": [{"role": "user", "content": "word " * 120_000}]})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-lm-model"] == "huge"


@pytest.mark.parametrize(("chunks", "status"), [(1, "failed"), (3, "interrupted")])
def test_a_chat_stream_that_its_provider_cuts_off_is_no_success(failing: Stack, mock: Mock, chunks: int, status: str) -> None:  # fmt: skip
    mock.reset()
    mock.script({"type": "stream_fault", "kind": "truncate", "after_chunks": chunks, "times": None})
    answer, _ = ask(failing, "m-cut", stream=True, headers={"x_lm_no_fallback": "1"})
    mock.reset()
    row = failing.row(answer.headers["x-litellm-call-id"])
    assert (row["status"], row["error_type"]) == (status, "StreamTruncated")


def test_a_complete_chat_stream_is_a_success(failing: Stack, mock: Mock) -> None:
    mock.reset()
    answer, _ = ask(failing, "backup", stream=True)
    assert failing.row(answer.headers["x-litellm-call-id"])["status"] == "succeeded"


def test_a_stream_that_fails_before_its_first_chunk_cools_its_model_down(failing: Stack, mock: Mock) -> None:
    """LiteLLM opens a stream of Gemini with its first chunk. No hook of an attempt reports when that fails."""
    mock.reset()
    mock.script({"type": "fail", "times": None, "match": {"model": "m-late"}, "status": 500})
    first, _ = ask(failing, "m-late", stream=True)
    tried = attempts(failing, first)
    assert [(a["deployment"], a["outcome"]) for a in tried] == [("m-late", "failed"), ("backup", "succeeded")]
    second, _ = ask(failing, "m-late", stream=True)
    assert [a["deployment"] for a in attempts(failing, second)] == ["backup"]


def test_many_clients_of_a_dead_provider_all_get_an_answer(failing: Stack, mock: Mock) -> None:
    mock.reset()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ask(failing, slug(ROWS[n % len(ROWS)].name))[0], range(64)))
    assert {a.status_code for a in answers} == {200}


def test_what_has_no_fallback_is_tried_three_times_and_never_cooled_down(failing: Stack, mock: Mock) -> None:
    mock.reset()
    mock.script({"type": "fail", "times": 2, "match": {"model": "vectors"}, "status": 500})
    answer = failing.post("/v1/embeddings", {"model": "vectors", "input": "Hello!"})
    assert answer.status_code == 200, answer.text
    assert [a["outcome"] for a in attempts(failing, answer)] == ["failed", "failed", "succeeded"]
    mock.script({"type": "fail", "times": 3, "match": {"model": "vectors"}, "status": 500})
    assert failing.post("/v1/embeddings", {"model": "vectors", "input": "Hello!"}).status_code == 500
    assert failing.post("/v1/embeddings", {"model": "vectors", "input": "Hello!"}).status_code == 200
