"""A receiver of OTLP over HTTP that reads what it gets with OpenTelemetry's own protobuf classes."""

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """One span that came, with its ids as hexadecimal text."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    seconds: float
    is_error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


class OtlpReceiver:
    """Listens on loopback. ``mode``: ok, or a status to answer with, or hang."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.mode = "ok"
        self.released = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def take(self, http: BaseHTTPRequestHandler) -> None:
        body = http.rfile.read(int(http.headers["content-length"]))
        if self.mode == "hang":
            self.released.wait(60)
        if self.mode in ("ok", "hang"):
            plain = gzip.decompress(body) if http.headers.get("content-encoding") == "gzip" else body
            self.bodies.append(plain)
            self.paths.add(http.path)
            self.headers.append({name.lower(): value for name, value in http.headers.items()})
            self._read(plain)
        http.send_response(200 if self.mode in ("ok", "hang") else int(self.mode))
        http.send_header("content-length", "0")
        http.end_headers()

    def _read(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            own = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                for s in scope.spans:
                    seconds = (s.end_time_unix_nano - s.start_time_unix_nano) / 1e9
                    ids = (s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex())
                    self.spans.append(
                        Span(s.name, *ids, s.kind, seconds, s.status.code == 2, _values(s.attributes), own)
                    )

    def of(self, trace: str) -> tuple[Span, list[Span]] | None:
        """Return the request's span of a trace and those of its attempts, None until they have come."""
        found = [span for span in list(self.spans) if span.trace == trace]
        roots = [span for span in found if span.kind == 2]
        return (
            (roots[0], sorted((s for s in found if s.kind == 3), key=lambda s: s.attributes["lmstack.attempt"]))
            if roots
            else None
        )

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)
