"""Print which hooks LiteLLM calls, in their order, and what it cools down. Run by litellm_changes.py in a release's Python.

``python tools/hook_order.py HOOK ...`` starts LiteLLM's app in this process, with its own cooldowns on. A provider of this
process answers. For each kind of request the JSON on standard output lists the calls of a callback that has these hooks.
"""

import asyncio
import functools
import inspect
import json
import os
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import httpx
import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.proxy import proxy_server

KEY, SECONDS = "sk-hook-order", 20.0
QUIET_SECONDS = 0.5
# Tasks and queues do these at any time, so they are sorted behind the rest.
QUEUED = ("async_log_success_event", "log_success_event", "cools down: ")
HEAD = {"id": "c", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
ANSWER = {**HEAD, "object": "chat.completion", "usage": USAGE, "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}]}  # fmt: skip
CHUNKS = [{**HEAD, "object": "chat.completion.chunk", "choices": [{"index": 0, "finish_reason": end, "delta": delta}]} for end, delta in ((None, {"role": "assistant", "content": "ok"}), ("stop", {}))]  # fmt: skip
# The last request finds its model cooled down by the one before it.
REQUESTS = {
    "an answer": {"model": "good"},
    "a stream": {"model": "good", "stream": True},
    "an unknown model": {"model": "unknown"},
    "a failure": {"model": "alone"},
    "a failure, then a fallback": {"model": "dead"},
    "a fallback of a model that cools down": {"model": "dead"},
}
events: list[str] = []


class Provider(BaseHTTPRequestHandler):
    """Answers below /good, and fails below any other path."""

    def do_POST(self) -> None:
        """Answer one call."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        good, stream = self.path.startswith("/good"), body.get("stream")
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in CHUNKS] + ["data: [DONE]\n\n"]
        text = "".join(lines) if good and stream else json.dumps(ANSWER if good else {"error": {"message": "no"}})
        self.send_response(200 if good else 500)
        self.send_header("content-type", "text/event-stream" if good and stream else "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


def recording(name: str) -> Any:
    """Return a hook that notes its call and does what LiteLLM's own does."""
    plain = getattr(CustomLogger, name)

    @functools.wraps(plain)
    async def awaited(self: Any, *args: Any, **kwargs: Any) -> Any:
        events.append(name)
        return await plain(self, *args, **kwargs)

    @functools.wraps(plain)
    async def iterated(self: Any, *args: Any, **kwargs: Any) -> Any:
        events.append(name)
        async for chunk in plain(self, *args, **kwargs):
            yield chunk
        events.append(f"{name}, its end")

    @functools.wraps(plain)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        events.append(name)
        return plain(self, *args, **kwargs)

    return iterated if inspect.isasyncgenfunction(plain) else awaited if inspect.iscoroutinefunction(plain) else called


def note_cooldowns(cache: Any) -> None:
    """Note each deployment that LiteLLM cools down."""
    plain = cache.add_deployment_to_cooldown

    def add(model_id: str, *args: Any, **kwargs: Any) -> Any:
        events.append(f"cools down: {model_id}")
        return plain(model_id, *args, **kwargs)

    cache.add_deployment_to_cooldown = add


def configuration(base: str) -> dict[str, Any]:
    """Return a configuration with a model that answers, one that fails, and one that fails and has a fallback."""
    paths = {"good": "good", "backup": "good", "dead": "dead", "alone": "dead"}
    models = [
        {
            "model_name": name,
            "litellm_params": {"model": "openai/gpt-4o-mini", "api_key": "sk-none", "api_base": f"{base}/{path}/v1"},
            "model_info": {"id": name},
        }
        for name, path in paths.items()
    ]
    router = {
        "num_retries": 0,
        "allowed_fails": 0,
        "cooldown_time": 60,
        "fallbacks": [{"dead": ["backup"]}, {"backup": ["good"]}],
    }
    return {"model_list": models, "router_settings": router, "general_settings": {"master_key": KEY}}


async def calls_of(client: httpx.AsyncClient, request: dict[str, Any]) -> list[str]:
    """Send one request; return what LiteLLM called and how the request ended."""
    events.clear()
    body = {"messages": [{"role": "user", "content": "Hello!"}], **request}
    answer = await client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
    events.append(f"status {answer.status_code}")
    await GLOBAL_LOGGING_WORKER.flush()
    await _until_quiet(QUEUED[0] if answer.status_code == 200 else "")
    queued = [event for event in events if event.startswith(QUEUED)]
    return [event for event in events if event not in queued] + sorted(queued)


async def _until_quiet(wanted: str) -> None:
    """Wait until an event has come, and then until none has come for QUIET_SECONDS; SECONDS at most."""
    began = last = time.monotonic()
    seen = 0
    while time.monotonic() < began + SECONDS:
        if len(events) != seen:
            seen, last = len(events), time.monotonic()
        if time.monotonic() > last + QUIET_SECONDS and (not wanted or wanted in events):
            return
        await asyncio.sleep(0.05)


async def main(hooks: list[str]) -> dict[str, list[str]]:
    """Return the calls for each kind of request."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # JSON is YAML. A temporary folder: LiteLLM looks for callbacks beside its configuration.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps(configuration(f"http://127.0.0.1:{server.server_port}")))
        await proxy_server.initialize(config=str(path))
    litellm.callbacks.append(type("Recorder", (CustomLogger,), {name: recording(name) for name in hooks})())
    note_cooldowns(proxy_server.llm_router.cooldown_cache)
    transport = httpx.ASGITransport(app=proxy_server.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=SECONDS) as client:
        return {kind: await calls_of(client, request) for kind, request in REQUESTS.items()}


if __name__ == "__main__":
    found = asyncio.run(main(sys.argv[1:]))
    print(f"\n{json.dumps(found)}", flush=True)
    os._exit(0)  # LiteLLM's threads and tasks are not waited for
