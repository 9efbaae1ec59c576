"""The error for a request that no provider answered, and what /health shows after it."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from litellm.types.router import RouterRateLimitError

from lmstack.gateway import results, worker
from lmstack.gateway.app import status
from lmstack.gateway.calls import served, unanswered
from lmstack.ledger.records import Attempt, Attribution, Call, Fault
from lmstack.routing.candidates import Candidate
from lmstack.routing.policy import Models
from lmstack.routing.refusals import RefusalError

REFUSED = Fault("AuthenticationError", "401", "wrong key")
SLOW_DOWN = Fault("RateLimitError", "429", "slow down")
BROKEN = Fault("InternalServerError", "500", "broken")
KEY = "sk-of-the-provider"


class Router:
    """What the error needs of LiteLLM's router. ``ends``: when the cooldown of each model ends."""

    def __init__(self, ends: dict[str, float]) -> None:
        self.model_list = [_deployment(name) for name in ("a", "b")]
        self.cooldown_cache = self.in_memory_cache = self
        self._ends = ends

    def get_cooldown_cache_key(self, name: str) -> str:
        return name

    def get_cache(self, name: str) -> dict[str, Any] | None:
        if name not in self._ends:
            return None
        return {"timestamp": self._ends[name] - 20, "cooldown_time": 20.0, "status_code": "500"}


def _deployment(name: str) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": {"api_key": KEY}, "model_info": {"id": name, "lm_provider": "p"}}


def attempt(name: str, fault: Fault | None) -> Attempt:
    return Attempt(name, name, "p", f"p/{name}", 1, None, False, 0.0, fault=fault, sent=True)


def call(*attempts: Attempt, **more: Any) -> Call:
    made = Call("r", None, None, 0.0, "/", False, "cheap", Attribution(), **more)
    made.attempts.extend(attempts)
    return made


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> worker.Worker:
    made = worker.Worker(tmp_path / "litellm.db", None)
    monkeypatch.setattr(worker, "get", lambda: made)
    monkeypatch.setattr(served, "models", lambda: Models([Candidate("a", "p", 1), Candidate("b", "p", 1)]))
    monkeypatch.setenv("P_API_KEY", KEY)
    return made


def answer(monkeypatch: pytest.MonkeyPatch, made: Call | None, ends: dict[str, float], **data: Any) -> RefusalError:
    router = Router(ends)
    monkeypatch.setattr("litellm.proxy.proxy_server.llm_router", router)
    error = RouterRateLimitError("cheap", 20.0, False, ["a", "b"], ["a", "b"])
    found = unanswered.unanswered({"model": "cheap", **data}, error, made)
    assert found is not None
    assert "No deployments available" not in found.message  # LiteLLM makes every error with these words a 429
    return found


@pytest.mark.parametrize(
    ("fault", "more", "expected"),
    [
        (REFUSED, {}, (502, "provider_key_refused")),
        (REFUSED, {"has_credentials": True}, (401, "provider_failed")),  # the client's own key
        (SLOW_DOWN, {}, (429, "provider_failed")),
        (BROKEN, {}, (500, "provider_failed")),
        (Fault("X", None, "no status"), {}, (500, "provider_failed")),
    ],
)
def test_the_first_failure_gives_the_status(
    state: worker.Worker, monkeypatch: pytest.MonkeyPatch, fault: Fault, more: dict[str, Any], expected: tuple[int, str]
) -> None:
    made = call(attempt("a", fault), attempt("b", BROKEN), **more)
    error = answer(monkeypatch, made, {"a": time.time() + 7.5})
    assert (error.status, error.kind) == expected
    assert error.headers["retry-after"] == "8"
    assert fault.message in error.message
    assert ("P_API_KEY" in error.message) == (error.status == 502)


def test_a_forced_failure_is_not_the_first_one(state: worker.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = call(attempt("a", Fault("Drill", None, "made to fail")), attempt("b", BROKEN))
    assert "broken" in answer(monkeypatch, made, {}).message


@pytest.mark.parametrize(("fault", "status"), [(REFUSED, 503), (SLOW_DOWN, 429), (BROKEN, 503), (None, 503)])
def test_a_cooldown_names_the_failure_before_it(
    state: worker.Worker, monkeypatch: pytest.MonkeyPatch, fault: Fault | None, status: int
) -> None:
    if fault is not None:
        state.results.note("a", "p", fault)
    error = answer(monkeypatch, call(), {"a": time.time() + 7.5, "b": time.time() + 3.5})
    assert (error.status, error.kind, error.headers["retry-after"]) == (status, "all_deployments_in_cooldown", "4")
    assert (fault.message if fault else "a (p) failed with status 500") in error.message
    assert ("x-should-retry" in error.headers) == (fault is REFUSED)


def test_only_the_named_model_counts_where_no_other_is_allowed(
    state: worker.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = {"a": time.time() + 7.5, "b": time.time() + 3.5}
    assert answer(monkeypatch, call(), ends, model="b", fallbacks=[]).headers["retry-after"] == "4"
    assert answer(monkeypatch, call(), ends, model="a", fallbacks=[]).headers["retry-after"] == "8"
    assert answer(monkeypatch, None, {}).status == 503  # the cooldown ended in between


def test_any_other_error_is_left_alone(state: worker.Worker) -> None:
    made = call(attempt("a", BROKEN))
    assert unanswered.unanswered({"model": "a"}, ValueError("other"), made) is None


def test_a_failure_of_a_provider_counts_for_all_its_models_until_one_answers(state: worker.Worker) -> None:
    state.results.note_provider("p", REFUSED)
    deployments = [_deployment("a"), _deployment("b")]
    report = status.health_report(deployments, state.results.last, {})
    assert [entry["error"] for entry in report["unhealthy_endpoints"]] == ["AuthenticationError"] * 2
    state.results.note("b", "p", None)
    report = status.health_report(deployments, state.results.last, {})
    assert ([e["model"] for e in report["healthy_endpoints"]], report["unchecked_count"]) == (["b"], 1)


def test_an_unknown_name_gets_the_nearest_one_or_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmstack.gateway.calls import replies

    router = SimpleNamespace(get_model_names=lambda: [f"model-{n}" for n in range(30)], model_list=[])
    monkeypatch.setattr("litellm.proxy.proxy_server.llm_router", router)
    near, far = (
        replies.better_error({"model": name}, ValueError("Invalid model name passed in"), None)
        for name in ("modle-7", "zz")
    )
    assert near is not None
    assert "'model-7'" in str(near.detail)
    assert far is not None
    assert "model-19, …" in str(far.detail)


def attempted(deployment: str, code: str | None, at: float, message: str = "no") -> dict[str, Any]:
    outcome = "succeeded" if code is None else "failed"
    return {
        "deployment": deployment, "provider": "p", "outcome": outcome, "error_type": "E", "error_code": code,
        "error_message": message, "ended_at": at,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "healthy"),
    [
        ([attempted("a", "401", 2)], {"a": False, "b": False}),
        ([attempted("b", None, 3), attempted("a", "401", 2)], {"a": False, "b": True}),
        ([attempted("a", "500", 2)], {"a": False, "b": None}),
        ([attempted("a", "401", 2, results.CLIENT_KEY + "no")], {"a": None, "b": None}),
        ([attempted("a", "400", 2)], {"a": None, "b": None}),
        ([attempted("a", "500", 3), attempted("a", None, 2)], {"a": False, "b": None}),
        ([], {"a": None, "b": None}),
    ],
)
def test_the_ledgers_attempts_show_what_other_workers_saw(rows: list[dict[str, Any]], healthy: dict[str, Any]) -> None:
    found = results.results_from(rows)
    seen = {name: found.last(name, "p") for name in ("a", "b")}
    assert {name: None if last is None else last.fault is None for name, last in seen.items()} == healthy


def test_a_ledger_that_cannot_be_read_leaves_the_workers_own_results(tmp_path: Path) -> None:
    shared = results.LedgerResults(tmp_path / "none.db", 0.0)
    assert asyncio.run(shared.read()).last("a", "p") is None
