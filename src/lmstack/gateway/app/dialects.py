"""Write a refusal of the gate as the client's SDK reads it: in the form of OpenAI or Anthropic (Gemini: gemini_errors). Pure."""

from collections.abc import Mapping
from typing import Any

# The ends of the paths of Anthropic's API.
_ANTHROPIC = ("/messages", "/messages/count_tokens")
_ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


def error_body(path: str, status: int, kind: str, message: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of an error. ``fields`` are details that every form has."""
    if path.endswith(_ANTHROPIC):
        known = _ANTHROPIC_TYPES.get(status, "api_error")
        return {"type": "error", "error": {"type": known, "message": message, "code": kind, **fields}}
    return {"error": {"message": message, "type": kind, "param": None, "code": str(status), **fields}}
