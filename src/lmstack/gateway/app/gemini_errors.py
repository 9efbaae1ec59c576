"""Write the errors of native Gemini calls in Google's form too. Its SDKs read a whole number as code, and a status."""

import json

from starlette.types import Message, Send

ENDS = (":generateContent", ":streamGenerateContent", ":countTokens")
# Google's names (google.rpc.Code), by HTTP status.
_STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 502: "UNAVAILABLE", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}  # fmt: skip


class GeminiErrors:
    """Send an answer. An error gets ``code`` and ``status`` in the form of Google, beside its other fields."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None  # of an error: its length changes

    async def __call__(self, message: Message) -> None:
        """Pass a message on. The gate sends the body of an error in one part."""
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            body = message.get("body", b"")
            written = in_googles_form(start["status"], body)
            if written != body:
                kept = [(name, value) for name, value in start.get("headers", ()) if name.lower() != b"content-length"]
                start = {**start, "headers": [*kept, (b"content-length", str(len(written)).encode())]}
                message = {**message, "body": written}
            await self._send(start)
        await self._send(message)


def in_googles_form(status: int, body: bytes) -> bytes:
    """Return the body of an error with Google's code and status. What is no error in JSON is returned unchanged."""
    try:
        found = json.loads(body)
        error = found["error"]
        name = _STATUS.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
        found["error"] = {**error, "code": status, "status": name}
    except (ValueError, RecursionError, TypeError, KeyError, IndexError):
        return body
    return json.dumps(found).encode()
