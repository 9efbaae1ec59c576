"""Traces: the ids of a request's spans, the header for its providers, and the thread that makes the spans.

Without OTEL_EXPORTER_OTLP_ENDPOINT nothing here is imported or done. The spans themselves are in spans.py: only that module
knows the opentelemetry packages. A request adds one entry to a queue.
"""

import logging
import os
import queue
import random
import re
import threading
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lmstack.gateway.calls import current
from lmstack.ledger.records import Call, Ended, Record

log = logging.getLogger(__name__)

QUEUE_SIZE = 10_000
# W3C Trace Context: version, trace id, span id, flags. A later version may have more.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# LiteLLM's types of calls that take more headers for the provider.
_TAKE_HEADERS = frozenset({"acompletion", "completion", "atext_completion", "text_completion", "aembedding", "embedding", "aresponses", "responses"})  # fmt: skip


@dataclass(slots=True)
class TraceIds:
    """The ids of one request: of its trace, its parent in the client (None: it has none), itself, and its attempts by number.

    ``sampled``: its spans are sent.
    """

    trace: int
    parent: int | None
    span: int
    sampled: bool
    attempts: dict[int, int] = field(default_factory=dict)


class Spans(Protocol):
    """What spans.py makes out of ended requests."""

    def sampled(self, trace: int, parent: tuple[int, int] | None) -> bool:
        """Return whether a trace is sent. ``parent``: the span of the client and its flags."""

    def make(self, end: Ended, ids: TraceIds) -> None:
        """Make the spans of one request."""

    def close(self, seconds: float) -> None:
        """Send what waits, for at most so many seconds."""


def wanted(environ: Mapping[str, str]) -> bool:
    """Return whether the settings ask for traces, by the standard variables."""
    off = (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none"
    )
    return not off and any(environ.get(name) for name in _ENDPOINTS)


class Traces:
    """Takes ended requests from any thread, and makes their spans in its own."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._queue: queue.SimpleQueue[tuple[Ended, TraceIds] | None] = queue.SimpleQueue()
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="lmstack-traces", daemon=True)
        self._thread.start()

    def hand_on(self, kwargs: MutableMapping[str, Any], call: Call) -> None:
        """Give the provider of the attempt that begins the ids of its span. Other headers of the client stay."""
        ids = self._ids(call)
        span = ids.attempts.setdefault(len(call.attempts), random.getrandbits(64) or 1)
        if call.attempts and call.attempts[-1].kind in _TAKE_HEADERS:
            given = kwargs.get("extra_headers")
            value = f"00-{ids.trace:032x}-{span:016x}-{int(ids.sampled):02x}"
            kwargs["extra_headers"] = {**(given if isinstance(given, Mapping) else {}), "traceparent": value}

    def offer(self, record: Record) -> None:
        """Queue the end of a request. When the queue is full it is dropped: a trace must not cost memory without bound."""
        if not isinstance(record, Ended):
            return
        ids = self._ids(record.call)
        if not ids.sampled:
            return
        if self._queue.qsize() >= QUEUE_SIZE:
            self.lost += 1
            return
        self._queue.put((record, ids))

    def close(self, seconds: float) -> None:
        """Send what waits. Takes at most about so many seconds, also when the receiver does not answer."""
        self._queue.put(None)
        self._thread.join(seconds / 2)
        self._spans.close(seconds / 2)

    def _ids(self, call: Call) -> TraceIds:
        if not isinstance(call.trace, TraceIds):
            context = current.request_context.get()
            call.trace = self._begin(context.headers.get("traceparent") if context is not None else None)
        return call.trace

    def _begin(self, header: str | None) -> TraceIds:
        found = _TRACEPARENT.fullmatch(header.strip()) if header else None
        span = random.getrandbits(64) or 1
        if found is None:
            trace = random.getrandbits(128) or 1
            return TraceIds(trace, None, span, self._spans.sampled(trace, None))
        trace, parent, flags = int(found[1], 16), int(found[2], 16), int(found[3], 16)
        return TraceIds(trace, parent, span, self._spans.sampled(trace, (parent, flags)))

    def _run(self) -> None:
        while (taken := self._queue.get()) is not None:
            try:
                self._spans.make(*taken)
            except Exception:
                log.exception("traces: the spans of a request could not be made")


def open_traces(environ: Mapping[str, str] = os.environ) -> Traces | None:
    """Return the traces of this worker; None where they are off, or cannot be made. The log then has the reason."""
    if not wanted(environ):
        return None
    try:
        from lmstack.gateway.spans import OtlpSpans
    except ImportError as error:
        log.warning(
            "traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but the packages for traces are missing (%s). There are no traces. "
            "Install opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http beside LiteLLM",
            error.name,
        )  # fmt: skip
        return None
    try:
        return Traces(OtlpSpans(environ))
    except Exception as error:  # a wrong value in a variable of OpenTelemetry; its text may hold a header
        log.warning(
            "traces: there are none, because the exporter does not accept its settings (%s)", type(error).__name__
        )
        return None
