"""What `lm up` says about the settings that differ from the running start."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmstack.config.envfile import parse_env
from lmstack.config.settings import parse_settings
from lmstack.operate.changes import marks, since_the_last_start
from lmstack.runtime.base import State


def settings(text: str, **flags: str) -> Any:
    return parse_settings(parse_env(text, ".env"), {}, flags or None)


def wanted(text: str, digest: str = "new") -> Any:
    runtime = SimpleNamespace(name="local")
    return SimpleNamespace(plan=SimpleNamespace(settings=settings(text)), runtime=runtime, digest=digest)


def state(text: str, **flags: str) -> State:
    return State("local", "old", "http://localhost:4000", [], 0.0, flags=flags, settings=marks(settings(text, **flags)))


@pytest.mark.parametrize(
    ("before", "flags", "after", "says"),
    [
        ("LITELLM_TIMEOUT=100", {}, "LITELLM_TIMEOUT=99", ["LITELLM_TIMEOUT goes from 100 to 99"]),
        ("", {"LITELLM_PORT": "23102"}, "", ["LITELLM_PORT goes from 23102 (given to the last lm up) to 4000"]),
        ("OPENAI_API_KEY=sk-0123456789", {}, "OPENAI_API_KEY=sk-9876543210", ["OPENAI_API_KEY has another value"]),
        ("", {}, "OPENAI_API_KEY=sk-9876543210", ["OPENAI_API_KEY is new"]),
        ("OPENAI_API_BASE=https://u:passw0rd@x", {}, "", ["OPENAI_API_BASE is gone"]),
        ("OPENAI_API_BASE=https://u:passw0rd@x", {}, "OPENAI_API_BASE=http://x", ["OPENAI_API_BASE has another value"]),
        ("OPENAI_API_KEY=sk-9876543210", {}, "", ["OPENAI_API_KEY is gone"]),
        ("", {}, "", ["models.yaml, the models that can be served, or lmstack itself has changed"]),
    ],
)
def test_each_change_is_one_sentence_without_a_secret(
    before: str, flags: dict[str, str], after: str, says: list[str]
) -> None:
    assert since_the_last_start(state(before, **flags), wanted(after)) == says


def test_the_state_of_an_older_lmstack_with_a_password_shows_none() -> None:
    text = "OPENAI_API_BASE=https://user:passw0rd@x"
    old = replace(state(text), settings={**marks(settings(text)), "OPENAI_API_BASE": "https://user:passw0rd@x"})
    assert since_the_last_start(old, wanted("")) == ["OPENAI_API_BASE is gone"]
    assert since_the_last_start(old, wanted(text, digest="old")) == []
    assert "passw0rd" not in str(marks(settings(text)))


def test_nothing_is_said_without_a_start_or_a_change(tmp_path: Path) -> None:
    assert since_the_last_start(None, wanted("")) == []
    assert since_the_last_start(state(""), wanted("", digest="old")) == []
