"""Settings of the compose stack: refuse those that cannot work in a container, and make what .env does not have."""

import secrets

from lmstack import files
from lmstack.config.check_env import docker_problems
from lmstack.errors import ConfigError, invalid
from lmstack.stack.plan import STOCK_ENVIRON, Plan
from lmstack.stack.project import Project

# What the stock image needs when nothing is built on it: our files mounted, our variables set.
MOUNTED = """\
# Written by `lm up` because LITELLM_MOUNT is on: the unmodified image, with this folder's files mounted.
services:
  litellm-proxy:
    image: {image}
    entrypoint: ["python3", "-m", "lmstack.gateway.app.serve"]
    environment:
      PYTHONPATH: /opt/lmstack
      PYTHONDONTWRITEBYTECODE: "1"
      LEDGER_PATH: /app/logs/litellm.db
      LMSTACK_SERVER_FILES: /app/config/.server
      LMSTACK_IMAGE_CONFIG: /opt/lmstack/litellm-config.yaml
{stock}
    volumes:
      - {root}/litellm-config.yaml:/opt/lmstack/litellm-config.yaml:ro
      - {root}/callbacks:/opt/lmstack/callbacks:ro
      - {root}/src/lmstack:/opt/lmstack/lmstack:ro
"""


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


def mounted_files(project: Project, image: str) -> str:
    """Return the compose file for LITELLM_MOUNT=on."""
    stock = "\n".join(f'      {name}: "{value}"' for name, value in STOCK_ENVIRON.items())
    return MOUNTED.format(image=image, root=project.root, stock=stock)


def stored_redis_password(project: Project) -> str:
    """Return the password of our Redis; make it at the first call."""
    path = project.state / "redis-password"
    found = files.read(path)
    if found:
        return found.strip()
    made = secrets.token_urlsafe(24)
    files.write(path, made + "\n", 0o600)
    return made
