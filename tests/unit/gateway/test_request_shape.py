"""Requests of a wrong shape are refused before any model is tried; the error names the field."""

import math
from typing import Any

import pytest

from lmstack.gateway.calls import request_shape, served
from lmstack.routing.refusals import RefusalError

GOOD: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "fallbacks": ["m"],
    "tools": None,
}


@pytest.fixture(autouse=True)
def _served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "is_served", lambda name: name == "m")
    kinds = {
        "m": {"chat", "embedding"},
        "chat": {"chat"},
        "voice": {"audio_speech"},
        "own": {"chat", "image_generation"},
    }
    monkeypatch.setattr(served, "modes", lambda name: frozenset(kinds.get(name, ())))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", "text"), ("messages", ["text"]), ("prompt", 5), ("input", {}), ("tools", [5]), ("functions", {}),
        ("stream_options", 5), ("tool_choice", 5), ("response_format", 5), ("extra_headers", 5), ("client", "x"), ("model", "a,b"), ("fastest_response", True), ("context_window_fallbacks", [{"m": ["n"]}]),
        ("azure", True), ("custom_llm_provider", "anthropic"), ("deployment_id", "../x"), ("use_litellm_proxy", True), ("specific_deployment", True), ("extra_body", {"n": 7}),
        ("content_policy_fallbacks", [{"m": ["n"]}]), ("fallbacks", "m"), ("fallbacks", ["n"]), ("fallbacks", [{"model": "m"}]),
        ("additional_drop_params", ["max_tokens"]), ("extra_headers", {"Host": "evil.example"}), ("headers", {" transfer-encoding": "chunked"}),
        ("provider_specific_header", {"custom_llm_provider": "openai", "extra_headers": {"HOST": "evil.example"}}),
        ("provider_specific_header", [{"extra_headers": {"host": "evil.example"}}]), ("temperature", math.nan), ("max_tokens", math.inf), ("tools", [{"type": "mcp", "server_url": "litellm_proxy/mcp/x"}]),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(RefusalError, match=f"^{field}: ") as refusal:
        request_shape.check({**GOOD, field: value}, "acompletion")
    assert (refusal.value.status, refusal.value.fields) == (400, {"param": field})


@pytest.mark.parametrize("call_type", ["acompletion", "aembedding", "anthropic_messages", "aresponses"])
def test_a_good_request_passes(call_type: str) -> None:
    request_shape.check(GOOD, call_type)


@pytest.mark.parametrize("value", [True, "true", "True", "1"])
def test_a_transcription_does_not_stream(value: object) -> None:
    with pytest.raises(RefusalError, match=r"^stream: "):
        request_shape.check({"model": "m", "stream": value}, "atranscription")


def test_a_gemini_call_that_cannot_stream_says_which_does() -> None:
    body = {"model": "gemini-2.5-flash", "contents": [], "stream": True}
    with pytest.raises(RefusalError, match="Call streamGenerateContent"):
        request_shape.check(body, "agenerate_content")
    request_shape.check(body, "agenerate_content_stream")


def test_a_response_may_name_a_stored_prompt() -> None:
    stored = {"model": "m", "prompt": {"id": "pmpt_1"}}
    request_shape.check(stored, "aresponses")
    with pytest.raises(RefusalError, match=r"^prompt: "):
        request_shape.check(stored, "acompletion")


@pytest.mark.parametrize("tool", [{"type": "mcp", "server_url": "https://mcp.example.com/mcp"}, {"server_url": None}])
def test_an_mcp_server_of_somebody_else_passes(tool: dict[str, object]) -> None:
    request_shape.check({**GOOD, "tools": [tool]}, "aresponses")


def test_other_calls_are_not_looked_at() -> None:
    request_shape.check({"messages": 5}, "pass_through_endpoint")


@pytest.mark.parametrize(
    ("model", "call_type", "refused"),
    [
        ("chat", "aspeech", True),
        ("chat", "image_generation", True),
        ("chat", "aembedding", True),
        ("chat", "arerank", True),
        ("chat", "moderation", True),
        ("voice", "transcription", True),
        ("voice", "speech", False),
        ("own", "aimage_edit", False),
        ("omni-moderation-latest", "moderation", False),
        ("chat", "acompletion", False),
        ("chat", "acreate_batch", False),
        ("of unknown mode", "transcription", False),
    ],
)
def test_a_model_of_another_kind_is_refused_before_its_provider_is_asked(
    model: str, call_type: str, refused: bool
) -> None:
    """The provider would answer 404, and the model would then be cooled down for everybody's chat."""
    if refused:
        with pytest.raises(RefusalError, match=f"'{model}' has the mode"):
            request_shape.check({"model": model}, call_type)
    else:
        request_shape.check({"model": model}, call_type)


@pytest.mark.parametrize("call_type", ["aspeech", "acreate_batch", "image_generation"])
def test_a_list_of_models_is_refused_for_every_kind_of_call(call_type: str) -> None:
    with pytest.raises(RefusalError, match="one name is expected"):
        request_shape.check({"model": "m,m,m"}, call_type)
