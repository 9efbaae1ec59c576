"""Ask the server of this container. `lm` runs this module in the container, so files and signals have the server's own user.

``report`` prints what the server reports. ``change`` reads a change from the standard input, where no other process sees its
keys, and prints how it ended. ``forget`` deletes the changed settings.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmstack.gateway.app.process_memory import shared_fairly_mb
from lmstack.gateway.app.server_files import FOLDER_VARIABLE, write

POLL_SECONDS = 0.1


def main(words: list[str]) -> None:
    """Do what the first word says, and print a JSON object."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    done = {"report": _report, "change": _change, "forget": _forget}[words[0]](folder)
    sys.stdout.write(json.dumps(done))


def _report(folder: Path) -> dict[str, Any]:
    """Return the server's report with the memory of each worker; empty while it has not reported."""
    found = _read(folder)
    for worker in found.get("workers", ()):
        used = shared_fairly_mb(worker["pid"])
        worker["memory_mb"] = None if used is None else round(used)
    return found


def _change(folder: Path) -> dict[str, Any]:
    """Have the server apply a change. Return its last state, with the output of a failed start."""
    asked = json.load(sys.stdin)
    (folder / "start.log").unlink(missing_ok=True)
    write(folder / "next.json", json.dumps(asked))
    try:
        os.kill(_read(folder)["pid"], signal.SIGHUP)
    except (KeyError, OSError):
        (folder / "next.json").unlink(missing_ok=True)
        return {"state": "unreachable"}
    return {**_ended(folder, asked["id"], asked["wait"]), "log": _text(folder / "start.log")}


def _ended(folder: Path, wanted: str, seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state: dict[str, Any] = _read(folder).get("reload", {})
        if state.get("id") == wanted and state["state"] != "running":
            return state
        time.sleep(POLL_SECONDS)
    return {"state": "late"}


def _forget(folder: Path) -> dict[str, Any]:
    (folder / "environment.json").unlink(missing_ok=True)
    return {}


def _read(folder: Path) -> dict[str, Any]:
    with suppress(ValueError):
        return dict(json.loads(_text(folder / "report.json") or "{}"))
    return {}


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
