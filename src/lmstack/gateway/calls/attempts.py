"""Reads an attempt and its failure out of LiteLLM's hook data. Pure: never keeps a whole dict, never a secret.

The keys were found by running LiteLLM 1.108.7; tests/contract checks them.
"""

import time
from collections.abc import Mapping
from typing import Any

from lmstack.gateway.calls import error_text
from lmstack.gateway.calls.fields import mapping, redact, short_text, storable
from lmstack.ledger.records import Attempt, Fault
from lmstack.routing.candidates import rates_from
from lmstack.routing.prices import flat_price_from


def start_attempt(kwargs: Mapping[str, Any], kind: str = "") -> Attempt:
    """Return the attempt for a deployment that LiteLLM is about to call. Our own facts are in its ``model_info``."""
    metadata = mapping(kwargs.get("metadata")) or mapping(kwargs.get("litellm_metadata"))
    info = mapping(kwargs.get("model_info")) or mapping(metadata.get("model_info"))
    model = str(kwargs.get("model") or "")
    prefix, _, name = model.rpartition("/")
    tier = info.get("lm_tier")
    return Attempt(
        deployment=short_text(metadata.get("deployment_model_name")) or short_text(info.get("id")),
        model=name or None,
        provider=short_text(info.get("lm_provider")) or prefix or short_text(kwargs.get("custom_llm_provider")),
        litellm_model=model or None,
        tier=tier if isinstance(tier, int) else None,
        rates=rates_from(info.get("lm_rates")),
        own_price=info.get("lm_own_price") is True,
        flat_price=flat_price_from(info.get("lm_flat_price")),
        started_at=time.time(),
        kind=kind,
    )


def fault_of(error: BaseException, request: Mapping[str, Any] | None = None, prefix: str = "") -> Fault:
    """Return the class, HTTP status and message of an exception. Keys and the request's own words are removed.

    ``prefix`` begins the message.
    """
    code = getattr(error, "status_code", None) or getattr(error, "code", None)
    detail = getattr(error, "detail", None)
    text = detail.get("error") if isinstance(detail, dict) else None
    message = error_text.message_of(str(text or getattr(error, "message", None) or error), request)
    kind = detail.get("type") if isinstance(detail, dict) else None
    return Fault(
        short_text(kind) or type(error).__name__,
        None if code is None else storable(str(code)[:20]),
        redact(prefix + message),
    )
