"""Checks compose files and Dockerfiles for LiteLLM images that must not run and for health checks that cost money."""

import re
from typing import Any

from lmstack.config.yamlfile import Located
from lmstack.config.yamlrules import COMPOSE, parse_yaml
from lmstack.errors import ConfigError, Problem
from lmstack.releases.allowed import image_objection, release_image
from lmstack.releases.pins import LITELLM_VERSION

# Stock's /health calls every model for money. The routes below it do not.
_PAID_PROBE = re.compile(r"/health(?!/(?:live|ready|readiness|liveliness|liveness))\b")


def check_dockerfile(text: str, file: str) -> list[Problem]:
    """Return a problem for each LiteLLM base image that must not run, or that has no fixed version."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        named = re.match(r"\s*(?:FROM\s+|ARG\s+\w+=)(\S*litellm\S*)", line, re.IGNORECASE)
        if named and "$" not in named.group(1):
            found += _image_problems(f"{file}:{number}", named.group(1))
    return found


def check_compose(text: str, file: str) -> list[Problem]:
    """Return the problems of the LiteLLM images and health checks of a compose file."""
    try:
        node, root = parse_yaml(text, file, COMPOSE)
    except ConfigError as error:
        return list(error.problems)
    services = root.get("services") if isinstance(root, dict) else None
    if not isinstance(services, dict):
        return [Problem(f"{file}:1", "a compose file must have a mapping 'services'", "see docker-compose.yml")]
    found = Located(file, node)
    for name, service in services.items():
        if isinstance(service, dict):
            _check_service(found, f"services.{name}", service)
    return found.problems


def _check_service(found: Located, path: str, service: dict[str, Any]) -> None:
    image = str(service.get("image") or "")
    if "litellm" in image and "$" not in image:
        found.problems += _image_problems(found.place(f"{path}.image"), image)
    check = service.get("healthcheck")
    if isinstance(check, dict) and _PAID_PROBE.search(str(check.get("test", ""))):
        what = "/health of stock LiteLLM makes a paid call to every model each time"
        found.add(f"{path}.healthcheck.test", what, "ask /health/liveliness", warning=True)


def _image_problems(where: str, image: str) -> list[Problem]:
    objection = image_objection(image)
    return (
        [
            Problem(
                where, f"{image}: {objection}", f"use a release that is safe, such as {release_image(LITELLM_VERSION)}"
            )
        ]
        if objection
        else []
    )
