"""Tell which addresses only this machine can reach. Used by `lm` before a start, and by the gateway. Pure."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host: ``localhost``, or a loopback address, also in brackets."""
    if host in ("localhost", "127.0.0.1"):
        return True
    import ipaddress  # takes 5 ms to import; most commands need it only for an address that is not the default

    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
