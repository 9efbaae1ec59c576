"""Which image may run: pinned and known good, else a refusal that says why. Pure."""

import re

from lmstack.errors import ConfigError
from lmstack.pins import BAD_DIGESTS, BAD_VERSIONS, FLOATING_TAGS, IMAGE, VULNERABLE_FROM, VULNERABLE_UNTIL


def image_objection(image: str) -> str:
    """Why an image reference must not run, "" when it may. A digest that is not on the denylist pins anything."""
    name, _, digest = image.partition("@")
    if digest in BAD_DIGESTS:
        return f"{digest} is a {BAD_DIGESTS[digest]}"
    last = name.rpartition("/")[2]
    tag = last.partition(":")[2]
    version = tag.removeprefix("v").removeprefix("main-").removesuffix("-stable")
    if version in BAD_VERSIONS:
        return f"LiteLLM {version} is a {BAD_VERSIONS[version]}"
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    if len(numbers) == 3 and VULNERABLE_FROM <= numbers < VULNERABLE_UNTIL:
        return f"LiteLLM {version} has a SQL injection (CVE-2026-42208)"
    if not digest and tag in FLOATING_TAGS:
        return f"'{tag or 'no tag'}' floats: what it means changes without notice, and it has pointed at a malicious release"
    return ""


def require_safe(image: str, force: bool) -> tuple[str, ...]:
    """Refuse an image that must not run, or, with ``force``, return the objection as a remark."""
    objection = image_objection(image)
    if objection and not force:
        raise ConfigError(
            f"the image {image} is refused: {objection}",
            f"unset LITELLM_IMAGE to use {IMAGE}, or insist with: lm up --force",
        )
    return (f"running {image} although {objection}",) if objection else ()


def digest_objection(digest: str) -> str:
    """The same for the digest of an image that is here already, whatever its tag says."""
    return BAD_DIGESTS.get(digest.rpartition("@")[2], "")
