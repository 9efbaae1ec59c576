"""Ctrl-C during `lm up --foreground` stops what this command started, and nothing else."""

import pytest

from fake_runtime import Machine
from lmstack.operate import lifecycle
from lmstack.runtime import base
from lmstack.runtime.compose import ComposeRuntime
from lmstack.runtime.local import LocalRuntime

SAY = base.Progress(quiet=True)
FOREGROUND = base.UpOptions(foreground=True)


@pytest.mark.parametrize("runtime", ["local", "docker"])
@pytest.mark.parametrize("step", ["check", "prepare"])
def test_ctrl_c_before_the_start_leaves_the_running_gateway(machine: Machine, step: str, runtime: str) -> None:
    machine.starts()
    state, services = base.load_state(machine.project), machine.services
    machine.raises[step] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        lifecycle.up(machine.project, {"LITELLM_RUNTIME": runtime, "LITELLM_PORT": "4918"}, FOREGROUND, SAY)
    assert "down" not in machine.steps
    assert (base.load_state(machine.project), machine.services) == (state, services)


def test_ctrl_c_during_the_start_stops_the_stack(machine: Machine) -> None:
    machine.starts()
    machine.raises["up"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        lifecycle.up(machine.project, {"LITELLM_PORT": "4918"}, FOREGROUND, SAY)
    assert machine.steps[-1] == "down"
    assert base.load_state(machine.project) is None


@pytest.mark.parametrize("runtime", [LocalRuntime, ComposeRuntime])
def test_a_runtime_that_stops_does_not_forget_what_the_other_one_started(machine: Machine, runtime: type) -> None:
    other = {"local": "docker", "docker": "local"}[runtime.name]
    base.save_state(machine.project, base.State(other, "digest", "http://localhost:4917", [], 1.0))
    base.clear_state(machine.project, runtime.name)
    assert base.load_state(machine.project) is not None
    base.clear_state(machine.project, other)
    assert base.load_state(machine.project) is None
