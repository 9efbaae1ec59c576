"""What `lm up` says about the settings that differ from the running start."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmstack.config.envfile import parse_env
from lmstack.config.rules import Rules
from lmstack.config.settings import parse_settings
from lmstack.operate.changes import marks, parts, restart_reasons, since_the_last_start
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


RUNNING = {"models": "a: 1", "code": "x = 1", "workers": 2, "names": ("auto", "gpt-4o"), "embedded": False}


def plan_of(digest: str = "new", runtime: str = "local", text: str = "", **differs: Any) -> Any:
    has = {**RUNNING, **differs}
    plan = SimpleNamespace(
        settings=settings(text), workers=has["workers"], names=has["names"], rules=Rules(), embedded=has["embedded"]
    )
    made = SimpleNamespace(name=runtime, code=lambda: has["code"])
    variables = frozenset({"ACME_API_KEY"})
    return SimpleNamespace(plan=plan, runtime=made, digest=digest, models_file=has["models"], variables=variables)


@pytest.mark.parametrize(
    ("differs", "says"),
    [
        ({"models": "a: 2"}, ["models.yaml has changed"]),
        ({"code": "x = 2"}, ["lmstack itself has changed"]),
        ({"code": "x = 2", "runtime": "docker"}, ["a file that goes into the image has changed"]),
        ({"models": "a: 2", "code": "x = 2"}, ["models.yaml has changed", "lmstack itself has changed"]),
        ({"workers": 4}, ["the number of workers goes from 2 to 4"]),
        ({"names": ("auto", "llama3.2")}, ["can be served now: llama3.2", "cannot be served any more: gpt-4o"]),
        ({"names": ("auto",), "models": "a: 2"}, ["models.yaml has changed"]),
        ({}, ["lmstack itself has changed"]),  # what remains: its catalog, or the text that it renders
        ({"text": "LITELLM_TIMEOUT=9", "workers": 4}, ["LITELLM_TIMEOUT goes from 120 to 9"]),
        ({"text": "LITELLM_TIMEOUT=9", "models": "a: 2"}, ["LITELLM_TIMEOUT goes from 120 to 9", "models.yaml has changed"]),
    ],
)  # fmt: skip
def test_what_has_changed_beside_the_settings_is_named(differs: dict[str, Any], says: list[str]) -> None:
    before = replace(state(""), models=["auto", "gpt-4o"], parts=parts(plan_of()), runtime=differs.get("runtime", "local"))  # fmt: skip
    assert since_the_last_start(before, plan_of(**differs)) == says
    assert since_the_last_start(before, plan_of("old")) == []


def test_nothing_is_said_without_a_start_or_a_change(tmp_path: Path) -> None:
    assert since_the_last_start(None, wanted("")) == []
    assert since_the_last_start(state(""), wanted("", digest="old")) == []


@pytest.mark.parametrize(
    ("differs", "reasons"),
    [
        ({"models": "a: 2"}, []),
        ({"names": ("auto",)}, []),
        ({"text": "LITELLM_TIMEOUT=9\nLITELLM_MASTER_KEY=another-key-0123456789\nLITELLM_LOG_LEVEL=DEBUG"}, []),
        ({"text": "OPENAI_API_KEY=sk-9876543210\nTASKMASTER_API_URL=http://x\nACME_API_KEY=a-0123456789"}, []),
        ({"text": "LITELLM_WORKER_MAX_MB=900\nLITELLM_WORKER_MAX_HOURS=24\nLITELLM_ORIGINS=https://x.example\nLITELLM_ADMIN=on"}, []),
        ({"text": "LITELLM_PORT=4001"}, ["LITELLM_PORT is read only at the start"]),
        ({"text": "LITELLM_HOST=127.0.0.2"}, ["LITELLM_HOST is read only at the start"]),
        ({"text": "LITELLM_VERSION=1.106.3"}, ["LITELLM_VERSION is read only at the start"]),
        ({"text": "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB=5"}, ["MAX_IMAGE_URL_DOWNLOAD_SIZE_MB is read only at the start"]),
        ({"code": "x = 2"}, ["lmstack itself has changed"]),
        ({"workers": 4}, ["the number of workers changes"]),
        ({"embedded": True}, ["the built-in model starts or stops"]),
        ({"runtime": "docker"}, ["the runtime changes from local to docker"]),
        ({"digest": "old"}, ["not everything of it serves"]),
    ],
)  # fmt: skip
def test_a_change_restarts_the_gateway_only_when_its_server_cannot_apply_it(
    differs: dict[str, Any], reasons: list[str]
) -> None:
    before = replace(state(""), models=["auto", "gpt-4o"], parts=parts(plan_of()))
    assert restart_reasons(before, plan_of(**differs)) == reasons


@pytest.mark.parametrize(
    ("differs", "reasons"),
    [
        ({"models": "a: 2"}, []),
        ({"text": "LITELLM_TIMEOUT=9\nOPENAI_API_KEY=sk-9876543210\nTASKMASTER_API_URL=http://x"}, []),
        ({"text": "LITELLM_IMAGE=ghcr.io/berriai/litellm:v1.108.6"}, ["LITELLM_IMAGE is read only at the start"]),
        ({"text": "LITELLM_PORT=4001"}, ["LITELLM_PORT is read only at the start"]),
        ({"text": "LITELLM_REDIS=on"}, ["LITELLM_REDIS is read only at the start"]),
        ({"code": "x = 2"}, ["a file that goes into the image has changed"]),
    ],
)  # fmt: skip
def test_a_container_is_replaced_only_for_what_its_server_cannot_apply(
    differs: dict[str, Any], reasons: list[str]
) -> None:
    before = replace(state(""), runtime="docker", models=["auto", "gpt-4o"], parts=parts(plan_of(runtime="docker")))
    assert restart_reasons(before, plan_of(runtime="docker", **differs)) == reasons
