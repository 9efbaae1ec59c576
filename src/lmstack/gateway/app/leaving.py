"""Remember that this worker got a stop signal. Streams without an end of their own, such as the page's, end then."""

_began = False


def begin() -> None:
    """Note the stop. Called by a signal handler."""
    global _began
    _began = True


def has_begun() -> bool:
    """Return whether the worker stops."""
    return _began
