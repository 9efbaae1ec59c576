"""Refuse settings that cannot work in a container. Reads .env, changes nothing."""

from lmstack import files
from lmstack.config.check_env import docker_problems
from lmstack.errors import ConfigError, invalid
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project


def require_settings_for_docker(project: Project, plan: Plan) -> None:
    """Raise ConfigError for LITELLM_ADMIN=on, and for values that Docker Compose and lm would read differently from .env."""
    if plan.settings.on("LITELLM_ADMIN"):
        # The peer of every connection from outside is the bridge, as it is for other containers. Only the latter must be refused.
        raise ConfigError(
            "LITELLM_ADMIN=on cannot work with Docker: its routes answer to loopback only, and a container sees this machine at another address",
            "run the gateway as a local process: lm up --runtime local; or close the routes: lm config unset LITELLM_ADMIN",
        )
    problems = docker_problems(files.read(project.env_file) or "")
    if problems:
        raise invalid(problems)
