"""Which web pages and host names may reach the gateway.

A page of another origin in the user's browser must neither read nor spend. A browser always sends ``Origin`` with a
cross-origin POST, and ``Host`` names the address that the page was loaded from. Both are checked before anything else.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from lmstack.addresses import is_loopback


@dataclass(frozen=True, slots=True)
class Origins:
    """The hosts and origins that are ours. ``configured``: LITELLM_ORIGINS, for example ``https://ai.example.com``."""

    hosts: frozenset[str]
    configured: frozenset[str]

    def objection(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Return why a request is refused, or None. ``headers``: lower-case names of one request."""
        host, origin = _text(headers.get(b"host")), _text(headers.get(b"origin"))
        # Every browser sends Host. A load balancer that speaks HTTP/1.0 may not.
        if (host or origin) and not self._is_own_host(host):
            return f"The Host header names '{_shown(host)}', which is not this gateway. LITELLM_ORIGINS adds a name."
        if origin and not self.allows(origin, host):
            return f"A web page of '{_shown(origin)}' may not use this gateway. LITELLM_ORIGINS adds an origin."
        if (
            not origin
            and headers.get(b"sec-fetch-site") == b"cross-site"
            and headers.get(b"sec-fetch-mode") != b"navigate"
        ):
            return "A web page of another site may not use this gateway. LITELLM_ORIGINS adds an origin."
        return None

    def allows(self, origin: str, host: str) -> bool:
        """Return whether a page of ``origin`` may send a request to ``host``."""
        if origin.lower().rstrip("/") in self.configured:
            return True
        parts = _split(origin)
        if parts is None:
            return False
        return parts[0] in ("http", "https") and (_is_loopback_name(parts[1]) or parts[2] == host.lower())

    def _is_own_host(self, host: str) -> bool:
        name = _name_of(host)
        # An address is no name: DNS rebinding cannot make a browser send it.
        return name is not None and (
            name in self.hosts or _is_private_name(name) or _is_address(name) or _is_loopback_name(name)
        )


def origins_from(environ: Mapping[str, str]) -> Origins:
    """Read LITELLM_HOST and LITELLM_ORIGINS."""
    given = [item.strip().lower().rstrip("/") for item in environ.get("LITELLM_ORIGINS", "").split(",") if item.strip()]
    names = (_split(item) for item in given)
    own = environ.get("LITELLM_HOST", "").strip().lower()
    hosts: Iterable[str] = (*(parts[1] for parts in names if parts), *([own] if own else []))
    return Origins(frozenset(hosts), frozenset(given))


def _split(origin: str) -> tuple[str, str, str] | None:
    """Return scheme, host name and host with port of an origin; None for ``null`` and for other texts."""
    try:
        parts = urlsplit(origin.strip().lower())
        return (parts.scheme, parts.hostname, parts.netloc) if parts.scheme and parts.hostname else None
    except ValueError:
        return None


def _name_of(host: str) -> str | None:
    """Return the name in a Host header, without its port."""
    try:
        parts = urlsplit(f"//{host}")
        plain = parts.netloc == host and not parts.username
        _ = parts.port
        return parts.hostname if plain else None
    except ValueError:
        return None


def _is_private_name(name: str) -> bool:
    """Return whether no public DNS server can answer for a name: a container's name, or one below ``.internal``."""
    return "." not in name or name.endswith(".internal")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback_name(name: str) -> bool:
    return name.endswith(".localhost") or is_loopback(name)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("latin-1").strip()


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:100])
