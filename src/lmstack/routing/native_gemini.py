"""What of a native Gemini request only Google's own models get. Pure.

LiteLLM translates such a request for the models of other providers. What it does not translate it leaves out, without an error:
an image, for example, or Google's search (tried with LiteLLM 1.108.7).
"""

from collections.abc import Mapping, Set
from typing import Any

# LiteLLM's prefixes of the models that get a native request as it is.
_GOOGLE = ("gemini/", "vertex_ai/")
_OWN_FIELDS = (
    "cachedContent", "cached_content", "safetySettings", "safety_settings", "labels", "continuationToken", "generation_config",
)  # fmt: skip
# What LiteLLM reads in a part, by the role of its turn, and in a function. It takes one of them from each part.
_KINDS = {"user": {"text", "functionResponse"}, "model": {"text", "functionCall"}}
_REMARKS = frozenset({"thought", "thoughtSignature"})
_FUNCTION = {"functionCall": {"id", "name", "args"}, "functionResponse": {"id", "name", "response"}}
_DECLARATION = frozenset({"name", "description", "parameters", "parametersJsonSchema"})
_MODES = (None, "MODE_UNSPECIFIED", "AUTO", "ANY", "NONE")
_JSON = "application/json"
# In LiteLLM's order: it reads the first one that is given.
_SCHEMAS = ("responseJsonSchema", "response_json_schema", "responseSchema", "response_schema")
_MIME = ("responseMimeType", "response_mime_type")
_COUNT = ("candidateCount", "candidate_count")
_MODALITIES = ("responseModalities", "response_modalities")
_OPTIONS = frozenset(
    {"temperature", "maxOutputTokens", "topP", "stopSequences", *_SCHEMAS, *_MIME, *_COUNT, *_MODALITIES}
)


def is_google(litellm_model: str) -> bool:
    """Return whether a model gets a native request as its client wrote it."""
    return litellm_model.startswith(_GOOGLE)


def needs_google(body: Mapping[str, Any]) -> bool:
    """Return whether a native request has more than LiteLLM translates: text, functions, and an answer of one JSON object."""
    return (
        any(body.get(name) for name in _OWN_FIELDS)
        or not _are_plain_tools(body.get("tools"))
        or any(not _is_plain_choice(body.get(name)) for name in ("toolConfig", "tool_config"))
        or any(not _is_plain_turn(turn) for turn in _listed(body.get("contents")))
        or not _is_plain_system(body.get("systemInstruction") or body.get("system_instruction"))
        or not _are_plain_options(body)
    )


def _are_plain_tools(tools: object) -> bool:
    if not tools:
        return True
    return isinstance(tools, list) and all(
        _has_only(tool, {"functionDeclarations"}) and _are_plain_declarations(tool.get("functionDeclarations", []))
        for tool in tools
    )


def _are_plain_declarations(found: object) -> bool:
    """Return whether LiteLLM reads all of the declared functions. It does not know ``parameters_json_schema``, with underscores."""
    return isinstance(found, list) and all(_has_only(one, _DECLARATION) for one in found)


def _is_plain_choice(found: object) -> bool:
    """Return whether the choice of functions is one that LiteLLM knows, without a list of allowed names."""
    if not found:
        return True
    if not isinstance(found, Mapping) or not _has_only(_given(found), {"functionCallingConfig"}):
        return False
    calling = found.get("functionCallingConfig", {})
    return isinstance(calling, Mapping) and _has_only(_given(calling), {"mode"}) and calling.get("mode") in _MODES


def _are_plain_options(body: Mapping[str, Any]) -> bool:
    """Return whether LiteLLM translates all options. They have two names, and it reads one of them."""
    found = [body[name] for name in ("generationConfig", "config") if body.get(name) is not None]
    return len(found) < 2 and all(isinstance(config, Mapping) and _is_plain_config(config) for config in found)


def _is_plain_turn(turn: object) -> bool:
    if not isinstance(turn, Mapping):
        return False
    role, parts = turn.get("role", "user"), turn.get("parts", [])
    if not isinstance(role, str) or role not in _KINDS or not isinstance(parts, list):
        return False
    return all(_is_plain_part(part, _KINDS[role]) for part in parts)


def _is_plain_part(part: object, allowed: Set[str]) -> bool:
    """Return whether LiteLLM translates a part. A thought would become text, and of two contents only one is read."""
    if isinstance(part, str):
        return True
    if not isinstance(part, Mapping) or part.get("thought"):
        return False
    kinds = part.keys() - _REMARKS
    return len(kinds) < 2 and kinds <= allowed and all(_has_only(part[one], _FUNCTION[one]) for one in kinds - {"text"})


def _is_plain_system(found: object) -> bool:
    """Return whether a system instruction is one text: LiteLLM translates the first part only."""
    if not found:
        return True
    parts = found.get("parts") if isinstance(found, Mapping) else None
    return isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], Mapping) and parts[0].keys() == {"text"}


def _is_plain_config(config: Mapping[str, Any]) -> bool:
    modalities = _listed(_option(config, *_MODALITIES))
    if (
        not _has_only(_given(config), _OPTIONS)
        or any(one != "TEXT" for one in modalities)
        or _option(config, *_COUNT) not in (None, 1)
    ):
        return False
    mime, schema = _option(config, *_MIME), _option(config, *_SCHEMAS)
    return mime in (None, _JSON) and _is_object(schema) if schema is not None else mime in (None, "text/plain")


def _is_object(schema: object) -> bool:
    """Return whether the answer's form is that of an object: LiteLLM translates no other form, and no JSON without one."""
    return isinstance(schema, Mapping) and str(schema.get("type")).lower() == "object"


def _given(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields that say something."""
    return {name: value for name, value in fields.items() if value not in (None, {}, [])}


def _has_only(found: object, names: Set[str]) -> bool:
    return isinstance(found, Mapping) and found.keys() <= names


def _option(config: Mapping[str, Any], *names: str) -> object:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
