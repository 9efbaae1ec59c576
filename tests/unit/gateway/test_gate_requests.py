"""Whole requests through the gate, before an app that answers everything: who is refused, and what a client gets to see."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from starlette.types import Message, Receive, Scope, Send

from lmstack.gateway.app.bodies import InFlight, RefusedError
from lmstack.gateway.app.gate import RequestGate, gate_settings
from lmstack.gateway.app.middleware import GatewayMiddleware
from lmstack.keys.key import Key

KEY = "sk-gate-0123456789abcdef"
BEARER = (b"authorization", f"Bearer {KEY}".encode())
CHAT = "/v1/chat/completions"
# What a provider's answer may carry, as LiteLLM passes it on.
FROM_PROVIDER = [
    (b"llm_provider-x-echo-key", b"Bearer sk-provider-secret"),
    (b"llm_provider-set-cookie", b"session=1"),
    (b"llm_provider-x-ratelimit-remaining-tokens", b"7"),
    (b"llm_provider-retry-after", b"3"),
    (b"access-control-allow-origin", b"*"),
    (b"x-lm-model", b"gpt-4o"),
]


@dataclass
class Client:
    """A client of a gate. ``reads`` counts how often the gate took a part of its body."""

    environ: dict[str, str] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    recorded: list[tuple[str | None, str, int]] = field(default_factory=list)  # task, path and status of a row
    reads: int = 0
    body: bytes = b"{}"
    has_page: bool = True
    pages: list[str] = field(default_factory=list)

    def send(self, method: str, path: str, *headers: tuple[bytes, bytes], address: str = "127.0.0.1") -> list[Message]:
        """Send one request, and return the messages of the answer."""
        scope = {
            "type": "http", "method": method, "path": path, "query_string": b"", "client": (address, 5),
            "headers": [(b"host", b"localhost:4000"), *headers],
        }  # fmt: skip
        answer: list[Message] = []

        async def receive() -> Message:
            self.reads += 1
            return {"type": "http.request", "body": self.body, "more_body": False}

        async def keep(message: Message) -> None:
            answer.append(message)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            self.served.append(scope["path"])
            await send({"type": "http.response.start", "status": 200, "headers": list(FROM_PROVIDER)})
            await send({"type": "http.response.body", "body": b"ok"})

        def note(reason: str, address: str, path: str) -> None:
            self.refused.append((reason, address, path))

        async def page(scope: Scope, receive: Receive, send: Send) -> None:
            self.pages.append(scope["path"])
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def record(headers: Mapping[str, str], path: str, refusal: RefusedError, key: Key | None) -> None:
            self.recorded.append((headers.get("x-task-id"), path, refusal.status))

        gate = RequestGate(
            app, lambda: KEY, note, record, gate_settings(self.environ), page=page if self.has_page else None
        )
        asyncio.run(gate(scope, receive, keep))
        return answer


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "reason"),
    [
        ("POST", CHAT, (), 401, "auth_error"),
        ("POST", CHAT, ((b"authorization", b"Bearer wrong"),), 401, "auth_error"),
        ("POST", CHAT, (BEARER, (b"origin", b"https://evil.example")), 403, "foreign_origin"),
        ("POST", "/openai/v1/chat/completions", (BEARER,), 404, "not_served"),
        ("POST", "/key/generate", (BEARER,), 404, "not_served"),
    ],
)
def test_a_refused_request_is_noted_and_nothing_of_its_body_is_read(
    method: str, path: str, headers: tuple[tuple[bytes, bytes], ...], status: int, reason: str
) -> None:
    client = Client()
    assert client.send(method, path, *headers, address="10.0.0.9")[0]["status"] == status
    assert client.refused == [(reason, "10.0.0.9", path)]
    assert (client.served, client.reads) == ([], 0)


@pytest.mark.parametrize("second", [b"other", b"", b"gpt-4o"])
def test_two_headers_with_a_model_are_refused_with_a_row(second: bytes) -> None:
    client = Client()
    model, task = (b"x-litellm-model", b"gpt-4o"), (b"x-task-id", b"T-1")
    assert client.send("POST", "/v1/batches", BEARER, task, model)[0]["status"] == 200
    assert client.send("POST", "/v1/batches", BEARER, task, model, (b"x-litellm-model", second))[0]["status"] == 400
    assert (client.served, client.recorded) == (["/v1/batches"], [("T-1", "/v1/batches", 400)])


def test_the_page_answers_its_own_routes_and_checks_the_key_itself() -> None:
    client = Client()
    for method, path in (
        ("GET", "/dashboard"),
        ("HEAD", "/dashboard/requests"),
        ("GET", "/api/v1/usage"),
        ("POST", "/dashboard/login"),
    ):
        assert client.send(method, path)[0]["status"] == 200
    assert client.pages == ["/dashboard", "/dashboard/requests", "/api/v1/usage", "/dashboard/login"]
    assert client.send("POST", "/dashboard/login", (b"content-length", b"20000"))[0]["status"] == 413
    assert client.send("GET", "/dashboard", (b"origin", b"https://evil.example"))[0]["status"] == 403
    for method, path in (
        ("POST", "/dashboard"),
        ("POST", "/api/v1/usage"),
        ("PUT", "/dashboard/login"),
        ("GET", "/dashboardx"),
    ):
        assert client.send(method, path)[0]["status"] == 404
    assert (len(client.pages), client.served) == (4, [])


def test_a_page_that_is_off_is_not_there() -> None:
    client = Client(has_page=False)
    assert client.send("GET", "/dashboard", BEARER)[0]["status"] == 404
    assert client.send("POST", "/dashboard/login")[0]["status"] == 404
    assert (client.served, client.pages) == ([], [])


STORED = [
    (verb, version + path)
    for version in ("", "/v1")
    for verb, path in [
        ("GET", "/files"), ("POST", "/files"), ("GET", "/files/file-1"), ("DELETE", "/files/file-1"), ("GET", "/files/file-1/content"),
        ("GET", "/batches"), ("POST", "/batches"), ("GET", "/batches/batch_1"), ("POST", "/batches/batch_1/cancel"),
    ]
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/models"), ("HEAD", "/v1/models"), ("DELETE", "/v1/files/file-1")]
)
def test_a_body_has_its_bounds_with_every_method(method: str, path: str) -> None:
    """LiteLLM reads the body also of a GET."""
    client = Client()
    assert client.send(method, path, BEARER, (b"content-length", b"999999999"))[0]["status"] == 413
    assert client.send(method, path, BEARER)[0]["status"] == 200
    client.body = b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"
    assert client.send(method, path, BEARER)[0]["status"] == 400
    assert client.served == [path]


def test_a_body_of_a_caller_without_a_key_is_not_read() -> None:
    client = Client()
    assert client.send("GET", "/models", (b"content-length", b"999999999"))[0]["status"] == 200
    assert client.reads == 0


@pytest.mark.parametrize(("method", "path"), STORED)
def test_files_and_batches_are_for_those_with_the_key_and_no_web_page(method: str, path: str) -> None:
    client = Client()
    for headers, status in (
        ((), 401),
        (((b"authorization", b"Bearer wrong"),), 401),
        (((b"authorization", f"Bearer {KEY[:-1]}".encode()),), 401),
        ((BEARER, (b"origin", b"https://evil.example")), 403),
    ):
        assert client.send(method, path, *headers)[0]["status"] == status
    assert (client.served, client.reads) == ([], 0)
    if method == "POST":
        assert client.send(method, path, BEARER, (b"content-length", b"999999999"))[0]["status"] == 413
        assert (client.served, client.reads) == ([], 0)
    assert client.send(method, path, BEARER)[0]["status"] == 200


def test_a_request_with_the_key_is_served_and_its_body_is_read() -> None:
    client = Client()
    assert client.send("POST", CHAT, BEARER)[0]["status"] == 200
    assert (client.served, client.refused, client.reads) == ([CHAT], [], 1)


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [("127.0.0.1", (BEARER,), 200), ("::1", (BEARER,), 200), ("127.0.0.1", (), 401), ("10.0.0.9", (BEARER,), 404)],
)
def test_management_routes_are_for_the_operator_on_loopback(
    address: str, headers: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    client = Client({"LITELLM_ADMIN": "on"})
    assert client.send("GET", "/key/list", *headers, address=address)[0]["status"] == status


@pytest.mark.parametrize(
    ("word", "status"), [("on", 200), ("True", 200), ("1", 200), ("off", 404), ("", 404), ("no", 404)]
)
def test_the_gateway_reads_the_admin_switch_as_lm_does(word: str, status: int) -> None:
    assert Client({"LITELLM_ADMIN": word}).send("GET", "/key/list", BEARER)[0]["status"] == status


def test_a_client_sees_of_a_providers_headers_only_the_harmless_ones() -> None:
    shown = dict(Client().send("POST", CHAT, BEARER)[0]["headers"])
    assert shown == {
        b"llm_provider-x-ratelimit-remaining-tokens": b"7", b"llm_provider-retry-after": b"3", b"x-lm-model": b"gpt-4o",
    }  # fmt: skip


def test_cors_headers_are_sent_to_a_configured_origin_only() -> None:
    client = Client({"LITELLM_ORIGINS": "https://ai.example.com"})
    ours = dict(client.send("POST", CHAT, BEARER, (b"origin", b"https://ai.example.com"))[0]["headers"])
    assert ours[b"access-control-allow-origin"] == b"https://ai.example.com"
    local = dict(client.send("POST", CHAT, BEARER, (b"origin", b"http://localhost:3000"))[0]["headers"])
    assert b"access-control-allow-origin" not in local


def test_a_request_without_room_for_its_body_is_asked_to_come_again() -> None:
    """The first request holds its two bytes until it ends, and three is the most."""
    statuses: list[tuple[int, dict[bytes, bytes]]] = []
    scope = {
        "type": "http", "method": "POST", "path": CHAT, "query_string": b"", "client": ("127.0.0.1", 5),
        "headers": [(b"host", b"localhost:4000"), BEARER],
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append((message["status"], dict(message["headers"])))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not statuses:
            await gate({**scope}, receive_again, keep)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    receive_again = receive

    async def record(*_: object) -> None:
        return None

    gate = RequestGate(app, lambda: KEY, lambda *_: None, record, gate_settings({}))
    gate._in_flight = InFlight(3)
    asyncio.run(gate({**scope}, receive, keep))
    asyncio.run(gate({**scope}, receive, keep))
    assert [status for status, _ in statuses] == [503, 200, 200]
    assert (statuses[0][1][b"retry-after"], gate._in_flight.held) == (b"1", 0)


def test_a_body_that_litellm_reads_as_json_is_checked_whatever_its_content_type() -> None:
    client = Client(body=b"[" * 101 + b"]" * 101)
    for kind, status in ((b"multipart/x", 400), (b"multipart/form-data; boundary=b", 200), (b"text/plain", 400)):
        answer = client.send("POST", "/v1/audio/transcriptions", BEARER, (b"content-type", kind))
        assert answer[0]["status"] == status, kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/rerank", b"application/json"), ("/v1/audio/speech", b"application/json"),
        ("/v1beta/models/m:generateContent", b"application/json"), ("/v1/images/edits", b"application/x-www-form-urlencoded"),
    ],
)  # fmt: skip
def test_json_from_curl_without_a_content_type_is_json(path: str, kind: bytes) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])

    curl = [(b"content-type", b"application/x-www-form-urlencoded")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": curl}
    asyncio.run(GatewayMiddleware(app)(scope, None, None))  # type: ignore[arg-type]
    assert seen == [(b"content-type", kind)]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"[]", 400), (b" null", 400), (b'"x"', 400), (b"5", 400), (b' {"a": 1}', 200), (b"", 200), (b"{", 200)],
)
def test_json_that_is_no_object_is_refused(body: bytes, status: int) -> None:
    assert Client(body=body).send("POST", CHAT, BEARER)[0]["status"] == status


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", CHAT, ((b"content-length", b"999999999"),), b"", 413),
        ("POST", CHAT, (), b"[" * 101 + b"]" * 101, 400),
        ("POST", CHAT, (), b"[]", 400),
        ("POST", CHAT, (), b'{"success_callback": ["langfuse"]}', 400),
        ("POST", "/v1/messages/count_tokens", (), b"[]", 400),
        ("POST", "/v1/batches/bGl0ZWxsbTp4/cancel", (), b"{}", 400),
        ("DELETE", "/v1/files/bGl0ZWxsbTp4", (), b"{}", 400),
    ],
)
def test_a_call_that_is_refused_with_a_valid_key_has_a_row_where_its_route_has_rows(
    method: str, path: str, headers: tuple[tuple[bytes, bytes], ...], body: bytes, status: int
) -> None:
    client, task = Client(body=body), (b"x-task-id", b"TM-1")
    assert client.send(method, path, BEARER, task, *headers)[0]["status"] == status
    assert (client.recorded, client.refused, client.served) == ([("TM-1", path, status)], [], [])
    assert client.send(method, path, task, *headers)[0]["status"] == 401
    assert (len(client.recorded), len(client.refused)) == (1, 1), "without a key there is a count only"
    assert client.send("GET", "/v1/files/bGl0ZWxsbTp4", BEARER)[0]["status"] == 400
    assert (len(client.recorded), len(client.refused)) == (1, 2), "a call that only reads has no row"


def test_a_session_counts_its_message_until_it_ends() -> None:
    held: list[int] = []
    scope = {
        "type": "websocket", "path": "/v1/realtime", "query_string": b"model=m", "client": ("127.0.0.1", 5),
        "headers": [(b"host", b"localhost:4000"), BEARER],
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "websocket.receive", "text": "12345"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        held.append(gate._in_flight.held)

    gate = RequestGate(app, lambda: KEY, None, None, gate_settings({}))  # type: ignore[arg-type]
    asyncio.run(gate(scope, receive, None))  # type: ignore[arg-type]
    assert (held, gate._in_flight.held) == ([5], 0)
