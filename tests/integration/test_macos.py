"""The local runtime without what only Linux has: macOS shows a user less of other processes."""

import os
import signal
from pathlib import Path

import pytest

from support import Mock, Stack, wait_for

# No /proc for our own code (psutil reads it on Linux), no environments and no connections of other processes, no `ss`.
TAKEN_AWAY = """
import os
import sys
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
def without_proc(event, args):
    if event in ("open", "os.listdir", "os.scandir") and str(args[0]).startswith("/proc"):
        frame, callers = sys._getframe(1), []
        while frame is not None:
            callers.append(frame.f_code.co_filename)
            frame = frame.f_back
        if any("/lmstack/" in name for name in callers) and not any("/psutil/" in name for name in callers):
            raise FileNotFoundError(args[0])
sys.addaudithook(without_proc)
"""
HIDDEN = "psutil.Process.cmdline = refuse\n"


@pytest.mark.parametrize(
    ("killed", "hidden"),
    [
        pytest.param(False, False, marks=pytest.mark.exhaustive),
        pytest.param(False, True, marks=pytest.mark.exhaustive),
        pytest.param(True, False, marks=pytest.mark.exhaustive),
        (True, True),
    ],
    ids=lambda value: str(value),
)
def test_up_status_logs_and_down_without_what_only_linux_has(
    stack: Stack, mock: Mock, tmp_path: Path, killed: bool, hidden: bool
) -> None:
    seam, programs = tmp_path / "seam", tmp_path / "no-programs"
    seam.mkdir()
    programs.mkdir()
    (seam / "sitecustomize.py").write_text(TAKEN_AWAY + (HIDDEN if hidden else ""))
    stack.env |= {
        "PYTHONPATH": str(seam),
        "PATH": str(programs),
        "XDG_RUNTIME_DIR": "/nonexistent",
        "TMPDIR": str(tmp_path),
    }
    stack.write_env(**mock.bases())
    stack.lm("up")
    del stack.env["XDG_RUNTIME_DIR"], stack.env["TMPDIR"]  # later commands run elsewhere: cron, sudo, ssh
    assert stack.json("status")["data"]["running"] is True
    assert "litellm-proxy" in stack.lm("status").stdout
    assert stack.lm("logs", "-n", "3").stdout.count("\n") <= 6
    if killed:
        os.kill(int((stack.root / ".lmstack" / "supervisord.run").read_text()), signal.SIGKILL)
        found = wait_for(lambda: [s for s in stack.json("status")["data"]["services"] if s["state"] == "failed"])
        assert "without its supervisor" in found[0]["detail"]
    assert stack.lm("down").stdout.startswith("Stopped.")
    assert stack.pids() == []
    assert stack.json("status")["data"]["running"] is False
