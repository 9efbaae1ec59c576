"""A web page of another origin in the user's browser can neither read from the gateway nor spend. Driven with a real Chromium."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support import KEY, Mock, Stack

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")

# What a hostile page tries. Each entry of `told` is what the page could read; a failed fetch is `error`.
PAGE = """<!doctype html><body><script>
const chat = JSON.stringify({model: 'gpt-4o-mini', messages: [{role: 'user', content: 'hi'}]});
const gemini = JSON.stringify({contents: [{parts: [{text: 'hi'}]}]});
const tries = {
  'chat with the key': ['/v1/chat/completions', {method: 'POST', body: chat, headers: {'authorization': 'Bearer KEY', 'content-type': 'application/json'}}],
  'a simple post': ['/v1/chat/completions', {method: 'POST', body: chat, headers: {'content-type': 'text/plain'}}],
  'a simple post with the key in the query': ['/v1beta/models/gemini-2.0-flash:generateContent?key=KEY', {method: 'POST', body: gemini, headers: {'content-type': 'text/plain'}}],
  'a post whose answer it does not want': ['/v1beta/models/gemini-2.0-flash:generateContent?key=KEY', {method: 'POST', mode: 'no-cors', body: gemini}],
  'the models': ['/models', {}],
  'the health': ['/health', {}],
};
(async () => {
  const told = {};
  for (const [name, [path, options]] of Object.entries(tries)) {
    try { told[name] = await (await fetch('GATEWAY' + path, options)).text(); } catch (error) { told[name] = 'error'; }
  }
  document.title = 'done';
  document.body.textContent = 'TOLD' + JSON.stringify(told) + 'END';
})();
</script></body>"""


@pytest.fixture
def site(gateway: Stack) -> Iterator[int]:
    """The port of a web server with the hostile page."""
    page = PAGE.replace("GATEWAY", f"http://localhost:{gateway.port}").replace("KEY", KEY).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def browse(folder: Path, url: str) -> str:
    """Open a page and return its text once its script is done."""
    argv = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}",
        "--host-resolver-rules=MAP *.example 127.0.0.1", "--virtual-time-budget=20000", "--dump-dom", url,
    ]  # fmt: skip
    return subprocess.run(argv, capture_output=True, text=True, timeout=90, check=True).stdout


def test_a_page_of_another_origin_can_neither_read_nor_spend(
    gateway: Stack, mock: Mock, site: int, tmp_path: Path
) -> None:
    before, rows = len(mock.requests()), gateway.ask("requests", limit=1000)
    shown = browse(tmp_path, f"http://evil.example:{site}/")
    told = json.loads(shown.split("TOLD", 1)[1].split("END", 1)[0])
    assert set(told.pop("a post whose answer it does not want")) == set()
    assert set(told.values()) == {"error"}
    assert len(told) == 5
    assert len(mock.requests()) == before
    assert gateway.ask("requests", limit=1000) == rows


def test_a_name_that_was_pointed_at_loopback_is_refused(gateway: Stack, tmp_path: Path) -> None:
    """DNS rebinding: the page is of the same origin for the browser, and only the Host header tells."""
    shown = browse(tmp_path, f"http://rebound.example:{gateway.port}/models")
    assert "which is not this gateway" in shown
    assert "gpt-4o" not in shown


def test_the_page_that_tries_would_have_succeeded_from_a_configured_origin(gateway: Stack, tmp_path: Path) -> None:
    """The same browser reads what it may: the test above cannot pass because Chromium does not run."""
    assert "gpt-4o" in browse(tmp_path, f"http://localhost:{gateway.port}/models")
