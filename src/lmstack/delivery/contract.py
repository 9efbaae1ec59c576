"""Make the requests for TaskMaster: address, headers, signature, and batches of CloudEvents. No thread, no network."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from lmstack.ledger.events import iso
from lmstack.ledger.outbox import LeasedEvent


@dataclass(frozen=True, slots=True)
class Target:
    """Where events are sent. ``url``, ``api_key`` and ``secret`` are never logged: the address of a webhook is its password.

    ``column``: the target of the outbox. ``variable``: the setting that holds the address. ``form``: cloudevents or slack.
    """

    url: str = field(repr=False)
    api_key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    source: str = "lmstack"
    batch: bool = False
    column: str = ""
    variable: str = "TASKMASTER_API_URL"
    form: str = "cloudevents"

    @property
    def title(self) -> str:
        """Return the name for log lines."""
        return self.column or "TaskMaster"


def target_from(environ: Mapping[str, str]) -> Target | None:
    """Return the receiver in the settings, None when there is none."""
    base = environ.get("TASKMASTER_API_URL", "").strip().rstrip("/")
    if not base:
        return None
    path = environ.get("TASKMASTER_EVENTS_PATH", "").strip() or "/api/litellm/log"
    return Target(
        base + "/" + path.lstrip("/"),
        environ.get("TASKMASTER_API_KEY", "").strip(),
        environ.get("TASKMASTER_WEBHOOK_SECRET", "").strip(),
        batch=environ.get("TASKMASTER_BATCH", "off").lower() in ("on", "true", "yes", "1"),
    )


def headers_for(target: Target, event: LeasedEvent, now: float) -> dict[str, str]:
    """Return the headers of CloudEvents 1.0 in binary mode, and of Standard Webhooks when a secret is set."""
    headers = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": event.event_id,
        "ce-source": target.source,
        "ce-type": event.type,
        "ce-time": iso(event.created_at),
        "webhook-id": event.event_id,
        "webhook-timestamp": str(int(now)),
    }
    if event.order_key.startswith("task:"):
        # Header values are ASCII. The HTTP binding of CloudEvents percent-encodes everything else.
        headers["ce-subject"] = "".join(
            chr(b) if 0x21 <= b <= 0x7E and b not in b'"%' else f"%{b:02X}" for b in event.order_key[5:].encode()
        )
    return headers | _proof_headers(target, event.event_id, event.payload, now)


def batch_post(target: Target, events: list[LeasedEvent], now: float) -> tuple[str, dict[str, str]]:
    """Return body and headers of a batch of CloudEvents. Its id follows from its events, so a retry has the same id.

    Raises ValueError when a payload is not JSON.
    """
    entries = [
        {
            "specversion": "1.0",
            "id": event.event_id,
            "source": target.source,
            "type": event.type,
            "time": iso(event.created_at),
            "datacontenttype": "application/json",
            "data": json.loads(event.payload),
        }
        for event in events
    ]
    body = json.dumps(entries, separators=(",", ":"))
    batch_id = "bat_" + hashlib.sha256(" ".join(event.event_id for event in events).encode()).hexdigest()[:32]
    headers = {
        "content-type": "application/cloudevents-batch+json",
        "webhook-id": batch_id,
        "webhook-timestamp": str(int(now)),
    }
    return body, headers | _proof_headers(target, batch_id, body, now)


def _proof_headers(target: Target, id_: str, body: str, now: float) -> dict[str, str]:
    """Return the headers that prove the sender and the body, where a key or a secret is set."""
    proofs = {"authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    if target.secret:
        proofs["webhook-signature"] = sign(target.secret, id_, int(now), body)
    return proofs


def sign(secret: str, event_id: str, timestamp: int, body: str) -> str:
    """Return the ``v1`` signature of Standard Webhooks. A ``whsec_`` secret is base64; any other is used as it is."""
    try:
        key = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
    except binascii.Error:
        key = secret.encode()
    digest = hmac.new(key, f"{event_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()
