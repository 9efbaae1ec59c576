"""A stack whose runtime starts nothing: it notes each step, and fails in the step that a test names."""

from dataclasses import dataclass, field
from typing import Any

from lmstack.operate import start as start_module
from lmstack.operate.planning import Planned, planned
from lmstack.runtime import base
from lmstack.runtime.local import LocalRuntime
from lmstack.stack.project import Project


@dataclass
class Machine:
    """What runs, which steps were done, and what each step raises."""

    project: Project
    services: list[base.Service] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    raises: dict[str, BaseException] = field(default_factory=dict)

    can_change: bool = False
    checked: list[str] = field(default_factory=list)  # the release of each plan that was checked

    def do(self, step: str) -> None:
        """Note a step. Raise what the test wants, once."""
        self.steps.append(step)
        if step in self.raises:
            raise self.raises.pop(step)

    def starts(self, **flags: str) -> Planned:
        """Let the gateway run, started by `lm up` with these flags. No step is noted."""
        wanted = planned(self.project, flags)
        self.services = [base.Service("litellm-proxy", "running", pid=1)]
        base.save_state(self.project, start_module._state(wanted, 1.0))
        return wanted


class FakeRuntime(LocalRuntime):
    """The local runtime without processes."""

    def __init__(self, machine: Machine, name: str, project: Project) -> None:
        super().__init__(project)
        self.machine, self.name = machine, name  # type: ignore[misc]

    def code(self) -> str:
        return "the code"

    def require_tools(self, plan: Any) -> None:
        self.machine.do("tools")

    def check(self, plan: Any, options: Any) -> tuple[str, ...]:
        self.machine.checked.append(plan.settings.version)
        self.machine.do("check")
        return ()

    def prepare(self, *_: Any) -> None:
        self.machine.do("prepare")

    def up(self, plan: Any, config: Any, options: Any, say: Any) -> None:
        if self.machine.services:
            self.down(False, say)
        self.machine.do("up")
        self.machine.services = [base.Service("litellm-proxy", "running", pid=2)]

    def can_change(self) -> bool:
        return self.machine.can_change

    def change(self, *_: Any) -> None:
        self.machine.do("change")

    def runs(self, plan: Any) -> bool:
        return True

    def can_hand_over(self) -> bool:
        return self.machine.can_change

    def hand_over(self, plan: Any, config: Any, options: Any, say: Any, prove: Any) -> None:
        self.machine.do("hand over")
        prove()

    def down(self, volumes: Any, say: Any) -> base.Stopped:
        self.machine.do("down")
        self.machine.services = []
        base.clear_state(self.project, self.name)
        return base.Stopped(True)

    def services(self) -> list[base.Service]:
        return self.machine.services

    def release_keys(self, version: str, say: Any) -> dict[str, Any]:
        self.machine.do(f"install {version}")
        return {"litellm": version}

    def keep_releases(self, versions: set[str]) -> None:
        self.machine.do(f"keep {sorted(versions)}")

    def settle(self) -> None: ...
