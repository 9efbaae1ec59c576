"""Traces through the real proxy to a real OTLP receiver: spans, parents, what a provider gets, and stops."""

import re
import secrets
import time
from collections.abc import Iterator

import httpx
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from otlp import OtlpReceiver, Span
from support import KEY, Mock, Stack, running, wait_for

CHAT = "/v1/chat/completions"
PROMPT = "the prompt of a client"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}]}
HEADER = "s3cret-of-the-receiver"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    made = OtlpReceiver()
    yield made
    made.stop()


class Noting:
    """Stands before llmock, which does not show the headers that it got. ``parents``: the traceparent of each request."""

    def __init__(self, server: HTTPServer, mock: Mock) -> None:
        self.url, self.mock, self.parents = f"http://127.0.0.1:{server.port}", mock, list[str | None]()
        server.expect_request(re.compile(".*")).respond_with_handler(self._forward)

    def _forward(self, request: Request) -> Response:
        self.parents.append(request.headers.get("traceparent"))
        kept = {
            name: value for name, value in request.headers.items() if name.lower() in ("content-type", "authorization")
        }
        answer = httpx.post(
            self.mock.url + request.full_path.rstrip("?"), content=request.data, headers=kept, trust_env=False
        )
        return Response(answer.content, answer.status_code, content_type=answer.headers["content-type"])


@pytest.fixture(scope="module")
def provider(mock: Mock) -> Iterator[Noting]:
    with HTTPServer(host="127.0.0.1") as server:
        yield Noting(server, mock)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, mock: Mock, receiver: OtlpReceiver, provider: Noting) -> Iterator[Stack]:  # fmt: skip
    mock.reset()
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{HEADER}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        **mock.bases(), "OPENAI_API_BASE": f"{provider.url}/v1",
    }  # fmt: skip
    with running(tmp_path_factory.mktemp("traces"), **settings) as made:
        yield made


def ids() -> tuple[str, str]:
    return secrets.token_hex(16), secrets.token_hex(8)


def spans(receiver: OtlpReceiver, trace: str) -> tuple[Span, list[Span]]:
    return wait_for(lambda: receiver.of(trace), 20, f"the spans of {trace}")


def test_a_request_has_a_span_below_its_client_s_and_its_provider_gets_the_attempt(
    traced: Stack, receiver: OtlpReceiver, provider: Noting
) -> None:
    provider.parents.clear()
    trace, parent = ids()
    answer = traced.post(CHAT, BODY, traceparent=f"00-{trace}-{parent}-01", x_task_id="T-1", x_agent_id="coder")
    request, attempts = spans(receiver, trace)
    assert (request.name, request.parent, request.is_error) == ("chat gpt-4o-mini", parent, False)
    row = traced.row(answer.headers["x-litellm-call-id"])
    found = request.attributes
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.provider.name"] == "openai"
    assert found["gen_ai.usage.input_tokens"] == row["prompt_tokens"]
    assert found["gen_ai.usage.output_tokens"] == row["completion_tokens"]
    assert (found["lmstack.cost_usd"], found["lmstack.request.id"]) == (row["cost_usd"], row["id"])
    assert (found["lmstack.task.id"], found["gen_ai.agent.id"]) == ("T-1", "coder")
    assert request.seconds == pytest.approx(row["latency_ms"] / 1000, abs=0.001)
    assert (request.resource["service.name"], "service.version" in request.resource) == ("lmstack", True)
    ((name, above, seconds),) = [(one.name, one.parent, one.seconds) for one in attempts]
    assert (name, above) == ("chat gpt-4o-mini", request.id)
    assert 0 < seconds <= request.seconds + 0.001
    assert provider.parents == [f"00-{trace}-{attempts[0].id}-01"]


def test_each_attempt_has_a_span_with_its_error(traced: Stack, receiver: OtlpReceiver, mock: Mock) -> None:
    mock.script({"type": "fail", "times": None, "match": {"model": "gpt-4o"}, "status": 500})
    trace, parent = ids()
    traced.post(CHAT, {**BODY, "model": "gpt-4o"}, traceparent=f"00-{trace}-{parent}-01")
    mock.reset()
    request, attempts = spans(receiver, trace)
    assert (request.is_error, request.attributes["lmstack.fallbacks"]) == (False, len(attempts) - 1)
    assert [one.is_error for one in attempts] == [True] * (len(attempts) - 1) + [False]
    assert attempts[0].attributes["error.type"] == "InternalServerError"
    assert attempts[0].attributes["http.response.status_code"] == 500
    assert "gen_ai.usage.input_tokens" not in attempts[0].attributes
    assert {one.parent for one in attempts} == {request.id}


@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": PROMPT}, "embeddings"),
        ("/v1/messages", {**BODY, "max_tokens": 5}, "chat"),
        (CHAT, {**BODY, "stream": True}, "chat"),
        (CHAT, {**BODY, "model": "no-such-model"}, "chat"),
        ("/v1/images/generations", {"model": "no-such-model", "prompt": PROMPT}, "images/generations"),
    ],
)
def test_other_calls_have_spans_too(traced: Stack, receiver: OtlpReceiver, path: str, body: dict[str, object], operation: str) -> None:  # fmt: skip
    trace, parent = ids()
    answer = traced.post(path, body, traceparent=f"00-{trace}-{parent}-01")
    request, attempts = spans(receiver, trace)
    assert request.attributes["gen_ai.operation.name"] == operation
    assert (request.is_error, bool(attempts)) == (answer.status_code != 200, answer.status_code == 200)
    assert ("gen_ai.response.time_to_first_chunk" in request.attributes) is bool(body.get("stream"))


@pytest.mark.parametrize(
    "header", ["", "00-zz", "ff-" + "1" * 32 + "-" + "1" * 16 + "-01", "00-" + "0" * 32 + "-" + "1" * 16 + "-01"]
)
def test_without_a_usable_parent_a_trace_of_its_own_begins(traced: Stack, receiver: OtlpReceiver, header: str) -> None:
    task = secrets.token_hex(8)
    traced.post(CHAT, BODY, traceparent=header, x_task_id=task)

    def found() -> list[Span]:
        return [span for span in list(receiver.spans) if span.attributes.get("lmstack.task.id") == task]

    (request,) = wait_for(found, 20)
    assert (request.parent, len(request.trace)) == ("", 32)


def test_a_client_that_does_not_sample_gets_no_spans(traced: Stack, receiver: OtlpReceiver, provider: Noting) -> None:
    provider.parents.clear()
    (trace, parent), (after, _) = ids(), ids()
    traced.post(CHAT, BODY, traceparent=f"00-{trace}-{parent}-00")
    traced.post(CHAT, BODY, traceparent=f"00-{after}-{parent}-01")
    spans(receiver, after)
    assert receiver.of(trace) is None
    assert [value and value[-3:] for value in provider.parents] == ["-00", "-01"]


def test_no_prompt_and_no_key_is_in_a_span_and_only_ours_come(traced: Stack, receiver: OtlpReceiver) -> None:
    sent = b"".join(receiver.bodies)
    assert len(receiver.spans) > 10
    assert PROMPT.encode() not in sent
    assert KEY.encode() not in sent
    assert receiver.paths == {"/v1/traces"}
    assert {headers["authorization"] for headers in receiver.headers} == {f"Bearer {HEADER}"}


def test_a_receiver_that_hangs_delays_no_request_and_no_stop(traced: Stack, receiver: OtlpReceiver) -> None:
    receiver.mode = "hang"
    assert [traced.post(CHAT, BODY, timeout=5).status_code for _ in range(5)] == [200] * 5
    began = time.monotonic()
    traced.lm("restart")
    assert time.monotonic() - began < 40
    receiver.mode = "503"
    receiver.released.set()
    traced.post(CHAT, BODY)
    receiver.mode = "ok"
    trace, parent = ids()
    traced.post(CHAT, BODY, traceparent=f"00-{trace}-{parent}-01")
    spans(receiver, trace)
    text = "".join(path.read_text(errors="replace") for path in (traced.root / "logs").glob("*.log"))
    assert HEADER not in text
    assert "Traceback" not in text
