"""A Docker engine without containers, for tests of how lm chooses and finds an engine."""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

DOCKER_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")


class FakeEngine(socketserver.ThreadingTCPServer):
    """Answers what lm asks of an engine without containers; ``name`` is its ID."""

    allow_reuse_address, daemon_threads = True, True

    def __init__(self, name: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                answers = {"/info": {"ID": name}, "/version": {"Version": "1", "ApiVersion": "1.41"}, "/json": []}
                body = json.dumps(next((v for k, v in answers.items() if path.endswith(k)), "OK")).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 - the name is http.server's

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def host(self) -> str:
        return f"tcp://127.0.0.1:{self.server_address[1]}"


def docker_stub(folder: Path) -> Path:
    """Write a docker command that does nothing into the folder, and return the folder. It belongs on PATH."""
    folder.mkdir()
    stub = folder / "docker"
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    return folder
