"""A stack that ends in another way than by `lm down`: a proxy that cannot start, a folder that was deleted."""

import json
import shutil
import subprocess

import pytest

from support import LM, Mock, Stack, clean_environ


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("raise ImportError('broken on purpose')", "broken on purpose"),
        pytest.param("import sys; sys.exit('gone on purpose')", "gone on purpose", marks=pytest.mark.exhaustive),
        pytest.param("import os; os.kill(os.getppid(), 9); os.abort()", "", marks=pytest.mark.exhaustive),
    ],
    ids=["raises", "exits", "killed"],
)
def test_a_proxy_that_cannot_start_is_noticed_when_it_ends(stack: Stack, mock: Mock, broken: str, reason: str) -> None:
    """Not at the time-out, and not in words of an earlier start."""
    stack.write_env(**mock.bases())
    (stack.root / "logs").mkdir(exist_ok=True)
    (stack.root / "logs" / "litellm-proxy.log").write_text("OSError: of an earlier start\n")
    (stack.root / "callbacks" / "taskmaster.py").write_text(broken + "\n")
    done = stack.lm("up", "--timeout", "3600", check=False, timeout=240)
    assert done.returncode == 5, done.stderr
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "litellm-proxy does not start" in error
    assert reason in error
    assert "earlier start" not in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert stack.pids() == []
    assert stack.json("status")["data"]["running"] is False
    assert reason in stack.lm("logs").stdout


def test_a_stack_whose_folder_was_deleted_is_listed_and_stopped(
    stack: Stack, mock: Mock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    stack.env["XDG_STATE_HOME"] = str(elsewhere)
    stack.write_env(**mock.bases())
    stack.lm("up")
    shutil.rmtree(stack.root)

    def lm(*words: str) -> subprocess.CompletedProcess[str]:
        env = clean_environ(elsewhere, **stack.env)
        return subprocess.run([*LM, *words], cwd=elsewhere, env=env, capture_output=True, text=True, timeout=120)

    (row,) = json.loads(lm("ls", "--json").stdout)["data"]["stacks"]
    assert (row["folder"], row["running"]) == (str(stack.root), True)
    told = lm("status", "-C", str(stack.root)).stdout
    assert f"its folder was deleted; stop it with: lm -C {stack.root} down" in told
    stopped = lm("down", "-C", str(stack.root))
    assert stopped.stdout.startswith("Stopped."), stopped.stderr
    assert stack.pids() == []
    assert json.loads(lm("ls", "--json").stdout)["data"]["stacks"] == []
    assert not (stack.root / ".lmstack").exists()  # the proxy may have written its last records to logs/ again
    assert lm("down", "-C", str(stack.root)).returncode == 3
    stack.root.mkdir(exist_ok=True)
