"""Make OpenTelemetry spans out of ended requests, by the GenAI conventions, and send them with OTLP (http/protobuf).

The only module that imports the opentelemetry packages. No prompt, no answer and no text of an error is in a span.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from lmstack import __version__
from lmstack.gateway.span_attributes import of_attempt, of_request, operation_of
from lmstack.gateway.traces import TraceIds
from lmstack.ledger.records import Ended

log = logging.getLogger(__name__)

WARN_EVERY_SECONDS = 60.0
_SCOPE = "lmstack"


class OtlpSpans:
    """The SDK with our ids, its own sampler and its own batches. Raises for settings that it does not accept."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # Their texts may name an address with a password. Ours replace them.
        for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        own = {SERVICE_VERSION: __version__}
        if not environ.get("OTEL_SERVICE_NAME") and "service.name" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            own[SERVICE_NAME] = "lmstack"
        self._ids = _GivenIds()
        # The process may end while the receiver does not answer: close() limits the time.
        self._provider = TracerProvider(resource=Resource.create(own), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Watched(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer(_SCOPE, __version__)

    def sampled(self, trace_id: int, parent: tuple[int, int] | None) -> bool:
        """Return what the sampler of OTEL_TRACES_SAMPLER decides."""
        context = None if parent is None else _context(trace_id, parent[0], parent[1])
        return self._provider.sampler.should_sample(context, trace_id, "request").decision is not Decision.DROP

    def make(self, end: Ended, ids: TraceIds) -> None:
        """Make one span for the request, and one below it for each attempt."""
        call, operation = end.call, operation_of(end.call)
        context = Context() if ids.parent is None else _context(ids.trace, ids.parent, TraceFlags.SAMPLED)
        self._ids.trace, self._ids.span = ids.trace, ids.span
        began, ended = call.started_at, call.started_at + end.latency_ms / 1000
        request = self._tracer.start_span(
            f"{operation} {call.requested_model}" if call.requested_model else operation,
            context, SpanKind.SERVER, of_request(end, operation), start_time=_ns(began),
        )  # fmt: skip
        inside = trace.set_span_in_context(request, Context())
        for number, attempt in enumerate(call.attempts, 1):
            self._ids.span = ids.attempts.get(number) or (ids.span + number) & (2**64 - 1) or 1
            until = ended if attempt.latency_ms is None else attempt.started_at + attempt.latency_ms / 1000
            span = self._tracer.start_span(
                f"{operation} {attempt.model}", inside, SpanKind.CLIENT, of_attempt(end, number, operation),
                start_time=_ns(attempt.started_at),
            )  # fmt: skip
            if attempt.outcome != "succeeded":
                span.set_status(Status(StatusCode.ERROR))
            span.end(_ns(until))
        if end.status != "succeeded":
            request.set_status(Status(StatusCode.ERROR))
        request.end(_ns(ended))

    def close(self, seconds: float) -> None:
        """Send what waits. The SDK may take half a minute for a dead receiver, so a thread of no importance does it."""
        thread = threading.Thread(target=self._provider.shutdown, name="lmstack-traces-end", daemon=True)
        thread.start()
        thread.join(seconds)


class _GivenIds(IdGenerator):
    """Gives the ids that the request has already sent to its providers."""

    trace = span = 1

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span

    def is_trace_id_random(self) -> bool:
        return True


class _Watched(SpanExporter):
    """An exporter with one line in the log for its failures, at most once a minute."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner, self._lost, self._next_warning = inner, 0, 0.0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result: SpanExportResult = self._inner.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._lost += len(spans)
            if time.monotonic() >= self._next_warning:
                self._next_warning = time.monotonic() + WARN_EVERY_SECONDS
                log.warning("traces: the receiver of OTEL_EXPORTER_OTLP_ENDPOINT did not take %d spans. See: lm doctor", self._lost)  # fmt: skip
                self._lost = 0
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return bool(self._inner.force_flush(timeout_millis))


def _context(trace_id: int, span_id: int, flags: int) -> Context:
    """Return the context of a span in another process."""
    there = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    found: Any = trace.set_span_in_context(NonRecordingSpan(there), Context())
    return found  # type: ignore[no-any-return]


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
