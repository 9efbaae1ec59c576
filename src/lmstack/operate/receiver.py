"""An example TaskMaster: takes lmstack's events, checks each signature, drops what it has seen, prints the rest.

Standard library only, so that it can be copied: ``TASKMASTER_WEBHOOK_SECRET=whsec_… python receiver.py 3001``.
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
SEEN: set[str] = set()  # a real TaskMaster keeps these in its database, in the transaction that books the event


def verified(headers: dict[str, str], body: bytes) -> bool:
    """Standard Webhooks: HMAC-SHA256 over id, timestamp and body; five minutes of tolerance against replay."""
    if not SECRET:
        return True
    id_, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 12 and abs(time.time() - int(stamp)) < 300):
        return False
    try:
        key = base64.b64decode(SECRET[6:], validate=True) if SECRET.startswith("whsec_") else SECRET.encode()
    except binascii.Error:  # lmstack takes such a secret as it is
        key = SECRET.encode()
    digest = hmac.new(key, f"{id_}.{stamp}.".encode() + body, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    return any(hmac.compare_digest(one.encode(), expected) for one in headers.get("webhook-signature", "").split())


def events_of(headers: dict[str, str], body: bytes) -> list[tuple[str, str, object]]:
    """Each event's id, type and data; a batch holds many. Raises ValueError or KeyError when there are none to read."""
    if headers.get("content-type", "").startswith("application/cloudevents-batch+json"):
        return [(one["id"], one["type"], one["data"]) for one in json.loads(body)]
    return [(headers["ce-id"], headers["ce-type"], json.loads(body))]


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200 if self.path == "/api/health" else 404, b'{"status":"ok"}')

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and int(length) <= MAX_BYTES):
            self.close_connection = True
            return self.answer(413, b'{"error":"no length, or more than 10 MB"}')
        body = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not verified(headers, body):
            return self.answer(401, b'{"error":"bad signature"}')
        try:
            events = events_of(headers, body)
        except (ValueError, KeyError, TypeError):
            return self.answer(400, b'{"error":"no event in it"}')
        for id_, type_, data in events:
            if id_ not in SEEN:  # delivered at least once: the same id is the same event
                print(type_, json.dumps(data), flush=True)
                SEEN.add(id_)
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
