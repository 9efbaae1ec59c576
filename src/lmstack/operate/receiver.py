"""An example TaskMaster: takes lmstack's events, checks each signature, drops what it has seen, prints the rest.

Standard library only, so that it can be copied: ``TASKMASTER_WEBHOOK_SECRET=whsec_… python receiver.py 3001``.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ.get("TASKMASTER_WEBHOOK_SECRET", "")
SEEN: set[str | None] = set()  # a real TaskMaster keeps these in its database, in the transaction that books the event


def verified(headers: dict[str, str], body: bytes) -> bool:
    """Standard Webhooks: HMAC-SHA256 over id, timestamp and body; five minutes of tolerance against replay."""
    if not SECRET:
        return True
    id_, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "0")
    key = base64.b64decode(SECRET[6:]) if SECRET.startswith("whsec_") else SECRET.encode()
    digest = hmac.new(key, f"{id_}.{stamp}.".encode() + body, hashlib.sha256).digest()
    offered = headers.get("webhook-signature", "").split()
    fresh = abs(time.time() - float(stamp)) < 300
    return fresh and any(hmac.compare_digest(one, "v1," + base64.b64encode(digest).decode()) for one in offered)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200 if self.path == "/api/health" else 404, b'{"status":"ok"}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not verified(headers, body):
            return self.answer(401, b'{"error":"bad signature"}')
        if (id_ := headers.get("webhook-id")) not in SEEN:  # delivered at least once: the same id is the same event
            SEEN.add(id_)
            print(headers.get("ce-type", "batch"), json.dumps(json.loads(body)), flush=True)
        self.answer(200, b"{}")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet: only events are printed."""


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Receiver).serve_forever()  # noqa: S104 - containers must reach it
