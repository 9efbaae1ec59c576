"""Routing through the real proxy: headers, abilities, auto, budgets."""

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from documented import check_json_keys
from support import KEY, Mock, Stack, running, wait_for

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
HARD = "Prove that there are infinitely many primes, and design a lock-free queue."
IMAGE = [{"role": "user", "content": [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}]}]  # fmt: skip
RULES = """
routing:
  agents: {rich: {tier: premium}, careful: {no_fallback: true}}
  tasks: {saver: {tier: cheap}}
budgets:
  tasks: {"*": {total: 5}, small: {total: 0.01}}
  agents: {daily: {day: 0.000001}}
models:
  own-pictures: {provider: openai, model: own-pictures, mode: image_generation}
  own-moderation: {provider: openai, model: own-moderation, mode: moderation}
  own-rerank: {provider: openai, model: own-rerank, mode: rerank}
  own-vectors: {provider: openai, model: own-vectors, mode: embedding}
"""


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory, mock: Mock) -> Iterator[Stack]:
    """Two workers, every provider, rules of its own."""
    with running(tmp_path_factory.mktemp("routed"), RULES, **mock.bases(), LITELLM_WORKERS="2") as made:
        yield made


@pytest.fixture(autouse=True)
def _quiet(mock: Mock) -> None:
    mock.reset()


def ask(stack: Stack, model: str, path: str = CHAT, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:  # fmt: skip
    shape: dict[str, Any] = {"input": "Hello!"} if path == RESPONSES else {"messages": HELLO, "max_tokens": 20}
    return stack.post(path, {"model": model, **shape, **(body or {})}, **headers)


@pytest.mark.parametrize("call", ["generateContent", "streamGenerateContent?alt=sse"])
@pytest.mark.parametrize(
    ("model", "prompt", "tier"),
    [("auto", "Hello!", "cheap"), ("auto", HARD, "premium"), ("premium", "Hello!", "premium")],
)
def test_native_gemini_requests_are_routed_over_all_providers(
    routed: Stack, mock: Mock, call: str, model: str, prompt: str, tier: str
) -> None:
    answer = routed.post(f"/v1beta/models/{model}:{call}", {"contents": [{"parts": [{"text": prompt}]}]})
    assert answer.status_code == 200, answer.text
    assert "candidates" in answer.text
    assert answer.headers["x-lm-tier"] == tier
    row = routed.row(answer.headers["x-litellm-call-id"])
    assert (row["status"], row["requested_model"]) == ("succeeded", model)
    assert row["completion_tokens"] != 0
    if tier == "premium":  # another provider's models come first there
        assert row["provider"] != "google"


@pytest.mark.parametrize(
    "call",
    [
        "generateContent",
        pytest.param(
            "streamGenerateContent?alt=sse",
            marks=pytest.mark.litellm(
                ">=1.108",
                "a native Gemini stream of an OpenAI or Ollama model comes without tokens: its row has none, and its cost is unknown",
            ),
        ),
    ],
)
def test_a_native_gemini_answer_of_another_provider_has_its_tokens(routed: Stack, call: str) -> None:
    asked = {
        "contents": [{"parts": [{"text": "Hello!"}]}],
        "stream_options": {},
    }  # a client may not switch the usage off
    answer = routed.post(f"/v1beta/models/gpt-4o-mini:{call}", asked)
    row = routed.row(answer.headers["x-litellm-call-id"])
    assert row["provider"] == "openai"
    assert row["completion_tokens"] > 0
    assert row["cost_usd"] > 0


@pytest.mark.parametrize(
    ("model", "call"),
    [("gemini-2.5-flash", "generateContent"), ("gemini-3.8-flash", "streamGenerateContent?alt=sse")],
)
def test_a_native_gemini_request_falls_back(routed: Stack, mock: Mock, model: str, call: str) -> None:
    mock.script({"type": "fail", "status": 503, "times": 1, "match": {"model": model}})
    answer = routed.post(f"/v1beta/models/{model}:{call}", {"contents": [{"parts": [{"text": "Hello!"}]}]})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-lm-fallbacks"] == "1"
    row = routed.row(answer.headers["x-litellm-call-id"])
    assert (row["status"], row["fallbacks"]) == ("succeeded", 1)


@pytest.mark.parametrize(("path", "stream"), [(CHAT, False), (CHAT, True), (MESSAGES, False), (RESPONSES, False)])
def test_the_response_says_what_happened(routed: Stack, path: str, stream: bool) -> None:
    answer = ask(routed, "gpt-4o-mini", path, {"stream": stream})
    told = {k: v for k, v in answer.headers.items() if k.startswith("x-lm-")}
    cost = told.pop("x-lm-cost", None)
    assert told == {"x-lm-model": "gpt-4o-mini", "x-lm-tier": "cheap", "x-lm-fallbacks": "0"}
    if stream:
        assert cost is None
    else:
        assert float(cost or 0) == pytest.approx(routed.row(answer.headers["x-litellm-call-id"])["cost_usd"])


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_a_tier_header_overrules_the_model_on_every_endpoint(routed: Stack, path: str) -> None:
    assert ask(routed, "gpt-4o-mini", path, x_lm_tier="premium").headers["x-lm-tier"] == "premium"
    row = routed.row(ask(routed, "gpt-4o-mini", path, x_lm_tier="standard").headers["x-litellm-call-id"])
    assert (row["requested_model"], row["tier"], json.loads(row["asked"])) == ("gpt-4o-mini", 2, {"tier": "standard"})


def test_metadata_counts_where_a_header_is_missing(routed: Stack) -> None:
    assert ask(routed, "auto", body={"metadata": {"lm_tier": "premium"}}).headers["x-lm-tier"] == "premium"


def test_max_cost_takes_the_dearest_tier_that_fits_or_refuses(routed: Stack) -> None:
    assert ask(routed, "premium", x_lm_max_cost="0.00015").headers["x-lm-tier"] == "standard"
    refused = ask(routed, "claude-opus-5-5", body={"messages": IMAGE}, x_lm_max_cost="0.0000001")
    error = refused.json()["error"]
    assert (refused.status_code, error["type"]) == (400, "max_cost_exceeded")
    assert error["provider_specific_fields"]["max_cost_usd"] == pytest.approx(1e-7)
    row = routed.row(refused.headers["x-litellm-call-id"])
    assert (row["status"], row["error_type"], row["attempts"]) == ("rejected", "max_cost_exceeded", 0)
    assert json.loads(row["asked"]) == {"max_cost": 1e-7}


def test_a_bad_header_is_refused_before_any_provider_is_asked(routed: Stack, mock: Mock) -> None:
    assert ask(routed, "auto", x_lm_tier="best").status_code == 400
    assert mock.requests() == []


def test_images_go_only_to_models_that_can_see(routed: Stack) -> None:
    for name in ("llama3.2", "cheap"):
        assert ask(routed, name, body={"messages": IMAGE}).headers["x-lm-model"] != "llama3.2"


def test_auto_follows_the_prompts_difficulty_and_a_conversation_stays(routed: Stack) -> None:
    assert ask(routed, "auto").headers["x-lm-tier"] == "cheap"
    turns = [{"role": "user", "content": HARD}]
    assert ask(routed, "auto", body={"messages": turns}).headers["x-lm-tier"] == "premium"
    turns += [{"role": "assistant", "content": "..."}, {"role": "user", "content": "thanks"}]
    served = {ask(routed, "auto", body={"messages": turns}).headers["x-lm-model"] for _ in range(4)}
    assert len(served) == 1
    assert ask(routed, "auto", MESSAGES, {"messages": turns}).headers["x-lm-tier"] == "premium"


def test_lm_route_explains_what_auto_then_does(routed: Stack) -> None:
    for prompt in ("Hello!", HARD):
        told = routed.json("route", prompt, "--max-tokens", "20")["data"]
        real = ask(routed, "auto", body={"messages": [{"role": "user", "content": prompt}]})
        row = routed.row(real.headers["x-litellm-call-id"])
        assert (told["model"], told["tier"]) == (row["deployment"], row["tier"])


def test_defaults_of_models_yaml_hold_for_auto(routed: Stack) -> None:
    assert ask(routed, "auto", x_agent_id="rich").headers["x-lm-tier"] == "premium"
    assert ask(routed, "auto", x_agent_id="rich", x_task_id="saver").headers["x-lm-tier"] == "cheap"
    assert ask(routed, "gpt-4o", x_agent_id="rich").headers["x-lm-model"] == "gpt-4o"
    assert ask(routed, "auto", x_agent_id="rich", x_lm_tier="standard").headers["x-lm-tier"] == "standard"


def test_a_used_up_budget_is_a_429_that_says_whose_and_until_when(routed: Stack) -> None:
    assert ask(routed, "gpt-4o", x_agent_id="daily").status_code == 200
    refused = ask(routed, "gpt-4o", x_agent_id="daily")
    assert refused.status_code == 429, refused.text
    error = refused.json()["error"]
    budget = error["provider_specific_fields"]["budget"]
    assert (error["type"], budget["scope"], budget["name"], budget["period"]) == ("budget_exceeded", "agent", "daily", "day")  # fmt: skip
    assert budget["spent_usd"] >= budget["limit_usd"]
    assert budget["resets_at"] > time.strftime("%Y-%m-%d", time.gmtime())
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    for name in ("cheap", "auto", "llama3.2"):
        assert ask(routed, name, x_agent_id="daily").headers["x-lm-model"] == "llama3.2"
    assert ask(routed, "gpt-4o", x_agent_id="another").status_code == 200


def test_a_clients_own_task_budget_counts_and_needs_a_task(routed: Stack) -> None:
    assert ask(routed, "gpt-4o", x_task_budget="1").status_code == 400
    assert ask(routed, "gpt-4o", x_task_budget="1", x_task_id="own").status_code == 200
    assert ask(routed, "gpt-4o", x_task_budget="0.0000001", x_task_id="own").status_code == 429


@pytest.mark.parametrize("how", ["client leaves", "time-out"])
def test_a_request_that_is_given_up_is_charged_to_its_budget(routed: Stack, mock: Mock, how: str) -> None:
    mock.script({"type": "delay", "seconds": 15, "times": 1, "match": {"model": "gpt-4o"}})  # not a probe's
    task = f"given-up-{how[0]}"
    more = {"timeout": 1} if how == "time-out" else {}
    headers = {"authorization": f"Bearer {KEY}", "x-task-id": task, "x-lm-no-fallback": "1"}
    body = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 20, **more}
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.post(routed.url + CHAT, json=body, headers=headers, timeout=3, trust_env=False)
    (row,) = wait_for(lambda: [r for r in routed.ask("requests", task=task) if r["status"] != "started"], 30)
    assert row["cost_usd"] > 0
    if how == "time-out":
        assert (row["status"], row["error_code"], row["cost_estimated"]) == ("failed", "408", 1)
        assert row["cost_usd"] == pytest.approx((3 * 2.5 + 20 * 10) / 1e6, rel=0.1)


@pytest.mark.parametrize(
    ("path", "model", "body"),
    [
        ("/v1/images/generations", "own-pictures", {"prompt": "a cat"}),
        ("/v1/moderations", "own-moderation", {"input": "hi"}),
        ("/v1/rerank", "own-rerank", {"query": "q", "documents": ["a"]}),
        ("/v1/embeddings", "own-vectors", {"input": "hi"}),
        (CHAT, "openai/own", {"messages": HELLO}),
        ("/v1/completions", "openai/own", {"prompt": "hi"}),
    ],
)
def test_a_call_of_unknown_cost_is_refused_under_a_budget_before_its_provider_is_called(
    routed: Stack, mock: Mock, path: str, model: str, body: dict[str, Any]
) -> None:
    task = f"unknown{path}"
    refused = routed.post(path, {"model": model, **body}, x_task_id=task, x_lm_no_fallback="1")
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert error["type"] == "cost_unknown"
    assert error["message"].startswith("A budget applies to this request, and the cost of")
    assert mock.requests() == []
    rows = routed.ask("requests", task=task)
    assert {(row["status"], row["error_type"]) for row in rows} == {("rejected", "cost_unknown")}


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", {"prompt": "hi"}), ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "hi"})]
)  # fmt: skip
def test_a_used_up_budget_is_the_same_answer_on_every_endpoint(routed: Stack, path: str, body: dict[str, Any]) -> None:
    ask(routed, "gpt-4o", x_agent_id="daily")
    chat = ask(routed, "gpt-4o", x_agent_id="daily")
    other = routed.post(path, {"model": "gpt-4o", **body}, x_agent_id="daily")
    assert (chat.status_code, other.status_code) == (429, 429), other.text
    assert other.json() == chat.json()
    assert 0 < int(other.headers["retry-after"]) <= 86_400


def test_fifty_at_once_overshoot_a_budget_by_one_request_at_most_and_a_restart_forgets_nothing(routed: Stack) -> None:
    def one(_: int) -> httpx.Response:
        return ask(routed, "gpt-6-astra", x_task_id="small")

    def spent() -> float:
        rows = routed.json("budget", "show")["data"]["budgets"]
        return float(next(r["spent_usd"] for r in rows if r["name"] == "small"))

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(one, range(50)))
    codes = {a.status_code for a in answers}
    assert codes == {200, 429}
    dearest = max(float(a.headers["x-lm-cost"]) for a in answers if a.status_code == 200)
    assert 0.01 <= spent() <= 0.01 + dearest
    check_json_keys("restart", routed.json("restart"))
    wait_for(lambda: routed.json("health", check=False)["ok"], 60)
    assert one(0).status_code == 429
    assert spent() <= 0.01 + dearest
