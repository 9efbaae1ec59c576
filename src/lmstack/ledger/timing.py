"""How long the ledger's writer waits for what. Tests use shorter times."""

from dataclasses import dataclass

# A worker without a heartbeat for this long is dead. Its open requests were interrupted.
DEAD_AFTER_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Times in seconds."""

    heartbeat: float = 2.0
    dead_after: float = DEAD_AFTER_SECONDS
    recovery: float = 5.0  # between two searches for spool files of dead workers
    commit: float = 0.25  # a commit that takes longer is replaced by the spool
    retry: float = 0.5  # after a failure, before the ledger is opened or read again
    housekeeping: float = 0.05  # one run; commits wait behind it
    close: float = 2.0  # at a stop, to move the spool into the ledger
    warning: float = 60.0  # between two log lines
