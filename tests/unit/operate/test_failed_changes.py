"""A change that fails or is interrupted leaves the gateway as it was, or says how to get it back."""

import pytest

from fake_runtime import Machine
from lmstack.errors import LmError, MissingToolError, UnhealthyError
from lmstack.operate import lifecycle, upgrade
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.runtime import base

SAY = base.Progress(quiet=True)


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every release accept the configuration."""
    monkeypatch.setattr(upgrade, "_check_configuration", lambda *_: None)


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("step", ["check", "prepare"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), LmError("no space left on device")], ids=["Ctrl-C", "failure"])
def test_an_upgrade_that_ends_before_the_start_does_not_touch_the_gateway(
    machine: Machine, step: str, error: BaseException
) -> None:
    machine.starts()
    before = base.load_state(machine.project)
    machine.raises[step] = error
    with pytest.raises(UnhealthyError, match="runs as before"):
        upgrade.move(machine.project, "1.106.3", 5, False, SAY, unproven=True)
    assert not {"up", "down"} & set(machine.steps)
    assert base.load_state(machine.project) == before
    assert "LITELLM_VERSION" not in machine.project.env_file.read_text()


@pytest.mark.usefixtures("accepted")
def test_an_upgrade_that_fails_in_the_start_starts_the_release_before_again(machine: Machine) -> None:
    machine.starts()
    machine.raises["up"] = LmError("the release does not start")
    with pytest.raises(UnhealthyError, match="runs again"):
        upgrade.move(machine.project, "1.106.3", 5, False, SAY, unproven=True)
    assert machine.steps[-2] == "up"
    assert machine.services


@pytest.mark.usefixtures("accepted")
def test_a_failed_upgrade_of_a_stopped_stack_leaves_it_stopped(machine: Machine) -> None:
    machine.raises["prepare"] = LmError("no space left on device")
    with pytest.raises(UnhealthyError, match="is in use as before"):
        upgrade.move(machine.project, "1.106.3", 5, False, SAY, unproven=True)
    assert not machine.services


@pytest.mark.parametrize("error", [KeyboardInterrupt(), LmError("no space left on device")], ids=["Ctrl-C", "failure"])
def test_a_restart_that_fails_can_be_repeated_with_the_same_flags(machine: Machine, error: BaseException) -> None:
    machine.starts(LITELLM_PORT="4918")
    machine.raises["up"] = error
    with pytest.raises(type(error)):
        lifecycle.restart(machine.project, 5, SAY)
    assert not machine.services
    assert lifecycle.restart(machine.project, 5, SAY).wanted.plan.url == "http://localhost:4918"


def test_a_change_that_fails_leaves_the_flags_of_the_start_before(machine: Machine) -> None:
    machine.starts(LITELLM_PORT="4918")
    machine.raises["up"] = LmError("no space left on device")
    with pytest.raises(LmError, match="no space"):
        lifecycle.up(machine.project, {"LITELLM_PORT": "4919"}, base.UpOptions(), SAY)
    assert lifecycle.restart(machine.project, 5, SAY).wanted.plan.url == "http://localhost:4918"


def test_a_first_start_that_fails_leaves_no_state(machine: Machine) -> None:
    machine.raises["up"] = LmError("no space left on device")
    with pytest.raises(LmError, match="no space"):
        lifecycle.up(machine.project, {}, base.UpOptions(), SAY)
    assert base.load_state(machine.project) is None


@pytest.mark.parametrize("other", ["failed", "stopped"])
def test_lm_up_starts_again_when_one_of_the_services_is_dead(machine: Machine, other: str) -> None:
    machine.starts()
    assert lifecycle.up(machine.project, {}, base.UpOptions(), SAY).started is None
    machine.services.append(base.Service("embedded-model", other))
    assert lifecycle.up(machine.project, {}, base.UpOptions(), SAY).started is not None


@pytest.mark.usefixtures("accepted")
def test_an_upgrade_to_the_release_in_use_installs_it_when_it_is_missing(machine: Machine) -> None:
    machine.raises["tools"] = MissingToolError("LiteLLM 1.108.7 is not installed here")
    assert upgrade.move(machine.project, LITELLM_VERSION, 5, False, SAY).changed
    assert f"install {LITELLM_VERSION}" in machine.steps
    machine.steps.clear()
    assert not upgrade.move(machine.project, LITELLM_VERSION, 5, False, SAY).changed
    assert f"install {LITELLM_VERSION}" not in machine.steps


def test_a_change_that_the_server_applies_stops_nothing(machine: Machine) -> None:
    machine.starts()
    machine.can_change = True
    before = base.load_state(machine.project)
    lifecycle.up(machine.project, {"LITELLM_TIMEOUT": "99"}, base.UpOptions(), SAY)
    after = base.load_state(machine.project)
    assert machine.steps[-1] == "change"
    assert "up" not in machine.steps
    assert before
    assert after
    assert (after.started_at, after.settings["LITELLM_TIMEOUT"]) == (before.started_at, "99")
    assert after.digest != before.digest


def test_a_change_that_the_server_refuses_leaves_everything_as_it_was(machine: Machine) -> None:
    machine.starts()
    machine.can_change = True
    before = base.load_state(machine.project)
    config = machine.project.config_file.read_text()
    machine.raises["change"] = UnhealthyError("the change does not work")
    with pytest.raises(UnhealthyError, match="does not work"):
        lifecycle.up(machine.project, {"LITELLM_TIMEOUT": "99"}, base.UpOptions(), SAY)
    assert machine.services
    assert not {"up", "down"} & set(machine.steps)
    assert base.load_state(machine.project) == before
    assert machine.project.config_file.read_text() == config


@pytest.mark.parametrize(
    ("flags", "action"),
    [
        ({"LITELLM_TIMEOUT": "99"}, "reload"),
        ({"LITELLM_PORT": "4918"}, "restart"),
        ({"LITELLM_WORKERS": "7"}, "restart"),
        ({"LITELLM_VERSION": "1.106.10"}, "handover"),
        ({"LITELLM_VERSION": "1.106.10", "LITELLM_HOST": "127.0.0.2"}, "restart"),
    ],
)
def test_a_preview_says_whether_the_gateway_stops(machine: Machine, flags: dict[str, str], action: str) -> None:
    machine.starts()
    machine.can_change = True
    found = lifecycle.preview(machine.project, flags, base.UpOptions())
    assert (found.action, bool(found.restart_reasons)) == (action, action == "restart")


@pytest.mark.usefixtures("accepted")
def test_a_failed_proof_leaves_the_gateway_that_runs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.starts()
    machine.can_change = True
    monkeypatch.setattr(upgrade.proof, "verify", refusing)
    before, env = base.load_state(machine.project), machine.project.env_file.read_text()
    with pytest.raises(UnhealthyError, match="runs as before; nothing was changed"):
        upgrade.move(machine.project, "1.106.10", 5, False, SAY)
    assert "hand over" in machine.steps
    assert not {"up", "down", "change"} & set(machine.steps)
    assert base.load_state(machine.project) == before
    assert machine.project.env_file.read_text() == env


def refusing(*_: object) -> None:
    raise UnhealthyError("a call is missing in the ledger")
