"""Remove prompt and answer text from LiteLLM's warnings and errors. Lines of lower levels stay complete.

LITELLM_LOG_LEVEL=DEBUG asks for complete lines, so DEBUG and INFO lines pass unchanged.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from lmstack.gateway.calls import error_text

LITELLM_LOGGERS = ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router")
# The frames of a traceback quote source code only, so they need no redaction. LiteLLM cuts the middle out of a long traceback.
# The line with the cut may begin with source code and end with a message.
_FRAMES = re.compile(r"((?:^  File \".*\n(?:^    (?!.*litellm_truncated).*\n)*)+)", re.MULTILINE)


class RedactionFilter(logging.Filter):
    """Redact log records. ``current_body`` returns the body of the request that is being served, or None."""

    def __init__(self, current_body: Callable[[], Mapping[str, Any] | None]) -> None:
        super().__init__()
        self._current_body = current_body
        self._formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the texts of a record and keep the record. An error here must not reach the code that logs."""
        with contextlib.suppress(Exception):
            if record.levelno >= logging.WARNING:
                self._redact(record, self._current_body())
        return True

    def _redact(self, record: logging.LogRecord, body: Mapping[str, Any] | None) -> None:
        if record.exc_info:
            parts = _FRAMES.split(record.exc_text or self._formatter.formatException(record.exc_info))
            parts[::2] = [error_text.remove_request(part, body) for part in parts[::2]]
            record.exc_text = "".join(parts)
        record.msg, record.args = error_text.remove_request(record.getMessage(), body), None
