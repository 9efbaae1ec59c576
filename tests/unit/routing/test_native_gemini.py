"""Which native Gemini requests go to Google's own models only: LiteLLM would leave something out for all others."""

from typing import Any

import pytest

from lmstack.routing.candidates import Candidate
from lmstack.routing.native_gemini import needs_google
from lmstack.routing.policy import Models, decide, decide_free
from lmstack.routing.refusals import RefusalError
from lmstack.routing.request import read
from lmstack.routing.rules import RoutingRules

HI = {"role": "user", "parts": [{"text": "hi"}]}
CHEAP = Candidate("cheap-one", "openai", 1, (0.0, 0.0), 1_000_000, None, "openai/cheap-one")
GOOGLE = Candidate("google-one", "google", 1, (0.1, 0.5), 1_000_000, None, "gemini/google-one")
ROUTER = Candidate("sold-on", "openrouter", 1, (0.1, 0.2), 1_000_000, None, "openrouter/google/gemini")
MODELS = Models((CHEAP, GOOGLE, ROUTER))
PICTURE = {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}, {"text": "what?"}]}]}
FUNCTION = {"name": "f", "description": "d", "parametersJsonSchema": {"type": "object"}}
OBJECT = {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}

OPTIONS_FOR_GOOGLE = {
    "topK": 5, "seed": 0, "presencePenalty": 0.5, "responseLogprobs": True, "thinkingConfig": {"thinkingBudget": 0},
    "max_output_tokens": 5, "safetySettings": [{}], "mediaResolution": "LOW", "a-new-one": 1,
}  # fmt: skip


def config(**fields: object) -> dict[str, Any]:
    return {"contents": [HI], "generationConfig": fields}


def turn(role: str, *parts: object) -> dict[str, Any]:
    return {"contents": [{"role": role, "parts": list(parts)}]}


def choice(**calling: object) -> dict[str, Any]:
    return {"functionCallingConfig": calling}


@pytest.mark.parametrize(
    "body",
    [
        {"contents": [HI]},
        {"contents": HI},
        {"contents": [{"parts": [{"text": "hi", "thought": False}]}, {"role": "model", "parts": [{"functionCall": {"name": "f"}, "thoughtSignature": "x"}]}]},
        {"contents": [{"role": "user", "parts": [{"functionResponse": {"id": "1", "name": "f", "response": {}}}]}]},
        {"contents": [HI], "systemInstruction": {"parts": [{"text": "be brief"}]}, "safetySettings": []},
        {"contents": [HI], "tools": [{"functionDeclarations": [FUNCTION]}], "toolConfig": {}},
        *({"contents": [HI], "toolConfig": choice(mode=mode)} for mode in ("AUTO", "ANY", "NONE")),
        config(maxOutputTokens=5, temperature=0.5, candidateCount=1, responseModalities=["TEXT"], thinkingConfig={}, seed=None),
        config(topP=0.5, stopSequences=["x"]),
        {"contents": [HI], "config": {"temperature": 0}, "generationConfig": None},
        config(responseJsonSchema={"type": "object"}, responseSchema={"type": "ARRAY"}),
        config(responseMimeType="application/json", responseSchema=OBJECT),
        config(response_mime_type="text/plain"),
        {},
    ],
)  # fmt: skip
def test_text_functions_and_one_json_object_go_to_any_provider(body: dict[str, Any]) -> None:
    assert needs_google(body) is False


@pytest.mark.parametrize(
    "body",
    [
        PICTURE,
        {"contents": [{"parts": [{"inline_data": {"mime_type": "audio/wav", "data": "aGk="}}]}]},
        {"contents": [{"parts": [{"fileData": {"fileUri": "files/x"}}]}]},
        {"contents": [{"parts": [{"functionCall": {"name": "f"}}, {"executableCode": {"code": "1"}}]}]},
        {"contents": [{"role": "function", "parts": [{"text": "hi"}]}]},
        {"contents": [{"role": None, "parts": [{"text": "hi"}]}]},
        {"contents": ["hi"]},
        {"contents": [{"parts": [5]}]},
        {"contents": [HI], "tools": [{"googleSearch": {}}]},
        {"contents": [HI], "tools": [{"functionDeclarations": []}, {"codeExecution": {}}]},
        {"contents": [HI], "tools": True},
        {"contents": [HI], "cachedContent": "cachedContents/a"},
        {"contents": [HI], "systemInstruction": {"parts": [{"text": "be"}, {"text": "brief"}]}},
        {"contents": [HI], "system_instruction": "be brief"},
        config(responseModalities=["TEXT", "IMAGE"]),
        config(speechConfig={"voiceConfig": {}}),
        config(candidateCount=2),
        config(responseMimeType="application/json"),
        config(responseMimeType="application/json", responseSchema={"type": "ARRAY"}),
        config(responseMimeType="text/x.enum"),
        config(responseSchema={"type": "ARRAY"}),
        config(responseMimeType="text/plain", responseSchema=OBJECT),
        config(responseJsonSchema={"type": "array"}, responseSchema=OBJECT),
        {"contents": [HI], "config": {"tools": [{"googleSearch": {}}]}},
        {"contents": [HI], "config": {"temperature": 0}, "generationConfig": {"temperature": 1}},
        {"contents": [HI], "config": {}, "generationConfig": {"temperature": 1}},
        {"contents": [HI], "generationConfig": [["temperature", 1]]},
        *(config(**{name: value}) for name, value in OPTIONS_FOR_GOOGLE.items()),
        {"contents": [HI], "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]},
        turn("user", {"functionResponse": {"name": "f", "response": {}, "parts": [{"inlineData": {}}]}}),
        turn("user", {"functionResponse": "f"}),
        turn("user", {"text": "hi", "functionResponse": {"name": "f"}}),
        turn("model", {"text": "hi", "functionCall": {"name": "f"}}),
        turn("user", {"functionCall": {"name": "f"}}),
        turn("model", {"functionResponse": {"name": "f"}}),
        turn("model", {"text": "so I think", "thought": True}),
        turn(["user"], {"text": "hi"}),  # type: ignore[arg-type]
        {"contents": [{"role": "user", "parts": {"text": "hi"}}]},
        {"contents": [HI], "systemInstruction": {"parts": {"text": "be brief"}}},
        {"contents": [HI], "toolConfig": choice(mode="ANY", allowedFunctionNames=["f"])},
        {"contents": [HI], "tool_config": choice(allowedFunctionNames=["f"])},
        {"contents": [HI], "toolConfig": choice(mode="VALIDATED")},
        {"contents": [HI], "toolConfig": {"function_calling_config": {"mode": "ANY"}}},
        {"contents": [HI], "toolConfig": {"retrievalConfig": {"languageCode": "de"}}},
        {"contents": [HI], "tools": {"functionDeclarations": [FUNCTION]}},
        {"contents": [HI], "tools": [{"functionDeclarations": FUNCTION}]},
        {"contents": [HI], "tools": [{"functionDeclarations": [{"name": "f", "parameters_json_schema": {"type": "object"}}]}]},
    ],
)  # fmt: skip
def test_what_litellm_would_leave_out_needs_google(body: dict[str, Any]) -> None:
    assert needs_google(body) is True


@pytest.mark.parametrize("call_type", ["agenerate_content", "agenerate_content_stream"])
@pytest.mark.parametrize("model", ["auto", "cheap", "cheap-one", "google-one"])
def test_such_a_request_goes_to_googles_models_only_also_in_its_fallbacks(call_type: str, model: str) -> None:
    found = decide(read({**PICTURE, "model": model}, {"content-length": "99"}, call_type), MODELS, RoutingRules())
    assert (found.model, found.fallbacks) == ("google-one", ())
    assert decide_free(read({**PICTURE, "model": "cheap"}, {}, call_type), MODELS) is None
    text = decide(read({"contents": [HI], "model": "auto"}, {}, call_type), MODELS, RoutingRules())
    assert (text.model, text.fallbacks) == ("cheap-one", ("sold-on", "google-one"))


def test_without_any_model_of_google_it_is_refused_with_the_reason() -> None:
    for headers, kind in (({}, "no_capable_model"), ({"x-lm-no-fallback": "1"}, "no_capable_model")):
        with pytest.raises(RefusalError, match="only the text and the functions of a native Gemini call") as refusal:
            decide(read({**PICTURE, "model": "auto"}, headers, "agenerate_content"), Models((CHEAP,)), RoutingRules())
        assert (refusal.value.status, refusal.value.kind) == (400, kind)
    with pytest.raises(RefusalError, match="x-lm-no-fallback forbids another model") as refusal:
        decide(
            read({**PICTURE, "model": "cheap-one"}, {"x-lm-no-fallback": "1"}, "agenerate_content"),
            MODELS,
            RoutingRules(),
        )
    assert refusal.value.kind == "model_unsuitable"


def test_other_protocols_are_not_concerned() -> None:
    chat = {"model": "cheap", "messages": [{"role": "user", "content": "hi"}], "cachedContent": "x"}
    assert decide(read(chat, {}, "acompletion"), MODELS, RoutingRules()).model == "cheap"
