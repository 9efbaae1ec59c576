"""What a client, `lm health` and `lm test` say when the only provider refuses its key or cannot be reached."""

import json
import re
from collections.abc import Iterator

import httpx
import openai
import pytest
from pytest_httpserver import HTTPServer

from support import KEY, Stack, free_port, running, wait_for

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HELLO = [{"role": "user", "content": "Hello!"}]
PROVIDER_KEY = "sk-wrong-0123456789"
ENV = {"OPENAI_API_KEY": PROVIDER_KEY, "LITELLM_DEADLINE": "20"}
REFUSED = "The provider openai refused its key (OPENAI_API_KEY)"


@pytest.fixture(scope="module")
def provider() -> Iterator[HTTPServer]:
    """A provider that answers every request with 401."""
    server = HTTPServer(host="127.0.0.1", threaded=True)
    body = {"error": {"message": f"Incorrect API key provided: {PROVIDER_KEY}", "code": "invalid_api_key"}}
    server.expect_request(re.compile(".*")).respond_with_json(body, 401)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def wrong_key(tmp_path_factory: pytest.TempPathFactory, provider: HTTPServer) -> Iterator[Stack]:
    base = f"http://127.0.0.1:{provider.port}/v1"
    with running(tmp_path_factory.mktemp("wrong-key"), OPENAI_API_BASE=base, **ENV) as made:
        yield made


@pytest.fixture(scope="module")
def closed_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    base = f"http://127.0.0.1:{free_port()}/v1"
    with running(tmp_path_factory.mktemp("closed-port"), OPENAI_API_BASE=base, **ENV) as made:
        yield made


def ask(stack: Stack, model: str, path: str = CHAT, **headers: str) -> httpx.Response:
    return stack.post(path, {"model": model, "messages": HELLO, "max_tokens": 5}, **headers)


def first_of_a_walk(stack: Stack, model: str, path: str = CHAT) -> httpx.Response:
    """Return the first answer for which a provider was asked: nothing may be cooling down."""

    def asked() -> httpx.Response | None:
        answer = ask(stack, model, path)
        return None if answer.status_code == 503 else answer

    return wait_for(asked, 40, f"{model} to be tried again")


def during_the_cooldown(stack: Stack, path: str = CHAT, model: str = "gpt-4o", **headers: str) -> httpx.Response:
    """Return an answer for which no provider was asked. The request before it may start the cooldown."""

    def refused() -> httpx.Response | None:
        answer = ask(stack, model, path, **headers)
        return answer if answer.status_code == 503 else None

    return wait_for(refused, 15, "a cooldown")


@pytest.mark.parametrize(("model", "path"), [("auto", CHAT), ("gpt-4o", CHAT), ("gpt-4o", MESSAGES)])
def test_a_refused_key_is_named_and_is_no_rate_limit(wrong_key: Stack, model: str, path: str) -> None:
    first = first_of_a_walk(wrong_key, model, path)
    assert first.status_code == 502, first.text
    error = first.json()["error"]
    assert error["type"] == ("api_error" if path == MESSAGES else "provider_key_refused")
    assert error["message"].startswith(REFUSED)
    assert PROVIDER_KEY not in first.text
    assert first.headers["x-should-retry"] == "false"
    row = wrong_key.row(first.headers["x-litellm-call-id"])
    assert (row["status"], row["error_type"], row["error_code"]) == ("failed", "AuthenticationError", "502")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (CHAT, {}), (CHAT, {"x_lm_no_fallback": "1"}), (CHAT, {"x_lm_tier": "premium"}), (CHAT, {"x_lm_max_cost": "1"}),
        (MESSAGES, {}),
    ],
)  # fmt: skip
def test_a_request_during_the_cooldown_says_which_failure_caused_it(
    wrong_key: Stack, path: str, headers: dict[str, str]
) -> None:
    later = during_the_cooldown(wrong_key, path, **headers)
    error = later.json()["error"]
    assert path == MESSAGES or error["type"] == "all_deployments_in_cooldown"
    assert REFUSED in error["message"]
    assert re.search(r"At \d\d:\d\d:\d\d UTC", error["message"])
    assert 0 < int(later.headers["retry-after"]) <= 20
    row = wrong_key.row(later.headers["x-litellm-call-id"])
    assert (row["error_type"], row["error_code"]) == ("all_deployments_in_cooldown", "503")


def test_an_sdk_does_not_wait_for_a_key_that_is_refused(wrong_key: Stack) -> None:
    before = len(wrong_key.ask("requests", limit=1000))
    client = openai.OpenAI(base_url=f"{wrong_key.url}/v1", api_key=KEY, max_retries=2, timeout=15)
    with pytest.raises(openai.InternalServerError, match="refused its key"):
        client.chat.completions.create(model="cheap", messages=[{"role": "user", "content": "Hello!"}])
    assert len(wait_for(lambda: wrong_key.ask("requests", limit=1000)[before:])) == 1


@pytest.mark.parametrize("model", ["auto", "gpt-4o"])
def test_a_provider_that_cannot_be_reached_is_named(closed_port: Stack, model: str) -> None:
    first = first_of_a_walk(closed_port, model)
    assert first.status_code == 500, first.text
    error = first.json()["error"]
    assert error["type"] == "provider_failed"
    assert re.match(r"[\w.-]+ \(openai\) failed: .*Connection error", error["message"])
    later = during_the_cooldown(closed_port, model=model)
    assert later.json()["error"]["type"] == "all_deployments_in_cooldown"
    assert "Connection error" in later.json()["error"]["message"]
    assert "x-should-retry" not in later.headers


def test_an_unknown_model_gets_the_nearest_name_or_the_list(wrong_key: Stack) -> None:
    near, far = ask(wrong_key, "gpt4o"), ask(wrong_key, "zzzzzz")
    assert (near.status_code, far.status_code) == (400, 400)
    assert "Did you mean 'gpt-4o'?" in near.json()["error"]["message"]
    assert "gpt-4o-mini" in far.json()["error"]["message"]


def test_health_shows_every_model_of_the_provider_as_unhealthy(wrong_key: Stack) -> None:
    ask(wrong_key, "gpt-4o")
    report = httpx.get(f"{wrong_key.url}/health", trust_env=False).json()
    assert (report["healthy_count"], report["unchecked_count"]) == (0, 0)
    assert {entry["error"] for entry in report["unhealthy_endpoints"]} == {"AuthenticationError"}
    assert report["status"] == "unhealthy"


def test_lm_test_calls_each_model_or_says_that_the_key_is_refused(wrong_key: Stack) -> None:
    done = wrong_key.lm("test", "--json", check=False)
    rows = json.loads(done.stdout)["data"]["models"]
    assert len(rows) > 4
    for row in rows:
        assert REFUSED in row["error"], row
        assert row["error"].startswith(("502 The provider", "skipped: The provider")), row


def test_lm_test_waits_for_the_end_of_a_cooldown_that_it_did_not_cause(closed_port: Stack) -> None:
    ask(closed_port, "gpt-4o")
    done = closed_port.lm("test", "gpt-4o", "--json", check=False)
    (row,) = json.loads(done.stdout)["data"]["models"]
    assert row["error"].startswith("500 "), row
    assert "Connection error" in row["error"], row
