"""Docker images: pull them, refuse bad ones, and remember which one ran last.

The digest of each image that ran is recorded where a registry gave one. A stack stays with that digest: when the tag names
another image later, `lm` runs the recorded one and reports the change.
"""

import json
import re
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
    """Return a local image as ``repository@digest``, or its id when no registry gave a digest; None when it is not here."""
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
    digests = sorted(found.attrs.get("RepoDigests") or [])
    own = [name for name in digests if re.fullmatch(re.escape(name.partition("@")[0]) + r"(:[^/@]*)?(@.*)?", image)]
    return str((own or digests or [found.id])[0])


def get(project: Project, image: str, say: Say) -> str:
    """Pull an image that is not here yet, and return the name to run it by: see ``name_to_run``."""
    name = name_to_run(project, image)
    if image_id(name) is not None:
        return name
    say(f"Getting {name} (once) …")
    try:
        proc.run(["docker", "pull", name], timeout=PULL_SECONDS, show=not getattr(say, "quiet", False))
    except LmError as error:
        if name == image:
            raise
        raise LmError(f"{name}, which is recorded for {image}, cannot be pulled: {error}", "choose another: lm config set LITELLM_IMAGE NAME@sha256:…") from None  # fmt: skip
    return name


def name_to_run(project: Project, image: str) -> str:
    """Return the name to run an image by: its tag, or the recorded digest when the tag names another image or none."""
    recorded = recorded_digest(project, image)
    return image if recorded is None or image_id(image) == recorded else recorded


def shown_digest(digest: str) -> str:
    """Return what a user reads about the digest of an image."""
    return f"digest {digest.rpartition('@')[2]}" if "@" in digest else "built here, so no registry gave it a digest"


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
    """Remember the image of this start and its digest. The digests of other images that ran here are kept."""
    digest = image_id(name_to_run(project, image))
    last = _read_record(project)
    digests = {**_digests(last), **({image: digest} if _is_from_registry(digest) else {})}
    entry = {"image": image, "digest": digest, "digests": digests, "found_volumes": last.get("found_volumes", [])}
    _write_record(project, entry)


def recorded_digest(project: Project, image: str) -> str | None:
    """Return the ``repository@digest`` that an image had when it last ran here; None when no registry gave one."""
    return _digests(_read_record(project)).get(image)


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
    last, recorded, now = _read_record(project), recorded_digest(project, image), image_id(image)
    if now is None or now == (recorded or last.get("digest")) or (recorded is None and last.get("image") != image):
        return ()
    if recorded is None:
        return (f"{image} is now {now}; at the last start it was {last['digest']}. Pin it with LITELLM_IMAGE=…@sha256:…",)  # fmt: skip
    return (f"{image} is now {now}. This stack stays with the image that it recorded, {recorded}. To use the new one: lm config set LITELLM_IMAGE {now}",)  # fmt: skip


def _digests(record: dict[str, Any]) -> dict[str, str]:
    """Return the digest of each image that ran here. The last start counts most; an older lmstack recorded only that."""
    found = record.get("digests")
    digests = dict(found) if isinstance(found, dict) else {}
    digests.pop(record.get("image"), None)
    if _is_from_registry(record.get("digest")):
        digests[str(record.get("image"))] = str(record["digest"])
    return digests


def _is_from_registry(digest: str | None) -> bool:
    return "@" in (digest or "")


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
