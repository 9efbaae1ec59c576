"""Keys of agents through the real proxy: who is refused where, what a key may use, and what its rows say."""

import re
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from lmstack.gateway.app import routes
from lmstack.gateway.app.credentials import HEADERS
from lmstack.gateway.app.routes import WEBSOCKET, Access
from lmstack.keys.secret import digest, new_secret, shared_name
from lmstack.ledger import stored_owners
from support import KEY, Mock, Stack, TaskMaster, wait_for

CHAT, HELLO = "/v1/chat/completions", [{"role": "user", "content": "Hello!"}]
BODY = {"model": "gpt-4o-mini", "messages": HELLO}


@pytest.fixture(autouse=True)
def _quiet_mock(mock: Mock) -> None:
    mock.reset()


def new_key(stack: Stack, *options: str, name: str = "") -> tuple[str, str]:
    """Make a key, wait until the gateway knows it, and return its name and its secret."""
    name = name or f"k{secrets.token_hex(4)}"
    secret = str(stack.json("key", "create", name, *options)["data"]["secret"])
    wait_for(lambda: stack_knows(stack, secret), 5, f"the key {name}")
    return name, secret


def stack_knows(stack: Stack, secret: str) -> bool:
    return httpx.get(f"{stack.url}/v1/models", headers={"authorization": f"Bearer {secret}"}, trust_env=False).status_code == 200  # fmt: skip


def error_of(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


@pytest.fixture(scope="module")
def invalid(gateway: Stack) -> dict[str, str]:
    """Return texts that are no valid keys, by what is wrong with them. All are made out of keys that were valid."""
    (revoked_name, revoked), (_, expired), (rotated_name, rotated), (_, good) = (new_key(gateway) for _ in range(4))
    gateway.lm("key", "revoke", revoked_name)
    gateway.lm("key", "rotate", rotated_name)
    name, expired = new_key(gateway, "--expires", f"{3 / 86400}d")
    middle = len(good) // 2
    found = {
        "unknown": new_secret(), "revoked": revoked, "expired": expired, "rotated": rotated, "prefix only": "sk-lm-",
        "cut": good[:-1], "longer": good + "A", "misspelt": good[:middle] + ("a" if good[middle] != "a" else "b") + good[middle + 1 :],
        "lower case": good.lower(), "the hash": digest(good), "prefix and hash": f"sk-lm-{digest(good)}", "name": name, "key:name": f"key:{name}",
    }  # fmt: skip
    wait_for(
        lambda: not any(stack_knows(gateway, one) for one in found.values()), 10, "the gateway refuses all of them"
    )
    return found


def _routes() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield method, path, and what an invalid key may get. The page sends a browser to its login, and refuses its forms."""
    for route in routes.ROUTES:
        if route.access is not Access.ANYONE:
            refusals = (303, 400, 401, 403, 404) if route.access is Access.PAGE else (401,)
            yield route.method, re.sub(r"\{[^}]*\}", "zz", route.path), refusals


def test_no_open_route_takes_a_key_that_is_not_valid(gateway: Stack, mock: Mock, invalid: dict[str, str]) -> None:
    rows, before, accepted = gateway.ask("requests", limit=1000), len(mock.requests()), []
    ways = [name.decode() for name in HEADERS]
    with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as client:
        for number, (method, path, refusals) in enumerate(_routes()):
            for what, key in invalid.items():
                name = ways[number % len(ways)]
                sent = {name: f"Bearer {key}" if name == "authorization" else key}
                if method == WEBSOCKET:
                    with pytest.raises(InvalidStatus):
                        connect(f"ws://localhost:{gateway.port}{path}?model=x", additional_headers=sent, proxy=None)
                    continue
                answer = client.request(method, path, headers=sent, json=BODY if method == "POST" else None)
                if answer.status_code not in refusals:
                    accepted.append((method, path, what, answer.status_code))
    assert accepted == []
    assert len(mock.requests()) == before
    assert gateway.ask("requests", limit=1000) == rows


def test_an_answer_says_nothing_about_how_near_a_text_is_to_a_secret(gateway: Stack, invalid: dict[str, str]) -> None:
    """The answers are the same byte by byte. Only the holder of a whole secret learns that it was revoked or has expired."""
    calls = [("POST", CHAT), ("POST", "/v1/messages"), ("POST", "/v1beta/models/gemini-2.5-flash:generateContent"), ("GET", "/v1/models"), ("GET", "/me/usage")]  # fmt: skip
    whole = {"revoked", "expired"}
    with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as http:
        for method, path in calls:
            seen = {}
            for what, key in invalid.items():
                answer = http.request(method, path, headers={"x-api-key": key}, json=BODY if method == "POST" else None)
                headers = sorted(
                    (name, value) for name, value in answer.headers.items() if name not in ("date", "connection")
                )
                seen[what] = (answer.status_code, headers, answer.content)
            assert len({repr(one) for what, one in seen.items() if what not in whole}) == 1, (path, seen)
            assert {seen[what][0] for what in whole} == {401}
            assert not any(name.encode() in content for _, _, content in seen.values() for name in invalid.values())


def test_a_viewer_is_refused_on_every_route_and_spends_nothing(gateway: Stack, mock: Mock) -> None:
    name = f"v{secrets.token_hex(4)}"
    secret = str(gateway.json("key", "create", name, "--role", "viewer")["data"]["secret"])
    sent = {"authorization": f"Bearer {secret}"}
    url = gateway.url + CHAT
    wait_for(lambda: httpx.post(url, json=BODY, headers=sent, trust_env=False).status_code == 403, 5, "the key")
    rows, before = gateway.ask("requests", limit=1000), len(mock.requests())
    with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False, headers=sent) as client:
        for route in routes.ROUTES:
            path = re.sub(r"\{[^}]*\}", "zz", route.path)
            if route.method == WEBSOCKET:
                with pytest.raises(InvalidStatus):
                    connect(f"ws://localhost:{gateway.port}{path}?model=x", additional_headers=sent, proxy=None)
            elif route.access in (Access.KEY, Access.MASTER) or (route.access, route.method) == (Access.PAGE, "POST"):
                if path == "/dashboard/logout":
                    continue
                answer = client.request(route.method, path, json=BODY if route.method == "POST" else None)
                assert answer.status_code == 403, (route, answer.text)
        assert client.get("/api/v1/usage").status_code == client.get("/dashboard/keys").status_code == 200
    assert len(mock.requests()) == before
    assert gateway.ask("requests", limit=1000) == rows


@pytest.mark.parametrize("header", [name.decode() for name in HEADERS])
def test_every_header_is_refused_and_taken_alike(gateway: Stack, invalid: dict[str, str], header: str) -> None:
    _, good = new_key(gateway)
    for key, status in [(good, 200), *((one, 401) for one in invalid.values())]:
        sent = {header: f"Bearer {key}" if header == "authorization" else key}
        assert (
            httpx.post(gateway.url + CHAT, json=BODY, headers=sent, trust_env=False, timeout=60).status_code == status
        )


def test_native_gemini_takes_a_key_in_the_query_and_refuses_a_wrong_one(
    gateway: Stack, invalid: dict[str, str]
) -> None:
    _, good = new_key(gateway)
    url = f"{gateway.url}/v1beta/models/gemini-2.5-flash:generateContent"
    body = {"contents": [{"role": "user", "parts": [{"text": "Hello!"}]}]}
    for key, status in [(good, 200), *((one, 401) for one in invalid.values())]:
        answer = httpx.post(url, params={"key": key}, json=body, trust_env=False, timeout=60)
        assert answer.status_code == status, answer.text


def test_a_websocket_s_subprotocol_is_checked_too(gateway: Stack, invalid: dict[str, str]) -> None:
    for key in invalid.values():
        protocols: Any = ["realtime", f"openai-insecure-api-key.{key}"]
        with pytest.raises((InvalidStatus, ValueError)):
            connect(f"ws://localhost:{gateway.port}/v1/realtime?model=x", subprotocols=protocols, proxy=None)


def test_two_keys_in_one_request_are_decided_by_the_same_one_everywhere(
    gateway: Stack, invalid: dict[str, str]
) -> None:
    """The gate and LiteLLM read several headers. A valid key beside an invalid one must not open anything."""
    name, good = new_key(gateway)
    for first, second in ((good, invalid["unknown"]), (invalid["unknown"], good), (good, KEY), (KEY, good)):
        sent = {"x-litellm-api-key": first, "authorization": f"Bearer {second}"}
        answer = httpx.post(gateway.url + CHAT, json=BODY, headers=sent, trust_env=False, timeout=60)
        assert answer.status_code == (401 if first == invalid["unknown"] else 200)
        if answer.status_code == 200:
            row = gateway.row(answer.headers["x-litellm-call-id"])
            assert row["key_alias"] == (name if first == good else None)


def test_a_row_has_the_key_its_agent_and_its_team_whatever_the_client_says(
    gateway: Stack, taskmaster: TaskMaster
) -> None:
    name, secret = new_key(gateway, "--agent", "coder", "--team", "core")
    answer = gateway.post(CHAT, {**BODY, "metadata": {"agent_id": "ceo", "user_api_key_alias": "ceo"}}, secret, x_agent_id="ceo", x_task_id="T-1")  # fmt: skip
    call = answer.headers["x-litellm-call-id"]
    row = gateway.row(call)
    assert (row["key_alias"], row["agent_id"], row["team"], row["task_id"]) == (name, "coder", "core", "T-1")
    [(_, event)] = taskmaster.events(call)
    assert event["agent_id"] == "coder"
    assert secret not in str(row)


def test_the_agent_is_the_key_s_name_and_a_shared_key_lets_its_clients_say_it(gateway: Stack) -> None:
    (name, own), (_, shared) = new_key(gateway), new_key(gateway, "--agent", "*")
    for secret, agent in ((own, name), (shared, "ceo")):
        answer = gateway.post(CHAT, BODY, secret, x_agent_id="ceo")
        assert gateway.row(answer.headers["x-litellm-call-id"])["agent_id"] == agent


def test_a_call_without_hooks_has_the_key_in_its_row(gateway: Stack) -> None:
    name, secret = new_key(gateway)
    gateway.post("/v1/messages/count_tokens", {"model": "claude-3-haiku", "messages": HELLO}, secret)
    [row] = wait_for(lambda: [r for r in gateway.ask("requests", limit=20) if r["key_alias"] == name])
    assert (row["endpoint"], row["agent_id"]) == ("/v1/messages/count_tokens", name)


def test_a_task_must_fit_the_pattern(gateway: Stack) -> None:
    _, secret = new_key(gateway, "--tasks", "TM-*")
    assert gateway.post(CHAT, BODY, secret, x_task_id="TM-7").status_code == 200
    for path, body in ((CHAT, BODY), ("/v1/messages/count_tokens", {"model": "claude-3-haiku", "messages": HELLO})):
        for given in ({"x_task_id": "OPS-7"}, {}):
            answer = gateway.post(path, body, secret, **given)
            assert answer.status_code == 403, answer.text
            assert "x-task-id" in answer.text


MODEL_CALLS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": HELLO}), ("/v1/completions", {"prompt": "Hello!"}), ("/v1/messages", {"messages": HELLO, "max_tokens": 5}),
    ("/v1/responses", {"input": "Hello!"}), ("/v1/embeddings", {"input": "Hello!"}), ("/v1/images/generations", {"prompt": "x"}),
    ("/v1/audio/speech", {"input": "x", "voice": "y"}), ("/v1/moderations", {"input": "x"}), ("/v1/rerank", {"query": "x", "documents": ["y"]}),
    ("/v1/messages/count_tokens", {"messages": HELLO}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), MODEL_CALLS)
@pytest.mark.parametrize("model", ["gpt-4o", "claude-3-haiku", "text-embedding-3-small", "premium-unknown"])
def test_no_endpoint_serves_a_model_that_the_key_may_not_use(gateway: Stack, mock: Mock, path: str, body: dict[str, Any], model: str) -> None:  # fmt: skip
    secret = limited_key(gateway)
    answer = gateway.post(path, {**body, "model": model}, secret)
    assert answer.status_code in (400, 403), answer.text
    if answer.status_code == 400:  # the shape is checked first
        assert "mode" in answer.text
    assert mock.requests() == []


_limited: dict[str, str] = {}


def limited_key(stack: Stack) -> str:
    """Return a key for gpt-4o-mini and models that begin with gemini-2.5, made once for this gateway."""
    if stack.url not in _limited:
        _limited[stack.url] = new_key(stack, "--models", "gpt-4o-mini,gemini-2.5*")[1]
    return _limited[stack.url]


@pytest.mark.parametrize("path", ["/openai/deployments/gpt-4o/chat/completions", "/engines/gpt-4o/chat/completions", "/v1beta/models/claude-3-haiku:generateContent", "/models/gpt-4o:streamGenerateContent", "/v1beta/models/claude-3-haiku:countTokens"])  # fmt: skip
def test_a_model_in_the_path_is_refused_too(gateway: Stack, mock: Mock, path: str) -> None:
    body = {"messages": HELLO, "contents": [{"role": "user", "parts": [{"text": "Hello!"}]}]}
    answer = gateway.post(path, body, limited_key(gateway))
    assert answer.status_code == 403, answer.text
    assert mock.requests() == []


def test_a_refused_model_is_an_error_with_its_kind(gateway: Stack) -> None:
    answer = gateway.post(CHAT, {**BODY, "model": "gpt-4o"}, limited_key(gateway))
    assert answer.status_code == 403
    assert error_of(answer)["type"] == "model_not_allowed"
    row = gateway.row(answer.headers["x-litellm-call-id"]) if "x-litellm-call-id" in answer.headers else None
    assert row is None or row["status"] == "rejected"


@pytest.mark.parametrize("model", ["auto", "cheap", "standard", "premium", "gpt-4o-mini"])
def test_groups_and_fallbacks_stay_within_the_key_s_models(gateway: Stack, mock: Mock, model: str) -> None:
    """The provider of the first model fails. The next one must be a model of the key, or the request fails."""
    secret = limited_key(gateway)
    mock.script({"type": "fail", "status": 400, "times": None})  # no model cools down after it
    gateway.post(CHAT, {**BODY, "model": model, "fallbacks": ["gpt-4o", "claude-3-haiku"]}, secret)
    gateway.post(CHAT, {**BODY, "model": model}, secret)
    asked = {(request["body"] or {}).get("model") or re.sub(r".*/models/([^:]*):.*", r"\1", request["path"]) for request in mock.requests()}  # fmt: skip
    assert len(asked) > 1
    assert all(name == "gpt-4o-mini" or name.startswith("gemini-2.5") for name in asked), asked


def test_tiers_limit_groups_and_names(gateway: Stack) -> None:
    _, secret = new_key(gateway, "--tiers", "cheap")
    assert gateway.post(CHAT, {**BODY, "model": "gpt-4o"}, secret).status_code == 403
    answer = gateway.post(CHAT, {**BODY, "model": "premium"}, secret)
    assert (answer.status_code, answer.headers["x-lm-tier"]) == (200, "cheap")
    assert gateway.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"}, secret).status_code == 200


def test_models_shows_a_key_its_own(gateway: Stack) -> None:
    _, everything = new_key(gateway)
    every = {m["id"] for m in _get(gateway, "/v1/models", everything).json()["data"]}
    assert every == {m["id"] for m in _get(gateway, "/v1/models", KEY).json()["data"]}
    for path in ("/v1/models", "/models"):
        own = {m["id"] for m in _get(gateway, path, limited_key(gateway)).json()["data"]}
        assert {"gpt-4o-mini", "auto", "cheap"} <= own < every
        assert all(
            n in ("auto", "cheap", "standard", "premium", "gpt-4o-mini") or n.startswith("gemini-2.5") for n in own
        )
    assert _get(gateway, "/v1/models/gpt-4o-mini", limited_key(gateway)).json()["id"] == "gpt-4o-mini"
    texts = {_get(gateway, f"/v1/models/{name}", limited_key(gateway)).text.replace(name, "") for name in ("gpt-4o", "nothing")}  # fmt: skip
    assert len(texts) == 1
    refused = gateway.post(CHAT, {**BODY, "model": "gpt-4o-mimi"}, everything).text
    assert "Did you mean 'gpt-4o-mini'" in refused


def _get(stack: Stack, path: str, key: str) -> httpx.Response:
    return httpx.get(stack.url + path, headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=60)


@pytest.mark.parametrize("path", ["/model/info", "/v1/model/info", "/health/readiness/details"])
def test_what_is_the_operator_s_needs_the_master_key(gateway: Stack, path: str) -> None:
    assert _get(gateway, path, limited_key(gateway)).status_code == 403
    assert _get(gateway, path, KEY).status_code == 200


def test_health_is_the_anonymous_one_for_a_key(gateway: Stack) -> None:
    answer = _get(gateway, "/health", limited_key(gateway))
    assert (answer.status_code, answer.json()["status"] in ("healthy", "degraded", "unhealthy")) == (200, True)


def test_routes_limit_the_kinds_of_calls(gateway: Stack, mock: Mock) -> None:
    _, secret = new_key(gateway, "--routes", "embeddings")
    assert gateway.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"}, secret).status_code == 200
    mock.reset()
    for path in (CHAT, "/v1/messages", "/v1/responses", "/v1/images/generations", "/v1/files", "/v1/batches"):
        answer = gateway.post(path, BODY, secret)
        assert (answer.status_code, "may not call" in answer.text) == (403, True)
    assert mock.requests() == []


def test_what_a_provider_keeps_for_all_must_be_named(gateway: Stack) -> None:
    _, secret = new_key(gateway)
    assert _get(gateway, "/v1/files", secret).status_code == 403
    assert _get(gateway, "/v1/batches", secret).status_code == 403
    _, named = new_key(gateway, "--routes", "batches", "--models", "gpt-4o-mini")
    stored_owners.add(gateway.ledger, shared_name(digest(named)), ["f"])
    assert gateway.post("/v1/batches", {"model": "gpt-4o-mini", "input_file_id": "f", "endpoint": "/v1/chat/completions", "completion_window": "24h"}, named).status_code == 403  # fmt: skip


def test_a_tool_of_a_provider_reaches_no_other_model(gateway: Stack, mock: Mock) -> None:
    _, secret = new_key(gateway, "--models", "gpt-4o-mini")
    mock.reset()
    tools = [{"type": "image_generation", "model": "gpt-image-1"}]
    answer = gateway.post("/v1/responses", {"model": "gpt-4o-mini", "input": "Draw.", "tools": tools}, secret)
    assert (answer.status_code, error_of(answer)["type"], mock.requests()) == (403, "model_not_allowed", [])


def test_each_sdk_gets_its_own_error(gateway: Stack, invalid: dict[str, str]) -> None:
    secret, wrong = limited_key(gateway), invalid["revoked"]
    base = f"{gateway.url}/v1"
    with pytest.raises(openai.PermissionDeniedError) as refused:
        openai.OpenAI(base_url=base, api_key=secret, max_retries=0).chat.completions.create(
            model="gpt-4o", messages=HELLO
        )  # type: ignore[arg-type]
    assert refused.value.type == "model_not_allowed"
    with pytest.raises(openai.AuthenticationError) as unknown:
        openai.OpenAI(base_url=base, api_key=wrong, max_retries=0).models.list()
    assert unknown.value.type == "key_revoked"
    with pytest.raises(anthropic.PermissionDeniedError):
        anthropic.Anthropic(base_url=gateway.url, api_key=secret, max_retries=0).messages.create(
            model="claude-3-haiku", max_tokens=5, messages=HELLO
        )  # type: ignore[arg-type]
    with pytest.raises(anthropic.AuthenticationError) as claude:
        anthropic.Anthropic(base_url=gateway.url, api_key=wrong, max_retries=0).messages.create(
            model="claude-3-haiku", max_tokens=5, messages=HELLO
        )  # type: ignore[arg-type]
    assert claude.value.body["error"]["type"] == "authentication_error"  # type: ignore[index,call-overload]
    for key, code in ((secret, 403), (wrong, 401)):
        client = genai.Client(api_key=key, http_options={"base_url": gateway.url, "api_version": "v1beta"})
        with pytest.raises(genai_errors.ClientError) as google:
            client.models.generate_content(model="claude-3-haiku", contents="Hello!")
        assert google.value.code == code


def test_a_revoked_key_is_refused_within_a_second_and_an_edit_counts(gateway: Stack) -> None:
    name, secret = new_key(gateway)
    assert gateway.post(CHAT, BODY, secret).status_code == 200
    gateway.lm("key", "edit", name, "--models", "claude-*")
    wait_for(lambda: gateway.post(CHAT, BODY, secret).status_code == 403, 1.0, "the edit")
    gateway.lm("key", "revoke", name)
    began = time.monotonic()
    wait_for(lambda: gateway.post(CHAT, BODY, secret).status_code == 401, 1.0, "the revocation")
    assert time.monotonic() - began < 1.0


def test_both_secrets_work_while_the_old_one_is_kept(gateway: Stack) -> None:
    name, old = new_key(gateway)
    new = gateway.json("key", "rotate", name, "--keep-old", f"{3 / 86400}d")["data"]["secret"]
    wait_for(lambda: stack_knows(gateway, new), 2)
    assert stack_knows(gateway, old)
    wait_for(lambda: not stack_knows(gateway, old), 6, "the end of the old secret")
    assert stack_knows(gateway, new)


def test_no_secret_is_in_a_file_of_the_stack(gateway: Stack, invalid: dict[str, str]) -> None:
    secret = limited_key(gateway)
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:  # an error that quotes headers must not keep it
        raw.sendall(f"GET /nothing HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {secret}\r\n\r\n".encode())
        raw.recv(1000)
    for path in gateway.root.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert secret.encode() not in text, path
            assert invalid["revoked"].encode() not in text, path


def test_a_rate_is_the_sdk_s_own_error_with_the_time_to_wait(gateway: Stack) -> None:
    name, secret = new_key(gateway, "--rpm", "3", "--tpm", "100k")
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0)
    left = [
        client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO).headers["x-ratelimit-remaining-requests"]  # type: ignore[arg-type]
        for _ in range(3)
    ]  # fmt: skip
    assert left == ["2", "1", "0"]
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)  # type: ignore[arg-type]
    headers = refused.value.response.headers
    assert refused.value.type == "rate_limit_exceeded"
    assert 1 <= int(headers["retry-after"]) <= 60
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("3", "0")
    with pytest.raises(anthropic.RateLimitError):
        anthropic.Anthropic(base_url=gateway.url, api_key=secret, max_retries=0).messages.create(
            model="claude-3-haiku", max_tokens=5, messages=HELLO
        )  # type: ignore[arg-type]
    google = genai.Client(api_key=secret, http_options={"base_url": gateway.url, "api_version": "v1beta"})
    with pytest.raises(genai_errors.ClientError) as exhausted:
        google.models.generate_content(model="gemini-2.5-flash", contents="Hello!")
    assert (exhausted.value.code, exhausted.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert stack_knows(gateway, secret)  # what only reads is not counted
    own = _get(gateway, "/me/usage", secret).json()
    assert (own["key"], own["rates"]["rpm"]) == (name, {"limit": 3, "used": 3})
    assert own["rates"]["tpm"]["used"] > 0


def test_tokens_in_a_minute_end_too(gateway: Stack) -> None:
    _, secret = new_key(gateway, "--tpm", "20")
    answers = [gateway.post(CHAT, BODY, secret) for _ in range(6)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert error_of(answers[-1])["limit"]["kind"] == "tokens"
    stream = gateway.post("/v1/messages", {"model": "claude-3-haiku", "messages": HELLO, "max_tokens": 5, "stream": True}, secret)  # fmt: skip
    assert stream.status_code == 429


def test_open_requests_are_limited_and_a_stream_counts_until_it_ends(gateway: Stack, mock: Mock) -> None:
    _, secret = new_key(gateway, "--parallel", "1")
    mock.reset()  # what a test before it has scripted would come first
    mock.script({"type": "stream_fault", "kind": "stall", "stall_seconds": 20, "after_chunks": 1, "times": 1})
    with httpx.stream("POST", gateway.url + CHAT, json={**BODY, "stream": True}, headers={"authorization": f"Bearer {secret}"}, trust_env=False, timeout=30) as stream:  # fmt: skip
        parts = stream.iter_raw()  # kept: httpx closes the connection when the iterator is gone
        next(parts)
        answer = gateway.post(CHAT, BODY, secret)
        assert (answer.status_code, error_of(answer)["limit"]["kind"]) == (429, "parallel")
    wait_for(lambda: gateway.post(CHAT, BODY, secret).status_code == 200, 10, "the end of the stream")


def test_a_key_s_budget_ends_and_its_holder_sees_only_its_own(gateway: Stack, taskmaster: TaskMaster) -> None:
    (name, secret), (_, other) = new_key(gateway, "--budget", "0.00002/day", "--budget", "1/month"), new_key(gateway, "--budget", "5/week")  # fmt: skip
    statuses = [gateway.post(CHAT, {**BODY, "model": "gpt-4o"}, secret).status_code for _ in range(4)]
    assert (statuses[0], statuses[-1]) == (200, 429)
    refused = gateway.post(CHAT, {**BODY, "model": "gpt-4o"}, secret)
    assert error_of(refused)["type"] == "budget_exceeded"
    assert f"key '{name}'" in refused.text
    assert int(refused.headers["retry-after"]) > 0
    assert gateway.post(CHAT, {**BODY, "model": "gpt-4o"}, other).status_code == 200
    own = _get(gateway, "/me/usage", secret).json()
    assert [(b["period"], b["limit_usd"]) for b in own["budgets"]] == [("day", 0.00002), ("month", 1.0)]
    assert own["budgets"][0]["spent_usd"] >= 0.00002
    assert own["total"]["requests"] >= 1
    assert _get(gateway, "/me/usage", other).json()["budgets"][0]["period"] == "week"
    assert _get(gateway, "/me/usage", KEY).status_code == 400
    events = wait_for(lambda: [b for h, b, _ in list(taskmaster.received) if h["ce-type"] == "litellm.budget.warning" and b["name"] == name])  # fmt: skip
    assert [(e["scope"], e["period"]) for e in events] == [("key", "day")]
    shown = gateway.json("key", "show", name)["data"]["key"]["budgets"]
    assert shown[0]["spent_usd"] == own["budgets"][0]["spent_usd"]
    rows = gateway.json("usage", "--by", "key")["data"]["rows"]
    assert next(row for row in rows if row["name"] == name)["cost_usd"] == own["total"]["cost_usd"]
    gateway.lm("key", "edit", name, "--raise", "1", "--until", "1h")
    wait_for(lambda: gateway.post(CHAT, {**BODY, "model": "gpt-4o"}, secret).status_code == 200, 2, "the raise")


def test_the_holder_s_command_and_a_first_call(gateway: Stack) -> None:
    added = gateway.json(
        "agent", "add", f"a{secrets.token_hex(4)}", "--client", "curl", "--model", "gpt-4o-mini", "--rpm", "9"
    )
    assert added["data"]["first_call"] | {"cost_usd": ""} == {"model": "gpt-4o-mini", "cost_usd": "", "error": None}
    holder = Stack(gateway.root.parent, 0, {"LITELLM_API_KEY": added["data"]["secret"]})  # a folder without a stack
    own = holder.json("usage", "--key", "--url", gateway.url)["data"]["own"]
    assert (own["key"], own["rates"]["rpm"]) == (added["data"]["key"]["name"], {"limit": 9, "used": 1})
    refused = Stack(gateway.root.parent, 0, {"LITELLM_API_KEY": "sk-lm-x"}).lm("usage", "--key", "--url", gateway.url, check=False)  # fmt: skip
    assert (refused.returncode, "sk-lm-x" in refused.stderr) == (1, False)
