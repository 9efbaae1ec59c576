"""What a worker knows of LiteLLM's deployments: candidates, and prices of everything else."""

from types import SimpleNamespace
from typing import Any

import litellm
import pytest
from litellm.proxy import proxy_server

from lmstack.gateway.calls import served
from lmstack.gateway.calls.served import models_of
from lmstack.routing.prices import Price


def deployment(name: str, model: str, **info: Any) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": {"model": model}, "model_info": info}


def test_models_and_prices_of_the_deployments() -> None:
    free = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0, "mode": "moderation"}
    price_map = {
        "gpt-image-1": {"output_cost_per_image_token": 4e-5},
        "p/x": {"input_cost_per_query": 0.002},
        "omni": free,
    }
    models = models_of(
        [
            deployment("chat", "openai/chat", lm_provider="openai", lm_tier=2, lm_rates=[1.0, 2.0], lm_context=9, lm_heir=True),
            deployment("pictures", "openai/gpt-image-1"),
            deployment("sorter", "p/x"),
            deployment("own", "openai/gpt-image-1", lm_flat_price=["per_image", 0.04]),
            deployment("auto", "auto_router/complexity_router"),
        ],
        price_map,
    )  # fmt: skip
    assert list(models.by_name) == ["chat"]
    assert (models.by_name["chat"].context, models.by_name["chat"].retired) == (9, True)
    assert models.price("chat").rates == (1.0, 2.0)
    assert round(models.price("pictures").image or 0, 3) == 0.252
    assert models.price("sorter").query == 0.002
    assert models.price("own") == Price(image=0.04)
    assert models.price("omni").free
    assert models.price("auto") == models.price("nobody") == models.price(None) == Price()


def test_a_mode_is_known_from_the_rendered_file_or_from_litellms_price_map_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else nobody knows that a user's own model does not transcribe, and the call is left to its provider."""
    listed = [
        deployment("my-whisper", "openai/whisper-large"),
        deployment("stated", "openai/own-voice", mode="audio_speech"),
        deployment("mapped", "openai/whisper-1"),
        deployment("both", "openai/whisper-1", mode="chat"),
        deployment("auto", "auto_router/complexity_router"),
    ]
    router = SimpleNamespace(model_list=listed, get_model_names=lambda: ["cheap"])
    monkeypatch.setattr(proxy_server, "llm_router", router)
    monkeypatch.setattr(litellm, "model_cost", {"whisper-1": {"mode": "audio_transcription"}})
    assert {
        name: set(served.modes(name)) for name in ("my-whisper", "stated", "mapped", "both", "auto", "cheap", "no")
    } == {
        "my-whisper": set(),
        "stated": {"audio_speech"},
        "mapped": {"audio_transcription"},
        "both": {"chat", "audio_transcription"},
        "auto": {"chat"},
        "cheap": {"chat"},
        "no": set(),
    }
