"""Prove that a running gateway works with a LiteLLM release: what `lm upgrade` calls after the start.

A proven release has passed lmstack's own tests, so one refused call is enough. An unproven release must also answer, fall
back, stream, and refuse by key and by budget. These are real calls of the cheapest model, and cost a little.
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from lmstack.errors import UnhealthyError
from lmstack.operate.planning import Planned
from lmstack.routing.candidates import Candidate
from lmstack.runtime import base
from lmstack.stack import health

LEDGER_SECONDS = 15.0  # how long a test call may take to reach the ledger
CALL_SECONDS = 60.0
CHAT, AGENT = "/v1/chat/completions", "lm-proof"
TINY_BUDGET = "0.000000001"  # US dollars: less than any answer that is not free


def verify(moved: Planned, version: str) -> None:
    """Raise UnhealthyError unless the running gateway is that release, has our routes, and records a call.

    The test call is refused before any provider is called, so it costs nothing.
    """
    url, key = moved.plan.url, moved.plan.settings.master_key
    reported = health.release(url, key)
    if reported not in ("", version):
        raise UnhealthyError(f"the gateway at {url} runs LiteLLM {reported}")
    # Needs no key: this route is ours, and the release loads it by its startup hook.
    if health.get(f"{url}/health").status != 200:
        raise UnhealthyError("the gateway has no /health: lmstack's code was not loaded by this release")
    status, call_id = health.refused_call(url, key, f"lm-proof-{secrets.token_hex(4)}")
    if not 400 <= status < 500:
        raise UnhealthyError(f"a call for a model that does not exist got the answer {status or 'nothing'}")
    _row(moved, call_id)


def verify_more(moved: Planned, say: base.Progress) -> tuple[str, ...]:
    """Raise UnhealthyError unless the gateway answers, falls back, streams, and refuses by key and by budget.

    Returns a remark for each of them that this stack cannot show, as it has one model only, or no model with a price.
    """
    name = _model(moved)
    if name is None:
        return ("this stack has no chat model, so no call was tried",)
    say(f"Trying an answer, a fallback, a stream, a wrong key and a budget with {name} …")
    calls = _Calls(moved, name)
    remarks = [
        _answers(calls),
        _falls_back(calls),
        _streams(calls),
        _refuses_a_wrong_key(calls),
        _keeps_a_budget(calls),
    ]
    return tuple(remark for remark in remarks if remark)


@dataclass(frozen=True, slots=True)
class _Calls:
    """Calls of one model of the running gateway."""

    moved: Planned
    model: str

    def post(self, what: str, headers: Mapping[str, str], stream: bool = False) -> httpx.Response:
        """Send a small chat request; UnhealthyError when no answer comes."""
        plan = self.moved.plan
        given = {"authorization": f"Bearer {plan.settings.master_key}", "x-agent-id": AGENT}
        messages = [{"role": "user", "content": "Say ok."}]
        body = {"model": self.model, "messages": messages, "max_tokens": 16, "stream": stream}
        try:
            return health.client().post(plan.url + CHAT, json=body, headers={**given, **headers}, timeout=CALL_SECONDS)
        except httpx.HTTPError as error:
            raise UnhealthyError(f"{what}: no answer ({type(error).__name__})") from None

    def answered(
        self, what: str, headers: Mapping[str, str], stream: bool = False
    ) -> tuple[httpx.Response, dict[str, Any]]:
        """Send a request that must succeed; return its answer and its row in the ledger."""
        answer = self.post(what, headers, stream)
        if answer.status_code != 200:
            raise UnhealthyError(f"{what}: {answer.status_code} {answer.text[:200]}")
        row = _row(self.moved, answer.headers.get("x-litellm-call-id", ""))
        if row["status"] != "succeeded":
            raise UnhealthyError(f"{what}: the ledger has it as {row['status']}")
        return answer, row


def _answers(calls: _Calls) -> str:
    answer, row = calls.answered("an answer of a model", {})
    if '"choices":[{' not in answer.text.replace(" ", "") or not row["completion_tokens"]:
        raise UnhealthyError("an answer of a model: it has no text, or the ledger has no tokens")
    return ""


def _falls_back(calls: _Calls) -> str:
    if not calls.moved.plan.fallbacks.get(calls.model):
        return f"{calls.model} has no fallback here, so none was tried"
    _, row = calls.answered("a fallback", {"x-lm-drill": "1"})
    if row["attempts"] < 2:
        raise UnhealthyError("a fallback: the ledger has one attempt only")
    return ""


def _streams(calls: _Calls) -> str:
    answer, _ = calls.answered("a stream", {}, stream=True)
    if not answer.text.rstrip().endswith("data: [DONE]"):
        raise UnhealthyError("a stream: it does not end with [DONE]")
    return ""


def _refuses_a_wrong_key(calls: _Calls) -> str:
    status = calls.post("a call with a wrong key", {"authorization": "Bearer sk-wrong"}).status_code
    if status != 401:
        raise UnhealthyError(f"a call with a wrong key got the answer {status}")
    return ""


def _keeps_a_budget(calls: _Calls) -> str:
    budget = {"x-task-id": f"lm-proof-{secrets.token_hex(4)}", "x-task-budget": TINY_BUDGET}
    _, row = calls.answered("the first call of a budget", budget)
    if not row["cost_usd"]:
        return "the model that answered is free, so no budget was tried"
    answer = calls.post("a call over its budget", budget)
    if answer.status_code != 429 or "budget_exceeded" not in answer.text:
        raise UnhealthyError(f"a call over its budget got the answer {answer.status_code}")
    return ""


def _model(moved: Planned) -> str | None:
    """Return the cheapest chat model with a price, else one without; None when there is no chat model.

    A retired name is answered by another model, so it comes last.
    """
    chat = [found for d in moved.plan.deployments if (found := d.candidate) is not None]
    return min(chat, key=_order).name if chat else None


def _order(model: Candidate) -> tuple[bool, bool, float]:
    price = sum(model.rates or ())
    return not price, model.retired, price


def _row(moved: Planned, call_id: str) -> dict[str, Any]:
    """Wait for the finished row of a call, and return it; UnhealthyError when it does not come."""
    deadline = time.monotonic() + LEDGER_SECONDS
    while True:
        rows = moved.runtime.query("request", {"id": call_id})
        if rows and rows[0]["status"] != "started":
            return rows[0]
        if time.monotonic() > deadline:
            raise UnhealthyError("a call is missing in the ledger: lmstack's callback does not work with this release")
        time.sleep(0.25)  # the time between two looks
