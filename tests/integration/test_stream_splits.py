"""A provider that sends its stream byte by byte, through a real gateway: rows, costs and answers are as if it came whole."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support import ROOT, Stack, running

MESSAGES = [{"role": "user", "content": "hi"}]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True}),
    "messages": ("/v1/messages", {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": MESSAGES, "stream": True}),
    "responses": ("/v1/responses", {"model": "gpt-4o-mini", "input": "hi", "stream": True}),
    "gemini": (
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        {"contents": [{"parts": [{"text": "hi"}]}]},
    ),
}


class Provider(ThreadingHTTPServer):
    """Answers every dialect with its recorded stream, ``step`` bytes at a time."""

    daemon_threads = True
    step = 1_000_000

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Provider

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        names = {"chat/completions": "chat", "messages": "messages", "responses": "responses"}
        name = next((n for part, n in names.items() if self.path.split("?")[0].endswith(part)), "gemini")
        raw = (ROOT / "tests" / "data" / "streams" / f"{name}.sse").read_bytes()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for at in range(0, len(raw), self.server.step):
            part = raw[at : at + self.server.step]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args: object) -> None: ...


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Stack]:
    env = {
        "OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_API_BASE": f"{provider.url}/v1",
        "ANTHROPIC_API_KEY": "sk-ant-test-0123456789", "ANTHROPIC_API_BASE": provider.url,
        "GOOGLE_API_KEY": "AIzaTest0123456789", "GEMINI_API_BASE": f"{provider.url}/v1beta",
    }  # fmt: skip
    with running(tmp_path_factory.mktemp("recorded"), **env) as made:
        yield made


@pytest.mark.parametrize("dialect", sorted(CALLS))
def test_byte_by_byte_is_as_good_as_whole(recorded: Stack, provider: Provider, dialect: str) -> None:
    path, body = CALLS[dialect]
    found = []
    for step in (1_000_000, 1):
        provider.step = step
        answer = recorded.post(path, body)
        assert answer.status_code == 200, answer.text
        row = recorded.row(answer.headers["x-litellm-call-id"])
        assert (row["status"], row["error_type"]) == ("succeeded", None), row
        found.append((row["prompt_tokens"], row["completion_tokens"], row["cost_usd"]))
        if dialect in ("messages", "gemini"):
            assert answer.content == (ROOT / "tests" / "data" / "streams" / f"{dialect}.sse").read_bytes()
    assert found[0] == found[1]
    assert found[0][2] > 0
