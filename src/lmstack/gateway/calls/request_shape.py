"""Refuses requests of a wrong shape early. LiteLLM would fail over them once for each model."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lmstack.gateway.calls import served
from lmstack.routing.prices import REALTIME, TRANSCRIPTIONS, modes_for
from lmstack.routing.refusals import invalid
from lmstack.routing.request import ROUTED_CALLS, SPECIAL_FALLBACKS, header_names

# With these LiteLLM sends a request and our key to another address than the model's, and the client may choose its path.
# With client it uses that as its HTTP client. With specific_deployment it finds no deployment, and says that all of them have failed.
_ADDRESSES = ("azure", "client", "custom_llm_provider", "deployment_id", "specific_deployment", "use_litellm_proxy")
# LiteLLM leaves these fields out of the provider's call. So a client could take out the limit of an answer, or the count of its tokens.
_DROPPED = "additional_drop_params"
_HEADERS = ("extra_headers", "headers", "provider_specific_header")
# They decide to which host a request goes, and where it ends. Our key is in the same request.
_TRANSPORT = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "te", "trailer"}
)
_CHECKED_CALLS = ROUTED_CALLS | {"aembedding", "embedding", "embeddings"}


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_text_or_list(value: object) -> bool:
    return isinstance(value, str | list)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_text_or_object(value: object) -> bool:
    return isinstance(value, str | dict)


def _is_stored_prompt(value: object, call_type: str) -> bool:
    """Return whether ``prompt`` names a prompt that the provider keeps, as OpenAI's Responses have it."""
    return call_type.endswith("responses") and isinstance(value, dict)


_SHAPES: dict[str, tuple[Callable[[object], bool], str]] = {
    "messages": (_is_list_of_objects, "a list of objects, each with role and content,"),
    "prompt": (_is_text_or_list, "a string or a list"),
    "input": (_is_text_or_list, "a string or a list"),
    "tools": (_is_list_of_objects, "a list of objects"),
    "functions": (_is_list_of_objects, "a list of objects"),
    "stream_options": (_is_object, "an object"),
    "response_format": (_is_text_or_object, "a string or an object"),
    "tool_choice": (_is_text_or_object, "a string or an object"),
    "extra_headers": (_is_object, "an object"),
    "headers": (_is_object, "an object"),
}


def check(body: Mapping[str, Any], call_type: str) -> None:
    """Raise RefusalError for a body that every provider would refuse."""
    if body.get("background"):
        raise invalid(
            "background", "this gateway does not support it: LiteLLM cannot fetch the answer later. See docs/calls.md."
        )
    # LiteLLM writes the fields of extra_body over those that routing and budgets have read, model and n too.
    if body.get("extra_body"):
        raise invalid("extra_body", "put its fields into the body itself.")
    if body.get(_DROPPED):
        raise invalid(_DROPPED, "this gateway does not take it from clients. Leave the fields out of the body.")
    _check_headers(body)
    _check_stream(body, call_type)
    _check_models(body)
    _check_mode(body, call_type)
    if call_type not in _CHECKED_CALLS:
        return
    for name, (fits, expected) in _SHAPES.items():
        value = body.get(name)
        if value is not None and not fits(value) and not (name == "prompt" and _is_stored_prompt(value, call_type)):
            raise invalid(name, f"{expected} is expected.")
    _check_tools(body.get("tools") or ())
    for name, value in body.items():
        # LiteLLM reads NaN and 1e999, but JSON has no such number.
        if isinstance(value, float) and not math.isfinite(value):
            raise invalid(name, "a finite number is expected.")


def _check_stream(body: Mapping[str, Any], call_type: str) -> None:
    """Raise RefusalError for a call that does not stream."""
    if call_type == "agenerate_content" and body.get(
        "stream"
    ):  # the provider would be asked, and LiteLLM would answer 500
        raise invalid("stream", "generateContent does not stream. Call streamGenerateContent.")
    if call_type in TRANSCRIPTIONS and str(body.get("stream")).lower() in ("true", "1"):
        raise invalid(
            "stream", "this gateway does not stream transcriptions: LiteLLM reports neither their end nor their cost."
        )


def _check_headers(body: Mapping[str, Any]) -> None:
    """Raise RefusalError for a header that would send the request, and our key in it, to another host."""
    for name in _HEADERS:
        if not _TRANSPORT.isdisjoint(header.strip().lower() for header in header_names(body.get(name))):
            raise invalid(name, "Host and other headers of the connection are not taken from clients.")


def _check_tools(tools: Iterable[Mapping[str, Any]]) -> None:
    """Raise RefusalError for an MCP server of LiteLLM itself. LiteLLM answers 403 before a provider is asked, once for each model."""
    if any(str(tool.get("server_url")).startswith("litellm_proxy") for tool in tools):
        raise invalid("tools", "this gateway has no MCP servers of its own: server_url must be the address of one.")


def _check_mode(body: Mapping[str, Any], call_type: str) -> None:
    """Raise RefusalError for a model of another kind. Its provider would refuse the call, and LiteLLM would cool it down."""
    wanted, model = modes_for(call_type), body.get("model")
    if not wanted or not isinstance(model, str):
        return
    if call_type in REALTIME and not served.is_served(model):  # LiteLLM would accept the session first
        raise invalid("model", f"'{model[:100]}' is not served. GET /v1/models lists all names.")
    known = served.modes(model)
    if known and known.isdisjoint(wanted):
        kind = " or ".join(sorted(known))
        raise invalid(
            "model",
            f"'{model[:100]}' has the mode {kind}, but this endpoint needs {' or '.join(wanted)}. "
            "If that is wrong, set the model's mode in models.yaml.",
        )


def _check_models(body: Mapping[str, Any]) -> None:
    """Raise RefusalError where LiteLLM would call models that the gateway does not know of, and charge for one only."""
    for name in _ADDRESSES:
        if body.get(name):
            raise invalid(
                name, "this gateway does not take it from clients. The model's name decides about its provider."
            )
    model = body.get("model")
    if isinstance(model, str) and "," in model:
        raise invalid("model", "one name is expected, not a list.")
    if body.get("fastest_response"):
        raise invalid("fastest_response", "this gateway does not support it: it pays several models for one answer.")
    for name in SPECIAL_FALLBACKS:
        if body.get(name):
            raise invalid(name, "this gateway does not take it from clients. Use fallbacks.")
    fallbacks = body.get("fallbacks")
    if fallbacks is not None and not (isinstance(fallbacks, list) and all(map(served.is_served, fallbacks))):
        raise invalid("fallbacks", "a list of names that the gateway serves is expected.")
