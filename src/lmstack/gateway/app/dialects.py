"""Write a refusal of the gate as the client's SDK reads it: in the form of OpenAI, Anthropic or native Gemini. Pure."""

from collections.abc import Mapping
from typing import Any

# The form of each API's error, by the end of the path.
_ANTHROPIC = ("/messages", "/messages/count_tokens")
_GEMINI = (":generateContent", ":streamGenerateContent", ":countTokens")
_ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip
_GEMINI_STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}  # fmt: skip


def error_body(path: str, status: int, kind: str, message: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of an error. ``fields`` are details that every form has."""
    if path.endswith(_ANTHROPIC):
        known = _ANTHROPIC_TYPES.get(status, "api_error")
        return {"type": "error", "error": {"type": known, "message": message, "code": kind, **fields}}
    if path.endswith(_GEMINI):
        known = _GEMINI_STATUS.get(status, "INTERNAL")
        return {"error": {"code": status, "message": message, "status": known, "type": kind, **fields}}
    return {"error": {"message": message, "type": kind, "param": None, "code": str(status), **fields}}
