"""Commands about a stack that a user types before, beside and after a gateway: logs, locks, ports, choices."""

import io
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import generate
from lmstack import files
from lmstack.cli import app as lm
from lmstack.errors import LmError
from lmstack.operate.changes import parts
from lmstack.operate.planning import flags_of_running, planned
from lmstack.proc import Finished
from lmstack.runtime import releases
from lmstack.runtime.base import State, save_state
from lmstack.runtime.choose import choose
from lmstack.stack.project import Project
from support import LM, InProcessStack, Stack, clean_environ, free_port


@pytest.fixture
def log(stack: Stack) -> Path:
    """The proxy's log with ten lines, one of them not UTF-8."""
    path = stack.root / "logs" / "litellm-proxy.log"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(b"line %d\n" % n for n in range(9)) + b"odd \xff\xfe byte\n")
    return path


def test_one_byte_that_is_not_utf_8_ends_no_log(stack: Stack, log: Path) -> None:
    done = stack.lm("logs")
    assert done.stdout.splitlines()[-1] == "odd \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} byte"
    assert len(json.loads(stack.lm("logs", "--json").stdout)["data"]["lines"]) == 10


@pytest.mark.parametrize(("tail", "count"), [("0", 0), ("3", 3), ("10", 10), ("99", 10)])
def test_tail_shows_that_many_of_the_newest_lines(stack: Stack, log: Path, tail: str, count: int) -> None:
    lines = stack.lm("logs", "-n", tail).stdout.splitlines()
    assert len(lines) == count
    assert all("odd" in line for line in lines[-1:])
    assert stack.lm("logs", "-n", "-3", check=False).returncode == 2


@pytest.mark.parametrize("words", [["nosuch"], ["redis"], ["nosuch", "-f"], ["nosuch", "--json"]])
def test_logs_of_a_service_that_does_not_exist_are_wrong_usage(stack: Stack, log: Path, words: list[str]) -> None:
    done = stack.lm("logs", *words, check=False)
    assert done.returncode == 2
    assert f"there is no service '{words[0]}'" in done.stderr + done.stdout
    assert "choose litellm-proxy or embedded-model" in done.stderr + done.stdout


def test_logs_print_no_escape_sequences_and_no_colours(stack: Stack, log: Path) -> None:
    log.write_bytes(b"\x1b[31mred\x1b[0m \x1b[2J\x07\n")
    out = stack.lm("logs").stdout
    assert "red" in out
    assert "\x1b" not in out
    assert "[31m" not in out
    assert "\x07" not in out


def test_a_log_line_shown_while_lm_waits_has_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmstack.runtime.base import Progress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    Progress().tick("waiting … 3 s  \x1b[32m    auto\x1b[0m\x07\x1b[3")
    assert sys.stderr.getvalue() == "\r\x1b[Kwaiting … 3 s      auto"


def test_a_second_command_says_who_changes_the_stack_and_since_when(stack: Stack) -> None:
    with files.locked(stack.root / ".lmstack" / "lock", "lm upgrade"):
        for words in (["up"], ["down"]):
            done = stack.lm(*words, check=False)
            assert done.returncode == 1
            assert "this stack is being changed right now by: lm upgrade, process " in done.stderr
            assert "since " in done.stderr


def test_a_taken_port_is_reported_with_its_holder_and_the_next_free_port(stack: Stack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        stack.write_env(LITELLM_PORT=str(port), OPENAI_API_KEY="sk-x0123456789", OPENAI_API_BASE="http://127.0.0.1:9/v1")  # fmt: skip
        done = stack.lm("up", "--dry-run", check=False)
        assert done.returncode == 1
        assert f"port {port} on 127.0.0.1 cannot be used: Address already in use; " in done.stderr
        assert "choose another port: lm up --port " in done.stderr
        suggested = int(done.stderr.rsplit("--port ", 1)[1])
        assert suggested != port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", suggested))


def choices() -> dict[str, Any]:
    """Return every option and argument of fixed words, by its command and name."""
    tree = typer.main.get_command(lm.registered())
    found = {}
    for words in generate.command_names():
        one: Any = tree
        for word in words:
            one = one.commands[word]
        found |= {f"{' '.join(words)} {p.name}": p for p in one.params if p.type_descriptor.is_choice}
    return found


def test_fixed_words_are_completed() -> None:
    found = choices()
    assert {"up runtime", "logs level", "usage by", "events list state", "env client", "run client", "completion shell", "budget set scope", "budget set period", "route tier", "render runtime"} <= found.keys()  # fmt: skip
    context = typer.Context(typer.main.get_command(lm.registered()))
    for name, parameter in found.items():
        words = [one.value for one in parameter.type_descriptor.choices]
        assert [item.value for item in parameter.shell_complete(context, "")] == words, name
        assert [item.value for item in parameter.shell_complete(context, words[-1])] == [words[-1]], name


def test_a_wrong_word_names_the_right_ones(stack: Stack) -> None:
    for words, right in ((["up", "--runtime", "dokcer"], "docker"), (["usage", "--by", "taks"], "task"), (["route", "x", "--tier", "cheep"], "cheap"), (["budget", "set", "tasks", "T", "1"], "task")):  # fmt: skip
        done = subprocess.run([*LM, *words], cwd=stack.root, env=clean_environ(stack.root), capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 2, words
        assert f"did you mean '{right}'?" in done.stderr
        assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("env", "lacks"),
    [
        ({"LITELLM_RUNTIME": "local"}, "the LiteLLM proxy is not installed"),
        ({"LITELLM_RUNTIME": "docker", "DOCKER_HOST": "unix:///nowhere.sock"}, "Docker"),
    ],
)
def test_a_dry_run_in_an_empty_folder_fails_as_the_start_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], lacks: str
) -> None:
    monkeypatch.setattr("lmstack.runtime.releases.installed", lambda: None)
    empty = InProcessStack(tmp_path, free_port(), {"OPENAI_API_KEY": "sk-x0123456789", **env})
    real, dry = empty.lm("up", check=False), empty.lm("up", "--dry-run", check=False)
    assert (dry.returncode, dry.stderr) == (real.returncode, real.stderr)
    assert dry.returncode == 4
    assert lacks in dry.stderr
    assert list(tmp_path.iterdir()) == []


def test_admin_routes_with_docker_are_refused_before_an_engine_is_asked(tmp_path: Path) -> None:
    env = {"OPENAI_API_KEY": "sk-x0123456789", "LITELLM_RUNTIME": "docker", "DOCKER_HOST": "unix:///nowhere.sock"}
    done = InProcessStack(tmp_path, free_port(), {**env, "LITELLM_ADMIN": "true"}).lm("up", "--dry-run", check=False)
    assert done.returncode == 3
    assert "LITELLM_ADMIN=on cannot work with Docker" in done.stderr
    assert "lm up --runtime local" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_restart_keeps_the_runtime_and_names_no_flag(tmp_path: Path) -> None:
    project = Project(tmp_path)
    settings = project.settings({"LITELLM_RUNTIME": "local"})
    assert choose(settings, project, served=True).why == "chosen by flag"
    save_state(project, State("local", "", "http://localhost:4000", [], 0.0))
    assert choose(project.settings(flags_of_running(project)), project, served=True).why == "as at the last start"


def test_in_a_folder_that_holds_no_stack_each_next_step_works_there(tmp_path: Path) -> None:
    folder = InProcessStack(tmp_path, free_port(), {"LITELLM_RUNTIME": "local", "LITELLM_PORT": str(free_port())})
    assert "Start it with: lm up" in folder.lm("status").stdout
    found = {row["name"]: row for row in folder.json("doctor", check=False)["data"]["findings"]}
    assert (found["stack"]["status"], found["stack"]["fix"]) == ("warn", "lm init, or lm up, which does it too")
    assert not {"drift", "ledger"} & found.keys()
    (tmp_path / "notes.txt").write_text("another program's folder")
    for words in ("status", "health"):
        told = folder.lm(words, check=False).stdout
        assert f"{tmp_path} holds no stack. Make one here with: lm init" in told
        assert "lm up" not in told
    assert folder.lm("doctor", "-q", check=False).stderr.startswith(
        f"stack: {tmp_path} holds no stack: there is no ledger"
    )


def test_a_missing_litellm_names_the_command_that_installs_it_here(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmstack.runtime.installed_by.install_command", lambda: "pipx install lmstack")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = stack.lm("models", "--check", check=False)
    assert done.returncode == 4
    assert "install it: pipx install lmstack" in done.stderr


@pytest.mark.parametrize("named", ["litellm", "litellm[proxy]"])  # pip 23 leaves the extra out
def test_a_release_that_the_index_lacks_is_named_without_the_list_of_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    def pip(argv: list[str], **_: object) -> Finished:
        return Finished(int("pip" in argv), "", f"ERROR: No matching distribution found for {named}==9.9.9\n")

    monkeypatch.setattr("lmstack.runtime.releases.proc.run", pip)
    with pytest.raises(LmError) as caught:
        releases.install(Project(tmp_path), "9.9.9")
    assert str(caught.value) == "the package index has no LiteLLM 9.9.9 for this Python"
    assert caught.value.hint == "see which there are: lm upgrade --check"


def test_budget_show_says_that_the_running_gateway_has_other_limits(stack: Stack) -> None:
    stack.write_env(OPENAI_API_KEY="sk-x0123456789")
    project = Project(stack.root)
    save_state(project, State("local", "", stack.url, [], 0.0, parts=parts(planned(project, {}))))
    remark = "the running gateway has other limits"
    assert remark not in stack.lm("budget", "show").stderr
    stack.lm("budget", "set", "task", "TM-42", "0.50")
    assert remark in stack.lm("budget", "show").stderr
    save_state(project, State("local", "", stack.url, [], 0.0, parts=parts(planned(project, {}))))
    (stack.root / "models.yaml").write_text(f"# a comment changes no limit\n{(stack.root / 'models.yaml').read_text()}")
    assert remark not in stack.lm("budget", "show").stderr


def test_validate_warns_of_a_placeholder_and_of_a_setting_without_effect(stack: Stack) -> None:
    stack.write_env(OPENAI_API_KEY="your_openai_key_here", LEDGER_STORE_PROMPTS="on")
    out = stack.lm("validate").stdout
    assert "warning: .env:3: OPENAI_API_KEY is a placeholder, so it counts as unset (put your own key there)" in out
    assert "warning: .env:4: LEDGER_STORE_PROMPTS has no effect" in out
