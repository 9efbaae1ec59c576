"""Traces without a gateway: off costs nothing, missing packages are named, a dead receiver holds up no stop."""

import subprocess
import sys
import time
from typing import Any

import pytest

from ledger_records import call, ended
from lmstack.gateway import traces
from lmstack.gateway.span_attributes import of_request, operation_of
from lmstack.gateway.spans import OtlpSpans
from lmstack.ledger.records import Call, Fault, dump, load
from otlp import OtlpReceiver
from support import wait_for


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False), ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False), ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h/t"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)  # fmt: skip
def test_the_standard_variables_decide(environ: dict[str, str], on: bool) -> None:
    assert traces.wanted(environ) is on


def test_off_imports_nothing() -> None:
    code = "import sys; from lmstack.gateway import traces; assert traces.open_traces({}) is None; print([m for m in sys.modules if m.startswith('opentelemetry.sdk.trace')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_missing_packages_are_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delitem(sys.modules, "lmstack.gateway.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert traces.open_traces({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}) is None
    (record,) = caplog.records
    assert "Install opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http" in record.getMessage()


def test_a_wrong_value_of_a_variable_shows_no_header(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cret")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    assert traces.open_traces({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}) is None
    assert "there are none" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = OtlpReceiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    yield made
    made.stop()


@pytest.mark.parametrize("mode", ["hang", "503", "ok"])
def test_a_stop_sends_what_waits_and_does_not_wait_for_a_dead_receiver(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    receiver.mode = mode
    made = traces.open_traces()
    assert made is not None
    for number in range(1200):  # more than one batch
        made.offer(ended(call(f"r{number}")))
    began = time.monotonic()
    made.close(2.0)
    assert time.monotonic() - began < 3
    if mode == "ok":
        wait_for(lambda: len(receiver.spans) == 2400, 5)
    assert "Traceback" not in caplog.text


def test_a_full_queue_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        def sampled(self, trace: int, parent: object) -> bool:
            return True

        def make(self, end: object, ids: object) -> None:
            time.sleep(0.2)

        def close(self, seconds: float) -> None: ...

    monkeypatch.setattr(traces, "QUEUE_SIZE", 5)
    made = traces.Traces(Stuck())
    for number in range(20):
        made.offer(ended(call(f"r{number}")))
    assert made.lost in (14, 15)


def test_the_sampler_decides_by_the_standard_variables(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    made = OtlpSpans({})
    share = sum(made.sampled(number * (2**64 // 1000), None) for number in range(1, 1000)) / 1000
    assert 0.2 < share < 0.3
    assert made.sampled(2**63 - 1, (7, 1))
    made.close(1)


def test_more_headers_of_the_client_stay_and_other_calls_get_none(receiver: OtlpReceiver) -> None:
    made, one = traces.open_traces(), call("r")
    assert made is not None
    one.attempts[0].kind = "acompletion"
    kwargs: dict[str, Any] = {"extra_headers": {"x-a": "b"}}
    made.hand_on(kwargs, one)
    assert (kwargs["extra_headers"]["x-a"], len(kwargs["extra_headers"]["traceparent"])) == ("b", 55)
    other, plain = call("s"), dict[str, Any]()
    other.attempts[0].kind = "aimage_generation"
    made.hand_on(plain, other)
    assert plain == {}
    loaded = load(dump(ended(one)))
    assert getattr(loaded, "call").trace is None  # noqa: B009 - a record of any kind
    made.close(1)


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v1/chat/completions", "chat"), ("/openai/deployments/m/chat/completions?api-version=1", "chat"), ("/v1/completions", "text_completion"),
        ("/v1beta/models/gemini-2:streamGenerateContent", "generate_content"), ("/v1/audio/speech", "audio/speech"), ("/rerank", "rerank"), ("", "request"),
    ],
)  # fmt: skip
def test_the_operation_of_a_path(path: str, operation: str) -> None:
    one = call("r")
    one.endpoint = path
    assert operation_of(one) == operation


def test_no_text_of_an_error_is_in_a_span() -> None:
    one: Call = call("r")
    record = ended(one, status="failed")
    found = of_request(
        type(record)(one, "failed", 1.0, 1.0, fault=Fault("BadRequestError", "400", "the prompt")), "chat"
    )
    assert "the prompt" not in str(found)
    assert (found["error.type"], found["http.response.status_code"]) == ("BadRequestError", 400)
