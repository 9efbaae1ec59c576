"""A TaskMaster that misbehaves on demand and counts what it gets. Listens on 127.0.0.1 only."""

import calendar
import contextlib
import gzip
import json
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FaultyReceiver:
    """``mode``: ok, 500, 429, 410, 400, garbage, reset, hang, slow, bomb. ``taken`` counts each event id that got a 200."""

    def __init__(self) -> None:
        self.mode = "ok"
        self.slow_tasks: set[str] = set()
        self.slow_seconds = 10.0
        self.taken: Counter[str] = Counter()
        self.order: dict[str, list[str]] = {}
        self.bodies: list[tuple[dict[str, str], bytes]] = []
        self.lags: list[float] = []
        self.tries = 0
        self.retry_after = "1"  # what comes with a mode that is a number
        self.fails_first = 0  # so many posts get a 503 first
        self.refuses = b""  # a body with these bytes in it gets a 400
        self.keep_bodies = False
        self._lock = threading.Lock()
        self._released = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                receiver.handle(self, {k.lower(): v for k, v in self.headers.items()}, body)

            def do_GET(self) -> None:
                receiver.reply(self, 200)

            def log_message(self, *args: object) -> None: ...

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *args: Any) -> None: ...

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()  # stop() waits one turn

    def handle(self, http: BaseHTTPRequestHandler, headers: dict[str, str], body: bytes) -> None:
        """Answer one post as ``mode`` says."""
        with self._lock:
            self.tries += 1
            mode = "503" if self.fails_first > 0 else self.mode
            self.fails_first -= 1
        if mode == "reset":
            http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            http.close_connection = True
            http.connection.close()
        elif mode == "hang":
            self._released.wait(60)
            http.close_connection = True
        elif mode == "garbage":
            http.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            http.close_connection = True
        elif mode == "bomb":
            self.take(headers, body)
            self.bomb(http)
        elif self.refuses and self.refuses in body:
            self.reply(http, 400)
        elif mode.isdigit():
            self.reply(
                http,
                int(mode),
                {"retry-after": self.retry_after} if mode in ("429", "503") and self.retry_after else {},
            )
        else:
            if headers.get("ce-subject") in self.slow_tasks:
                self._released.wait(self.slow_seconds)
            self.take(headers, body)
            self.reply(http, 204)

    def bomb(self, http: BaseHTTPRequestHandler) -> None:
        """Answer with 200 MB, packed into 200 kB."""
        packed = gzip.compress(bytes(200_000_000), 1)
        with contextlib.suppress(OSError):
            http.send_response(200)
            http.send_header("content-encoding", "gzip")
            http.send_header("content-length", str(len(packed)))
            http.end_headers()
            http.wfile.write(packed)
        http.close_connection = True

    def take(self, headers: dict[str, str], body: bytes) -> None:
        """Count the events of one post."""
        batch = headers["content-type"].startswith("application/cloudevents-batch")
        events = (
            json.loads(body)
            if batch
            else [{"id": headers["ce-id"], "time": headers["ce-time"], "subject": headers.get("ce-subject")}]
        )
        now = time.time()
        with self._lock:
            for event in events:
                self.taken[event["id"]] += 1
                self.order.setdefault(event.get("subject") or "", []).append(event["id"])
                when = time.strptime(event["time"][:19], "%Y-%m-%dT%H:%M:%S")
                self.lags.append(now - (calendar.timegm(when) + float("0" + event["time"][19:-1])))
            if self.keep_bodies:
                self.bodies.append((headers, body))

    def reply(self, http: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None) -> None:
        """Send an answer without a body."""
        http.send_response(status)
        for name, value in (headers or {}).items():
            http.send_header(name, value)
        http.send_header("content-length", "0")
        http.end_headers()

    def p99_lag(self) -> float:
        """Return how many seconds pass between an event's time and its arrival, at the 99th percentile."""
        ordered = sorted(self.lags)
        return ordered[int(len(ordered) * 0.99)] if ordered else 0.0

    def duplicates(self) -> int:
        """Return how often an event came again, with the same id."""
        return sum(count - 1 for count in self.taken.values())

    def stop(self) -> None:
        """Release the posts that hang, and stop listening."""
        self._released.set()
        self.server.shutdown()
        self.server.server_close()
