"""How much memory a process uses. Imports little: `lm status` runs it in a container."""

from pathlib import Path


def shared_fairly_mb(pid: int) -> float | None:
    """Return the memory of a process in MB: its own pages, and its share of those that it has in common with others.

    None where the system does not tell, or the process is gone.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
