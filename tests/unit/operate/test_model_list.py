"""What `lm models` and `lm up` say of models: whether each is ready, and which names are models."""

from typing import Any

import pytest

from lmstack.operate.model_list import names_lines, status_of

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
