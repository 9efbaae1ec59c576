"""The Docker runtime: the compose stack. `docker compose` does the work; the SDK is for looking.

The stack's own files (docker-compose.yml, Dockerfile) work without this module; it adds checks, the rendered
configuration, addresses as a container sees them, and the ledger's answers from inside the volume.
"""

import ipaddress
import json
import os
import re
import secrets
import shutil
import socket
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lmstack import files, proc
from lmstack.config.check_env import docker_problems
from lmstack.config.settings import SETTINGS
from lmstack.errors import ConfigError, LmError, MissingToolError, NoLedgerError, invalid
from lmstack.ledger import backup
from lmstack.releases import allowed
from lmstack.runtime import base, releases
from lmstack.runtime.local import no_models
from lmstack.runtime.logs import wanted_lines
from lmstack.runtime.processes import check_port_free
from lmstack.stack import proxy_side
from lmstack.stack.plan import HOST_GATEWAY, STOCK_ENVIRON, Plan
from lmstack.stack.project import PROXY_SERVICE, Project

PROXY = PROXY_SERVICE
SERVICES = (PROXY, "redis")
_LABEL = "com.docker.compose"
LEDGER = "/app/logs/litellm.db"
BUILD_SECONDS, UP_SECONDS, DOWN_SECONDS, QUERY_SECONDS = 1800.0, 300.0, 120.0, 60.0
# What the stock image needs when nothing is built on it: our files mounted, our variables set.
MOUNTED = """\
# Written by `lm up` because LITELLM_MOUNT is on: the unmodified image, with this folder's files mounted.
services:
  litellm-proxy:
    image: {image}
    environment:
      PYTHONPATH: /opt/lmstack
      PYTHONDONTWRITEBYTECODE: "1"
      LEDGER_PATH: /app/logs/litellm.db
{stock}
    volumes:
      - {root}/litellm-config.yaml:/app/config/litellm-config.yaml:ro
      - {root}/callbacks:/opt/lmstack/callbacks:ro
      - {root}/src/lmstack:/opt/lmstack/lmstack:ro
"""


class ComposeRuntime:
    """Implements base.Runtime with docker compose."""

    name = "docker"

    def __init__(self, project: Project) -> None:
        self.project = project

    def check(self, plan: Plan, options: base.UpOptions) -> tuple[str, ...]:
        """Client, engine, compose, image, port; in the order in which they would fail."""
        require_engine()
        self._compose()
        self._refuse_foreign_project()
        if not plan.deployments:
            raise no_models(plan)
        missing = [
            name
            for name in ("docker-compose.yml", "Dockerfile", "callbacks/taskmaster.py")
            if not (self.project.root / name).exists()
        ]
        if missing:
            raise ConfigError(f"{self.project.root} lacks {', '.join(missing)}", "lay the stack down with: lm init")
        self._refuse_values_that_compose_reads_otherwise()
        image = plan.settings.image
        remarks = allowed.require_safe(f"the image {image}", allowed.image_objection(image), options.force)
        if plan.settings.port != options.own_port:
            check_port_free(plan.settings.host, plan.settings.port)
        return remarks + self._digest_remark(image) + _ollama_remark(plan)

    def code(self) -> str:
        """What goes into the image, and how it is run."""
        root = self.project.root
        return files.read_all(
            [
                *proxy_side.sources(root / "src" / "lmstack"),
                *root.glob("callbacks/*.py"),
                root / "Dockerfile",
                self.project.compose_file,
            ]
        )

    def prepare(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Write the config, and get and build the image with progress: what takes long or can fail, while all still runs."""
        files.write(self.project.config_file, config)
        if not self.project.env_file.exists():
            files.write(self.project.env_file, "# Settings and keys: see .env.example\n", 0o600)
        image, mounted = plan.settings.image, plan.settings.on("LITELLM_MOUNT")
        if mounted:
            stock = "\n".join(f'      {name}: "{value}"' for name, value in STOCK_ENVIRON.items())
            files.write(self._override, MOUNTED.format(image=image, root=self.project.root, stock=stock))
        else:
            files.remove(self._override)
        if self._image_id(image) is None:
            say(f"Getting {image} (once) …")
            proc.run(["docker", "pull", image], timeout=BUILD_SECONDS, show=not getattr(say, "quiet", False))
        self._refuse_bad_digest(image, options)
        if not mounted:
            say("Building the gateway's image (only what has changed) …")
            self._run(["build", "--quiet", PROXY], BUILD_SECONDS, self._environment(plan, config))

    def up(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Let compose recreate just what has changed."""
        env, image = self._environment(plan, config), plan.settings.image
        profile = ["--profile", "redis"] if _own_redis(plan) else []
        show = not getattr(say, "quiet", False)
        self._run([*profile, "up", "-d", "--no-build"], UP_SECONDS, env, show=show)
        files.write(self._record, json.dumps({"image": image, "digest": self._image_id(image)}) + "\n")

    def down(self, volumes: bool, say: base.Say) -> base.Stopped:
        """Stop with the grace that the file gives; volumes only when asked."""
        require_engine()
        self._refuse_foreign_project()
        ran = bool(self._containers())
        if not ran and not self._record.exists():
            return base.Stopped(False)  # never started from here: data of that name is not ours
        before = self._volumes()
        self._run(["--profile", "redis", "down", *(["--volumes"] if volumes else [])], DOWN_SECONDS)
        base.clear_state(self.project)
        return base.Stopped(ran, tuple(sorted(before - self._volumes())))

    def _volumes(self) -> set[str]:
        label = f"{_LABEL}.project={self._project_name()}"
        return {volume.name for volume in docker_client().volumes.list(filters={"label": label})}

    def services(self) -> list[base.Service]:
        """What the engine says of this folder's containers; empty when no engine answers."""
        if self.project.foreign_compose() is not None:
            return []
        problem = engine_problem()
        if problem is not None:
            started = base.load_state(self.project)
            return [base.Service(PROXY, "failed", f"unknown: {problem}")] if started else []
        found = []
        for container in self._containers():
            state = container.attrs["State"]
            health = (state.get("Health") or {}).get("Status", "")
            name = container.labels["com.docker.compose.service"]
            found.append(
                base.Service(
                    name, _STATES.get(container.status, "stopped"), f"{container.name}, {health or container.status}", state.get("Pid") or None,
                    container.attrs.get("RestartCount", 0), health,
                )
            )  # fmt: skip
        return sorted(found, key=lambda s: s.name)

    def log_tail(self, lines: int) -> str:
        """The last lines of the proxy's container."""
        done = proc.run(
            [*self._compose(), *self._files(), "logs", "--no-log-prefix", "--tail", str(lines), PROXY],
            timeout=30,
            cwd=self.project.root,
            check=False,
        )
        return done.stdout or done.stderr

    def query(self, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """Ask inside the volume: in the running container, else in a short-lived one."""
        rows: list[dict[str, Any]] = json.loads(
            self._inside("lmstack.ledger.queries", [LEDGER, name, json.dumps(arguments)])
        )
        return rows

    def release_keys(self, version: str, say: base.Say) -> dict[str, Any]:
        """Pull the image of the release, unless it is here, and ask it: without network, and without our files."""
        require_engine()
        image = allowed.release_image(version)
        if self._image_id(image) is None:
            say(f"Getting {image} …")
            proc.run(["docker", "pull", image], timeout=BUILD_SECONDS, show=not getattr(say, "quiet", False))
        self._refuse_bad_digest(image, base.UpOptions())
        # The folder is the container's own, in memory.
        sealed = [
            "--network",
            "none",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "--read-only",
            "--tmpfs",
            "/tmp",  # noqa: S108
        ]
        variables = ["-e", "LITELLM_LOCAL_MODEL_COST_MAP", "-e", "HOME=/tmp"]
        return releases.legal_keys(
            ["docker", "run", "--rm", "-i", *sealed, *variables, "--entrypoint", "python3", image]
        )

    def keep_releases(self, versions: set[str]) -> None:
        """Images stay: other stacks may use them, and `docker image prune` is the user's."""

    def save_ledger(self, target: Path) -> dict[str, Any]:
        """Into a tar, out of the volume, while everything runs."""
        self._inside("lmstack.ledger.backup", ["save", LEDGER], into=target)
        with tarfile.open(target) as saved:
            member = saved.extractfile(backup.SUMMARY)
            summary: dict[str, Any] = json.loads(member.read()) if member else {}
        return summary

    def load_ledger(self, source: Path) -> dict[str, Any]:
        """From a tar, into the volume, while nothing runs."""
        summary: dict[str, Any] = json.loads(self._inside("lmstack.ledger.backup", ["load", LEDGER], given=source))
        return summary

    def _inside(self, module: str, arguments: list[str], given: Path | None = None, into: Path | None = None) -> str:
        """Run one of the ledger's modules where the ledger is; returns what it prints."""
        require_engine()
        self._refuse_foreign_project()
        running = any(s.name == PROXY and s.state == "running" for s in self.services())
        if not running and given is None:
            self._require_volume()
        python = ["python3", "-m", module, *arguments]
        words = (
            ["exec", "-T", PROXY, *python]
            if running
            else ["run", "--rm", "--no-deps", "-T", "--entrypoint", python[0], PROXY, *python[1:]]
        )
        argv = [*self._compose(), *self._files(), *words]
        seconds = BUILD_SECONDS if given or into else QUERY_SECONDS
        done = proc.run(
            argv, timeout=seconds, cwd=self.project.root, check=False, env=self._base_environment(), given=given, into=into
        )  # fmt: skip
        if done.code:
            last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            if "FileNotFoundError" in last:
                raise NoLedgerError(*_NO_LEDGER)
            raise LmError(f"the ledger in the container cannot be read or written: {last}", "see: lm logs")
        return done.stdout

    def image_ran(self) -> tuple[str, str]:
        """The image reference and the digest (or id) that is behind it here."""
        image = self.project.settings().image
        return image, self._image_id(image) or ""

    def _require_volume(self) -> None:
        """Without it there is no ledger, and asking a container for one would build an image first."""
        import docker

        argv = [*self._compose(), *self._files(), "config", "--format", "json"]
        done = proc.run(argv, timeout=30, cwd=self.project.root, check=False, env=self._base_environment())
        if done.code:  # docker-compose 1 does not know the format: then the container is asked
            return
        try:
            docker_client().volumes.get(json.loads(done.stdout)["volumes"]["litellm-logs"]["name"])
        except docker.errors.NotFound:
            raise NoLedgerError(*_NO_LEDGER) from None

    def logs(self, query: base.LogQuery) -> Iterator[str]:
        """`docker compose logs`, with the filters that it lacks."""
        self._refuse_foreign_project()
        argv = [*self._compose(), *self._files(), "logs", "--no-log-prefix", *(["-f"] if query.follow else [])]
        argv += ["--since", f"{int(query.since)}s"] if query.since else []
        argv += [] if query.tail is None else ["--tail", str(query.tail)]
        argv += [query.service or PROXY]
        plain = base.LogQuery(level=query.level, call_id=query.call_id)
        for line in proc.lines(argv, cwd=self.project.root, env=self._base_environment()):
            yield from wanted_lines(iter([line]), plain)

    def _run(self, words: list[str], timeout: float, env: dict[str, str] | None = None, show: bool = False) -> None:
        argv = [*self._compose(), *self._files(), *words]
        proc.run(argv, timeout=timeout, cwd=self.project.root, env=env or self._base_environment(), show=show)

    def _files(self) -> list[str]:
        """The arguments that name our compose file; ConfigError when it is somebody else's. Every call passes here."""
        foreign = self.project.foreign_compose()
        if foreign is not None:
            raise ConfigError(foreign, "lay the stack down with: lm init; or name its folder with -C FOLDER")
        extra = ["-f", str(self._override)] if self._override.exists() else []
        return ["--project-directory", str(self.project.root), "-f", str(self.project.compose_file), *extra]

    @property
    def _override(self) -> Path:
        return self.project.state / "compose.mounted.yml"

    @property
    def _record(self) -> Path:
        """Image and digest of the last start; it outlives `lm down`."""
        return self.project.state / "image.json"

    def _digest_remark(self, image: str) -> tuple[str, ...]:
        """A tag that means something else than last time is worth a word, whoever changed it."""
        last = json.loads(files.read(self._record) or "{}")
        now = self._image_id(image)
        if last.get("image") != image or now is None or last.get("digest") == now:
            return ()
        return (
            f"{image} is {now}, which is not the one that ran before ({last['digest']}); pin it with LITELLM_IMAGE=…@sha256:…",
        )

    def _environment(self, plan: Plan, config: str) -> dict[str, str]:
        """What compose puts into the containers: the settings as they look from there."""
        known = {s.name for s in SETTINGS} | {name for name in plan.environ if not name.startswith("LITELLM_WORKER")}
        env = {**self._base_environment(), **{name: plan.environ.get(name, "") for name in known}}
        env["LMSTACK_CONFIG_DIGEST"] = plan.digest(config)
        env["LITELLM_IMAGE"] = plan.settings.image
        env |= {"LITELLM_WORKERS": str(plan.workers), "LITELLM_MEMORY": f"{max(2, plan.workers)}g"}
        if _own_redis(plan):
            env["REDIS_PASSWORD"] = plan.settings.get("REDIS_PASSWORD") or self._made_password()
        return env

    def _base_environment(self) -> dict[str, str]:
        """For commands that start nothing: compose only has to be able to read its file. Other containers of the same
        project name are somebody else's, whatever the user's shell tells compose about orphans."""
        return {
            "LITELLM_IMAGE": os.environ.get("LITELLM_IMAGE", ""),
            "COMPOSE_REMOVE_ORPHANS": "0",
            "COMPOSE_IGNORE_ORPHANS": "1",
        }

    def _made_password(self) -> str:
        path = self.project.state / "redis-password"
        found = files.read(path)
        if found:
            return found.strip()
        made = secrets.token_urlsafe(24)
        files.write(path, made + "\n", 0o600)
        return made

    def _compose(self) -> list[str]:
        return compose_command()

    def _refuse_foreign_project(self) -> None:
        """Compose knows a stack by its name alone: another folder's stack of the same name would be changed instead."""
        self._files()
        name = self._project_name()
        for container in docker_client().containers.list(all=True, filters={"label": [f"{_LABEL}.project={name}"]}):
            place = container.labels.get(f"{_LABEL}.project.working_dir", "")
            if place and Path(place).resolve() != self.project.root:
                raise ConfigError(
                    f"the Docker project name '{name}' belongs to the stack in {place}",
                    f"give this one a name of its own: COMPOSE_PROJECT_NAME=... in {self.project.env_file}",
                )

    def _refuse_values_that_compose_reads_otherwise(self) -> None:
        """Raise ConfigError when Docker Compose and lm would read different values from .env."""
        problems = docker_problems(files.read(self.project.env_file) or "")
        if problems:
            raise invalid(problems)

    def _project_name(self) -> str:
        """As compose finds it: the environment, .env, else the folder's name."""
        entry = self.project.env_entries().get("COMPOSE_PROJECT_NAME")
        name = os.environ.get("COMPOSE_PROJECT_NAME") or (entry.value if entry else "") or self.project.root.name
        return re.sub(r"[^a-z0-9_-]", "", name.lower()).lstrip("_-")

    def _containers(self) -> list[Any]:
        labels = [f"{_LABEL}.project={self._project_name()}", f"{_LABEL}.oneoff=False"]
        found: list[Any] = docker_client().containers.list(all=True, filters={"label": labels})
        return [container for container in found if self._is_of_this_folder(container)]

    def _is_of_this_folder(self, container: Any) -> bool:
        place = container.labels.get(f"{_LABEL}.project.working_dir", "")
        service = container.labels.get(f"{_LABEL}.service", "")
        return bool(place) and Path(place).resolve() == self.project.root and service in SERVICES

    def _image_id(self, image: str) -> str | None:
        import docker

        try:
            found = docker_client().images.get(image)
        except docker.errors.ImageNotFound:
            return None
        digests = found.attrs.get("RepoDigests") or []
        return str(digests[0]) if digests else str(found.id)

    def _refuse_bad_digest(self, image: str, options: base.UpOptions) -> None:
        objection = allowed.digest_objection(self._image_id(image) or "")
        if objection and not options.force:
            raise ConfigError(
                f"the image {image} is refused: its digest is a {objection}", f"remove it with: docker rmi {image}"
            )


_NO_LEDGER = (f"there is no ledger at {LEDGER} yet", "it appears with the first request; start with: lm up")
_STATES = {
    "running": "running",
    "restarting": "restarting",
    "created": "starting",
    "exited": "stopped",
    "dead": "failed",
    "paused": "stopped",
}


def engine_problem() -> str | None:
    """Why Docker cannot be used, None when it can; one clear sentence for each missing piece."""
    try:
        require_engine()
        compose_command()
    except LmError as error:
        return str(error)
    return None


def require_engine() -> None:
    """MissingToolError for: no client, no permission, no engine."""
    if shutil.which("docker") is None:
        raise MissingToolError("the docker command is not installed", "install Docker, or use: lm up --runtime local")
    import docker

    try:
        docker_client().ping()
    except (docker.errors.DockerException, OSError) as error:
        text = str(error)
        if "Permission denied" in text:
            raise MissingToolError(
                "this user may not talk to the Docker engine",
                'join its group: sudo usermod -aG docker "$USER", then log in again',
            ) from None
        raise MissingToolError(
            "no Docker engine answers", "start it (Linux: sudo systemctl start docker; else: open Docker Desktop)"
        ) from None


def engine_summary() -> str:
    """Versions of client, engine and compose; MissingToolError for what is not there."""
    require_engine()
    compose = compose_command()
    client = proc.run(["docker", "--version"], timeout=30).stdout.partition("version")[2].partition(",")[0].strip()
    short = proc.run([*compose, "version", "--short"], timeout=30, check=False).stdout.strip()
    return f"client {client}, engine {docker_client().version()['Version']}, {' '.join(compose)} {short}"


def docker_client() -> Any:
    """The SDK's client for DOCKER_HOST or the current `docker context`, which the SDK alone would ignore."""
    import docker

    host = os.environ.get("DOCKER_HOST")
    if not host:
        context = docker.ContextAPI.get_current_context()
        host = context.Host if context is not None else None
    return docker.DockerClient(base_url=host, timeout=15) if host else docker.from_env(timeout=15)


def compose_command() -> list[str]:
    """`docker compose`, else `docker-compose`; MissingToolError when neither is there."""
    if shutil.which("docker") and proc.run(["docker", "compose", "version"], timeout=30, check=False).code == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise MissingToolError(
        "docker compose is not installed", "install the compose plugin (Debian: apt-get install docker-compose-plugin)"
    )


def _ollama_remark(plan: Plan) -> tuple[str, ...]:
    """On Linux a container reaches only what listens on the bridge: an Ollama on 127.0.0.1 looks dead from there."""
    bases = [d.api_base for d in plan.deployments if d.provider.name == "ollama" and d.api_base]
    parts = urlsplit(bases[0]) if bases else None
    if parts is None or parts.hostname != HOST_GATEWAY:
        return ()
    port = parts.port or 80
    bridge = _bridge_address()
    if bridge is None or not _listens("127.0.0.1", port) or _listens(bridge, port):
        return ()
    return (
        f"Ollama on port {port} listens on 127.0.0.1 only, which no container can reach: "
        "restart it with OLLAMA_HOST=0.0.0.0 (systemd: sudo systemctl edit ollama, Environment=OLLAMA_HOST=0.0.0.0)",
    )


def _bridge_address() -> str | None:
    """The address at which containers see this machine; None where the engine is in a VM that forwards to loopback."""
    import docker

    if sys.platform != "linux":
        return None
    try:
        client = docker_client()
        if "desktop" in str(client.info().get("OperatingSystem", "")).lower():
            return None
        config = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
        # Older engines name only the subnet; the bridge has its first address.
        return str(config.get("Gateway") or ipaddress.ip_network(config["Subnet"])[1])
    except (docker.errors.DockerException, LookupError, ValueError):
        return None


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _own_redis(plan: Plan) -> bool:
    return plan.redis and not plan.settings.get("REDIS_URL")
