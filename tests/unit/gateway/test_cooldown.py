"""Which deployments a failure cools down."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import litellm
import pytest

from lmstack.gateway.calls import cooldown, served
from lmstack.ledger.records import Attempt

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
        self.cooldown_cache = self

    def add_deployment_to_cooldown(self, model_id: str, exception_status: int, **_: Any) -> None:
        self.cooled.append((model_id, exception_status))


def failed(status: int | None) -> Exception:
    error = Exception("no")
    error.status_code = status  # type: ignore[attr-defined]
    return error


def unreachable() -> Exception:
    error = litellm.APIConnectionError("no", "p", "a")
    error.__cause__ = httpx.ConnectError("refused")
    return error


TIMEOUT = litellm.Timeout("late", "a", "p")


@pytest.mark.parametrize(
    ("error", "attempt", "timeout", "cooled"),
    [
        (failed(401), SENT, None, [("a", 401), ("b", 401)]),
        (failed(402), SENT, None, [("a", 402), ("b", 402)]),
        (failed(403), SENT, None, [("a", 403)]),
        (failed(403), replace(SENT, sent=False), None, []),  # LiteLLM refused a client's MCP tool itself
        (failed(500), SENT, None, []),  # LiteLLM cools the one deployment down by itself
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
    monkeypatch: pytest.MonkeyPatch, error: Exception, attempt: Attempt, timeout: float | None, cooled: list[object]
) -> None:
    router = Router()
    monkeypatch.setattr(cooldown.proxy_server, "llm_router", router)
    monkeypatch.setattr(served, "times", lambda: served.Times(300, 120))
    asyncio.run(cooldown.cool_down({} if timeout is None else {"timeout": timeout}, error, attempt))
    assert router.cooled == cooled
