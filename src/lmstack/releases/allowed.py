"""Which LiteLLM may run: pinned and known good, else a refusal that says why. Pure."""

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
    """The image of a LiteLLM release."""
    return f"{IMAGE_REPOSITORY}:v{version}"


def version_objection(version: str) -> str:
    """Why a LiteLLM release must not run ("is a malicious release ..."), "" when it may."""
    if version in BAD_VERSIONS:
        return f"is a {BAD_VERSIONS[version]}"
    if VULNERABLE_FROM <= numbers(version) < VULNERABLE_UNTIL:
        return "has a SQL injection (CVE-2026-42208)"
    return ""


def image_objection(image: str) -> str:
    """Why an image reference must not run, "" when it may. A digest that is not on the denylist pins anything."""
    name, _, digest = image.partition("@")
    if digest in BAD_DIGESTS:
        return f"{digest} is a {BAD_DIGESTS[digest]}"
    last = name.rpartition("/")[2]
    tag = last.partition(":")[2]
    version = tag.removeprefix("v").removeprefix("main-").removesuffix("-stable")
    if version_objection(version):
        return f"LiteLLM {version} {version_objection(version)}"
    if not digest and tag in FLOATING_TAGS:
        return f"'{tag or 'no tag'}' floats: what it means changes without notice, and it has pointed at a malicious release"
    return ""


def require_safe(what: str, objection: str, force: bool) -> tuple[str, ...]:
    """Refuse what must not run, or, with ``force``, return the objection as a remark."""
    if objection and not force:
        raise ConfigError(
            f"{what} is refused: {objection}",
            "unset LITELLM_IMAGE and LITELLM_VERSION to use the pinned release, or insist with: lm up --force",
        )
    return (f"running {what} although {objection}",) if objection else ()


def digest_objection(digest: str) -> str:
    """The same for the digest of an image that is here already, whatever its tag says."""
    return BAD_DIGESTS.get(digest.rpartition("@")[2], "")


def numbers(version: str) -> tuple[int, ...]:
    """A release as numbers, which compare as releases do; empty for what is none."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3]) if re.match(r"\d+\.\d+\.\d+", version) else ()
