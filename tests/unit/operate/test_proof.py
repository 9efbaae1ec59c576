"""The proof of a release that is not proven: each thing that does not work is found, and named."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from lmstack.errors import UnhealthyError
from lmstack.operate import proof
from lmstack.operate.planning import Planned
from lmstack.routing.candidates import Candidate
from lmstack.runtime import base

KEY, SAY = "sk-right", base.Progress(quiet=True)
ANSWER = json.dumps({"choices": [{"message": {"content": "ok"}}]})
STREAM = "data: {}\n\ndata: [DONE]\n\n"


class Gateway:
    """Answers as a gateway does, but for the part that is ``broken``."""

    def __init__(
        self, server: HTTPServer, broken: str = "", cost: float | None = 0.001, fallbacks: bool = True
    ) -> None:
        self.broken, self.cost, self.asked = broken, cost, list[str]()
        self.rows: dict[str, dict[str, Any]] = {}
        server.expect_request(proof.CHAT, method="POST").respond_with_handler(self._answer)
        priced, free = Candidate("cheap-one", "openai", 1, (1.0, 2.0)), Candidate("free-one", "ollama", 1, (0.0, 0.0))
        retired = Candidate("cheaper-one", "openai", 1, (0.5, 1.0), retired=True)
        chosen = [retired, priced, free] if cost else [free]
        plan = SimpleNamespace(
            url=server.url_for("").rstrip("/"),
            settings=SimpleNamespace(master_key=KEY),
            deployments=[SimpleNamespace(candidate=None), *(SimpleNamespace(candidate=one) for one in chosen)],
            fallbacks={one.name: ("other",) for one in chosen} if fallbacks else {},
        )
        runtime = SimpleNamespace(
            query=lambda name, given: [self.rows[given["id"]]] if given["id"] in self.rows else []
        )
        self.planned = cast(Planned, SimpleNamespace(plan=plan, runtime=runtime))

    def _answer(self, request: Request) -> Response:
        body, headers = json.loads(request.data), request.headers
        if headers["authorization"] != f"Bearer {KEY}" and self.broken != "wrong key":
            return Response(status=401)
        spent = any(row.get("task") == headers.get("x-task-id") for row in self.rows.values())
        if "x-task-budget" in headers and spent and self.broken != "over its budget":
            return Response(json.dumps({"error": {"type": "budget_exceeded"}}), 429)
        self.asked.append(body["model"])
        if self.broken == "an answer":
            return Response(json.dumps({"error": "no"}), 500)
        fell_back = "x-lm-drill" in headers and self.broken != "a fallback"
        ended = "interrupted" if body["stream"] and self.broken == "the ledger has it" else "succeeded"
        row = {"status": ended, "completion_tokens": 3, "attempts": 2 if fell_back else 1, "cost_usd": self.cost}
        call_id = f"call-{len(self.rows)}"
        self.rows[call_id] = row | {"task": headers.get("x-task-id", "none")}
        text = (STREAM[:10] if self.broken == "a stream" else STREAM) if body["stream"] else ANSWER
        return Response(text, headers={"x-litellm-call-id": call_id})


def test_a_gateway_that_does_everything_is_proven_with_its_cheapest_model_that_has_a_price(
    httpserver: HTTPServer,
) -> None:
    gateway = Gateway(httpserver)
    assert proof.verify_more(gateway.planned, SAY) == ()
    assert gateway.asked == ["cheap-one"] * 4


@pytest.mark.parametrize(
    "part", ["an answer", "a fallback", "a stream", "the ledger has it", "wrong key", "over its budget"]
)
def test_what_does_not_work_is_named(httpserver: HTTPServer, part: str) -> None:
    with pytest.raises(UnhealthyError, match=part):
        proof.verify_more(Gateway(httpserver, part).planned, SAY)


def test_a_call_that_does_not_reach_the_ledger_is_named(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "LEDGER_SECONDS", 0.0)
    gateway = Gateway(httpserver)
    gateway.planned.runtime.query = lambda *_: []  # type: ignore[method-assign]
    with pytest.raises(UnhealthyError, match="missing in the ledger"):
        proof.verify_more(gateway.planned, SAY)


def test_what_a_stack_cannot_show_is_a_remark(httpserver: HTTPServer) -> None:
    remarks = proof.verify_more(Gateway(httpserver, cost=0.0, fallbacks=False).planned, SAY)
    assert [remark.rpartition(" so ")[2] for remark in remarks] == ["none was tried", "no budget was tried"]
