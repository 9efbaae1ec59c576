"""LiteLLM's warnings and errors, as they reach the log: without the request's own words.

Whoever sets LITELLM_LOG_LEVEL=DEBUG asks for everything; that passes as it is.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from lmstack.gateway.calls import error_text

LOGGERS = ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router")
# A traceback's frames quote source code only.
_FRAMES = re.compile(r"((?:^  File \".*\n(?:^    .*\n)*)+)", re.MULTILINE)


class Discreet(logging.Filter):
    """``request`` gives the body of the request that is being served, if any."""

    def __init__(self, request: Callable[[], Mapping[str, Any] | None]) -> None:
        super().__init__()
        self._request = request
        self._formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record's texts; every record passes. Whatever goes wrong here must not reach who logs."""
        with contextlib.suppress(Exception):
            if record.levelno >= logging.WARNING:
                self._rid(record, self._request())
        return True

    def _rid(self, record: logging.LogRecord, request: Mapping[str, Any] | None) -> None:
        if record.exc_info:
            parts = _FRAMES.split(record.exc_text or self._formatter.formatException(record.exc_info))
            parts[::2] = [error_text.without(part, request) for part in parts[::2]]
            record.exc_text = "".join(parts)
        record.msg, record.args = error_text.without(record.getMessage(), request), None
