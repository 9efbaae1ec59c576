"""The operator's commands against a running gateway: test, errors, usage, env, doctor."""

import csv
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from lmstack.operate.clients import CLIENTS
from support import KEY, LM, Mock, Stack, clean_environ

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _quiet(mock: Mock) -> None:
    mock.reset()


def test_lm_test_asks_every_model_and_tells_what_each_cost(gateway: Stack) -> None:
    served = {m["id"] for m in json.loads(gateway.shell(f"curl -sS {gateway.url}/models").stdout)["data"]}
    served.discard("gemini-embedding-001")  # llmock has no embeddings of Google's kind
    found = gateway.json("test", *sorted(served - {"auto", "cheap", "standard", "premium"}))["data"]
    assert found["failed"] == 0
    assert {row["model"] for row in found["models"]} == served - {"auto", "cheap", "standard", "premium"}
    assert all(row["ok"] and row["ms"] > 0 for row in found["models"])
    paid = next(row for row in found["models"] if row["model"] == "gpt-4o")
    assert paid["cost_usd"] > 0


def test_lm_test_tells_which_model_fails_and_why(gateway: Stack, mock: Mock) -> None:
    mock.script({"type": "fail", "status": 500, "times": None, "match": {"model": "gpt-6-luna"}})
    done = gateway.lm("test", "gpt-6-luna", "claude-haiku-5-5", check=False)
    assert done.returncode == 5
    assert "FAILED" in done.stdout
    assert "500" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_fallback_drill_asks_the_next_model_and_not_the_failed_one(gateway: Stack, mock: Mock) -> None:
    row = gateway.json("test", "--fallback", "gemini-3.8-flash")["data"]["models"][0]
    assert row["ok"]
    assert row["served_by"] not in (None, "gemini-3.8-flash")
    assert not [r for r in mock.requests() if r["model"] == "gemini-3.8-flash"]
    newest = gateway.ask("requests", limit=1)[0]
    attempts = gateway.ask("request", id=newest["id"])[0]["attempt_list"]
    assert attempts[0]["error_type"] == "Drill"


def test_errors_are_grouped_by_kind(gateway: Stack, mock: Mock) -> None:
    mock.script({"type": "fail", "status": 503, "times": 2, "match": {"model": "claude-haiku-4-5"}})
    gateway.post(CHAT, {"model": "claude-haiku-4-5", "messages": HELLO})
    rows = gateway.json("errors")["data"]["errors"]
    mine = [r for r in rows if r["deployment"] == "claude-haiku-4-5"]
    assert mine
    assert mine[0]["provider"] == "anthropic"
    assert "claude-haiku-4-5" in gateway.lm("errors").stdout


def test_usage_as_csv_and_against_premium(gateway: Stack) -> None:
    gateway.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO})
    data = gateway.json("usage")["data"]
    assert data["dearest"]["cost_usd"] > data["total_usd"] > 0
    rows = list(csv.DictReader(io.StringIO(gateway.lm("usage", "--csv").stdout)))
    assert {r["name"] for r in rows} == {str(r["name"]) for r in data["rows"]}
    assert sum(float(r["cost_usd"]) for r in rows) == pytest.approx(data["total_usd"], rel=0.2)


def test_a_request_is_shown_with_its_attempts_and_events(gateway: Stack) -> None:
    answer = gateway.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, x_task_id="shown")
    gateway.row(answer.headers["x-litellm-call-id"])
    data = gateway.json("request", answer.headers["x-litellm-call-id"])["data"]
    assert len(data["attempts"]) == 1
    assert [e["type"] for e in data["events"]] == ["litellm.request.succeeded"]


def python_client(name: str) -> str:
    return {"openai": "openai", "anthropic": "anthropic", "google": "google.genai", "langchain": "langchain_openai"}[
        name
    ]


@pytest.mark.parametrize(
    "name",
    ["openai", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("anthropic", "google", "langchain"))],
)
def test_a_python_snippet_runs_as_it_is_printed(gateway: Stack, name: str) -> None:
    module = python_client(name)
    if importlib.util.find_spec(module.partition(".")[0]) is None or importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    model = "gemini-3.8-flash" if name == "google" else "auto"
    told = gateway.json("env", name, "--model", model)["data"]
    env = clean_environ(gateway.root, **told["environ"])
    done = subprocess.run([sys.executable, "-c", told["snippet"]], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (model if name == "google" else "llama3.2") in done.stdout


def test_the_exports_and_the_curl_snippet_work_in_a_shell(gateway: Stack) -> None:
    lm = " ".join(LM)
    done = gateway.shell(f'eval "$({lm} env curl)"; {gateway.json("env", "curl")["data"]["snippet"]}')
    assert "llama3.2" in done.stdout


def test_run_starts_a_program_with_the_clients_environment(gateway: Stack) -> None:
    script = "import os; print(os.environ['OPENAI_BASE_URL'], os.environ['OPENAI_API_KEY'])"
    assert gateway.lm("run", "openai", "--", sys.executable, "-c", script).stdout.split() == [f"{gateway.url}/v1", KEY]
    assert gateway.lm("run", "openai", "--", sys.executable, "-c", "raise SystemExit(7)", check=False).returncode == 7


def test_the_example_taskmaster_says_when_its_port_is_taken(gateway: Stack) -> None:
    done = gateway.lm("taskmaster", "dev", "--port", str(gateway.port), check=False)
    assert done.returncode == 1
    assert f"port {gateway.port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def answered(gateway: Stack, argv: list[str], cwd: Path, **env: str) -> str:
    """What a client prints, once a call of its own stands on the ledger."""
    before = {row["id"] for row in gateway.ask("requests", limit=50)}
    environ = clean_environ(cwd, **env)
    done = subprocess.run(argv, cwd=cwd, env=environ, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = [row for row in gateway.ask("requests", limit=50) if row["id"] not in before]
    assert [row for row in made if row["status"] == "succeeded"]
    return done.stdout.strip()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("codex", ["exec", "--skip-git-repo-check", "Say hello"]),
        ("claude-code", ["-p", "Say hello"]),
        ("continue", ["-p", "Say hello"]),
    ],
)
def test_an_agents_command_line_works_as_told(
    gateway: Stack, node_clients: Path, tmp_path: Path, name: str, arguments: list[str]
) -> None:
    told = gateway.json("env", name)["data"]
    if told["snippet"]:
        place = tmp_path / told["where"].removeprefix("~/")
        place.parent.mkdir()
        place.write_text(told["snippet"] + "\n")
    program = str(node_clients / ".bin" / CLIENTS[name].command[0])
    quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    assert answered(gateway, [program, *arguments], tmp_path, **told["environ"], **quiet)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "arguments"), [("codex", "exec --skip-git-repo-check 'Say hello'"), ("claude-code", "-p 'Say hello'")]
)
def test_an_agents_command_line_works_with_a_key_of_its_own_and_shows_its_refusal(
    gateway: Stack, node_clients: Path, tmp_path: Path, name: str, arguments: str
) -> None:
    made = gateway.json("key", "create", f"{name}-own", "--models", "gpt-4o-mini,claude-3-haiku,gpt-4o")["data"]
    key, secret = made["key"]["name"], made["secret"]
    told = gateway.json("env", name, "--key", key)["data"]
    if told["snippet"]:
        place = tmp_path / told["where"].removeprefix("~/")
        place.parent.mkdir()
        place.write_text(told["snippet"] + "\n")
    program = node_clients / ".bin" / CLIENTS[name].command[0]
    script = f'eval "$({" ".join(LM)} -C {gateway.root} env {name} --key {key})"; exec {program} {arguments}'
    environ = clean_environ(tmp_path, LITELLM_API_KEY=secret, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1", LITELLM_RUNTIME="local")  # fmt: skip

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)  # fmt: skip

    done = run()
    assert done.returncode == 0, done.stderr
    rows = [row for row in gateway.ask("requests", limit=50) if row["key_alias"] == key]
    assert [row for row in rows if row["status"] == "succeeded" and row["agent_id"] == key]
    gateway.lm("key", "edit", key, "--models", "text-embedding-3-small")
    refused = run()
    assert "may not use" in refused.stdout + refused.stderr


@pytest.mark.exhaustive
def test_the_vercel_ai_snippet_runs_as_it_is_printed(gateway: Stack, node_clients: Path) -> None:
    told = gateway.json("env", "vercel-ai")["data"]
    script = node_clients.parent / "snippet.mjs"
    script.write_text(told["snippet"] + "\nconsole.log(text);\n")
    assert answered(gateway, ["node", str(script)], node_clients.parent, **told["environ"])


@pytest.mark.exhaustive
def test_task_master_works_as_told(gateway: Stack, node_clients: Path, tmp_path: Path) -> None:
    told = gateway.json("env", "task-master")["data"]
    (tmp_path / ".taskmaster" / "tasks").mkdir(parents=True)
    (tmp_path / ".taskmaster" / "config.json").write_text(told["snippet"])
    (tmp_path / ".taskmaster" / "tasks" / "tasks.json").write_text('{"master": {"tasks": [], "metadata": {}}}')
    argv = [str(node_clients / ".bin" / "task-master"), "add-task", "--prompt", "Write a haiku"]
    assert answered(gateway, argv, tmp_path, **told["environ"])


def test_the_llm_client_works_as_told(gateway: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    llm = shutil.which("llm", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if llm is None:
        pytest.skip("llm is not installed")
    told = gateway.json("env", "llm")["data"]
    home = tmp_path_factory.mktemp("llm")
    (home / "extra-openai-models.yaml").write_text(told["snippet"])
    # Its plugins are not wanted: the built-in model's package is one, and lacks its own server here.
    env = clean_environ(home, LLM_USER_PATH=str(home), LLM_LOAD_PLUGINS="", **told["environ"])
    done = subprocess.run([llm, "-m", "lm-auto", "--no-stream", "Hello!"], env=env, capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "llama3.2" in done.stdout


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_no_client_shows_a_key_that_is_not_public(stack: Stack, name: str) -> None:
    stack.write_env(LITELLM_MASTER_KEY="sk-this-is-a-strong-secret-key")
    done = stack.lm("env", name)
    assert "strong-secret" not in done.stdout
    assert "lm key show" in done.stdout


def test_doctor_finds_nothing_wrong_with_a_running_gateway_and_writes_a_report_without_keys(
    gateway: Stack, mock: Mock
) -> None:
    target = gateway.root / "report.tar.gz"
    gateway.lm("backup", "--no-env")
    data = gateway.json("doctor", "--deep", "--report", str(target))["data"]
    shutil.rmtree(gateway.root / "backups")
    found = {f["name"]: f["status"] for f in data["findings"]}
    assert (found["env file"], found["files"]) == ("ok", "ok")  # real files of a gateway that ran and was saved
    assert [f for f in data["findings"] if f["status"] == "fail"] == []
    with tarfile.open(target) as bundle:
        texts = {m.name: bundle.extractfile(m).read().decode() for m in bundle.getmembers()}  # type: ignore[union-attr]
    target.unlink()
    assert "lmstack-report/doctor.json" in texts
    for key in (v for k, v in mock.bases().items() if k.endswith("KEY")):
        assert not [name for name, text in texts.items() if key in text]


def test_doctor_names_what_is_broken_and_the_mend(stack: Stack) -> None:
    stack.write_env(
        OPENAI_API_KEY="sk-x123456", OPENAI_API_BASE="http://127.0.0.1:9", TASKMASTER_API_URL="http://127.0.0.1:9"
    )
    (stack.root / ".env").chmod(0o644)
    done = stack.lm("doctor", "--json", check=False)
    assert done.returncode == 5
    found = {f["name"]: f for f in json.loads(done.stdout)["data"]["findings"]}
    assert found["provider openai"]["status"] == "fail"
    assert found["taskmaster"]["status"] == "warn"
    assert found["env file"]["fix"] == "chmod 600 .env"
    assert all(f["fix"] and f["why"] for f in found.values() if f["status"] != "ok")


def test_config_set_keeps_every_other_byte(stack: Stack) -> None:
    env = stack.root / ".env"
    env.write_text("# my notes\nexport LITELLM_PORT=4100 # mine\n\nOPENAI_API_KEY=sk-abc12345\n")
    stack.lm("config", "set", "LITELLM_PORT", "4200")
    assert env.read_text() == "# my notes\nexport LITELLM_PORT=4200 # mine\n\nOPENAI_API_KEY=sk-abc12345\n"
    assert env.stat().st_mode & 0o777 == 0o600
    assert stack.lm("config", "get", "LITELLM_PORT").stdout.strip() == "4200"
    stack.lm("config", "unset", "OPENAI_API_KEY")
    assert "OPENAI" not in env.read_text()
