"""Real things for the tests: a stack in its own folder, llmock as every provider, a TaskMaster that listens."""

import contextlib
import json
import os
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
import jsonschema
import pytest
import yaml
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from lmstack.ledger import queries

ROOT = Path(__file__).resolve().parents[1]
LM = [sys.executable, "-m", "lmstack"]
KEY = "taskmaster-litellm-key"
# Nothing of the developer's own environment may reach a stack under test.
LEAKS = ("OPENAI", "ANTHROPIC", "GOOGLE", "GEMINI", "OLLAMA", "LITELLM", "TASKMASTER", "LEDGER", "REDIS", "LMSTACK")
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(check: Callable[[], T], seconds: float = 20.0, what: str = "") -> T:
    """Poll until ``check`` gives something true; its last value is in the failure."""
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what or check}: last {value!r}")
        time.sleep(0.05)


def clean_environ(home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LEAKS)}
    return {**kept, "HOME": str(home), "NO_COLOR": "1", **more}


@dataclass
class Stack:
    """One folder with a stack in it, driven through the real ``lm``."""

    root: Path
    port: int
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def lm(self, *words: str, check: bool = True, timeout: float = 200) -> subprocess.CompletedProcess[str]:
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
        return json.loads(self.lm(*words, "--json", check=check).stdout)

    def write_env(self, **values: str) -> None:
        (self.root / ".env").write_text(
            "".join(f"{k}={v}\n" for k, v in {"LITELLM_PORT": str(self.port), "LITELLM_WORKERS": "1", **values}.items())
        )

    @property
    def ledger(self) -> Path:
        return self.root / "logs" / "litellm.db"

    def ask(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        """The ledger's answer, from the file or from inside the container."""
        if self.env.get("LITELLM_RUNTIME") == "docker":
            from lmstack.runtime.compose import ComposeRuntime
            from lmstack.stack.project import Project

            return ComposeRuntime(Project(self.root)).query(name, arguments)
        return queries.ask(self.ledger, name, arguments)

    def shell(self, script: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of the guide, as a user types it in the stack's folder."""
        env = clean_environ(self.root, **self.env)
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.root, env=env, capture_output=True, text=True, timeout=300
        )
        assert not check or done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def row(self, call_id: str) -> dict[str, Any]:
        """The finished ledger row of one call."""

        def ended() -> dict[str, Any] | None:
            rows = self.ask("request", id=call_id)
            return rows[0] if rows and rows[0]["status"] != "started" else None

        return wait_for(ended, what=f"the row of {call_id}")

    def post(
        self, path: str, body: dict[str, Any], key: str | None = KEY, timeout: float = 60, **headers: str
    ) -> httpx.Response:
        auth = {"authorization": f"Bearer {key}"} if key else {}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(self.url + path, json=body, headers={**auth, **given}, timeout=timeout, trust_env=False)

    def pids(self) -> list[int]:
        from lmstack.runtime.processes import processes

        return processes(self.root)


@contextlib.contextmanager
def running(folder: Path, models: str | None = None, **env: str) -> Iterator[Stack]:
    """A gateway in the local runtime, with that .env and models.yaml; afterwards nothing of it is left."""
    made = Stack(folder, free_port(), {"LITELLM_RUNTIME": "local"})
    made.lm("init", "--dir", str(folder))
    made.write_env(**env)
    if models is not None:
        (folder / "models.yaml").write_text(models)
    made.lm("up")
    yield made
    made.lm("down")
    assert made.pids() == []


class Mock:
    """llmock: a provider nobody here wrote, scripted over HTTP."""

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
        httpx.post(
            f"{self.url}/_llmock/scenario", json={"behaviors": list(behaviors)}, trust_env=False
        ).raise_for_status()

    def reset(self) -> None:
        httpx.post(f"{self.url}/_llmock/reset", trust_env=False).raise_for_status()

    def requests(self) -> list[dict[str, Any]]:
        return httpx.get(f"{self.url}/_llmock/requests", trust_env=False, timeout=30).json()["requests"]

    def bases(self) -> dict[str, str]:
        return {
            "OPENAI_API_KEY": "sk-test-openai-0123456789", "OPENAI_API_BASE": f"{self.url}/v1",
            "ANTHROPIC_API_KEY": "sk-ant-test-0123456789", "ANTHROPIC_API_BASE": f"{self.url}/anthropic",
            "GOOGLE_API_KEY": "AIzaTestGoogle0123456789", "GEMINI_API_BASE": f"{self.url}/gemini/v1beta",
            "OLLAMA_API_BASE": self.url,
        }  # fmt: skip

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


class TaskMaster:
    """A receiver of events: everything that was posted, with its headers."""

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
        """The request events of one call, once ``count`` are there."""

        def found() -> list[tuple[dict[str, str], dict[str, Any]]]:
            hits = [(h, b) for h, b, _ in list(self.received) if b.get("call_id") == call_id]
            return hits if len(hits) >= count else []

        return wait_for(found, what=f"{count} events of {call_id}")

    def costs(self, task_id: str) -> list[dict[str, Any]]:
        wanted = "litellm.cost.recorded"
        return [b for h, b, _ in list(self.received) if h["ce-type"] == wanted and b["task_id"] == task_id]


def docker_missing() -> str:
    """Why tests against a real engine cannot run here, "" when they can."""
    from lmstack.releases.pins import IMAGE
    from lmstack.runtime.engine import docker_client, engine_problem

    problem = engine_problem()
    if problem:
        return problem
    have = {tag for image in docker_client().images.list() for tag in image.tags}
    lacking = [name for name in (IMAGE, "redis:7-alpine") if name not in have]
    return f"the engine lacks {', '.join(lacking)}" if lacking else ""


CONTRACT = yaml.safe_load((ROOT / "docs" / "taskmaster-api.yaml").read_text())


def check_schema(name: str, value: object) -> None:
    """Validate against one of the published schemas."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": CONTRACT["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)
