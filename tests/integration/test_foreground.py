"""`lm up --foreground`, as a service manager runs it."""

import json
import signal
import subprocess
import time

import pytest

from lmstack import files
from support import LM, Mock, Stack, clean_environ, wait_for


def has_started(stack: Stack) -> bool:
    """Return whether the gateway answers and `lm up` has released the stack to other commands."""
    return stack.serves() and not files.is_locked(stack.root / ".lmstack" / "lock")


def test_sigterm_stops_the_stack_and_leaves_one_json_document(stack: Stack, mock: Mock) -> None:
    stack.write_env(**mock.bases())
    environ = clean_environ(stack.root, **stack.env)
    process = subprocess.Popen([*LM, "up", "--foreground", "--json"], cwd=stack.root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        wait_for(
            lambda: process.poll() is not None or stack.json("status")["data"]["url"], 120, "the state of the start"
        )
        wait_for(lambda: process.poll() is not None or has_started(stack), 120, "the gateway")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert json.loads(out)["data"]["url"] == stack.url
    assert "Traceback" not in err
    assert stack.pids() == []
    assert stack.json("status")["data"]["running"] is False


def test_sigterm_while_it_starts_stops_the_stack_too(stack: Stack, mock: Mock) -> None:
    stack.write_env(**mock.bases())
    environ = clean_environ(stack.root, **stack.env)
    process = subprocess.Popen([*LM, "up", "--foreground", "--json"], cwd=stack.root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        wait_for(lambda: process.poll() is not None or stack.pids(), 60, "a process of the stack")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1, err
    assert json.loads(out)["data"]["error"] == "interrupted"
    assert stack.pids() == []


@pytest.mark.exhaustive
def test_it_ends_when_another_command_stops_the_gateway(stack: Stack, mock: Mock) -> None:
    stack.write_env(**mock.bases())
    environ = clean_environ(stack.root, **stack.env)
    process = subprocess.Popen([*LM, "up", "--foreground"], cwd=stack.root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        wait_for(lambda: process.poll() is not None or has_started(stack), 120, "the gateway")
        began = time.monotonic()
        stack.lm("down")
        assert time.monotonic() - began < 30, "`lm down` waited for a supervisor that had ended"
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 5, err
    assert "the gateway does not run any more" in err
    assert stack.pids() == []
