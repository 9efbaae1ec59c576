"""What `lm models` and `lm up` say of models: whether each is ready, and which names are models."""

from typing import Any

import pytest

from lmstack.catalog.models import parse_catalog
from lmstack.config.envfile import parse_env
from lmstack.config.settings import parse_settings
from lmstack.operate import checks
from lmstack.operate.model_list import names_lines, status_of
from lmstack.stack.plan import Facts, plan_stack
from lmstack.stack.project import shipped_catalog

ROW: dict[str, Any] = {
    "provider": "openai",
    "successor": None,
    "retired": None,
    "deprecated": None,
    "needs": None,
    "flat_price": None,
}


@pytest.mark.parametrize(
    ("differs", "status"),
    [
        ({}, "ready"),
        ({"deprecated": "2027-01-14"}, "ready; ends 2027-01-14"),
        ({"needs": "OPENAI_API_KEY", "deprecated": "2027-01-14"}, "set OPENAI_API_KEY; ends 2027-01-14"),
        ({"successor": "b", "retired": "2026-01-01"}, "ready; retired 2026-01-01, served by b"),
        ({"flat_price": {"per_image": 0.04}}, "ready; 0.04 USD per image"),
        ({"provider": "ollama"}, "served when Ollama answers"),
    ],
)
def test_a_status_begins_with_whether_the_model_is_ready(differs: dict[str, Any], status: str) -> None:
    assert status_of({**ROW, **differs}) == status


def test_groups_are_not_counted_among_the_models() -> None:
    assert names_lines(["auto", "cheap", "gpt-4o"]) == [
        "Models: gpt-4o",
        "Names that choose a model for you: auto, cheap",
    ]
    assert names_lines(["gpt-4o"]) == ["Models: gpt-4o"]


def test_doctor_says_what_a_model_without_a_price_means_under_a_budget() -> None:
    models = """
models:
  ears: {provider: openai, model: whisper-1, mode: audio_transcription}
  new: {provider: openai, model: gpt-of-tomorrow}
  paid: {provider: openai, model: whisper-2, mode: audio_transcription, per_second: 0.01}
"""
    settings = parse_settings(parse_env("OPENAI_API_KEY=sk-x123456"), {}, {})
    found = checks.models(plan_stack(settings, parse_catalog(shipped_catalog(), models), Facts("local")))
    told = {f.name: f.why for f in found if "price" in f.what}
    # LiteLLM's price map has a price for whisper-1, so a budget lets it pass.
    assert told == {"model new": "its cost is unknown, so requests under a budget do not use it"}
