"""Remove keys and secret values from a text before it is written. Pure."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import quote, unquote

MIN_LENGTH = 6  # a shorter value would also be found inside ordinary words
_KEY_SHAPES = re.compile(
    r"((?<![A-Za-z0-9])sk-[A-Za-z0-9_\-*]{6,}|AIza[0-9A-Za-z_\-]{10,}|gsk_\w{10,}|whsec_[A-Za-z0-9+/=]{6,}|(?i:bearer)\s+[^\s\"',}]+|(?<=[?&]key=)[^&\s\"']+)"
)
_SECRET_NAMES = re.compile(r"((^|_|API)KEY|SECRET|TOKEN|PASSWORD|WEBHOOK_URL|OTLP_HEADERS)$", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/\s?#\"'<>]+@")


def has_secret_name(name: str) -> bool:
    """Return whether the name of a variable says that its value is secret, as ACME_KEY does."""
    return _SECRET_NAMES.search(name) is not None


def secret_values(environ: Mapping[str, str], names: Collection[str] = ()) -> tuple[str, ...]:
    """Return the values that no text may show, the longest first: of secret variables, and passwords in addresses.

    ``names`` are secret variables that have ordinary names. A value in another spelling, as in JSON or in an
    address, is also returned.
    """
    found = set()
    for name, value in environ.items():
        if name in names or has_secret_name(name):
            found.add(value)
        for userinfo in _USERINFO.findall(value):
            user, _, password = userinfo[:-1].partition(":")
            found.add(password or user)
    found = {spelling for value in found for spelling in _spellings(value.strip())}
    return tuple(sorted((value for value in found if len(value) >= MIN_LENGTH), key=len, reverse=True))


def without_userinfo(text: str) -> str:
    """Return a text with ``***`` in place of user and password in every address."""
    return _USERINFO.sub("***@", text)


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Return the text with ``***`` in place of each of ``secrets``, and of anything that looks like a key."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return without_userinfo(_KEY_SHAPES.sub("***", text))


def _spellings(value: str) -> tuple[str, ...]:
    return value, unquote(value), quote(value, safe=""), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]  # fmt: skip
