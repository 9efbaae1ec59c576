"""Real things for the tests: a stack in its own folder, llmock as every provider, a TaskMaster that listens."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from lmstack.ledger import queries

ROOT = Path(__file__).resolve().parents[1]
LM = [sys.executable, "-m", "lmstack"]
KEY = "taskmaster-litellm-key"
# No setting of the developer may reach a stack under test.
LEAKS = (
    "OPENAI",
    "ANTHROPIC",
    "GOOGLE",
    "GEMINI",
    "OLLAMA",
    "LITELLM",
    "TASKMASTER",
    "LEDGER",
    "REDIS",
    "LMSTACK",
    "ALERT",
    "OTEL",
)
T = TypeVar("T")


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(check: Callable[[], T], seconds: float) -> T:
    """Call ``check`` until it returns something true, or the time is over. Return its last value."""
    deadline = time.monotonic() + seconds
    while not (value := check()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


def wait_for(check: Callable[[], T], seconds: float = 60.0, what: str = "") -> T:
    """Call ``check`` until it returns something true, and return that. A failure shows the last value."""
    value = wait_until(check, seconds)
    if not value:
        pytest.fail(f"waited {seconds:g} s for {what or check}: last {value!r}")
    return value


def clean_environ(home: Path, **more: str) -> dict[str, str]:
    """Return this process's environment without the developer's settings, with ``more`` added."""
    # Without bytecode, every process of a test would compile all of lmstack again.
    kept = {k: v for k, v in os.environ.items() if not k.startswith((*LEAKS, "PYTHONDONTWRITEBYTECODE"))}
    return {**kept, "HOME": str(home), "NO_COLOR": "1", **more}


@dataclass
class Stack:
    """Drive the stack in one folder through the real ``lm``."""

    root: Path
    port: int
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Return the gateway's address."""
        return f"http://localhost:{self.port}"

    def lm(self, *words: str, check: bool = True, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        """Run one command in a process of its own."""
        done = subprocess.run(
            [*LM, *words],
            cwd=self.root,
            env=clean_environ(self.root, **self.env),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"lm {words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str, check: bool = True) -> dict[str, Any]:
        """Run one command and return what it prints with --json."""
        return json.loads(self.lm(*words, "--json", check=check).stdout)

    def write_env(self, **values: str) -> None:
        """Write .env with the stack's port, one worker, and these values."""
        (self.root / ".env").write_text(
            "".join(f"{k}={v}\n" for k, v in {"LITELLM_PORT": str(self.port), "LITELLM_WORKERS": "1", **values}.items())
        )

    @property
    def ledger(self) -> Path:
        """Return the path of the ledger."""
        return self.root / "logs" / "litellm.db"

    def ask(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        """Return the ledger's answer, from the file or from inside the container."""
        if self.env.get("LITELLM_RUNTIME") == "docker":
            from lmstack.runtime.compose import ComposeRuntime
            from lmstack.stack.project import Project

            return ComposeRuntime(Project(self.root)).query(name, arguments)
        return queries.ask(self.ledger, name, arguments)

    def serves(self) -> bool:
        """Return whether the gateway answers."""
        try:
            return httpx.get(f"{self.url}/models", trust_env=False, timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def shell(self, script: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the guide, as a user types it in the stack's folder."""
        env = clean_environ(self.root, **self.env)
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.root, env=env, capture_output=True, text=True, timeout=300
        )
        assert not check or done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def row(self, call_id: str) -> dict[str, Any]:
        """Wait for the finished row of one call, and return it."""

        def ended() -> dict[str, Any] | None:
            rows = self.ask("request", id=call_id)
            return rows[0] if rows and rows[0]["status"] != "started" else None

        return wait_for(ended, what=f"the row of {call_id}")

    def post(
        self, path: str, body: dict[str, Any], key: str | None = KEY, timeout: float = 60, **headers: str
    ) -> httpx.Response:
        """Send one request to the gateway. An underscore in a header's name is a dash."""
        auth = {"authorization": f"Bearer {key}"} if key else {}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(self.url + path, json=body, headers={**auth, **given}, timeout=timeout, trust_env=False)

    def pids(self) -> list[int]:
        """Return the processes of this stack."""
        from lmstack.runtime.processes import processes

        return processes(self.root)


class InProcessStack(Stack):
    """Run ``lm`` in this process, where a test is about what a command says and writes: a process takes 0.3 s."""

    def lm(self, *words: str, check: bool = True, timeout: float = 0) -> subprocess.CompletedProcess[str]:
        """Run one command line, as the console script does once it has looked for a page of help."""
        from lmstack.cli import app

        assert "run" not in words, "`lm run` replaces its process: use Stack"
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(self.root)
            for name in os.environ.keys() - (environ := clean_environ(self.root, **self.env)).keys():
                patch.delenv(name)
            for name, value in environ.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO())
            code = app.run(words)
        done = subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
        assert not check or code == 0, f"lm {words}: {code}\n{done.stdout}\n{done.stderr}"
        return done


@contextlib.contextmanager
def running(folder: Path, models: str | None = None, **env: str) -> Iterator[Stack]:
    """Start a gateway in the local runtime with that .env and models.yaml. Afterwards nothing of it is left."""
    made = Stack(folder, free_port(), {"LITELLM_RUNTIME": "local"})
    made.lm("init", "--dir", str(folder))
    made.write_env(**env)
    if models is not None:
        (folder / "models.yaml").write_text(models)
    made.lm("up")
    try:
        yield made
    finally:
        made.lm("down", check=False)
    assert made.pids() == []


@dataclass
class RedisServer:
    """A real Redis of a test."""

    port: int
    password: str
    pid: int

    @property
    def url(self) -> str:
        """Return its address, with the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def ask(self, *words: str) -> str:
        """Return what redis-cli prints for a command."""
        argv = ["redis-cli", "-p", str(self.port), *words]
        environ = {**os.environ, "REDISCLI_AUTH": self.password}
        return subprocess.run(argv, env=environ, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


@contextlib.contextmanager
def redis_server(folder: Path, password: str) -> Iterator[RedisServer]:
    """Run a Redis that keeps nothing on disk. Skip the test where redis-server is not installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    config = f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\ndir {folder}\n'
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["redis-server", "-"], stdin=subprocess.PIPE, stdout=log, stderr=log)
    assert process.stdin is not None
    process.stdin.write(config.encode())
    process.stdin.close()
    made = RedisServer(port, password, process.pid)
    try:
        wait_for(lambda: _is_open(port), 10, "redis-server")
        yield made
    finally:
        process.kill()
        process.wait(10)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Mock:
    """Run llmock, a provider that other people wrote. It is scripted over HTTP."""

    def __init__(self, host: str = "127.0.0.1", *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        beside = Path(sys.executable).with_name("llmock")
        argv = [str(beside), "serve", "--host", host, "--port", str(self.port), "--log-level", "warning", *options]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._alive, what="llmock")

    def _alive(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        return False

    def script(self, *behaviors: dict[str, Any]) -> None:
        """Tell llmock what to do with the requests that follow."""
        httpx.post(
            f"{self.url}/_llmock/scenario", json={"behaviors": list(behaviors)}, trust_env=False
        ).raise_for_status()

    def reset(self) -> None:
        """Forget every script and every request."""
        httpx.post(f"{self.url}/_llmock/reset", trust_env=False).raise_for_status()

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests since the last reset."""
        return httpx.get(f"{self.url}/_llmock/requests", trust_env=False, timeout=30).json()["requests"]

    def bases(self) -> dict[str, str]:
        """Return the settings that make llmock all four providers."""
        return {
            "OPENAI_API_KEY": "sk-test-openai-0123456789", "OPENAI_API_BASE": f"{self.url}/v1",
            "ANTHROPIC_API_KEY": "sk-ant-test-0123456789", "ANTHROPIC_API_BASE": f"{self.url}/anthropic",
            "GOOGLE_API_KEY": "AIzaTestGoogle0123456789", "GEMINI_API_BASE": f"{self.url}/gemini/v1beta",
            "OLLAMA_API_BASE": self.url,
        }  # fmt: skip

    def stop(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


class TaskMaster:
    """Keep every event that is posted, with its headers."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = f"http://{server.host}:{server.port}"
        self.received: list[tuple[dict[str, str], dict[str, Any], bytes]] = []
        server.expect_request("/api/health").respond_with_json({"status": "ok"})
        server.expect_request("/api/litellm/log", method="POST").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        headers = {k.lower(): v for k, v in request.headers.items()}
        self.received.append((headers, json.loads(request.data), request.data))
        return Response(status=204)

    def events(self, call_id: str, count: int = 1) -> list[tuple[dict[str, str], dict[str, Any]]]:
        """Wait for ``count`` request events of one call, and return them."""

        def found() -> list[tuple[dict[str, str], dict[str, Any]]]:
            hits = [(h, b) for h, b, _ in list(self.received) if b.get("call_id") == call_id]
            return hits if len(hits) >= count else []

        return wait_for(found, what=f"{count} events of {call_id}")

    def costs(self, task_id: str) -> list[dict[str, Any]]:
        """Return the cost events of one task that have come."""
        wanted = "litellm.cost.recorded"
        return [b for h, b, _ in list(self.received) if h["ce-type"] == wanted and b["task_id"] == task_id]
