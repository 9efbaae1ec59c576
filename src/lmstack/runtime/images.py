"""Docker images: pull them, refuse bad ones, and remember which one ran last."""

import json
import shlex
from pathlib import Path
from typing import Any

from lmstack import files, proc
from lmstack.errors import ConfigError, LmError
from lmstack.releases import allowed
from lmstack.runtime.base import Say
from lmstack.runtime.engine import docker_client, engine_errors
from lmstack.stack.project import Project

PULL_SECONDS = 1800.0


def image_id(image: str) -> str | None:
    """Return the digest of a local image, or its id when it has no digest; None when the image is not here."""
    import docker

    with engine_errors():
        try:
            found = docker_client().images.get(image)
        except docker.errors.ImageNotFound:
            return None
        except docker.errors.APIError as error:
            if not error.is_client_error():
                raise
            raise ConfigError(
                f"the Docker engine refuses the image name '{image}': {error.explanation}",
                "correct LITELLM_IMAGE in .env",
            ) from None
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


def record_volumes(project: Project, older_volumes: set[str]) -> None:
    """Remember which volumes existed before the first start. Call it before anything is started.

    Otherwise the volumes of a first start that fails would count as older at the next one. `lm down` keeps the record.
    """
    if not was_recorded(project):
        _write_record(project, {"found_volumes": sorted(older_volumes)})


def record_image(project: Project, image: str) -> None:
    """Remember the image of this start and its digest."""
    entry = {"image": image, "digest": image_id(image), "found_volumes": sorted(found_volumes(project))}
    _write_record(project, entry)


def found_volumes(project: Project) -> set[str]:
    """Return the volumes that existed before this folder's first start. They may hold another stack's ledger."""
    return set(_read_record(project).get("found_volumes", []))


def was_recorded(project: Project) -> bool:
    """Return whether a Docker stack was ever started from this folder."""
    return _record(project).exists()


def recorded_at(project: Project) -> float:
    """Return when a Docker stack was last started from this folder, in Unix seconds; 0 when none was."""
    return files.written_at(_record(project))


def refuse_found_volumes(project: Project, present: set[str]) -> None:
    """Raise ConfigError when a volume of this project is older than this stack: it may be another stack's."""
    older = sorted(found_volumes(project) & present)
    if older:
        raise ConfigError(
            f"nothing was deleted or stopped: the volume {older[0]} is older than this stack, and may belong to another one",
            f"keep it with: lm down; or delete it yourself after that: docker volume rm {' '.join(older)}",
        )


def digest_remark(project: Project, image: str) -> tuple[str, ...]:
    """Return a remark when an image tag has another digest than at the last start."""
    last = _read_record(project)
    now = image_id(image)
    if last.get("image") != image or now is None or last.get("digest") == now:
        return ()
    return (f"{image} is now {now}; at the last start it was {last['digest']}. Pin it with LITELLM_IMAGE=…@sha256:…",)


def _read_record(project: Project) -> dict[str, Any]:
    path = _record(project)
    try:
        found = json.loads(files.read(path) or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LmError(f"{path} is damaged: it is no JSON object", f"delete it: rm {shlex.quote(str(path))}")
    return found


def _write_record(project: Project, entry: dict[str, Any]) -> None:
    files.write(_record(project), json.dumps(entry) + "\n")


def _record(project: Project) -> Path:
    return project.state / "image.json"
