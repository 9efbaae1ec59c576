"""What only a terminal shows: Ctrl-C at any moment, questions, colours, widths."""

import fcntl
import json
import os
import pty
import select
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from support import LM, Mock, Stack, clean_environ, free_port, wait_for

HELLO = [{"role": "user", "content": "Hello!"}]


class Terminal:
    """A command on a terminal of its own, ``columns`` wide."""

    def __init__(self, stack: Stack, *words: str, columns: int = 80, **env: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environ = {**clean_environ(stack.root, **stack.env), "TERM": "xterm-256color", **env}
        # What runs in the background of a shell has SIGINT ignored, and would hand that on.
        self.process = subprocess.Popen(
            [*LM, *words], cwd=stack.root, env=environ, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(slave)
        self.shown = ""

    def read(self) -> None:
        if select.select([self.master], [], [], 0.05)[0]:
            try:
                self.shown += os.read(self.master, 65536).decode(errors="replace")
            except OSError:  # the other side has closed
                time.sleep(0.01)

    def until(self, text: str, seconds: float = 60) -> None:
        def found() -> bool:
            self.read()
            return text in self.shown

        wait_for(found, seconds, f"{text!r} in {self.shown!r}")

    @property
    def crashed(self) -> bool:
        """Whether a traceback of lm's own was shown; the proxy's are one field of a line of JSON. Before the first line of
        lm runs, the interpreter shows one of its own."""
        lines = [line for line in self.shown.splitlines() if not line.startswith("{")]
        return any("Traceback" in line for line in lines) and any("lmstack" in line for line in lines)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def type_hidden(self, text: str) -> None:
        """Answer a question whose answer is not shown. What is typed before the echo is off would be thrown away."""
        wait_for(lambda: not termios.tcgetattr(self.master)[3] & termios.ECHO, what="a question without echo")
        self.type(text)

    def interrupt(self) -> None:
        """Send what Ctrl-C sends, to every process of the terminal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, seconds: float = 60) -> int:
        def ended() -> bool:
            self.read()
            return self.process.poll() is not None

        wait_for(ended, seconds, f"the end of {self.process.args}: {self.shown!r}")
        self.read()
        os.close(self.master)
        return int(self.process.returncode)


@pytest.mark.parametrize(
    ("words", "sign", "code"),
    [
        (["events", "tail"], "litellm.", 0),
        (["requests", "-f"], "STATUS", 0),
        (["logs", "-f"], "{", 0),
        (["taskmaster", "dev", "--port", "PORT"], "Listening", 0),
        (["test", "gpt-4o-mini"], "gpt-4o-mini", 1),
        (["doctor", "--deep"], "", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_ctrl_c_ends_a_command_without_a_traceback(
    gateway: Stack, mock: Mock, words: list[str], sign: str, code: int
) -> None:
    mock.reset()
    answer = gateway.post("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO})
    gateway.row(answer.headers["x-litellm-call-id"])
    if words[0] == "test":
        mock.script({"type": "delay", "seconds": 20, "times": 1})
    terminal = Terminal(gateway, *(word.replace("PORT", str(free_port())) for word in words))
    if sign:
        terminal.until(sign)
    terminal.interrupt()
    began = time.monotonic()
    ended = terminal.end()
    assert time.monotonic() - began < 10  # not as long as a slow model takes
    mock.reset()
    assert not terminal.crashed, terminal.shown
    # Before it has come to its work, it is interrupted; while it shows things, that is how one ends it.
    assert ended in (code, 1) or (not sign and ended == -signal.SIGINT), terminal.shown


@pytest.mark.parametrize(
    "after", [*(pytest.param(after, marks=pytest.mark.exhaustive) for after in (0.05, 0.15, 0.2, 0.4)), 0.1, 0.3]
)
def test_ctrl_c_while_it_is_still_being_imported_gives_no_traceback(stack: Stack, after: float) -> None:
    terminal = Terminal(stack, "models")
    time.sleep(after)  # not a wait: the moment is what is tried
    if terminal.process.poll() is None:
        terminal.interrupt()
    terminal.end()
    assert not terminal.crashed, terminal.shown


def test_ctrl_c_in_lm_up_leaves_a_stack_that_down_stops(stack: Stack, mock: Mock) -> None:
    stack.write_env(**mock.bases())
    terminal = Terminal(stack, "up")
    terminal.until("waiting for the proxy")
    terminal.interrupt()
    assert terminal.end() == 1
    assert "Stop it with: lm down" in terminal.shown
    assert not terminal.crashed, terminal.shown
    stack.lm("down")
    assert stack.pids() == []


def test_init_asks_and_writes_a_private_env(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "new", free_port())
    stack.root.mkdir()
    terminal = Terminal(stack, "init", "--dir", str(stack.root))
    terminal.until("OpenAI key")
    terminal.type_hidden("sk-test with spaces\n")
    terminal.until("has spaces")
    terminal.type_hidden("sk-test-openai-0123456789\n")
    terminal.until("Anthropic key")
    terminal.type_hidden("\n")
    terminal.until("Google key")
    terminal.type_hidden("\n")
    terminal.until("Port [4000]")
    terminal.type("99999\n")
    terminal.until("must be a port")
    terminal.type(f"{stack.port}\n")
    terminal.until("TaskMaster")
    terminal.type("\n")
    assert terminal.end() == 0, terminal.shown
    assert "Next: lm up" in terminal.shown
    assert "sk-test-openai" not in terminal.shown
    settings = {r["name"]: r["value"] for r in stack.json("config", "show")["data"]["settings"]}
    assert settings["LITELLM_PORT"] == str(stack.port)
    assert "OPENAI_API_KEY=sk-test-openai-0123456789\n" in (stack.root / ".env").read_text()
    assert stat.S_IMODE((stack.root / ".env").stat().st_mode) == 0o600


def test_init_that_is_left_with_ctrl_c_has_written_nothing(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "new", free_port())
    stack.root.mkdir()
    terminal = Terminal(stack, "init", "--dir", str(stack.root))
    terminal.until("OpenAI key")
    terminal.interrupt()
    assert terminal.end() == 1
    assert not terminal.crashed, terminal.shown
    assert list(stack.root.iterdir()) == []


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_tables_fit_the_terminal(gateway: Stack, columns: int) -> None:
    for words in (["models"], ["usage"], ["requests"], ["health"], ["doctor"]):
        terminal = Terminal(gateway, *words, columns=columns)
        terminal.end()
        lines = [line.rstrip("\r") for line in terminal.shown.split("\n")]
        # Sentences may wrap; rows of a table may not.
        table = [line for line in lines if "  " in line.strip() and not line.startswith(("  ", "note"))]
        assert table
        assert max(map(len, table)) <= columns, max(table, key=len)


def test_a_task_id_cannot_move_the_cursor_and_a_short_id_finds_its_request(gateway: Stack, mock: Mock) -> None:
    mock.reset()
    nasty = {"task_id": "\x1b[2Jgone\x07\nline"}
    answer = gateway.post("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO, "metadata": nasty})
    row = gateway.row(answer.headers["x-litellm-call-id"])
    assert row["task_id"] == nasty["task_id"]
    short = row["id"][:20]
    shown = {}
    for words in (["requests"], ["request", short], ["usage", "--by", "task"]):
        terminal = Terminal(gateway, *words, columns=200)
        assert terminal.end() == 0
        shown[words[0]] = terminal.shown
        assert "gone" in terminal.shown
        assert "\x1b[2J" not in terminal.shown
        assert "\x07" not in terminal.shown
    assert short in shown["requests"]
    assert row["id"] not in shown["requests"]
    assert row["id"] in shown["request"]


def test_lm_test_draws_a_table_that_gives_way_to_the_result(gateway: Stack, mock: Mock) -> None:
    mock.reset()
    terminal = Terminal(gateway, "test", "gpt-4o-mini", "claude-haiku-5-5")
    assert terminal.end() == 0
    assert "…" in terminal.shown
    assert terminal.shown.rstrip().splitlines()[-1].startswith("claude-haiku-5-5")


def test_no_colour_is_kept_to(gateway: Stack) -> None:
    terminal = Terminal(gateway, "test", "gpt-4o-mini", NO_COLOR="1")
    terminal.end()
    assert "\x1b[3" not in terminal.shown.replace("\x1b[3J", "")
    done = subprocess.run([sys.executable, "-m", "lmstack", "models", "--json"], cwd=gateway.root, env=clean_environ(gateway.root, **gateway.env, TERM="xterm"), capture_output=True, text=True)  # fmt: skip
    json.loads(done.stdout)
    assert "\x1b" not in done.stdout + done.stderr
