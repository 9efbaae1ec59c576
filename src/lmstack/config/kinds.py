"""Checks of setting values, one function per kind of value. Pure: each returns what is wrong, or "" when nothing is."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from lmstack.releases.pins import LITELLM_VERSION

# LiteLLM does not start with these master keys.
REFUSED_KEYS = frozenset({"", "sk-1234"})
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
TRUE_WORDS, FALSE_WORDS = ("on", "true", "yes", "1"), ("off", "false", "no", "0")
# A worker needs this much when it is new. A lower limit would replace workers all the time.
MIN_WORKER_MB = 300
MAX_SECONDS, MAX_WORKERS, MAX_BODY_MB = 3600, 1000, 2000
_LONGEST_NUMBER = 9  # digits; a longer one is a slip, and some programs cannot hold it


def check(kind: str, text: str) -> str:
    """Return what is wrong with a value of this kind, without the name of the setting; "" when it is right."""
    if not text.isprintable():
        return "holds a control character or an invisible one; type the value again"
    return KINDS[kind](text)


def _url(text: str) -> str:
    """Check an address. The message never repeats one with ``@``, because it may hold a password."""
    try:
        parts = urlsplit(text)
        ok = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # a bracket that is not closed, or a port that is not a number
        ok = False
    shown = "" if "@" in text else f", not '{text}'"
    return "" if ok and not re.search(r"\s", text) else f"must be an http:// or https:// address{shown}"


def _secret_url(text: str) -> str:
    """Check an address that is a password in itself. The message never repeats it."""
    return "must be an http:// or https:// address" if _url(text) else ""


def _whole_number(text: str, lowest: int, highest: int | None = None) -> bool:
    ok = text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER and int(text) >= lowest
    return ok and (highest is None or int(text) <= highest)


def _port(text: str) -> str:
    return "" if _whole_number(text, 1, 65535) else f"must be a port from 1 to 65535, not '{text}'"


def _seconds(text: str) -> str:
    ok = _whole_number(text, 1, MAX_SECONDS)
    return "" if ok else f"must be a whole number of seconds from 1 to {MAX_SECONDS}, not '{text}'"


def _workers(text: str) -> str:
    ok = text.lower() == "auto" or _whole_number(text, 1, MAX_WORKERS)
    return "" if ok else f"must be 'auto' or a whole number from 1 to {MAX_WORKERS}, not '{text}'"


def _number(text: str) -> str:
    return "" if _whole_number(text, 0) else f"must be a whole number from 0, not '{text}'"


def _share(text: str) -> str:
    ok = re.fullmatch(r"0(\.\d{1,9})?|1(\.0{1,9})?", text) is not None
    return "" if ok else f"must be a number from 0 to 1 such as 0.1, not '{text}'"


def _megabytes(text: str) -> str:
    return (
        "" if _whole_number(text, 1, MAX_BODY_MB) else f"must be a whole number from 1 to {MAX_BODY_MB}, not '{text}'"
    )


def _worker_megabytes(text: str) -> str:
    ok = text == "0" or _whole_number(text, MIN_WORKER_MB)
    return "" if ok else f"must be 0 (no limit) or a whole number of MB from {MIN_WORKER_MB}, not '{text}'"


def _origins(text: str) -> str:
    for origin in (part.strip() for part in text.split(",")):
        if _url(origin) or urlsplit(origin).path.strip("/") or urlsplit(origin).query or "@" in origin:
            return f"must be origins such as https://ai.example.com with commas between them, not '{origin}'"
    return ""


def _version(text: str) -> str:
    return "" if re.fullmatch(r"\d+\.\d+\.\d+", text) else f"must be a release such as {LITELLM_VERSION}, not '{text}'"


def _host(text: str) -> str:
    import ipaddress

    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return "" if text == "localhost" else f"must be an IP address or 'localhost', not '{text}'"
    return ""


def _path(text: str) -> str:
    return "" if re.fullmatch(r"/\S*", text) else f"must start with '/' and hold no space, not '{text}'"


def _image(text: str) -> str:
    return "" if re.fullmatch(r"[\w./:@+-]+", text) else f"must be the name of a Docker image, not '{text}'"


def _one_of(*choices: str) -> Callable[[str], str]:
    def check_choice(text: str) -> str:
        ok = text.lower() in [choice.lower() for choice in choices]
        return "" if ok else f"must be one of {', '.join(choices)}, not '{text}'"

    return check_choice


def _key(text: str) -> str:
    """Check a value that is sent in an HTTP header. The message never repeats it, because it is a secret."""
    if re.search(r"\s", text):
        return "has spaces or line breaks in it"
    return "" if text.isascii() else "has a character in it that is not ASCII, so it cannot be sent in a header"


def _master_key(text: str) -> str:
    if text in REFUSED_KEYS:
        return "is empty or a well-known key, which LiteLLM refuses to start with"
    return _key(text)


def _redis_url(text: str) -> str:
    """Check a Redis address. The message never repeats it, because it may hold a password."""
    ok = re.match(r"(rediss?|unix)://\S+$", text) is not None
    return "" if ok else "must be a redis:// or rediss:// address without spaces"


KINDS: dict[str, Callable[[str], str]] = {
    "key": _key,
    "master_key": _master_key,
    "header": _key,
    "url": _url,
    "secret_url": _secret_url,
    "redis_url": _redis_url,
    "port": _port,
    "host": _host,
    "path": _path,
    "image": _image,
    "seconds": _seconds,
    "workers": _workers,
    "version": _version,
    "number": _number,
    "megabytes": _megabytes,
    "worker_megabytes": _worker_megabytes,
    "origins": _origins,
    "text": lambda text: "",
    "level": _one_of(*LOG_LEVELS),
    "switch": _one_of(TRUE_WORDS[0], FALSE_WORDS[0], *TRUE_WORDS[1:], *FALSE_WORDS[1:]),
    "share": _share,
    "sampler": _one_of(
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ),
    "runtime": _one_of("auto", "docker", "local"),
    "ledger_mode": _one_of("open", "strict"),
}
