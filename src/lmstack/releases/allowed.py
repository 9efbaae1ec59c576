"""Decide which LiteLLM releases may run, and why others may not. Pure."""

import re

from lmstack.errors import ConfigError
from lmstack.releases.pins import BAD_DIGESTS, BAD_VERSIONS, IMAGE_REPOSITORIES, IMAGE_REPOSITORY, OLDEST_SAFE

_VERSION = re.compile(r"\d+\.\d+\.\d+")


def release_image(version: str) -> str:
    """Return the image of a LiteLLM release."""
    return f"{IMAGE_REPOSITORY}:v{version}"


def version_objection(version: str) -> str:
    """Return why a LiteLLM release must not run ("is a malicious release ..."), "" when it may.

    Releases are compared as numbers: pip reads ``1.107.00`` and ``01.107.0`` as 1.107.0.
    """
    found = numbers(version)
    bad = next((reason for name, reason in BAD_VERSIONS.items() if numbers(name) == found), "")
    if bad:
        return f"is a {bad}"
    if found and found < OLDEST_SAFE:
        oldest = ".".join(str(number) for number in OLDEST_SAFE)
        return f"has known vulnerabilities (CVE-2026-49468 and others), which are fixed in {oldest}"
    return ""


def image_objection(image: str) -> str:
    """Return why an image must not run, "" when it may. Each release that its tag names is checked, also beside a digest."""
    name, _, digest = image.lower().partition("@")
    if digest in BAD_DIGESTS:
        return f"{digest} is a {BAD_DIGESTS[digest]}"
    repository, tag = _split(name)
    for version in _VERSION.findall(tag):
        if version_objection(version):
            return f"LiteLLM {version} {version_objection(version)}"
    if repository not in IMAGE_REPOSITORIES:
        return f"'{repository}' is not one of LiteLLM's own image repositories"
    if not digest and not _VERSION.search(tag):
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
    return BAD_DIGESTS.get(digest.lower().rpartition("@")[2], "")


def numbers(version: str) -> tuple[int, ...]:
    """Return a release as numbers that compare as releases do; empty when the text names no release."""
    found = _VERSION.match(version)
    return tuple(int(number) for number in found.group().split(".")) if found else ()


def _split(name: str) -> tuple[str, str]:
    """Return repository and tag of an image's name. A colon before the last slash belongs to a port."""
    folder, slash, last = name.rpartition("/")
    short, _, tag = last.partition(":")
    return f"{folder}{slash}{short}", tag
