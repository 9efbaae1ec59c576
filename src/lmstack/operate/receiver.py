"""An example TaskMaster: receives events, checks each signature, ignores events that came before, prints the others.

It needs only the standard library, so you can copy it: ``TASKMASTER_WEBHOOK_SECRET=whsec_… python receiver.py 3001``.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ.get("TASKMASTER_WEBHOOK_SECRET", "")
MAX_BYTES = 10_000_000
SEEN: set[str] = set()  # a real TaskMaster stores these in its database, in the same transaction as the event


def verified(headers: dict[str, str], body: bytes) -> bool:
    """Check the signature of Standard Webhooks: HMAC-SHA256 of id, timestamp and body, at most five minutes old."""
    if not SECRET:
        return True
    id_, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 12 and abs(time.time() - int(stamp)) < 300):
        return False
    try:
        key = base64.b64decode(SECRET[6:], validate=True) if SECRET.startswith("whsec_") else SECRET.encode()
    except binascii.Error:  # lmstack uses such a secret as it is
        key = SECRET.encode()
    digest = hmac.new(key, f"{id_}.{stamp}.".encode() + body, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    return any(hmac.compare_digest(one.encode(), expected) for one in headers.get("webhook-signature", "").split())


def events_of(headers: dict[str, str], body: bytes) -> list[tuple[str, str, object]]:
    """Return id, type and data of each event. A batch holds many. Raise ValueError or KeyError when it holds no event."""
    if headers.get("content-type", "").startswith("application/cloudevents-batch+json"):
        return [(one["id"], one["type"], one["data"]) for one in json.loads(body)]
    return [(headers["ce-id"], headers["ce-type"], json.loads(body))]


class Receiver(BaseHTTPRequestHandler):
    """Answers the posts of lmstack."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer the health check."""
        self.answer(200 if self.path == "/api/health" else 404, b'{"status":"ok"}')

    def do_POST(self) -> None:
        """Take one event or a batch, print what is new, and answer 200."""
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and int(length) <= MAX_BYTES):
            self.close_connection = True
            return self.answer(413, b'{"error":"the body has no length, or more than 10 MB"}')
        body = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not verified(headers, body):
            return self.answer(401, b'{"error":"the signature is wrong"}')
        try:
            events = events_of(headers, body)
        except (ValueError, KeyError, TypeError):
            return self.answer(400, b'{"error":"the body holds no event"}')
        for id_, type_, data in events:
            if id_ not in SEEN:  # an event may come twice: the same id is the same event
                print(type_, json.dumps(data), flush=True)
                SEEN.add(id_)
        self.answer(200, b"{}")

    def answer(self, status: int, body: bytes) -> None:
        """Send a status and a body of JSON."""
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Log nothing. Only events are printed."""


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Receiver).serve_forever()  # noqa: S104 - containers must reach it
