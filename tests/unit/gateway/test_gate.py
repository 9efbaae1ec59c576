"""What stands before LiteLLM's app: the table of routes, Host and Origin, the key, the size and form of a body."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
from starlette.types import Message

from lmstack.gateway.app import bodies, credentials, routes
from lmstack.gateway.app.origins import origins_from
from lmstack.gateway.app.routes import Access


@pytest.mark.parametrize(
    ("method", "path", "access"),
    [
        ("GET", "/health", Access.ANYONE),
        ("GET", "/models", Access.ANYONE),
        ("GET", "/health/liveliness", Access.ANYONE),
        ("POST", "/v1/chat/completions", Access.KEY),
        ("POST", "/chat/completions", Access.KEY),
        ("POST", "/engines/gpt-4o/chat/completions", Access.KEY),
        ("POST", "/openai/deployments/azure/gpt-4o/embeddings", Access.KEY),
        ("POST", "/v1beta/models/gemini-2.5-flash:streamGenerateContent", Access.KEY),
        ("POST", "/v1/messages/count_tokens", Access.KEY),
        ("GET", "/v1/models/gpt-4o", Access.KEY),
        ("GET", "/v1/chat/completions", None),
        ("POST", "/openai/v1/chat/completions", None),
        ("POST", "/v1/chat/completions/", None),
        ("POST", "//v1/chat/completions", None),
        ("POST", "/V1/chat/completions", None),
        ("POST", "/anthropic/v1/messages", None),
        ("DELETE", "/openai/v1/models/ft-x", None),
        ("GET", "/health/test_connection", None),
        ("GET", "/key/list", None),
        ("HEAD", "/health", Access.ANYONE),
        ("HEAD", "/v1/chat/completions", None),
        ("GET", "/v1/model/info", Access.MASTER),
        ("GET", "/", None),
        ("POST", "/mcp", None),
    ],
)
def test_only_what_is_in_the_table_is_served(method: str, path: str, access: Access | None) -> None:
    found = routes.find(method, path)
    assert (found and found.access) == access


@pytest.mark.parametrize(
    ("path", "opened"),
    [
        ("/key/list", True), ("/v2/user/info", True), ("/", True), ("/config/update", True), ("/ui/", False), ("/openapi.json", False),
        ("/openai/v1/chat/completions", False), ("/anthropic/v1/messages", False), ("/mcp", False), ("/v1/rag/query", False),
        ("/usage/ai/chat", False), ("/mcp-rest/test/connection", False), ("/guardrails/test_custom_code", False),
        ("/cache/settings/test", False), ("/prompts/test", False), ("/keys", False), ("", False), ("key/list", False),
    ],
)  # fmt: skip
def test_the_admin_setting_opens_management_and_nothing_that_reaches_a_provider(path: str, opened: bool) -> None:
    found = routes.find("POST", path, admin=True)
    assert (found is not None and found.access is Access.OPERATOR) == opened


def test_a_404_names_the_setting_that_opens_a_route_or_says_that_none_does() -> None:
    assert "LITELLM_ADMIN=on" in routes.closed("/key/list")
    assert "LITELLM_ADMIN" not in routes.closed("/openai/v1/chat/completions")


ORIGINS = {"LITELLM_ORIGINS": "https://ai.example.com, http://app.internal:8080", "LITELLM_HOST": "gateway.lan"}


@pytest.mark.parametrize(
    ("host", "origin", "served"),
    [
        ("localhost:4000", "", True),
        ("127.0.0.1:4000", "", True),
        ("[::1]:4000", "", True),
        ("192.168.1.7:4000", "", True),
        ("host.docker.internal:4000", "", True),
        ("litellm-proxy:4000", "", True),
        ("gateway.lan:4000", "", True),
        ("ai.example.com", "", True),
        ("evil.example", "", False),
        ("localhost.evil.example", "", False),
        ("evil.example:4000", "http://evil.example:4000", False),
        ("localhost@evil.example", "", False),
        ("127.0.0.1.nip.io:4000", "", False),
        ("", "", True),
        ("", "http://localhost:3000", False),
        ("upstream_name", "", True),
        ("my-machine:4000", "", True),
        ("host.containers.internal:4000", "", True),
        ("localhost:notaport", "", False),
        ("localhost:4000", "https://evil.example", False),
        ("localhost:4000", "null", False),
        ("localhost:4000", "file://", False),
        ("localhost:4000", "https://localhost.evil.example", False),
        ("localhost:4000", "http://localhost:3000", True),
        ("localhost:4000", "https://ai.example.com", True),
        ("localhost:4000", "http://ai.example.com", False),
        ("localhost:4000", "http://app.internal:8080", True),
        ("192.168.1.7:4000", "http://192.168.1.7:4000", True),
        ("192.168.1.7:4000", "http://192.168.1.8:4000", False),
    ],
)
def test_a_foreign_host_or_origin_is_refused(host: str, origin: str, served: bool) -> None:
    headers = {b"host": host.encode()} | ({b"origin": origin.encode()} if origin else {})
    assert (origins_from(ORIGINS).objection(headers) is None) == served


def test_a_page_of_another_site_is_refused_also_where_the_browser_sends_no_origin() -> None:
    image = {b"host": b"localhost:4000", b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"no-cors"}
    link = {**image, b"sec-fetch-mode": b"navigate"}
    assert origins_from({}).objection(image) is not None
    assert origins_from({}).objection(link) is None


@pytest.mark.parametrize(
    ("headers", "path", "query", "key"),
    [
        ({b"authorization": b"Bearer k"}, "/v1/chat/completions", b"", "k"),
        ({b"authorization": b"bearer k"}, "/v1/chat/completions", b"", "k"),
        ({b"authorization": b"k"}, "/v1/chat/completions", b"", "k"),
        ({b"x-api-key": b"k"}, "/v1/messages", b"", "k"),
        ({b"authorization": b"Bearer first", b"x-api-key": b"second"}, "/v1/messages", b"", "first"),
        ({b"x-litellm-api-key": b"Bearer own", b"authorization": b"Bearer other"}, "/v1/messages", b"", "own"),
        ({}, "/v1beta/models/g:generateContent", b"key=k&alt=sse", "k"),
        ({}, "/v1/chat/completions", b"key=k", None),
        ({}, "/v1/chat/completions", b"", None),
    ],
)
def test_the_key_is_found_where_litellm_finds_it(
    headers: dict[bytes, bytes], path: str, query: bytes, key: str | None
) -> None:
    assert credentials.key_of(headers, path, query) == key


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (_json({"messages": [{"role": "user", "content": "a: b [ { \\ \" " * 50}] * 500}), False),
        (b"[" * 100 + b"]" * 100, False),
        (b"[" * 101 + b"]" * 101, True),
        (b'{"a":' * 101 + b"1" + b"}" * 101, True),
        (b"[" * 5000, True),
        # A bracket in a text must not hide one outside.
        (b'["]",' * 101 + b"1" + b"]" * 101, True),
        (_json({"text": "[" * 5000}), False),
        (_json({"text": ':"' * 200_000}), False),
        (_json({str(n): 1 for n in range(100_001)}), True),
        (_json({str(n): 1 for n in range(100_000)}), False),
        (b"[" * 2_000_000, True),
        (b"[]," * 150_000, True),
        (_json({"input": [[n] for n in range(50_000)]}), False),
        (b"not json", False),
        (b"", False),
    ],
)  # fmt: skip
def test_json_that_takes_long_to_parse_is_refused(body: bytes, refused: bool) -> None:
    if refused:
        with pytest.raises(bodies.RefusedError) as told:
            bodies.check_json(body)
        assert told.value.status == 400
    else:
        bodies.check_json(body)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (_json({"model": "m", "success_callback": ["langfuse"]}), True),
        (_json({"callbacks": ["x"]}), True),
        (b'{"c\\u0061llbacks": ["x"]}', True),
        (b'{"success\\u005Fcallback": ["x"]}', True),
        (_json({"messages": [{"content": '{"success_callback": 1}'}]}), False),
        (_json({"metadata": {"callbacks": 1}}), False),
        (b'"success_callback" is no JSON', False),
    ],
)
def test_a_clients_own_logging_callbacks_are_refused(body: bytes, refused: bool) -> None:
    if refused:
        with pytest.raises(bodies.RefusedError, match="does not take it"):
            bodies.check_callbacks(body)
    else:
        bodies.check_callbacks(body)


@pytest.mark.parametrize(
    "body", [b"[" * 10_000_000, b"{" * 10_000_000, b'"' * 10_000_000, b'{"a":[' * 1_000_000, b'"[":[' * 1_500_000]
)
def test_no_body_is_looked_at_for_long(body: bytes) -> None:
    """The check takes no longer than a parse of harmless JSON of that size, twice over: a ratio of CPU times."""
    harmless = json.dumps({"messages": [{"role": "user", "content": "x" * 60}] * (len(body) // 100)}).encode()
    parse = _cpu_seconds(lambda: json.loads(harmless))

    def check() -> None:
        with contextlib.suppress(bodies.RefusedError):
            bodies.check_json(body)

    assert _cpu_seconds(check) < 2 * parse + 0.05


def _cpu_seconds(action: Callable[[], object]) -> float:
    """Return the CPU time of this thread, the least of three runs: other processes do not count."""
    times = []
    for _ in range(3):
        began = time.thread_time()
        action()
        times.append(time.thread_time() - began)
    return min(times)


def _messages(*parts: bytes, end: bool = True) -> Callable[[], Awaitable[Message]]:
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if end and waiting:
        waiting[-1]["more_body"] = False

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def _read(receive: Callable[[], Awaitable[Message]], *headers: tuple[bytes, bytes], most: int = 10) -> bytes:
    return asyncio.run(bodies.read({"headers": list(headers)}, receive, most, idle=0.05))


def test_a_body_is_read_whole_and_given_on() -> None:
    assert _read(_messages(b"01234", b"56789")) == b"0123456789"


@pytest.mark.parametrize(
    ("receive", "headers", "status"),
    [
        (_messages(b"01234", b"567890"), (), 413),
        (_messages(b"0"), ((b"content-length", b"11"),), 413),
        (_messages(b"0"), ((b"content-length", b"-1"),), 413),
        (_messages(b"0"), ((b"content-length", b"9" * 5000),), 413),
        (_messages(b"0", end=False), (), 408),
    ],
)
def test_a_body_that_is_too_large_or_does_not_come_is_refused(
    receive: Callable[[], Awaitable[Message]], headers: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    with pytest.raises(bodies.RefusedError) as told:
        _read(receive, *headers)
    assert told.value.status == status


@pytest.mark.parametrize(
    ("pause", "size", "length", "ends"), [(2, 1, 500, 12), (2, 2000, 500, 500), (60, 100_000, 900, 660)]
)
def test_a_body_that_comes_too_slowly_is_refused(
    monkeypatch: pytest.MonkeyPatch, pause: int, size: int, length: int, ends: int
) -> None:
    """By a clock of our own: a part comes every few seconds. After ten seconds there is a lowest rate, and ten minutes is the end."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(bodies, "time", SimpleNamespace(monotonic=lambda: clock.now))

    async def receive() -> Message:
        clock.now += pause
        return {"type": "http.request", "body": b"x" * size, "more_body": clock.now < length}

    if ends == length:
        _read(receive, most=10**9)
    else:
        with pytest.raises(bodies.RefusedError, match="too slowly"):
            _read(receive, most=10**9)
    assert clock.now == ends


def test_the_bodies_of_open_requests_have_a_bound_together() -> None:
    memory = bodies.InFlight(10)
    with memory.request() as hold:
        hold(6)
        with memory.request() as other:
            other(4)
            with pytest.raises(bodies.RefusedError) as told:
                other(1)
        assert told.value.status == 503
        assert memory.held == 6
        hold(4)
    assert memory.held == 0
