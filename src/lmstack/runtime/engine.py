"""Look-ups of the Docker engine and its command line tools. Starts nothing and changes nothing."""

import contextlib
import ipaddress
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lmstack import proc
from lmstack.errors import LmError, MissingToolError
from lmstack.stack.plan import HOST_GATEWAY, Plan


def engine_problem() -> str | None:
    """Return why Docker cannot be used, in one sentence; None when it can."""
    try:
        require_engine()
        compose_command()
    except LmError as error:
        return str(error)
    return None


def require_engine() -> None:
    """Raise MissingToolError when the docker command, the permission or the engine is missing."""
    if shutil.which("docker") is None:
        raise MissingToolError("the docker command is not installed", "install Docker, or use: lm up --runtime local")
    import docker

    try:
        docker_client().ping()
    except (docker.errors.DockerException, OSError) as error:
        if "Permission denied" in str(error):
            raise MissingToolError(
                "this user may not use the Docker engine",
                'join its group: sudo usermod -aG docker "$USER", then log in again',
            ) from None
        raise MissingToolError(
            "no Docker engine answers", "start it (Linux: sudo systemctl start docker; else: open Docker Desktop)"
        ) from None


@contextlib.contextmanager
def engine_errors() -> Iterator[None]:
    """Turn the errors of the SDK into LmError. Every use of the SDK for an answer that lm needs is inside of it."""
    import docker

    try:
        yield
    except (docker.errors.DockerException, OSError) as error:  # the SDK's HTTP library raises OSError
        reason = str(getattr(error, "explanation", None) or error)
        raise LmError(
            f"the Docker engine could not answer lm: {reason}", "is it well? docker info; then try again"
        ) from None


def engine_summary() -> str:
    """Return the versions of client, engine and compose; raise MissingToolError for what is missing."""
    require_engine()
    compose = compose_command()
    client = proc.run(["docker", "--version"], timeout=30).stdout.partition("version")[2].partition(",")[0].strip()
    short = proc.run([*compose, "version", "--short"], timeout=30, check=False).stdout.strip()
    with engine_errors():
        version = docker_client().version()["Version"]
    return f"client {client}, engine {version}, {' '.join(compose)} {short}"


@dataclass(frozen=True, slots=True)
class Engine:
    """Which Docker engine is meant. ``chosen_by`` is what a user types to choose it again; ``id`` is its own name."""

    chosen_by: str = ""
    host: str = ""
    id: str = ""


def selected_engine() -> Engine:
    """Return the engine that the docker command would use now. ``id`` is empty when it does not answer."""
    import docker

    chosen_by, host = _selection()
    try:
        identity = str(docker_client().info().get("ID", ""))
    except (docker.errors.DockerException, OSError):
        identity = ""
    return Engine(chosen_by, host, identity)


def engine_conflict(started: Engine) -> str | None:
    """Return why the selected engine is not the one that ``started`` names, None when it is or may be the same."""
    if not started.id:
        return None
    now = selected_engine()
    same_address = (now.chosen_by, now.host) == (started.chosen_by, started.host)
    if now.id == started.id or (not now.id and same_address):
        return None
    return (
        f"this stack was started on another Docker engine ({started.chosen_by or 'the default one'}); "
        f"docker now uses {now.chosen_by or 'the default one'}"
    )


def docker_client() -> Any:
    """Return a client of the SDK for the engine that the docker command would use.

    The SDK alone would ignore DOCKER_CONTEXT and the current `docker context`.
    """
    import docker

    context = _context()
    if context is None:
        return docker.from_env(timeout=15)
    return docker.DockerClient(base_url=context.Host, tls=context.TLSConfig or False, timeout=15)


def _selection() -> tuple[str, str]:
    """Return how the engine is chosen, as a variable to set, and its address; both "" for the default socket."""
    host = os.environ.get("DOCKER_HOST", "")
    if host:
        return f"DOCKER_HOST={host}", host
    context = _context()
    return (f"DOCKER_CONTEXT={context.name}", str(context.Host)) if context is not None else ("", "")


def _context() -> Any:
    """Return the selected `docker context`, None for the default one. As for the docker command, DOCKER_HOST wins."""
    import docker

    if os.environ.get("DOCKER_HOST"):
        return None
    name = os.environ.get("DOCKER_CONTEXT", "")
    try:
        context = docker.ContextAPI.get_context(name or None)
    except Exception as error:  # the SDK raises bare exceptions for damaged files
        raise MissingToolError(f"the docker context cannot be read: {error}", "see: docker context ls") from None
    if context is None and name:
        raise MissingToolError(
            f"the docker context '{name}' (DOCKER_CONTEXT) is not found",
            "see: docker context ls; or name the engine by its address: DOCKER_HOST=...",
        )
    return None if context is None or context.name == "default" else context


def compose_command() -> list[str]:
    """Return `docker compose`, else `docker-compose`; raise MissingToolError when neither is installed."""
    if shutil.which("docker") and proc.run(["docker", "compose", "version"], timeout=30, check=False).code == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise MissingToolError(
        "docker compose is not installed", "install the compose plugin (Debian: apt-get install docker-compose-plugin)"
    )


def _bridge_address() -> str | None:
    """Return the address at which containers reach this machine; None where the engine runs in a virtual machine."""
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


def ollama_remark(plan: Plan) -> tuple[str, ...]:
    """Return a remark when Ollama listens on 127.0.0.1 only: no container can reach it there on Linux."""
    bases = [d.api_base for d in plan.deployments if d.provider.name == "ollama" and d.api_base]
    parts = urlsplit(bases[0]) if bases else None
    if parts is None or parts.hostname != HOST_GATEWAY:
        return ()
    port = parts.port or 80
    bridge = _bridge_address()
    if bridge is None or not _listens("127.0.0.1", port) or _listens(bridge, port):
        return ()
    return (
        f"Ollama on port {port} listens on 127.0.0.1 only, which no container can reach. "
        "Restart it with OLLAMA_HOST=0.0.0.0 (systemd: sudo systemctl edit ollama, Environment=OLLAMA_HOST=0.0.0.0)",
    )


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
