"""Docker images: pull them, refuse bad ones, and remember which one ran last."""

import json
from pathlib import Path

from lmstack import files, proc
from lmstack.errors import ConfigError
from lmstack.releases import allowed
from lmstack.runtime.base import Say
from lmstack.runtime.engine import docker_client
from lmstack.stack.project import Project

PULL_SECONDS = 1800.0


def image_id(image: str) -> str | None:
    """Return the digest of a local image, or its id when it has no digest; None when the image is not here."""
    import docker

    try:
        found = docker_client().images.get(image)
    except docker.errors.ImageNotFound:
        return None
    digests = found.attrs.get("RepoDigests") or []
    return str(digests[0]) if digests else str(found.id)


def pull(image: str, announcement: str, say: Say) -> None:
    """Pull an image that is not here yet."""
    if image_id(image) is None:
        say(announcement)
        proc.run(["docker", "pull", image], timeout=PULL_SECONDS, show=not getattr(say, "quiet", False))


def refuse_bad_digest(image: str, force: bool) -> None:
    """Raise ConfigError when the digest of a local image is on the list of bad ones."""
    objection = allowed.digest_objection(image_id(image) or "")
    if objection and not force:
        raise ConfigError(
            f"the image {image} is refused: its digest is a {objection}", f"remove it with: docker rmi {image}"
        )


def record(project: Project, image: str) -> None:
    """Remember the image of this start and its digest. `lm down` keeps the record."""
    files.write(_record(project), json.dumps({"image": image, "digest": image_id(image)}) + "\n")


def was_recorded(project: Project) -> bool:
    """Return whether a Docker stack was ever started from this folder."""
    return _record(project).exists()


def digest_remark(project: Project, image: str) -> tuple[str, ...]:
    """Return a remark when an image tag has another digest than at the last start."""
    last = json.loads(files.read(_record(project)) or "{}")
    now = image_id(image)
    if last.get("image") != image or now is None or last.get("digest") == now:
        return ()
    return (f"{image} is now {now}; at the last start it was {last['digest']}. Pin it with LITELLM_IMAGE=…@sha256:…",)


def _record(project: Project) -> Path:
    return project.state / "image.json"
