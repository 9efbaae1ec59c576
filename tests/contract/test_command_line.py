"""The surface of `lm`, typed as a user types it: where options may stand, what --json gives when something goes wrong, and
circumstances that no command chose, such as a closed output or a folder that is gone."""

import contextlib
import io
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

import generate
from lmstack.cli import app as lm
from lmstack.cli.words import command_word, split_run, wants_json
from lmstack.errors import LmError
from lmstack.operate.clients import CLIENTS
from lmstack.result import naming_folder
from support import LM, InProcessStack, Stack, clean_environ, free_port, wait_for

pytestmark = pytest.mark.exhaustive

SECRET = "sk-this-is-a-strong-secret-key"


def lm_in(folder: Path, *words: str | bytes, **more: Any) -> subprocess.CompletedProcess[str]:
    environ = more.pop("env", None) or clean_environ(folder, LITELLM_RUNTIME="local")
    return subprocess.run([*LM, *words], cwd=folder, env=environ, text=True, timeout=60, **{"capture_output": True, "stdin": subprocess.DEVNULL, **more})  # fmt: skip


def lm_here(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, where the test is not about the process."""
    return InProcessStack(folder, 0, {"LITELLM_RUNTIME": "local"}).lm(*words, check=False)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A stack in a folder whose name needs quotes, and a folder elsewhere."""
    stack, elsewhere = tmp_path / "my #1 'stack'", tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert lm.run(["init", "-q", "-C", str(stack)]) == 0
    (stack / ".env").write_text(f"LITELLM_PORT=4567\nLITELLM_MASTER_KEY={SECRET}\n")
    return stack, elsewhere


@pytest.mark.parametrize(
    ("typed", "word", "as_json"),
    [
        ("status", "status", False),
        ("-C DIR status --json", "status", True),
        ("-qC DIR --json status", "status", True),
        ("--dir=DIR -CDIR events list", "events", False),
        ("-C --json status", "status", True),  # a value is missing; in doubt, a program reads the answer
        ("--nosuch status --json", None, True),
        ("route -- --json", "route", False),
        ("run openai tool --json", "run", False),
        ("run --json openai tool", "run", True),
        ("--json run openai", "run", True),
        ("", None, False),
    ],
)
def test_the_command_and_json_are_known_before_anything_is_parsed(typed: str, word: str | None, as_json: bool) -> None:
    assert command_word(typed.split()) == word
    assert wants_json(typed.split()) == as_json


@pytest.mark.parametrize(
    ("typed", "own", "client", "words"),
    [
        ("openai python3 -c x", "", "openai", "python3 -c x"),
        ("openai -- python3 -m x", "", "openai", "python3 -m x"),
        ("claude-code -p hi", "", "claude-code", "-p hi"),
        ("claude-code -- -p hi", "", "claude-code", "-p hi"),
        ("claude-code --model opus", "", "claude-code", "--model opus"),
        ("claude-code --model cheap -- -p hi", "--model cheap", "claude-code", "-p hi"),
        ("-m cheap claude-code -m x", "-m cheap", "claude-code", "-m x"),
        ("openai -m cheap python3", "-m cheap", "openai", "python3"),
        ("openai python3 -- x", "", "openai", "python3 -- x"),
        ("--help", "--help", "", ""),
    ],
)
def test_after_the_client_the_words_are_the_programs(typed: str, own: str, client: str, words: str) -> None:
    assert split_run(typed.split(), {"claude-code"}) == (own.split(), client.split(), words.split())


@pytest.mark.parametrize("words", [["-C", "DIR", "config", "get", "LITELLM_PORT"], ["config", "-C", "DIR", "get", "LITELLM_PORT"], ["config", "get", "LITELLM_PORT", "--dir", "DIR"], ["-C", "DIR", "config", "get", "LITELLM_PORT", "-C", "DIR"]])  # fmt: skip
def test_the_folder_may_stand_before_or_after_the_command(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    typed = [word.replace("DIR", str(folders[0])) for word in words]
    assert lm.run(typed) == 0
    assert capsys.readouterr().out == "4567\n"
    assert lm.run(["--json", *typed]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["value"] == "4567"
    assert lm.run(["-q", *typed]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_exports_for_another_folder_ask_for_that_folders_key(folders: tuple[Path, Path], client: str) -> None:
    stack, elsewhere = folders
    text = lm_here(elsewhere, "env", client, "-C", str(stack)).stdout
    assert SECRET not in text
    assert f'"$(lm key show -C {shlex.quote(str(stack))})"' in text
    told = json.loads(lm_here(elsewhere, "env", client, "--dir", str(stack), "--json").stdout)["data"]["environ"]
    assert f'"$(lm key show -C {shlex.quote(str(stack))})"' in told.values()


def test_eval_of_env_pairs_the_address_with_its_own_key(folders: tuple[Path, Path]) -> None:
    stack, elsewhere = folders
    lm_line = shlex.join(LM)
    script = f'lm() {{ {lm_line} "$@"; }}; eval "$(lm -C "$STACK" env openai)"; echo "$OPENAI_BASE_URL $OPENAI_API_KEY"'
    env = clean_environ(elsewhere, STACK=str(stack))
    done = subprocess.run(["bash", "-c", script], cwd=elsewhere, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"http://localhost:4567/v1 {SECRET}"
    inside = lm_here(stack, "env", "openai").stdout
    assert '"$(lm key show)"' in inside


def test_a_broken_setting_keeps_nobody_from_seeing_and_stopping_what_runs(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lmstack.runtime import base, local
    from lmstack.stack.project import Project

    stopped: list[bool] = []
    monkeypatch.setattr(local.LocalRuntime, "down", lambda *_: stopped.append(True) or base.Stopped(True))
    monkeypatch.setattr(local.LocalRuntime, "services", lambda _: [base.Service("litellm-proxy", "running")])
    base.save_state(Project(folders[0]), base.State("local", "", "http://localhost:4567", ["auto"], 0.0))
    (folders[0] / ".env").write_text("LITELLM_PROT=1\n")
    for words, says in ((["status"], "running"), (["logs"], ""), (["down"], "Stopped.")):
        assert lm.run([*words, "-C", str(folders[0])]) == 0, words
        assert says in capsys.readouterr().out
    assert stopped == [True]


@pytest.mark.parametrize("words", generate.command_names(), ids=" ".join)
def test_a_folder_that_does_not_exist_is_an_error_for_every_command_but_init(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code = lm.run(["-C", str(tmp_path / "no" / "such"), *words, *NEEDED.get(words, "").split()])
    if words == ("init",):
        assert (tmp_path / "no" / "such" / ".env").exists()
        return
    assert code == 2
    assert "error: there is no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_shows_nothing_says_why(folders: tuple[Path, Path]) -> None:
    stack = folders[0]
    assert "there is no log yet; start the gateway with: lm up" in lm_here(stack, "logs").stderr
    (stack / "logs").mkdir()
    (stack / "logs" / "litellm-proxy.log").write_text("INFO: hello\n")
    assert lm_here(stack, "logs").stdout == "INFO: hello\n"
    assert lm_here(stack, "logs", "--level", "error").stderr == "note: no line of the log matches\n"


def test_a_models_name_cannot_end_the_comment_or_the_export(folders: tuple[Path, Path]) -> None:
    for name in ("x\nrm -rf /", "x; rm -rf /", "$(id)", "", '"', "a b"):
        done = lm_here(folders[0], "env", "llm", "--model", name)
        assert (done.returncode, done.stdout) == (2, ""), name


def test_hints_name_the_folder_that_was_asked_for(folders: tuple[Path, Path]) -> None:
    stack, elsewhere = folders
    flag = f"lm -C {shlex.quote(str(stack))}"
    assert f"start with: {flag} up" in lm_here(elsewhere, "usage", "-C", str(stack)).stderr
    assert f"Start it with: {flag} up" in lm_here(elsewhere, "status", "-C", str(stack)).stdout
    assert "Start it with: lm up" in lm_here(stack, "status").stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("start it with: lm up", "start it with: lm -C D up"),
        ("Next: lm health · lm logs -f", "Next: lm -C D health · lm -C D logs -f"),
        ('-H "Bearer $(lm key show)"', '-H "Bearer $(lm -C D key show)"'),
        ("lm down (without --volumes) keeps the data", "lm -C D down (without --volumes) keeps the data"),
        ("the lm command says: lm.txt is no file", "the lm command says: lm.txt is no file"),
        ("see: lm -C E up", "see: lm -C E up"),
    ],
)
def test_a_hints_command_carries_the_folder(text: str, told: str) -> None:
    assert naming_folder(text, " -C D") == told


def test_the_example_asks_for_the_key_in_a_way_that_a_shell_can_answer(folders: tuple[Path, Path]) -> None:
    from lmstack.operate.planning import curl_example
    from lmstack.stack.project import Project

    text = curl_example(Project(folders[0]).settings(), "http://localhost:4567", "auto")
    assert "Bearer $(lm key show)" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["upp"], 2, "No such command 'upp'. Did you mean 'up'?"),
        (["events"], 2, "Missing command."),
        (["events", "bogus"], 2, "No such command 'bogus'."),
        (["status", "--bogus"], 2, "No such option: --bogus"),
        (["request"], 2, "Missing argument 'id'."),
        (["requests", "-n", "many"], 2, "Invalid value for '--limit'"),
        (["down", "--volumes"], 1, "a question was not answered; nothing was changed"),
        (["env", "--model", ""], 2, "--model is not the name of a model"),
    ],
)
def test_wrong_usage_and_unanswered_questions_are_one_json_document(
    folders: tuple[Path, Path], words: list[str], code: int, says: str
) -> None:
    for typed in (["--json", *words], [*words, "--json"]):
        done = lm_in(folders[0], *typed)
        told = json.loads(done.stdout)
        assert done.returncode == code
        assert told["ok"] is False
        assert says in told["data"]["error"]
        assert set(told["data"]) == {"error", "hint", "problems"}
        assert "Traceback" not in done.stderr


def test_help_and_version_are_json_when_json_is_asked_for(folders: tuple[Path, Path]) -> None:
    for words in (["--version"], ["up", "--help"], ["--help"], ["events", "-h"]):
        done = lm_here(folders[0], "--json", *words)
        assert json.loads(done.stdout)["data"]["text"], words
        assert done.returncode == 0
    done = lm_here(folders[0], "requests", "--since", "-h", "--json")
    assert "is no time span" in json.loads(done.stdout)["data"]["error"]


def test_a_bug_is_json_with_its_class_and_a_traceback_on_stderr(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lmstack.cli.shared.find_project", lambda _: {}["nothing"])
    assert lm.run(["--json", "status"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["command"] == "status"
    assert json.loads(out)["data"]["class"] == "KeyError"
    assert "Traceback" in err
    assert lm.run(["status"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: a bug in lm: KeyError" in err


ENDINGS: dict[str, tuple[BaseException, str]] = {
    "Ctrl-C": (KeyboardInterrupt(), "interrupted"),
    "the end of input": (typer.Abort(), "a question was not answered; nothing was changed"),
    "an expected failure": (LmError("no luck", "try again"), "no luck"),
    "a refusal of the machine": (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
    "a bug": (ZeroDivisionError("1/0"), "a bug in lm: ZeroDivisionError"),
}


@pytest.mark.parametrize("words", generate.command_names(), ids=" ".join)
def test_every_command_ends_in_one_json_document_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    needed = NEEDED.get(words, "").split()
    for raised, says in ENDINGS.values():

        def raising(*_: object, raised: BaseException = raised) -> None:
            raise raised

        monkeypatch.setattr("lmstack.cli.app.project_of", raising)
        for line in (["--json", *words, *needed], [*words, "--json", *needed]):
            code = lm.run(line)
            told = json.loads(capsys.readouterr().out)
            assert (code, told["ok"], told["command"], told["data"]["error"]) == (1, False, " ".join(words), says), line
            assert set(told["data"]) - {"class"} == {"error", "hint", "problems"}


# The arguments that a command cannot do without.
NEEDED = {("request",): "req", ("route",): "Hello", ("run",): "openai true", ("restore",): "b.tar.gz", ("config", "get"): "LITELLM_PORT", ("config", "set"): "LITELLM_PORT 1", ("config", "unset"): "LITELLM_PORT", ("budget", "set"): "task T 1", ("budget", "unset"): "task T", ("agent", "add"): "N", ("key", "create"): "N", ("key", "edit"): "N --rpm 1", ("key", "revoke"): "N"}  # fmt: skip


@pytest.mark.parametrize("words", generate.command_names(), ids=" ".join)
def test_help_and_wrong_usage_of_every_command_are_one_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert lm.run(["--json", *words, "--help"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["text"].startswith(f"Usage: lm {' '.join(words)}")
    assert lm.run(["--json", *words, "--nosuch"]) == 2
    assert "No such option: --nosuch" in json.loads(capsys.readouterr().out)["data"]["error"]


def test_run_gives_the_programs_output_and_exit_code_as_json(tmp_path: Path) -> None:
    script = "import sys; print('hello'); print('aside', file=sys.stderr); sys.exit(7)"
    for line in (["--json", "run", "openai"], ["run", "--json", "openai"]):
        done = lm_in(tmp_path, *line, sys.executable, "-c", script, "--json")
        told = json.loads(done.stdout)
        assert (done.returncode, told["ok"], done.stderr) == (7, False, "aside\n")
        assert told["data"] == {
            "command": [sys.executable, "-c", script, "--json"],
            "exit_code": 7,
            "output": "hello\n",
        }
    killed = lm_in(tmp_path, "--json", "run", "openai", "bash", "-c", "kill -9 $$")
    assert (killed.returncode, json.loads(killed.stdout)["data"]["exit_code"]) == (137, 137)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_example_receiver_is_one_json_document_after_its_events(tmp_path: Path, stop: signal.Signals) -> None:
    port = free_port()
    argv = [*LM, "taskmaster", "dev", "--json", "--port", str(port)]
    # What runs in the background of a shell has SIGINT ignored, and would hand that on.
    process = subprocess.Popen(argv, cwd=tmp_path, env=clean_environ(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/api/health", trust_env=False).status_code == 200
        return False

    wait_for(answers, what="the receiver")
    httpx.post(url, json={"x": 1}, headers={"ce-id": "1", "ce-type": "made.up"}, trust_env=False).raise_for_status()
    process.send_signal(stop)
    out, err = process.communicate(timeout=30)
    assert json.loads(out)["data"] == {"port": port, "events": 1}
    assert 'made.up {"x": 1}' in err
    assert process.returncode == 0


def test_a_folder_that_is_gone_a_missing_home_and_odd_bytes_are_no_traceback(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'rmdir "$PWD"; {shlex.join(LM)} status; echo "code $?"; {shlex.join(LM)} -C / config get LITELLM_PORT; unset HOME; {shlex.join(LM)} -C /tmp status'
    done = subprocess.run(
        ["bash", "-c", script], cwd=gone, env=clean_environ(tmp_path), capture_output=True, text=True, check=False
    )
    assert "the current folder does not exist any more" in done.stderr
    assert "code 2" in done.stdout
    assert "Nothing is running" in done.stdout
    assert "Traceback" not in done.stderr
    odd = lm_in(tmp_path, "route", b"\xff\xfe")
    assert (odd.returncode, odd.stderr.splitlines()[0]) == (2, "error: word 2 of the command line is not UTF-8")
    told = lm_in(tmp_path, b"--json", b"\xff")
    assert json.loads(told.stdout)["data"]["error"] == "word 2 of the command line is not UTF-8"


@pytest.mark.parametrize("words", ["models", "--help", "models --json", "status", "upp"])
def test_an_output_that_takes_nothing_is_no_traceback(tmp_path: Path, words: str) -> None:
    lm_line, env = f"{shlex.join(LM)} {words}", clean_environ(tmp_path)
    for where, code in ((">&-", {0, 2}), (">/dev/full", {1, 2}), ("2>&-", {0, 2}), ("<&- >&- 2>&-", {0, 2})):
        done = subprocess.run(
            ["bash", "-c", f"{lm_line} {where}; exit $?"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in code, (where, done)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        if where == ">/dev/full" and words != "upp":
            assert done.stderr == "error: cannot write to standard output: No space left on device\n"


def test_a_closed_output_is_not_the_number_of_the_next_file(tmp_path: Path) -> None:
    code = "import os; from lmstack.__main__ import _open_streams; _open_streams(); print('lost'); os._exit(os.open('.', 0))"
    done = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -c {shlex.quote(code)} <&- >&- 2>&-"], cwd=tmp_path, check=False
    )
    assert done.returncode > 2


def test_a_terminal_that_lacks_a_letter_is_no_traceback(tmp_path: Path) -> None:
    done = lm_in(tmp_path, "upp", env=clean_environ(tmp_path, PYTHONIOENCODING="ascii"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "No such command 'upp'" in done.stderr


def test_open_prints_the_address_and_needs_no_browser(tmp_path: Path) -> None:
    done = lm_in(tmp_path, "open", "--print", env=clean_environ(tmp_path, LITELLM_PORT="4321"))
    assert (done.returncode, done.stdout) == (0, "http://localhost:4321/\n")
    assert "start it with: lm up" in done.stderr


@pytest.mark.parametrize(("desktop", "opens"), [(True, True), (False, False)])
def test_open_opens_a_browser_only_on_a_desktop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, desktop: bool, opens: bool
) -> None:
    from lmstack.runtime import base

    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: asked.append(address) or True)
    state = base.State("local", "", "http://localhost:4321", [], 0.0)
    for module in ("lmstack.cli.env", "lmstack.operate.launch"):
        monkeypatch.setattr(f"{module}.load_state", lambda _: state)
    monkeypatch.setattr("lmstack.operate.launch.has_desktop", lambda: desktop)
    assert lm.run(["open", "-C", str(tmp_path)]) == 0
    assert asked == (["http://localhost:4321/health"] if opens else [])
    assert lm.run(["open", "--print", "-C", str(tmp_path)]) == 0
    assert len(asked) == opens


def completed(folder: Path, line: str, **more: str) -> list[str]:
    words = line.split(" ")
    env = clean_environ(folder, _LM_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), **more)
    done = subprocess.run(
        [Path(sys.executable).with_name("lm")], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_names_are_completed(tmp_path: Path) -> None:
    from bench.ledger import fill

    (tmp_path / "logs").mkdir()
    fill(tmp_path / "logs" / "litellm.db", 200)
    assert "claude-code" in completed(tmp_path, "lm env cl")
    assert completed(tmp_path, "lm events list --state d") == ["delivered", "dead"]
    assert "gpt-4o-mini" in completed(tmp_path, "lm env -m gpt")
    assert completed(tmp_path, "lm usage --by ta") == ["task"]
    assert completed(tmp_path, "lm requests --task task-1") == ["task-1"]
    assert "r199" in completed(tmp_path, "lm request r19")
    (tmp_path / "models.yaml").write_text("models: [\n")
    assert completed(tmp_path, "lm env -m gpt") == []  # a broken file prints nothing into the line


def test_a_report_replaces_a_file_only_when_told_to(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lmstack.cli.doctor.diagnose", lambda *_: [])
    target = folders[1] / "mine"
    target.write_text("mine")
    (folders[1] / "link").symlink_to(target)
    assert lm.run(["doctor", "-C", str(folders[0]), "--report", str(target)]) == 1
    assert "exists already; nothing was written" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert lm.run(["doctor", "-C", str(folders[0]), "--report", str(folders[1] / "link"), "--force"]) == 0
    assert target.read_bytes()[:2] == b"\x1f\x8b"
    assert (folders[1] / "link").is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    for place in ("/dev/null", "/dev/full"):
        assert lm.run(["doctor", "-C", str(folders[0]), "--report", place, "--force"]) == 1
    assert sorted(p.name for p in folders[1].iterdir()) == ["link", "mine"]


def test_usage_as_csv_holds_no_formula() -> None:
    import csv

    from lmstack.cli.usage import _csv

    names = ["=cmd|' /C calc'!A0", "+1+1", "-1", "@SUM(1)", "\tx", "plain", "two\nlines", None]
    rows = [{"name": name, "requests": 1, "cost_usd": -0.5} for name in names]
    read = [row["name"] for row in csv.DictReader(io.StringIO("\n".join(_csv(rows)) + "\n"))]
    assert read == [*(f"'{name}" for name in names[:5]), "plain", "two\nlines", ""]  # type: ignore[str-bytes-safe]


def test_run_hands_on_the_programs_words_and_exit_code(stack: Stack) -> None:
    """`lm run` hands the program's exit code and words on, whatever they look like."""
    done = Stack(stack.root, stack.port, stack.env).lm(
        "run", "openai", sys.executable, "-c", "import sys; sys.exit(len(sys.argv))", "--json", "-q", check=False
    )
    assert done.returncode == 3


def test_a_reader_that_leaves_changes_no_exit_code(tmp_path: Path) -> None:
    script = f"set -o pipefail; {shlex.join(LM)} health 2>&1 | true; echo $?; {shlex.join(LM)} models | head -1 >/dev/null; echo $?; {shlex.join(LM)} upp 2>&1 | true; echo $?"
    env = clean_environ(tmp_path, LITELLM_PORT="9", LITELLM_RUNTIME="local")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["5", "0", "2"]
    assert done.stderr == ""


def test_progress_that_nobody_reads_ends_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmstack.runtime.base import Progress

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    Progress()("Starting")


def test_a_broken_socket_is_not_taken_for_a_reader_that_has_left(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("lmstack.operate.status.current_runtime", broken)
    assert lm.run(["status", "-C", str(folders[0])]) == 1
    assert "error: Broken pipe" in capsys.readouterr().err


def test_following_ends_when_its_reader_leaves(tmp_path: Path) -> None:
    from bench.ledger import fill

    (tmp_path / "logs").mkdir()
    fill(tmp_path / "logs" / "litellm.db", 20)
    for words in ("requests -f", "events tail"):
        done = subprocess.run(["bash", "-c", f"{shlex.join(LM)} {words} | true; echo ${{PIPESTATUS[0]}}"], cwd=tmp_path, env=clean_environ(tmp_path, LITELLM_RUNTIME="local"), capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
        assert (done.stdout, done.stderr) == ("0\n", "")
