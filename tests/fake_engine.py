"""A Docker engine that answers over HTTP and runs nothing, for tests of how lm chooses and finds an engine."""

import json
import os
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

DOCKER_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")


class FakeEngine(socketserver.ThreadingTCPServer):
    """Answers what lm asks of an engine without containers; ``name`` is its ID.

    ``refused`` has the status and message for each path that ends with a key. ``containers`` are the ids that it lists.
    ``images`` has the digests that a registry gave to each local image. A test that fills it has an engine with images.
    """

    allow_reuse_address, daemon_threads = True, True

    def __init__(self, name: str, containers: tuple[str, ...] = ()) -> None:
        self.refused: dict[str, tuple[int, str]] = {}
        self.images: dict[str, list[str]] = {}
        refused, images = self.refused, self.images

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                answers = {
                    "/info": {"ID": name},
                    "/version": {"Version": "1", "ApiVersion": "1.41"},
                    "/containers/json": [{"Id": i} for i in containers],
                    "/json": [],
                }
                answer: Any = next((v for k, v in answers.items() if path.endswith(k)), "OK")
                status, message = next((v for k, v in refused.items() if path.endswith(k)), (200, ""))
                image = unquote(path.partition("/images/")[2]).removesuffix("/json")
                if images and image:
                    digests = next((d for name, d in images.items() if image == name or image in d), None)
                    answer = {"Id": "sha256:local", "RepoDigests": digests}
                    status, message = (200, "") if digests is not None else (404, "No such image")
                body = json.dumps({"message": message} if message else answer).encode()
                self.send_response(status)
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


def select_stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str = "") -> None:
    """Put a docker command on PATH that runs a shell script. No setting or configuration of Docker selects an engine."""
    for name in DOCKER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{docker_stub(tmp_path / 'bin', script)}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))


def docker_stub(folder: Path, script: str = "") -> Path:
    """Write a docker command that runs a shell script into the folder, and return the folder. It belongs on PATH."""
    folder.mkdir()
    stub = folder / "docker"
    stub.write_text(f"#!/bin/sh\n{script}")
    stub.chmod(0o755)
    return folder
