"""`lm up --foreground`, as a service manager runs it."""

import json
import signal
import subprocess

from support import LM, Mock, Stack, clean_environ, wait_for


def test_sigterm_stops_the_stack_and_leaves_one_json_document(stack: Stack, mock: Mock) -> None:
    stack.write_env(**mock.bases())
    environ = clean_environ(stack.root, **stack.env)
    process = subprocess.Popen([*LM, "up", "--foreground", "--json"], cwd=stack.root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        wait_for(
            lambda: process.poll() is not None or stack.json("status")["data"]["url"], 120, "the state of the start"
        )
        wait_for(
            lambda: process.poll() is not None or stack.lm("health", check=False).returncode == 0, 120, "the gateway"
        )
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


def test_it_ends_when_another_command_stops_the_gateway(stack: Stack, mock: Mock) -> None:
    stack.write_env(**mock.bases())
    environ = clean_environ(stack.root, **stack.env)
    process = subprocess.Popen([*LM, "up", "--foreground"], cwd=stack.root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        wait_for(
            lambda: process.poll() is not None or stack.lm("health", check=False).returncode == 0, 120, "the gateway"
        )
        wait_for(lambda: stack.lm("down", check=False).returncode == 0, 60, "the end of the start")
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 5, err
    assert "the gateway does not run any more" in err
    assert stack.pids() == []
