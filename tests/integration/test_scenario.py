"""One scenario, both runtimes: the same verbs, the same JSON keys, the same ledger rows."""

from typing import Any

import pytest

from support import Mock, Stack, TaskMaster, wait_for

pytestmark = pytest.mark.xdist_group("gateway")  # `world` asks for it by name
HELLO = [{"role": "user", "content": "Hello!"}]
CHAT = "/v1/chat/completions"
World = tuple[Stack, TaskMaster, Mock]
SEEN: dict[str, dict[str, Any]] = {}


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
def world(request: pytest.FixtureRequest) -> World:
    names = {
        "local": ("gateway", "taskmaster", "mock"),
        "docker": ("docker_gateway", "bridge_taskmaster", "bridge_mock"),
    }
    stack, receiver, mock = (request.getfixturevalue(name) for name in names[request.param])
    mock.reset()
    return stack, receiver, mock


def same_in_both(name: str, stack: Stack, value: Any) -> None:
    """Compare with what the other runtime gave, whichever came first."""
    runtime = stack.env["LITELLM_RUNTIME"]
    for other, seen in SEEN.setdefault(name, {}).items():
        assert seen == value, f"{name}: {other} and {runtime} differ"
    SEEN[name][runtime] = value


def keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: keys(v) for k, v in sorted(value.items())}
    return [keys(value[0])] if isinstance(value, list) and value else None


def test_a_call_leaves_the_same_row_and_the_same_events(world: World) -> None:
    stack, receiver, _ = world
    answer = stack.post(CHAT, {"model": "claude-3-haiku", "messages": HELLO}, x_task_id="scenario", x_agent_id="s")
    assert answer.status_code == 200, answer.text
    row = stack.row(answer.headers["x-litellm-call-id"])
    stable = (
        "status",
        "requested_model",
        "deployment",
        "served_model",
        "provider",
        "tier",
        "prompt_tokens",
        "completion_tokens",
        "cost_usd",
    )
    same_in_both(
        "row",
        stack,
        {name: row[name] for name in (*stable, "attempts", "fallbacks", "task_id", "agent_id", "endpoint", "stream")},
    )
    same_in_both("row keys", stack, sorted(row))
    ((headers, event),) = receiver.events(row["call_id"])
    same_in_both("event", stack, (headers["ce-type"], sorted(event), event["success"], event["cost"]))
    wait_for(lambda: receiver.costs("scenario"), what="the cost event")


def test_a_failure_falls_back_alike(world: World) -> None:
    stack, _, mock = world
    mock.script({"type": "fail", "status": 500, "times": 1})
    row = stack.row(stack.post(CHAT, {"model": "gpt-6-luna", "messages": HELLO}).headers["x-litellm-call-id"])
    attempts = [(a["deployment"], a["outcome"], a["error_code"]) for a in row["attempt_list"]]
    assert len(attempts) == 2
    same_in_both("attempts", stack, attempts)


@pytest.mark.parametrize(
    "words",
    [
        "up",
        "status",
        "health",
        "usage",
        "requests",
        "events status",
        "events replay",
        "config show",
        "models",
        "version",
    ],
)
def test_every_verb_gives_the_same_json_keys(world: World, words: str) -> None:
    stack, _, _ = world
    result = stack.json(*words.split())
    assert result["ok"] is True
    assert sorted(result) == ["command", "data", "messages", "ok"]
    data = result["data"]
    if words == "status":
        data = {**data, "services": data["services"][:1]}
    if words == "health":
        assert data["status"] in ("healthy", "degraded")
        data = {**data, "models": sorted(m["model"] for m in data["models"])}
    same_in_both(words, stack, keys(data))


def test_up_again_changes_nothing(world: World) -> None:
    stack, _, _ = world
    assert stack.json("up")["data"]["changed"] is False


def test_restart_starts_new_processes_and_keeps_the_ledger(world: World) -> None:
    stack, _, _ = world
    call = stack.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}).headers["x-litellm-call-id"]
    stack.row(call)
    before = [s["pid"] for s in stack.json("status")["data"]["services"]]
    assert stack.json("restart")["data"]["changed"] is True
    assert set(before).isdisjoint(s["pid"] for s in stack.json("status")["data"]["services"])
    assert stack.row(call)["status"] == "succeeded"


def test_logs_have_the_same_filters(world: World) -> None:
    stack, _, _ = world
    stack.post(CHAT, {"model": "gpt-17", "messages": HELLO})
    everything = stack.lm("logs", "--since", "1h").stdout.splitlines()
    errors = wait_for(lambda: stack.lm("logs", "--level", "ERROR", "--since", "1h").stdout.splitlines())
    assert 0 < len(errors) < len(everything)
    assert stack.lm("logs", "--call-id", "no-such-call").stdout == ""
