"""From LiteLLM's hook data to our records. Pure: dicts in, values out; never a whole dict, never a secret.

Which key holds what was found by running LiteLLM 1.106.2 (tests/contract pins it).
"""

import math
import os
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

from lmstack.gateway.calls import error_text
from lmstack.ledger.records import Attempt, Attribution, Call, Fault, Usage, new_id
from lmstack.ledger.redact import redacted, secret_values
from lmstack.routing.candidates import rates_of

MAX_MESSAGE = 500
MAX_FIELD = 200
MAX_TAGS = 20
# No model takes or gives as many tokens in one call; a provider that says so is not believed.
MAX_TOKENS = 1_000_000_000

_OWN_SECRETS = secret_values(os.environ)


def redact(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """Without anything that looks like or is a key, and cut to MAX_MESSAGE characters."""
    return _storable(redacted(text, _OWN_SECRETS if secrets is None else secrets)[:MAX_MESSAGE])


def start_call(data: Mapping[str, Any], headers: Mapping[str, str] | None = None, path: str | None = None) -> Call:
    """Read one client request out of a hook's ``data``; ``headers`` and ``path`` win where given."""
    request = _mapping(data.get("proxy_server_request"))
    heads = {**_headers(request), **(headers or {})}
    body = _mapping(request.get("body"))
    return Call(
        id=new_id("req"),
        call_id=_text(data.get("litellm_call_id")),
        trace_id=_text(data.get("litellm_trace_id")),
        started_at=time.time(),
        endpoint=_text(path) or "",
        stream=bool(data.get("stream") or body.get("stream")),
        requested_model=_text(data.get("model")),
        attribution=attribution(data, heads),
    )


def attribution(data: Mapping[str, Any], headers: Mapping[str, str]) -> Attribution:
    """Whom to charge: headers first, then the body's ``metadata``, ``user`` and tags."""
    meta = {
        **_mapping(_mapping(data.get("litellm_metadata")).get("requester_metadata")),
        **_mapping(data.get("metadata")),
    }
    task, agent, tags = (_header(headers.get(name)) for name in ("x-task-id", "x-agent-id", "x-litellm-tags"))
    listed = meta.get("tags")
    named = tags.split(",") if tags else listed if isinstance(listed, list) else ()
    return Attribution(
        task_id=_text(task) or _text(meta.get("task_id")),
        agent_id=_text(agent) or _text(meta.get("agent_id")),
        user=_text(data.get("user")) or _text(meta.get("user_id")),
        key_alias=_text(meta.get("user_api_key_alias")),
        tags=tuple(islice(filter(None, (_text(tag.strip()) for tag in named if isinstance(tag, str))), MAX_TAGS)),
    )


def start_attempt(kwargs: Mapping[str, Any], kind: str = "") -> Attempt:
    """Read a deployment that is about to be called; our own facts stand in its ``model_info``."""
    meta = _mapping(kwargs.get("metadata")) or _mapping(kwargs.get("litellm_metadata"))
    info = _mapping(kwargs.get("model_info")) or _mapping(meta.get("model_info"))
    model = str(kwargs.get("model") or "")
    prefix, _, name = model.rpartition("/")
    tier = info.get("lm_tier")
    return Attempt(
        deployment=_text(meta.get("deployment_model_name")) or _text(info.get("id")),
        model=name or None,
        provider=_text(info.get("lm_provider")) or prefix or _text(kwargs.get("custom_llm_provider")),
        litellm_model=model or None,
        tier=tier if isinstance(tier, int) else None,
        rates=rates_of(info.get("lm_rates")),
        own_price=info.get("lm_own_price") is True,
        started_at=time.time(),
        kind=kind,
    )


def fault_of(error: BaseException, request: Mapping[str, Any] | None = None) -> Fault:
    """Class, HTTP status and message of an exception; the message redacted, and free of the request's own words."""
    code = getattr(error, "status_code", None) or getattr(error, "code", None)
    detail = getattr(error, "detail", None)
    text = detail.get("error") if isinstance(detail, dict) else None
    message = error_text.message_of(str(text or getattr(error, "message", None) or error), request)
    kind = detail.get("type") if isinstance(detail, dict) else None
    return Fault(
        _text(kind) or type(error).__name__, None if code is None else _storable(str(code)[:20]), redact(message)
    )


def usage_in(response: object) -> object:
    """The usage of a whole answer, as its provider names it; None when it has none."""
    names = ("usage", "usageMetadata", "usage_metadata")
    return next((found for name in names if (found := _field(response, name)) is not None), None)


def usage_of(usage: object) -> Usage:
    """Tokens from the usage of a chat, embeddings, Responses, Messages or native Gemini answer, object or dict."""
    if usage is None:
        return Usage()
    if _field(usage, "promptTokenCount") is not None or _field(usage, "candidatesTokenCount") is not None:
        return _gemini_usage(usage)

    def get(name: str) -> object:
        return _field(usage, name)

    cached_read, cached_made = _int(get("cache_read_input_tokens")), _int(get("cache_creation_input_tokens"))
    prompt = _int(get("prompt_tokens"))
    if prompt is None:
        prompt = _int(get("input_tokens"))
        if prompt is not None and isinstance(usage, Mapping):  # Anthropic counts the cache beside the input
            prompt += (cached_read or 0) + (cached_made or 0)
    completion = _int(get("completion_tokens"))
    if completion is None:
        completion = _int(get("output_tokens"))
    inside = get("prompt_tokens_details") or get("input_tokens_details")
    outside = get("completion_tokens_details") or get("output_tokens_details")
    cached = _int(_field(inside, "cached_tokens"))
    return Usage(
        prompt, completion, cached if cached is not None else cached_read, _int(_field(outside, "reasoning_tokens"))
    )


def _gemini_usage(usage: object) -> Usage:
    """Google counts thoughts beside the answer, and cached tokens within the prompt."""
    answer, thoughts = _int(_field(usage, "candidatesTokenCount")), _int(_field(usage, "thoughtsTokenCount"))
    completion = None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0)
    return Usage(
        _int(_field(usage, "promptTokenCount")), completion, _int(_field(usage, "cachedContentTokenCount")), thoughts
    )


def _headers(request: Mapping[str, Any]) -> dict[str, str]:
    return {str(k).lower(): str(v) for k, v in _mapping(request.get("headers")).items()}


def _header(value: str | None) -> str | None:
    """What a client wrote: the server reads a header's bytes as Latin-1, clients send UTF-8."""
    if value is None or value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _field(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return redact(str(value))[:MAX_FIELD] if isinstance(value, str | int) and str(value) else None


def _storable(text: str) -> str:
    """JSON may name half a character (a lone surrogate); no file takes one."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _int(value: object) -> int | None:
    """A count of tokens; None for what none can be: a fraction of infinity, less than nothing, more than MAX_TOKENS."""
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= MAX_TOKENS else None
