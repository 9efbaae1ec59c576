"""How a process ended, in words."""

import signal


def reason(exit_code: int | None) -> str:
    """Return how a process ended, as words."""
    if exit_code is None or exit_code >= 0:
        return f"ended with status {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:  # Most real-time signals have no name.
        return f"was ended by signal {-exit_code}"
