"""The Docker runtime: a compose stack. `docker compose` does the work; the SDK only looks.

docker-compose.yml and Dockerfile work without this module. It adds checks, the rendered configuration, and addresses as
a container sees them.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmstack import files
from lmstack.config.settings import SETTINGS
from lmstack.errors import ConfigError, LmError
from lmstack.releases import allowed
from lmstack.runtime import base, images, releases, server_control
from lmstack.runtime.compose_project import SERVICES, ComposeProject, service_name
from lmstack.runtime.compose_settings import mounted_files, require_settings_for_docker, stored_redis_password
from lmstack.runtime.container_server import ContainerServer
from lmstack.runtime.engine import compose_command, engine_problem, ollama_remark, require_engine, selected_engine
from lmstack.runtime.ports import check_port_free
from lmstack.runtime.volume_ledger import VolumeLedger
from lmstack.runtime.workers import Workers
from lmstack.stack import assets, proxy_side
from lmstack.stack.plan import Plan, no_models
from lmstack.stack.project import PROXY_SERVICE, Project

PROXY = PROXY_SERVICE
NEEDED_FILES = ("docker-compose.yml", "Dockerfile", "callbacks/taskmaster.py")
BUILD_SECONDS, UP_SECONDS, DOWN_SECONDS = 1800.0, 300.0, 120.0
# A container that asks a release for its keys gets no network, no rights, and a folder in memory.
SEALED = ["--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "--tmpfs", "/tmp"]  # noqa: S108  # fmt: skip


class ComposeRuntime:
    """Implements base.Runtime with docker compose."""

    name = "docker"
    service_names: tuple[str, ...] = SERVICES

    def __init__(self, project: Project) -> None:
        self.project = project
        self.compose = ComposeProject(project)
        self.ledger = VolumeLedger(self.compose)
        self.server = ContainerServer(self.compose)

    def require_tools(self, plan: Plan) -> None:
        """Raise MissingToolError when docker, its engine or compose is missing."""
        require_engine()
        compose_command()

    def check(self, plan: Plan, options: base.UpOptions) -> tuple[str, ...]:
        """Check engine, compose, files, image and port; return remarks. Changes nothing."""
        new = options.dry_run and self.project.is_new  # lm up makes the files first
        if not new:
            self.compose.require_own_file()
        require_settings_for_docker(self.project, plan)
        self.compose.require_free_name()
        self.require_tools(plan)
        self.project.require_own_config()
        if not plan.deployments:
            raise no_models(plan)
        missing = [] if new else [name for name in NEEDED_FILES if not (self.project.root / name).exists()]
        if missing:
            raise ConfigError(f"{self.project.root} lacks {', '.join(missing)}", "make the stack's files with: lm init")
        image = plan.settings.image
        remarks = allowed.require_safe(f"the image {image}", allowed.image_objection(image), options.force)
        check_port_free(base.Address(plan.settings.host, plan.settings.port), options.own_address)
        return remarks + images.digest_remark(self.project, image) + ollama_remark(plan)

    def code(self) -> str:
        """Return the text of every file that goes into the image, and of the compose file, as `lm up` will leave them."""
        root = self.project.root
        present = {*proxy_side.sources(root / "src" / "lmstack"), *root.glob("callbacks/*.py")}
        new = {root / name: text for name, text in assets.outdated(self.project).items()}
        new_sources = {path for path in new if path.suffix == ".py"}
        paths = sorted(present | new_sources | {root / "Dockerfile", self.project.compose_file})
        return "".join(new.get(path) or files.read(path) or "" for path in paths)

    def prepare(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Write the configuration, pull the image and build on it. The running gateway is not touched."""
        if assets.refresh(self.project):
            say("Updating this stack's files to this version of lmstack")
        files.write(self.project.config_file, config)
        if not self.project.env_file.exists():
            files.write(self.project.env_file, "# Settings and keys: see .env.example\n", 0o600)
        mounted = plan.settings.on("LITELLM_MOUNT")
        image = images.get(self.project, plan.settings.image, say)
        images.refuse_bad_digest(image, options.force)
        if mounted:
            files.write(self.compose.override, mounted_files(self.project, image))
        else:
            files.remove(self.compose.override)
        if not mounted:
            say("Building the gateway's image (only what has changed) …")
            self._build(plan, config)

    def _build(self, plan: Plan, config: str) -> None:
        self.compose.run(["build", "--quiet", PROXY], BUILD_SECONDS, self._environment(plan, config))

    def up(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Start the containers. Compose replaces only those that have changed."""
        env = self._environment(plan, config)
        profile = ["--profile", "redis"] if _own_redis(plan) else []
        images.record_volumes(self.project, self.compose.volumes())
        self.compose.run([*profile, "up", "-d", "--no-build"], UP_SECONDS, env, show=not getattr(say, "quiet", False))
        images.record_image(self.project, plan.settings.image)

    def can_change(self) -> bool:
        """Return whether the server in the container runs and has reported that it takes changes."""
        return bool(self.server.report())

    def change(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Have the server in the container apply the change, and make the image with which the next container starts."""
        settings = self.server.settings(self._environment(plan, config))
        say(server_control.APPLYING)
        self.server.change(server_control.asked(plan, config, settings, options))
        files.write(self.project.config_file, config)
        if not plan.settings.on("LITELLM_MOUNT"):
            self._build(plan, config)

    def runs(self, plan: Plan) -> bool:
        """Return True: `lm` starts each container itself."""
        return True

    def can_hand_over(self) -> bool:
        """Return False: a published port belongs to one container."""
        return False

    def hand_over(self, *_: Any, **__: Any) -> None:
        """Raise LmError."""
        raise LmError("one container cannot take the place of another while it runs", "start it again: lm restart")

    def workers(self) -> Workers:
        """Return the worker processes, as the server in the container reports them."""
        return self.server.workers()

    def settle(self) -> None:
        """Do nothing: the engine knows its containers."""

    def placement(self) -> base.Placement:
        """Return the image of the settings, its digest or id, and the engine."""
        image = self.project.settings().image
        digest = images.image_id(images.name_to_run(self.project, image))
        return base.Placement(image, digest or "", asdict(selected_engine()))

    def give_up(self, say: base.Say) -> None:
        """Stop the containers and keep them: `lm logs` shows why the start failed."""
        self.compose.run(["--profile", "redis", "stop"], DOWN_SECONDS)
        base.clear_state(self.project, self.name)

    def down(self, volumes: bool, say: base.Say) -> base.Stopped:
        """Stop and remove the containers; remove the volumes too when ``volumes`` is set."""
        self.compose.require_own_name()
        ran = bool(self.compose.containers())
        if not ran and not images.was_recorded(self.project):
            return base.Stopped(False)  # nothing was ever started from here: volumes of this name are not ours
        before = self.compose.volumes()
        if volumes:
            images.refuse_found_volumes(self.project, before)
        with contextlib.suppress(LmError):  # The container may just end.
            self.server.forget_settings()
        self.compose.run(["--profile", "redis", "down", *(["--volumes"] if volumes else [])], DOWN_SECONDS)
        base.clear_state(self.project, self.name)
        return base.Stopped(ran, tuple(sorted(before - self.compose.volumes())))

    def services(self) -> list[base.Service]:
        """Return the state of this folder's containers; empty when the compose file is not ours."""
        if self.project.foreign_compose() is not None:
            return []
        problem = self.compose.engine_conflict() or engine_problem()
        try:
            if problem is None:
                return sorted((_service(container) for container in self.compose.containers()), key=lambda s: s.name)
        except LmError as error:
            problem = str(error)
        started = base.load_state(self.project)
        return [base.Service(PROXY, "failed", f"unknown: {problem}", is_known=False)] if started else []

    def log_tail(self, lines: int) -> str:
        """Return the last log lines of the proxy's container."""
        return self.compose.log_tail(lines)

    def logs(self, query: base.LogQuery) -> Iterator[str]:
        """Return the chosen lines of `docker compose logs`."""
        return self.compose.logs(query)

    def query(self, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the answer of a ledger query, from inside the volume."""
        return self.ledger.query(name, arguments)

    def save_ledger(self, target: Path) -> dict[str, Any]:
        """Write the ledger into a tar file, while the gateway runs or not."""
        return self.ledger.save(target)

    def load_ledger(self, source: Path) -> dict[str, Any]:
        """Replace the ledger by that of a tar file, while nothing runs."""
        return self.ledger.load(source)

    def release_keys(self, version: str, say: base.Say) -> dict[str, Any]:
        """Pull the image of a release, and return which configuration keys that release knows."""
        require_engine()
        image = images.get(self.project, allowed.release_image(version), say)
        images.refuse_bad_digest(image, force=False)
        variables = ["-e", "LITELLM_LOCAL_MODEL_COST_MAP", "-e", "HOME=/tmp"]
        return releases.legal_keys(
            ["docker", "run", "--rm", "-i", *SEALED, *variables, "--entrypoint", "python3", image]
        )

    def recorded(self, version: str) -> str:
        """Return the image of a release, and the digest that is recorded for it."""
        image = allowed.release_image(version)
        return f"{image}, {images.shown_digest(images.image_id(images.name_to_run(self.project, image)) or '')}"

    def keep_releases(self, versions: set[str]) -> None:
        """Keep every image: other stacks may use it."""

    def _environment(self, plan: Plan, config: str) -> dict[str, str]:
        """Return the variables that compose puts into the containers."""
        known = {s.name for s in SETTINGS} | {name for name in plan.environ if not name.startswith("LITELLM_WORKER")}
        env = {**self.compose.environment(), **{name: plan.environ.get(name, "") for name in known}}
        env["LMSTACK_CONFIG_DIGEST"] = plan.digest(config)
        env["LITELLM_IMAGE"] = images.name_to_run(self.project, plan.settings.image)
        env |= {"LITELLM_WORKERS": str(plan.workers), "LITELLM_MEMORY": f"{max(2, plan.workers)}g"}
        if _own_redis(plan):
            env["REDIS_PASSWORD"] = plan.settings.get("REDIS_PASSWORD") or stored_redis_password(self.project)
        return env


_STATES = {
    "running": "running",
    "restarting": "restarting",
    "created": "starting",
    "exited": "stopped",
    "dead": "failed", "paused": "stopped",
}  # fmt: skip


def _service(container: Any) -> base.Service:
    state = container.attrs["State"]
    health = (state.get("Health") or {}).get("Status", "")
    return base.Service(
        service_name(container), _STATES.get(container.status, "stopped"), f"{container.name}, {health or container.status}",
        state.get("Pid") or None, container.attrs.get("RestartCount", 0), health,
    )  # fmt: skip


def _own_redis(plan: Plan) -> bool:
    return plan.redis and not plan.settings.get("REDIS_URL")
