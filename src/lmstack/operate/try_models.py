"""Send a small request to each model of the running gateway, up to eight at the same time. These are real calls and cost a little."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx

from lmstack.config.spelling import did_you_mean
from lmstack.errors import UnhealthyError, UsageError
from lmstack.operate.planning import planned
from lmstack.runtime.base import load_state
from lmstack.stack.health import client
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project

TIMEOUT_SECONDS, PARALLEL = 60.0, 8
# A request to a model of another mode (images, speech) is not small, or needs a file.
TESTED_MODES = ("chat", "embedding")
# A model that failed before cools down for 20 s, or for as long as its provider asks.
MAX_WAIT_SECONDS = 30.0
MAX_ERROR = 200


@dataclass(frozen=True, slots=True)
class Trial:
    """Which models will be called, at which address. ``force_fallback``: the first attempt is made to fail.

    ``started_at``: Unix seconds.
    """

    url: str
    plan: Plan
    names: list[str]
    force_fallback: bool = False
    started_at: float = field(default_factory=time.time)


def plan_trial(project: Project, names: Sequence[str], fallback: str | None) -> Trial:
    """Choose the models to call: ``fallback`` alone, else ``names``, else every model that is served.

    Raises UnhealthyError when no gateway was started, and UsageError for a name that is not served.
    """
    plan, state = planned(project, {}).plan, load_state(project)
    if state is None:
        raise UnhealthyError("no gateway was started from this folder", "start it with: lm up")
    untested = {d.name: d.model.mode for d in plan.deployments if d.model.mode not in TESTED_MODES}
    wanted = [fallback] if fallback else list(names) or [d.name for d in plan.deployments if d.name not in untested]
    for name in wanted:
        if name in untested:
            raise UsageError(
                f"'{name}' has the mode {untested[name]}", f"lm test calls models of {' and '.join(TESTED_MODES)}"
            )
        if name not in plan.names:
            raise UsageError(f"'{name}' is not served", did_you_mean(name, plan.names) or "see: lm models")
    return Trial(state.url, plan, wanted, bool(fallback))


def try_models(trial: Trial, progress: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
    """Call every model of the trial and return a row for each, in their order. ``progress`` gets the rows so far."""
    rows: list[dict[str, Any]] = []
    for row in _in_parallel(trial.names, lambda name: _try(trial, name)):
        rows.append(row)
        progress(rows)
    return sorted(rows, key=lambda row: trial.names.index(row["model"]))


def _in_parallel(names: list[str], call: Callable[[str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield results as they come. The threads are daemons, so that Ctrl-C does not wait for a slow model."""
    todo, done = queue.SimpleQueue[str](), queue.SimpleQueue[dict[str, Any]]()

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                done.put(call(todo.get_nowait()))

    for name in names:
        todo.put(name)
    for _ in range(min(PARALLEL, len(names))):
        threading.Thread(target=work, daemon=True).start()
    for _ in names:
        yield done.get()


def _try(trial: Trial, name: str) -> dict[str, Any]:
    """Call one model. The row tells ``ok``, who served it, milliseconds, cost in USD and the error."""
    path, body = _request(trial.plan, name)
    headers = {"authorization": f"Bearer {trial.plan.settings.master_key}", "x-agent-id": "lm-test"}
    headers |= {"x-lm-drill": "1"} if trial.force_fallback else {"x-lm-no-fallback": "1"}
    row: dict[str, Any] = {"model": name, "ok": False, "served_by": None, "ms": 0.0, "cost_usd": None, "error": None}
    began = time.perf_counter()
    try:
        answer = _post(trial, path, body, headers)
        wait = _seconds_to_wait(answer, trial.started_at)
        if wait:
            time.sleep(wait)
            began = time.perf_counter()
            answer = _post(trial, path, body, headers)
        row |= _result_of(answer)
    except httpx.HTTPError as error:
        row["error"] = type(error).__name__
    return row | {"ms": (time.perf_counter() - began) * 1000}


def _post(trial: Trial, path: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    return client().post(trial.url + path, json=body, headers=headers, timeout=TIMEOUT_SECONDS)


def _result_of(answer: httpx.Response) -> dict[str, Any]:
    cost, cooldown = answer.headers.get("x-lm-cost", "unknown"), _cooldown(answer)
    error = None
    if cooldown is not None:
        error = f"skipped: {cooldown.get('cause') or _error_message(answer)}"[:MAX_ERROR]
    elif answer.status_code != 200:
        error = f"{answer.status_code} {_error_message(answer)}"
    return {
        "ok": answer.status_code == 200, "served_by": answer.headers.get("x-lm-model"),
        "cost_usd": None if cost == "unknown" else float(cost), "error": error,
    }  # fmt: skip


def _seconds_to_wait(answer: httpx.Response, started_at: float) -> float:
    """Return the seconds until a model that cools down can be called; 0 when a call would show nothing new.

    That is so after a refused key, and when another call of this trial has found the whole provider down.
    """
    cooldown = _cooldown(answer)
    if cooldown is None or cooldown.get("reason") == "provider_key_refused":
        return 0.0
    since = cooldown.get("since")
    is_new = since is not None and datetime.fromisoformat(since).timestamp() >= started_at
    if cooldown.get("scope") == "provider" and is_new:
        return 0.0
    seconds = float(answer.headers.get("retry-after", "0"))
    return seconds if seconds <= MAX_WAIT_SECONDS else 0.0


def _cooldown(answer: httpx.Response) -> dict[str, Any] | None:
    """Return what the gateway says about a model that it did not call, because it failed before; None for any other answer."""
    error = _error(answer)
    if not isinstance(error, dict) or error.get("type") != "all_deployments_in_cooldown":
        return None
    return error.get("provider_specific_fields") or {}


def _error(answer: httpx.Response) -> object:
    try:
        body = answer.json()
    except ValueError:
        return None
    return body.get("error") if isinstance(body, dict) else None


def _request(plan: Plan, name: str) -> tuple[str, dict[str, Any]]:
    """Return path and body of the smallest request to this model."""
    modes = {d.name: d.model.mode for d in plan.deployments}
    if modes.get(name) == "embedding":
        return "/v1/embeddings", {"model": name, "input": "ok"}
    body = {"model": name, "messages": [{"role": "user", "content": "Say ok."}], "max_tokens": 16}
    return "/v1/chat/completions", body


def _error_message(answer: httpx.Response) -> str:
    error = _error(answer)
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or answer.text).replace("\n", " ")[:MAX_ERROR]
