"""Reads a client's request into a ``Call``: its ids, its model, and who pays for it. Pure.

The keys of LiteLLM's data were found by running LiteLLM 1.108.7; tests/contract checks them.
"""

import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

from lmstack.gateway.calls.fields import mapping, short_text
from lmstack.ledger.records import Attribution, Call, new_id

MAX_TAGS = 20


def headers_of(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the client's headers, with lower-case names."""
    return {
        str(k).lower(): str(v) for k, v in mapping(mapping(data.get("proxy_server_request")).get("headers")).items()
    }


def start_call(data: Mapping[str, Any], headers: Mapping[str, str] | None = None, path: str | None = None) -> Call:
    """Return the call for the ``data`` of a hook. ``headers`` replace those that are in ``data``."""
    body = mapping(mapping(data.get("proxy_server_request")).get("body"))
    sent = headers_of(data) if headers is None else headers
    return Call(
        id=new_id("req"),
        call_id=short_text(data.get("litellm_call_id")),
        trace_id=short_text(data.get("litellm_trace_id")),
        started_at=time.time(),
        endpoint=short_text(path) or "",
        stream=bool(data.get("stream") or body.get("stream")),
        requested_model=short_text(data.get("model")),
        attribution=attribution_of(data, sent),
        client_key=short_text(sent.get("idempotency-key")) or short_text(sent.get("x-request-id")),
    )


def attribution_of(data: Mapping[str, Any], headers: Mapping[str, str]) -> Attribution:
    """Return who pays: headers come first, then the body's ``metadata``, ``user`` and tags."""
    metadata = {
        **mapping(mapping(data.get("litellm_metadata")).get("requester_metadata")),
        **mapping(data.get("metadata")),
    }
    task, agent, tags = (_decoded(headers.get(name)) for name in ("x-task-id", "x-agent-id", "x-litellm-tags"))
    listed = metadata.get("tags")
    names = tags.split(",") if tags else listed if isinstance(listed, list) else ()
    return Attribution(
        task_id=short_text(task) or short_text(metadata.get("task_id")),
        agent_id=short_text(agent) or short_text(metadata.get("agent_id")),
        user=short_text(data.get("user")) or short_text(metadata.get("user_id")),
        key_alias=short_text(metadata.get("user_api_key_alias")),
        tags=tuple(islice(filter(None, (short_text(tag.strip()) for tag in names if isinstance(tag, str))), MAX_TAGS)),
    )


def _decoded(value: str | None) -> str | None:
    """Return a header as its client wrote it: servers read the bytes as Latin-1, but clients send UTF-8."""
    if value is None or value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
