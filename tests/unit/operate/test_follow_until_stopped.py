"""`lm up --foreground` ends when its gateway is gone, and goes on while another command restarts it."""

import signal
import threading
from pathlib import Path

import pytest

from fake_runtime import FakeRuntime, Machine
from lmstack import files
from lmstack.errors import UnhealthyError
from lmstack.operate import foreground
from lmstack.runtime import base
from support import wait_for

SAY = base.Progress(quiet=True)


@pytest.fixture
def log(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the log of a gateway that runs. lm looks often whether it still does."""
    monkeypatch.setattr("lmstack.runtime.logs.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("lmstack.runtime.logs.FOLLOW_SECONDS", 0.01)
    monkeypatch.setattr(foreground, "LOOK_SECONDS", 0.01)
    machine.starts()
    path = machine.project.logs / "litellm-proxy.log"
    path.parent.mkdir(exist_ok=True)
    path.write_text("it runs\n")
    return path


def follow(machine: Machine, shown: list[str]) -> None:
    runtime = FakeRuntime(machine, "local", machine.project)
    foreground.follow_until_stopped(machine.project, runtime, shown.append, SAY)


@pytest.mark.parametrize("left", [[], [base.Service("litellm-proxy", "failed")]], ids=["stopped", "FATAL"])
def test_a_gateway_that_is_gone_ends_the_command(machine: Machine, log: Path, left: list[base.Service]) -> None:
    shown: list[str] = []
    timer = threading.Thread(target=lambda: (wait_for(lambda: shown, 10), machine.services.clear(), machine.services.extend(left)))  # fmt: skip
    timer.start()
    with pytest.raises(UnhealthyError, match="does not run any more"):
        follow(machine, shown)
    timer.join()
    assert shown == ["it runs"]
    assert machine.steps == ["down"]


def test_while_another_command_restarts_it_the_command_goes_on(machine: Machine, log: Path) -> None:
    shown: list[str] = []

    def restart() -> None:
        wait_for(lambda: shown, 10)
        with files.locked(machine.project.state / "lock", "lm restart"):
            services, machine.services = machine.services, []
            with log.open("a") as stream:
                stream.write("it stops\n")
            wait_for(lambda: "it stops" in shown, 10)
            machine.services = services
        with log.open("a") as stream:
            stream.write("it runs again\n")
        wait_for(lambda: "it runs again" in shown, 10)
        signal.raise_signal(signal.SIGTERM)

    other = threading.Thread(target=restart)
    other.start()
    follow(machine, shown)
    other.join()
    assert shown == ["it runs", "it stops", "it runs again"]
    assert machine.steps == ["down"]


def test_ctrl_c_stops_the_stack_although_the_log_ended_first(
    machine: Machine, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logs(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeRuntime, "logs", logs)
    follow(machine, [])
    assert machine.steps == ["down"]
