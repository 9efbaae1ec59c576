"""Where the output of a process goes that proves something: into a file, until it serves."""

import os
import sys
from pathlib import Path


class Output:
    """The standard output and error of this process. A fork goes on where its parent was."""

    kept: tuple[int, int] | None = None  # where they go afterwards
    log: Path | None = None

    @classmethod
    def divert(cls, log: Path) -> None:
        """Send both into a file."""
        cls.kept, cls.log = (os.dup(1), os.dup(2)), log
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)

    @classmethod
    def diverted_by_keeper(cls, output: int) -> None:
        """Note that the keeper sends both into a file, and where they go afterwards."""
        cls.kept = (output, os.dup(output))

    @classmethod
    def restore(cls) -> None:
        """Go on with the server's output, and add what our own file has. The keeper adds what is in its file."""
        if cls.kept is None:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        for handle, kept in zip((1, 2), cls.kept, strict=True):
            os.dup2(kept, handle)
            os.close(kept)
        cls.kept = None
        if cls.log:
            os.write(2, cls.log.read_bytes())
            cls.log.unlink(missing_ok=True)
