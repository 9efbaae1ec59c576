"""The local runtime with what only Linux has taken away: a user's macOS shows less of other processes."""

from pathlib import Path

import pytest

from support import Mock, Stack, wait_for

TAKEN_AWAY = """
import os
import psutil
if hasattr(os, "sched_getaffinity"):
    del os.sched_getaffinity
def refuse(self, *args, **kwargs):
    raise psutil.AccessDenied(self.pid)
psutil.Process.environ = refuse
psutil.Process.net_connections = refuse
def nothing(*args, **kwargs):
    raise psutil.AccessDenied()
psutil.net_connections = nothing
"""


@pytest.mark.parametrize("killed", [False, True], ids=["in order", "supervisor killed"])
def test_up_status_logs_and_down_without_what_only_linux_has(
    stack: Stack, mock: Mock, tmp_path: Path, killed: bool
) -> None:
    seam = tmp_path / "seam"
    seam.mkdir()
    (seam / "sitecustomize.py").write_text(TAKEN_AWAY)
    stack.env |= {"PYTHONPATH": str(seam), "XDG_RUNTIME_DIR": "/nonexistent", "TMPDIR": str(tmp_path)}
    stack.write_env(**mock.bases())
    stack.lm("up")
    del stack.env["XDG_RUNTIME_DIR"], stack.env["TMPDIR"]  # asked from elsewhere: cron, sudo, ssh
    assert stack.json("status")["data"]["running"] is True
    assert "litellm-proxy" in stack.lm("status").stdout
    assert stack.lm("logs", "-n", "3").stdout.count("\n") <= 6
    if killed:
        import os
        import signal

        os.kill(int((stack.root / ".lmstack" / "supervisord.run").read_text()), signal.SIGKILL)
        found = wait_for(lambda: [s for s in stack.json("status")["data"]["services"] if s["state"] == "failed"], 10)
        assert "without its supervisor" in found[0]["detail"]
    assert stack.lm("down").stdout.startswith("Stopped.")
    assert stack.pids() == []
    busy = stack.json("status")["data"]
    assert busy["running"] is False
