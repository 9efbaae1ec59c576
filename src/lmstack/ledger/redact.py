"""Remove keys and secret values from a text before it is written. Pure."""

import re
from collections.abc import Iterable, Mapping

_KEY_SHAPES = re.compile(
    r"((?<![A-Za-z0-9])sk-[A-Za-z0-9_\-*]{6,}|AIza[0-9A-Za-z_\-]{10,}|gsk_\w{10,}|whsec_[A-Za-z0-9+/=]{6,}|(?i:bearer)\s+[^\s\"',}]+|(?<=[?&]key=)[^&\s\"']+)"
)
_SECRET_NAMES = re.compile(r"(API_KEY|MASTER_KEY|SECRET|TOKEN|PASSWORD)$")


def secret_values(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of secret variables in the environment, the longest first."""
    found = {value for name, value in environ.items() if _SECRET_NAMES.search(name) and len(value) >= 6}
    return tuple(sorted(found, key=len, reverse=True))


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Return the text with ``***`` in place of each of ``secrets``, and of anything that looks like a key."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _KEY_SHAPES.sub("***", text)
