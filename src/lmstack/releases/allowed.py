"""Decide which LiteLLM releases may run, and why others may not. Pure."""

import re

from lmstack.errors import ConfigError
from lmstack.releases.pins import (
    BAD_DIGESTS,
    BAD_VERSIONS,
    FLOATING_TAGS,
    IMAGE_REPOSITORY,
    VULNERABLE_FROM,
    VULNERABLE_UNTIL,
)


def release_image(version: str) -> str:
    """Return the image of a LiteLLM release."""
    return f"{IMAGE_REPOSITORY}:v{version}"


def version_objection(version: str) -> str:
    """Return why a LiteLLM release must not run ("is a malicious release ..."), "" when it may."""
    if version in BAD_VERSIONS:
        return f"is a {BAD_VERSIONS[version]}"
    if VULNERABLE_FROM <= numbers(version) < VULNERABLE_UNTIL:
        return "has a SQL injection (CVE-2026-42208)"
    return ""


def image_objection(image: str) -> str:
    """Return why an image must not run, "" when it may. A digest pins every tag, unless it is on the denylist."""
    name, _, digest = image.partition("@")
    if digest in BAD_DIGESTS:
        return f"{digest} is a {BAD_DIGESTS[digest]}"
    last = name.rpartition("/")[2]
    tag = last.partition(":")[2]
    version = tag.removeprefix("v").removeprefix("main-").removesuffix("-stable")
    if version_objection(version):
        return f"LiteLLM {version} {version_objection(version)}"
    if not digest and tag in FLOATING_TAGS:
        return (
            f"'{tag or 'no tag'}' floats: its image changes without notice, and it has pointed to a malicious release"
        )
    return ""


def require_safe(what: str, objection: str, force: bool) -> tuple[str, ...]:
    """Raise ConfigError when there is an objection. With ``force``, return it as a remark."""
    if objection and not force:
        raise ConfigError(
            f"{what} is refused: {objection}",
            "unset LITELLM_IMAGE and LITELLM_VERSION to use the pinned release, or insist with: lm up --force",
        )
    return (f"running {what} although {objection}",) if objection else ()


def digest_objection(digest: str) -> str:
    """Return why an image with this digest must not run, "" when it may."""
    return BAD_DIGESTS.get(digest.rpartition("@")[2], "")


def numbers(version: str) -> tuple[int, ...]:
    """Return a release as numbers that compare as releases do; empty when the text names no release."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3]) if re.match(r"\d+\.\d+\.\d+", version) else ()
