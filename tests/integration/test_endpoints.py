"""Every endpoint of a provider goes to the address that the settings name. Flat prices of models.yaml are charged there."""

import base64
import io
import json
import re
import secrets
import wave
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pytest_httpserver import HTTPServer
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from werkzeug import Request, Response

from lmstack.gateway.app.routes import ROUTES, WEBSOCKET, Cost, Route
from support import KEY, Stack, running

MODELS = """
providers:
  cohere: {prefix: cohere, base: COHERE_API_BASE}
models:
  own-moderation: {provider: openai, model: own-moderation, mode: moderation}
  own-picture: {provider: openai, model: own-picture, mode: image_generation}
  own-edit: {provider: openai, model: own-edit, mode: image_edit}
  own-speech: {provider: openai, model: own-speech, mode: audio_speech}
  own-ears: {provider: openai, model: own-ears, mode: audio_transcription}
  own-rerank: {provider: cohere, model: own-rerank, mode: rerank}
  imagen: {provider: google, model: imagen-4, mode: image_generation}
  priced-moderation: {provider: openai, model: priced-moderation, mode: moderation, per_request: 0.001}
  priced-picture: {provider: openai, model: priced-picture, mode: image_generation, per_image: 0.04}
  priced-edit: {provider: openai, model: priced-edit, mode: image_edit, per_image: 0.05}
  priced-speech: {provider: openai, model: priced-speech, mode: audio_speech, per_character: 0.01}
  priced-ears: {provider: openai, model: priced-ears, mode: audio_transcription, per_second: 0.02}
  priced-rerank: {provider: cohere, model: priced-rerank, mode: rerank, per_request: 0.002}
  gpt-4o: {per_batch: 0.5}
"""
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
PARTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
PICTURE = {"created": 1, "data": [{"b64_json": "aGk="}]}
MODERATED = {"id": "modr-1", "model": "omni", "results": [{"flagged": False, "categories": {}, "category_scores": {}}]}
VECTOR = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}], "usage": {"prompt_tokens": 1, "total_tokens": 1}}  # fmt: skip
GEMINI = {"candidates": [{"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}}  # fmt: skip
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}}  # fmt: skip
CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "/moderations": MODERATED, "/images/generations": PICTURE, "/images/edits": PICTURE, "/embeddings": VECTOR,
    "/audio/transcriptions": {"text": "hi"}, "/rerank": {"id": "r", "results": [{"index": 0, "relevance_score": 0.5}]},
    "/count_tokens": {"input_tokens": 1}, ":countTokens": {"totalTokens": 1}, ":generateContent": GEMINI,
    "/chat/completions": CHAT, "/messages": MESSAGE, ":predict": {"predictions": [{"bytesBase64Encoded": "aGk="}]},
    "/batches": {"id": "batch_1", "object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": "file-1", "completion_window": "24h", "status": "validating", "created_at": 1},
    ":batchEmbedContents": {"embeddings": [{"values": [0.1]}]},
}  # fmt: skip


def sound(seconds: int) -> bytes:
    """Return a file of silence."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000 * seconds))
    return made.getvalue()


class Provider:
    """Answer as every provider, and keep the path of each request."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("").rstrip("/")
        self.paths: list[str] = []
        self.elsewhere: str | None = None  # where each request is sent on to
        server.expect_request(re.compile(".*")).respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        self.paths.append(request.path)
        if self.elsewhere:
            return Response(status=307, headers={"location": self.elsewhere + request.path})
        if request.path.endswith("/audio/speech"):
            return Response(b"sound", content_type="audio/mpeg")
        found = next((body for end, body in ANSWERS.items() if request.path.endswith(end)), None)
        return Response(json.dumps(found or {}), 200 if found else 404, content_type="application/json")


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """Run one server that is every provider."""
    with HTTPServer(host="127.0.0.1") as server:
        yield Provider(server)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Stack]:
    """Start a gateway with every provider at an address of its own."""
    env = {
        "OPENAI_API_KEY": "sk-test-openai-0123456789", "OPENAI_API_BASE": f"{provider.url}/company/v1",
        "ANTHROPIC_API_KEY": "sk-ant-test-0123456789", "ANTHROPIC_API_BASE": f"{provider.url}/claude",
        "GOOGLE_API_KEY": "AIzaTestGoogle0123456789", "GEMINI_API_BASE": f"{provider.url}/google/v1beta",
        "COHERE_API_KEY": "co-test-0123456789", "COHERE_API_BASE": f"{provider.url}/cohere",
    }  # fmt: skip
    with running(tmp_path_factory.mktemp("elsewhere"), MODELS, **env) as made:
        yield made


FILE = {"file": ("a.wav", sound(seconds=2), "audio/wav")}
IMAGE = {"image": ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50), "image/png")}


@pytest.mark.parametrize(
    ("path", "body", "upstream"),
    [
        ("/v1/chat/completions", {"model": "gpt-4o-mini", **HI}, "/company/v1/chat/completions"),
        ("/v1/moderations", {"input": "hi"}, "/company/v1/moderations"),
        ("/v1/moderations", {"model": "omni-moderation-latest", "input": "hi"}, "/company/v1/moderations"),
        ("/v1/moderations", {"model": "own-moderation", "input": "hi"}, "/company/v1/moderations"),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "hi"}, "/company/v1/embeddings"),
        ("/v1/images/generations", {"model": "own-picture", "prompt": "a cat"}, "/company/v1/images/generations"),
        ("/v1/images/edits", {"model": "own-edit", "prompt": "a cat", "files": IMAGE}, "/company/v1/images/edits"),
        ("/v1/audio/speech", {"model": "own-speech", "input": "hi", "voice": "alloy"}, "/company/v1/audio/speech"),
        ("/v1/audio/transcriptions", {"model": "own-ears", "files": FILE}, "/company/v1/audio/transcriptions"),
        ("/v1/rerank", {"model": "own-rerank", "query": "q", "documents": ["a"]}, "/cohere/v2/rerank"),
        ("/v1/messages", {"model": "claude-haiku-5-5", **HI}, "/claude/v1/messages"),
        ("/v1/messages/count_tokens", {"model": "claude-haiku-5-5", **HI}, "/claude/v1/messages/count_tokens"),
        ("/v1beta/models/gemini-2.5-flash:generateContent", PARTS, "/google/v1beta/models/gemini-2.5-flash:generateContent"),
        ("/v1beta/models/gemini-2.5-flash:countTokens", PARTS, "/google/v1beta/models/gemini-2.5-flash:countTokens"),
        ("/v1/embeddings", {"model": "gemini-embedding-001", "input": "hi"}, "/google/v1beta/models/gemini-embedding-001:batchEmbedContents"),
        ("/v1/images/generations", {"model": "imagen", "prompt": "a cat"}, "/google/v1beta/models/imagen-4:predict"),
    ],
)  # fmt: skip
def test_each_endpoint_goes_to_the_address_of_its_provider(
    elsewhere: Stack, provider: Provider, path: str, body: dict[str, Any], upstream: str
) -> None:
    provider.paths.clear()
    answer = send(elsewhere, path, dict(body))
    assert (answer.status_code, provider.paths) == (200, [upstream]), answer.text
    if path == "/v1/moderations" and body.get("model") != "own-moderation":  # OpenAI's own are free
        assert elsewhere.row(answer.headers["x-litellm-call-id"])["cost_usd"] == 0


CALLS = [
    ("/v1/moderations", {"input": "hi"}, "moderation", 0.001),
    ("/v1/images/generations", {"prompt": "a cat", "n": 3}, "picture", 0.12),
    ("/v1/images/edits", {"prompt": "a cat", "files": IMAGE}, "edit", 0.05),
    ("/v1/audio/speech", {"input": "hello", "voice": "alloy"}, "speech", 0.05),
    ("/v1/audio/transcriptions", {"files": FILE}, "ears", 0.04),
    ("/v1/rerank", {"query": "q", "documents": ["a"]}, "rerank", 0.002),
]


@pytest.mark.parametrize(("path", "body", "kind", "cost"), CALLS)
def test_a_budget_admits_a_model_with_a_flat_price_and_charges_it(
    elsewhere: Stack, provider: Provider, path: str, body: dict[str, Any], kind: str, cost: float
) -> None:
    task = f"flat-{secrets.token_hex(4)}"
    provider.paths.clear()
    refused = send(elsewhere, path, {**body, "model": f"own-{kind}"}, x_task_id=task, x_task_budget="1")
    assert (refused.status_code, kind_of(refused)) == (400, "cost_unknown"), refused.text
    assert provider.paths == []
    for budget in ("1", None):
        more = {"x_task_budget": budget} if budget else {}
        answer = send(elsewhere, path, {**body, "model": f"priced-{kind}"}, x_task_id=task, **more)
        assert answer.status_code == 200, answer.text
        row = elsewhere.row(answer.headers["x-litellm-call-id"])
        assert (row["cost_usd"], row["cost_estimated"]) == (pytest.approx(cost), 0)
    over = send(elsewhere, path, {**body, "model": f"priced-{kind}"}, x_task_id=task, x_task_budget=str(cost))
    assert (over.status_code, kind_of(over)) == (429, "budget_exceeded")
    assert len(provider.paths) == 2


def file_of(model: str) -> str:
    """Return the id that LiteLLM gives to a file which the provider of this model keeps."""
    return "file-" + base64.urlsafe_b64encode(f"litellm:file-1;model,{model}".encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("file", "address", "named", "opens"),
    [
        (file_of("gpt-4o"), "", {}, True),
        ("file-1", "", {"x_litellm_model": "gpt-4o"}, True),
        ("file-1", "?model=gpt-4o", {"x_litellm_model": "gpt-4o-mini"}, True),
        (file_of("gpt-4o"), "?model=gpt-4o-mini", {"x_litellm_model": "gpt-4o-mini"}, True),
        (file_of("gpt-4o-mini"), "?model=gpt-4o", {"x_litellm_model": "gpt-4o"}, False),
        ("file-1", "?model=gpt-4o-mini", {"x_litellm_model": "gpt-4o"}, False),
        ("file-1", "?model=gpt-4o&model=gpt-4o-mini", {}, False),
        ("file-1", "?model=cheap", {}, False),
        ("file-1", "", {}, False),
    ],
)
def test_a_flat_price_opens_batches_under_a_budget_and_is_charged_for_each(
    elsewhere: Stack, provider: Provider, file: str, address: str, named: dict[str, str], opens: bool
) -> None:
    """The price is that of the model which LiteLLM finds: in the file, then the address, then the header."""
    task, body = f"batch-{secrets.token_hex(4)}", {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}  # fmt: skip
    provider.paths.clear()
    made = send(elsewhere, f"/v1/batches{address}", body, x_task_id=task, x_task_budget="0.6", **named)
    if not opens:
        assert (made.status_code, kind_of(made)) == (400, "cost_unknown"), made.text
        assert "per_batch" in made.json()["error"]["message"]
        assert provider.paths == []
        return
    assert made.status_code == 200, made.text
    again = send(elsewhere, f"/v1/batches{address}", body, x_task_id=task, x_task_budget="0.5", **named)
    assert (again.status_code, kind_of(again)) == (429, "budget_exceeded")
    assert send(elsewhere, f"/v1/batches{address}", body, x_task_id=task, **named).status_code == 200
    rows = elsewhere.ask("requests", task=task)
    assert [(r["status"], r["cost_usd"], r["cost_estimated"], r["requested_model"]) for r in reversed(rows)] == [
        ("succeeded", 0.5, 1, "gpt-4o"), ("rejected", None, 0, "gpt-4o"), ("succeeded", 0.5, 1, "gpt-4o"),
    ]  # fmt: skip
    assert provider.paths == ["/company/v1/batches"] * 2


# What each kind of endpoint is asked for. A path that ends otherwise is asked with everything at once.
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("gpt-4o-mini", {**HI, "prompt": "hi"}),
    "embeddings": ("text-embedding-3-small", {"input": "hi"}),
    "messages": ("claude-haiku-5-5", HI),
    "responses": ("gpt-4o-mini", {"input": "hi"}),
    "generateContent": ("gemini-2.5-flash", PARTS),
    "streamGenerateContent": ("gemini-2.5-flash", PARTS),
    **{path.rpartition("/")[2]: (f"priced-{kind}", body) for path, body, kind, _ in CALLS},
}
ANYTHING = ("gpt-4o-mini", {**HI, "input": "hi", "prompt": "hi"})
CHARGED = [route for route in ROUTES if route.cost is not Cost.FREE]


@pytest.fixture(scope="module")
def spender(elsewhere: Stack) -> str:
    """Return a task that has spent something."""
    answer = send(elsewhere, "/v1/chat/completions", {"model": "gpt-4o-mini", **HI}, x_task_id="spender")
    assert elsewhere.row(answer.headers["x-litellm-call-id"])["cost_usd"] > 1e-7
    return "spender"


@pytest.mark.parametrize("route", CHARGED, ids=lambda route: f"{route.method} {route.path}")
def test_over_a_budget_each_charged_route_is_refused_and_reaches_no_provider(
    elsewhere: Stack, provider: Provider, spender: str, route: Route
) -> None:
    model, body = ASKED.get(re.split("[/:]", route.path)[-1], ANYTHING)
    path = re.sub(r"\{[^}]*\}", model, route.path)
    provider.paths.clear()
    if route.method == WEBSOCKET:
        refuse_websocket(elsewhere, f"{path}?model={model}", spender)
        assert provider.paths == []
        return
    answer = send(elsewhere, path, {"model": model, **body}, route.method, x_task_id=spender, x_task_budget="0.0000001")
    wanted = (400, "cost_unknown") if route.cost is Cost.FLAT else (429, "budget_exceeded")
    assert (answer.status_code, kind_of(answer)) == wanted, answer.text
    assert provider.paths == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "gpt-4o-mini", **HI}),
        ("/v1/messages", {"model": "claude-haiku-5-5", **HI}),
        ("/v1beta/models/gemini-2.5-flash:generateContent", PARTS),
        ("/v1/audio/transcriptions", {"model": "own-ears", "files": FILE}),
    ],
)
def test_no_request_follows_its_provider_to_another_host(
    elsewhere: Stack, provider: Provider, path: str, body: dict[str, Any]
) -> None:
    """The last test of this file: the failing models cool down."""
    with HTTPServer(host="127.0.0.1") as server:
        other = Provider(server)
        provider.elsewhere = other.url
        answer = send(elsewhere, path, {**body, "fallbacks": []}, x_lm_no_fallback="1")
        provider.elsewhere = None
        assert other.paths == []
    assert answer.status_code == 500


def refuse_websocket(stack: Stack, path: str, task: str) -> None:
    """Expect that the gateway refuses a WebSocket, or closes it by itself."""
    headers = {"authorization": f"Bearer {KEY}", "x-task-id": task, "x-task-budget": "0.0000001"}
    url = stack.url.replace("http", "ws", 1) + path

    def read_to_the_end() -> None:
        with connect(url, additional_headers=headers) as socket:
            while True:
                socket.recv(timeout=10)

    with pytest.raises((InvalidStatus, ConnectionClosed)):
        read_to_the_end()


def kind_of(answer: httpx.Response) -> str:
    """Return the type of an error. LiteLLM has a form of its own for /audio/speech, and words of its own for /v1/messages."""
    body = answer.json()
    error = body.get("error") or body["detail"]
    return str((error.get("provider_specific_fields") or {}).get("type") or error["type"])


def send(stack: Stack, path: str, body: dict[str, Any], method: str = "POST", **headers: str) -> httpx.Response:
    """Send JSON, or a form where the body has files."""
    given = {"authorization": f"Bearer {KEY}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    files = body.pop("files", None)
    more: dict[str, Any] = {"data": body, "files": files} if files else {"json": body}
    return httpx.request(method, stack.url + path, headers=given, timeout=60, trust_env=False, **more)
