"""Which deployments a failure cools down."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import litellm
import pytest

from lmstack.gateway.calls import cooldown, faults, served
from lmstack.ledger.records import Attempt, Fault

SENT = Attempt("a", "a", "p", "p/a", 1, None, False, 0.0, sent=True)
DEPLOYMENTS = [
    {"litellm_params": {}, "model_info": {"id": "a", "lm_provider": "p"}},
    {"litellm_params": {}, "model_info": {"id": "b", "lm_provider": "p"}},
    {"litellm_params": {"cooldown_time": 0}, "model_info": {"id": "last", "lm_provider": "p"}},
    {"litellm_params": {}, "model_info": {"id": "c", "lm_provider": "q"}},
]


class Router:
    """What cooldown needs of LiteLLM's router."""

    def __init__(self) -> None:
        self.model_list = DEPLOYMENTS
        self.cooled: list[tuple[str, int]] = []
        self.seconds: set[float] = set()
        self.cooldown_cache = self

    def add_deployment_to_cooldown(self, model_id: str, exception_status: int, cooldown_time: float, **_: Any) -> None:
        self.cooled.append((model_id, exception_status))
        self.seconds.add(cooldown_time)


def failed(status: int | None, **headers: str) -> Exception:
    error = Exception("no")
    error.status_code = status  # type: ignore[attr-defined]
    error.response = httpx.Response(status or 500, headers={k.replace("_", "-"): v for k, v in headers.items()})  # type: ignore[attr-defined]
    return error


def unreachable() -> Exception:
    error = litellm.APIConnectionError("no", "p", "a")
    error.__cause__ = httpx.ConnectError("refused")
    return error


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Router:
    made = Router()
    monkeypatch.setattr("litellm.proxy.proxy_server.llm_router", made)
    monkeypatch.setattr(served, "times", lambda: served.Times(300, 120))
    return made


TIMEOUT = litellm.Timeout("late", "a", "p")


@pytest.mark.parametrize(
    ("error", "attempt", "timeout", "cooled"),
    [
        (failed(401), SENT, None, [("a", 401), ("b", 401)]),
        (failed(402), SENT, None, [("a", 402), ("b", 402)]),
        (failed(403), SENT, None, [("a", 403)]),
        (failed(403), replace(SENT, sent=False), None, []),  # LiteLLM refused a client's MCP tool itself
        (failed(404), SENT, None, [("a", 404)]),
        (failed(429), SENT, None, [("a", 429)]),
        (failed(500), SENT, None, [("a", 500)]),
        (failed(503), replace(SENT, sent=False), None, [("a", 503)]),
        (failed(400), SENT, None, []),
        (failed(422), SENT, None, []),
        (failed(None), SENT, None, []),
        (litellm.APIConnectionError("LiteLLM's own", "p", "a"), SENT, None, []),
        (failed(401), replace(SENT, sent=False), None, []),
        (unreachable(), SENT, None, [("a", 500), ("b", 500)]),
        (unreachable(), replace(SENT, sent=False), None, []),
        (TIMEOUT, SENT, None, [("a", 408), ("b", 408)]),
        (TIMEOUT, SENT, 60, [("a", 408), ("b", 408)]),
        (TIMEOUT, SENT, 0.5, []),  # the client's own time-out
        (failed(401), replace(SENT, provider=None), None, []),
        (failed(403), replace(SENT, deployment="last"), None, []),
    ],
)
def test_what_a_failure_cools_down(
    router: Router, error: Exception, attempt: Attempt, timeout: float | None, cooled: list[object]
) -> None:
    asyncio.run(cooldown.cool_down({} if timeout is None else {"timeout": timeout}, error, attempt))
    assert router.cooled == cooled


@pytest.mark.parametrize(("header", "seconds"), [("7", 20), ("90", 90), ("86400", 3600), ("soon", 20), ("", 20)])
def test_a_longer_retry_after_makes_a_longer_cooldown(router: Router, header: str, seconds: float) -> None:
    asyncio.run(cooldown.cool_down({}, failed(429, retry_after=header), SENT))
    assert router.seconds == {seconds}


@pytest.mark.parametrize(("code", "cools"), [(None, True), ("500", True), ("429", True), ("401", True), ("400", False)])
def test_a_recorded_failure_shows_whether_the_model_works(code: str | None, cools: bool) -> None:
    assert cooldown.is_models_fault(Fault("Error", code, "no")) is cools


@pytest.mark.parametrize(
    ("status", "request_", "missing"),
    [
        (403, {"cachedContent": "cachedContents/gone"}, True),
        (403, {"contents": [{"parts": [{"fileData": {"fileUri": "files/gone"}}]}]}, True),
        (404, {"prompt": {"id": "pmpt_gone"}}, True),
        (404, {"previous_response_id": "resp_gone"}, True),
        (404, {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-gone"}}]}]}, True),
        (404, {"messages": [{"role": "user", "content": "hi"}]}, False),
        (401, {"previous_response_id": "resp_gone"}, False),
        (500, {"previous_response_id": "resp_gone"}, False),
    ],
)
def test_what_a_request_names_and_a_provider_does_not_find_says_nothing_of_the_model(
    status: int, request_: dict[str, Any], missing: bool
) -> None:
    assert faults.misses_what_is_kept(failed(status), request_) is missing
