"""What of a native Gemini request only Google's own models get. Pure.

LiteLLM translates such a request for the models of other providers. What it does not translate it leaves out, without an error:
an image, for example, or Google's search (tried with LiteLLM 1.108.7).
"""

from collections.abc import Iterator, Mapping
from typing import Any

# LiteLLM's prefixes of the models that get a native request as it is.
_GOOGLE = ("gemini/", "vertex_ai/")
_PLAIN_PARTS = frozenset({"text", "functionCall", "functionResponse", "thought", "thoughtSignature"})
_ROLES = ("user", "model")
_JSON = "application/json"
_OWN_FIELDS = ("cachedContent", "cached_content")
_OWN_OPTIONS = ("speechConfig", "speech_config", "tools", "systemInstruction", "system_instruction", *_OWN_FIELDS)


def is_google(litellm_model: str) -> bool:
    """Return whether a model gets a native request as its client wrote it."""
    return litellm_model.startswith(_GOOGLE)


def needs_google(body: Mapping[str, Any]) -> bool:
    """Return whether a native request has more than LiteLLM translates: text, functions, and an answer of one JSON object."""
    tools = _listed(body.get("tools"))
    return (
        any(body.get(name) for name in _OWN_FIELDS)
        or any(not isinstance(tool, Mapping) or not tool.keys() <= {"functionDeclarations"} for tool in tools)
        or any(not _is_plain_turn(turn) for turn in _listed(body.get("contents")))
        or not _is_plain_system(body.get("systemInstruction") or body.get("system_instruction"))
        or any(not _is_plain_config(config) for config in _configs(body))
    )


def _configs(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the options of a request. LiteLLM reads them under both names."""
    found = (body.get(name) for name in ("generationConfig", "config"))
    return (config for config in found if isinstance(config, Mapping))


def _is_plain_turn(turn: object) -> bool:
    if not isinstance(turn, Mapping) or turn.get("role", "user") not in _ROLES:
        return False
    return all(_is_plain_part(part) for part in _listed(turn.get("parts")))


def _is_plain_part(part: object) -> bool:
    return isinstance(part, str) or (isinstance(part, Mapping) and part.keys() <= _PLAIN_PARTS)


def _is_plain_system(found: object) -> bool:
    """Return whether a system instruction is one text: LiteLLM translates the first part only."""
    if not found:
        return True
    parts = _listed(found.get("parts")) if isinstance(found, Mapping) else []
    return len(parts) == 1 and isinstance(parts[0], Mapping) and parts[0].keys() == {"text"}


def _is_plain_config(config: Mapping[str, Any]) -> bool:
    modalities = _listed(_option(config, "responseModalities", "response_modalities"))
    count = _option(config, "candidateCount", "candidate_count")
    if (
        any(config.get(name) for name in _OWN_OPTIONS)
        or any(one != "TEXT" for one in modalities)
        or count not in (None, 1)
    ):
        return False
    mime = _option(config, "responseMimeType", "response_mime_type")
    return mime in (None, "text/plain") or (mime == _JSON and _has_object_schema(config))


def _has_object_schema(config: Mapping[str, Any]) -> bool:
    """Return whether the answer's form is given as an object: LiteLLM translates no other form, and no JSON without one."""
    found = _option(config, "responseSchema", "response_schema", "responseJsonSchema", "response_json_schema")
    return isinstance(found, Mapping) and str(found.get("type")).lower() == "object"


def _option(config: Mapping[str, Any], *names: str) -> object:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
