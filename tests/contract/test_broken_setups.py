"""Set-ups that are broken: each gives one clear message, its exit code, and leaves everything as it was."""

import os
import shutil
import socket
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support import InProcessStack, Stack, free_port


@dataclass(frozen=True)
class Broken:
    """A folder as a user might have it, what is run there, and what must be said."""

    says: str
    env: str = ""
    models: str | None = None
    words: tuple[str, ...] = ("up",)
    code: int = 3
    environ: dict[str, str] = field(default_factory=dict)
    also: tuple[tuple[str, str], ...] = ()


CASES = (
    # .env
    Broken(".env:2: LITELLM_PORT must be a port from 1 to 65535, not '99999'", "LITELLM_PORT=99999"),
    Broken("LITELLM_PORT must be a port from 1 to 65535, not 'http'", "LITELLM_PORT=http"),
    Broken("LITELLM_WORKERS must be 'auto' or a whole number from 1 to 1000, not '0'", "LITELLM_WORKERS=0"),
    Broken("LITELLM_WORKERS must be 'auto' or a whole number from 1 to 1000, not 'many'", "LITELLM_WORKERS=many"),
    Broken("LITELLM_HOST must be an IP address or 'localhost', not 'my-host'", "LITELLM_HOST=my-host"),
    Broken("the default key is refused while LITELLM_HOST is 0.0.0.0", "LITELLM_HOST=0.0.0.0"),
    Broken("a key of 5 characters is refused", "LITELLM_HOST=0.0.0.0\nLITELLM_MASTER_KEY=short"),
    Broken("which LiteLLM refuses to start with", "LITELLM_MASTER_KEY=sk-1234"),
    Broken("OPENAI_API_KEY has spaces or line breaks in it", 'OPENAI_API_KEY="sk-abc def"'),
    Broken("OPENAI_API_BASE must be an http:// or https:// address", "OPENAI_API_BASE=localhost:8080"),
    Broken("TASKMASTER_API_URL must be an http:// or https:// address", "TASKMASTER_API_URL=taskmaster"),
    Broken("TASKMASTER_EVENTS_PATH must start with '/'", "TASKMASTER_EVENTS_PATH=api/log"),
    Broken("LITELLM_LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR, not 'LOUD'", "LITELLM_LOG_LEVEL=LOUD"),
    Broken("LITELLM_RUNTIME must be one of auto, docker, local", "LITELLM_RUNTIME=podman", environ={"LITELLM_RUNTIME": ""}),
    Broken("LEDGER_MODE must be one of open, strict, not 'maybe'", "LEDGER_MODE=maybe"),
    Broken("LEDGER_KEEP_DAYS must be a whole number from 0, not '-1'", "LEDGER_KEEP_DAYS=-1"),
    Broken("unknown variable OPENAI_API_KEI (did you mean 'OPENAI_API_KEY'?)", "OPENAI_API_KEI=sk-x"),
    Broken("unknown variable LITELLM_PROT", "LITELLM_PROT=4001"),
    Broken(".env:2: not a NAME=value line", "this is no assignment !"),
    Broken("environment variable LITELLM_PORT: LITELLM_PORT must be a port", environ={"LITELLM_PORT": "x"}),
    Broken("3 configuration problems", "LITELLM_PORT=x\nLITELLM_WORKERS=y\nLEDGER_MODE=z"),
    # models.yaml
    Broken("models.yaml:2: not readable as YAML", models="models: {gpt: [\n"),
    Broken("models.yaml:1: the file must be a mapping of sections", models="- a\n- b\n"),
    Broken("unknown key 'model' (did you mean 'models'?)", models="model: {}\n"),
    Broken("models.yaml:2: models.gpt-4o.tier: must be one of 1, 2, 3, not 9", models="models:\n  gpt-4o: {tier: 9}\n"),
    Broken("models.gpt-4o.teir: unknown field (did you mean 'tier'?)", models="models:\n  gpt-4o: {teir: 1}\n"),
    Broken("models.gpt-4o.input: must be int or float, not 'cheap'", models="models:\n  gpt-4o: {input: cheap}\n"),
    Broken("models.new: a new model needs a 'provider'", models="models:\n  new: {tier: 1}\n"),
    Broken("unknown provider 'opnai' (did you mean 'openai'?)", models="models:\n  new: {provider: opnai}\n"),
    Broken("models.auto: is a reserved group name", models="models:\n  auto: {provider: openai}\n"),
    Broken("models.gpt-4o.can: must be one of tools, vision, json, not 'see'", models="models:\n  gpt-4o: {can: [see]}\n"),
    Broken("budgets.taks: must be one of all, tasks, agents, teams, keys, not 'taks' (did you mean 'tasks'?)", models="budgets:\n  taks: {a: {day: 1}}\n"),
    Broken("budgets.all.year: unknown field", models="budgets:\n  all: {year: 5}\n"),
    Broken("budgets.tasks.T.total: must be 0 or more US dollars, not -1", models="budgets:\n  tasks: {T: {total: -1}}\n"),
    Broken("models.yaml:2: alerts.budgets: unknown field (did you mean 'budget'?)", models="alerts:\n  budgets: [80]\n"),
    Broken("alerts.budget: must be a list of percentages from 1 to 100", models="alerts:\n  budget: [0.8]\n"),
    Broken("models.yaml:3: alerts.failure_rate.percent: must be above 0 and at most 100, not 120", models="alerts:\n  failure_rate:\n    percent: 120\n"),
    Broken("alerts.every: must be seconds from 1 to 3600, not 0", models="alerts: {every: 0}\n"),
    Broken("alerts.to.ops: needs 'url': the name of the variable in .env", models="alerts:\n  to: {ops: {form: slack}}\n"),
    Broken("alerts.to.ops.url: must be the name of a variable", models="alerts:\n  to: {ops: {url: 'https://hooks.slack.com/T0P'}}\n"),
    Broken("alerts.to.ops.form: must be one of auto, slack, json, not 'teams'", models="alerts:\n  to: {ops: {url: OPS, form: teams}}\n"),
    Broken("alerts.to.ops.rules[1]: must be one of budget", models="alerts:\n  to: {ops: {url: OPS, rules: [budget, all]}}\n"),
    Broken("alerts.to.Ops!: is not a name", models="alerts:\n  to: {Ops!: {url: OPS}}\n"),
    Broken("OPS must be an http:// or https:// address", "OPS=hooks.slack.com/T0P\nOPENAI_API_KEY=sk-x123456", models="alerts:\n  to: {ops: {url: OPS}}\n"),
    Broken("ALERT_WEBHOOK_URL must be an http:// or https:// address", "ALERT_WEBHOOK_URL=hooks.slack.com/T0P\nOPENAI_API_KEY=sk-x123456"),
    Broken("routing.agents.a.tier: must be one of cheap, standard, premium", models="routing:\n  agents: {a: {tier: best}}\n"),
    # what is asked for
    Broken("is refused: 'main-latest' floats", "LITELLM_IMAGE=ghcr.io/berriai/litellm:main-latest\nOPENAI_API_KEY=sk-x123456", environ={"LITELLM_RUNTIME": "docker"}, code=3),
    Broken("there is no setting 'LITELLM_PROT'", words=("config", "set", "LITELLM_PROT", "1"), code=2),
    Broken("LITELLM_PORT must be a port", words=("config", "set", "LITELLM_PORT", "x")),
    Broken("'amount' cannot be -1", words=("budget", "set", "task", "T", "--", "-1"), code=2),
    Broken("'crew' is not one of 'all', 'task', 'agent', 'team', 'key'", words=("budget", "set", "crew", "T", "1"), code=2),
    Broken("'emacs' is not one of 'openai'", words=("env", "emacs"), code=2),
    Broken("'best' is not one of 'cheap', 'standard', 'premium'", words=("route", "Hello!", "--tier", "best"), code=2),
    Broken("no gateway was started from this folder", words=("test",), code=5),
    Broken("--to must be a release such as", words=("upgrade", "--to", "newest"), code=2),
    Broken("LiteLLM 1.107.0 is a malicious release (21 October 2026) and is refused", words=("upgrade", "--to", "1.107.0")),
    Broken("LiteLLM 1.83.0 has known vulnerabilities", words=("upgrade", "--to", "1.83.0")),
    Broken("LiteLLM 1.106.3 is not proven", words=("upgrade", "--to", "1.106.3"), code=2),
    Broken("--unproven needs a release", words=("upgrade", "--unproven"), code=2),
    Broken("LITELLM_IMAGE is set (.env:2) and decides which release runs", "LITELLM_IMAGE=x:v1", words=("upgrade", "--to", "1.106.3")),
    Broken("was not installed by lm upgrade", words=("rollback",), code=1),
    Broken("LITELLM_VERSION must be a release such as", "LITELLM_VERSION=latest"),
    Broken("LiteLLM 1.107.0 is refused: it is a malicious release", "LITELLM_VERSION=1.107.0\nOPENAI_API_KEY=sk-x123456"),
    Broken("LiteLLM 1.106.9 is not installed here", "LITELLM_VERSION=1.106.9\nOPENAI_API_KEY=sk-x123456", code=4),
    Broken("there is no file nowhere.tar.gz", words=("restore", "nowhere.tar.gz"), code=1),
    Broken("f.tar.gz exists already; nothing was written", words=("backup", "f.tar.gz"), also=(("f.tar.gz", "mine"),), code=1),
    Broken("docker-compose.yml:3: x.litellm", words=("validate", "docker-compose.yml"), also=(("docker-compose.yml", "services:\n  p:\n    image: x.litellm:latest\n"),)),
    Broken("OPENAI_API_KEI is not set", words=("validate", "f.yaml"), also=(("f.yaml", "model_list:\n- {model_name: a, litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEI}}\n"),)),
    Broken("f.yaml:1: model_lits: unknown key 'model_lits'", words=("validate", "f.yaml"), also=(("f.yaml", "model_lits: []\n"),)),
    Broken("refers to a missing model 'b'", words=("validate", "f.yaml"), also=(("f.yaml", "model_list:\n  - {model_name: a, litellm_params: {model: openai/a}}\nrouter_settings:\n  fallbacks: [{a: [b]}]\n"),)),
)  # fmt: skip


def snapshot(root: Path) -> dict[str, bytes]:
    """Return every file but locks: a command may make its lock."""
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file() and ".lmstack" not in p.parts}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says[:60])
def test_a_broken_set_up_is_told_in_one_message_and_nothing_changes(
    tmp_path: Path, new_folder: Path, case: Broken
) -> None:
    environ = {"LITELLM_RUNTIME": "local", "DOCKER_HOST": os.environ.get("DOCKER_HOST", ""), **case.environ}
    stack = InProcessStack(tmp_path, free_port(), {name: value for name, value in environ.items() if value})
    if case.environ.get("LITELLM_RUNTIME") == "docker":
        from lmstack.runtime.engine import engine_problem

        if engine_problem():
            pytest.skip("no Docker engine answers")
    shutil.copytree(new_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / ".env").write_text(f"# mine\n{case.env}\n")
    for name, text in (("models.yaml", case.models), *case.also):
        if text is not None:
            (tmp_path / name).write_text(text)
    before = snapshot(tmp_path)
    done = stack.lm(*case.words, check=False)
    assert done.returncode == case.code, done.stdout + done.stderr
    assert case.says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(tmp_path) == before


def test_a_busy_port_is_told_with_a_way_out(stack: Stack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", stack.port))
        taken.listen()
        stack.write_env(OPENAI_API_KEY="sk-x123456")
        done = stack.lm("up", check=False)
    assert done.returncode != 0
    assert str(stack.port) in done.stderr
    assert "→" in done.stderr


@pytest.mark.parametrize("word", ["usage", "requests", "errors"])
def test_a_newer_ledger_is_refused_and_left_alone(stack: Stack, word: str) -> None:
    stack.ledger.parent.mkdir()
    with sqlite3.connect(stack.ledger) as conn:
        conn.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT, applied_at REAL)")
        conn.execute("INSERT INTO migrations VALUES (999, 'later', 0)")
    before = stack.ledger.read_bytes()
    done = stack.lm(word, check=False)
    assert done.returncode == 1
    assert "the ledger has schema 999" in done.stderr
    assert stack.ledger.read_bytes() == before


def test_a_ledger_that_is_none_is_told(stack: Stack) -> None:
    stack.ledger.parent.mkdir()
    stack.ledger.write_text("this is no database, but it is long enough to be looked at as if it were one " * 20)
    done = stack.lm("usage", check=False)
    assert done.returncode == 1
    assert "cannot be read" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(stack: Stack) -> None:
    stack.root.chmod(0o500)
    try:
        done = stack.lm("render", check=False)
    finally:
        stack.root.chmod(0o700)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
