"""The ledger of a Docker stack. It is in a volume, so our code reads and writes it inside a container."""

import json
import tarfile
from pathlib import Path
from typing import Any

from lmstack import proc
from lmstack.errors import LmError, NoLedgerError, UnknownQueryError
from lmstack.ledger import backup
from lmstack.runtime.compose_project import ComposeProject
from lmstack.runtime.engine import docker_client, engine_errors
from lmstack.stack.project import PROXY_SERVICE

LEDGER = "/app/logs/litellm.db"
KEY_CHANGE_ERROR = "KeyChangeError: "
QUERY_SECONDS, BACKUP_SECONDS = 60.0, 1800.0


class VolumeLedger:
    """Queries, saves and loads the ledger in the volume of one compose project."""

    def __init__(self, compose: ComposeProject) -> None:
        self.compose = compose

    def query(self, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the answer of a ledger query (lmstack.ledger.queries)."""
        words = [LEDGER, name, json.dumps(arguments)]
        try:
            text = self._run_module("lmstack.ledger.queries", words, QUERY_SECONDS)
        except LmError as error:
            if f"KeyError: {name!r}" in str(error):
                raise UnknownQueryError(f"the older lmstack in the container has no query '{name}'", "lm up") from None
            raise
        rows: list[dict[str, Any]] = json.loads(text)
        return rows

    def save(self, target: Path) -> dict[str, Any]:
        """Write the ledger into a tar file; return what is in it. The gateway may run."""
        self._run_module("lmstack.ledger.backup", ["save", LEDGER], BACKUP_SECONDS, into=target)
        with tarfile.open(target) as saved:
            member = saved.extractfile(backup.SUMMARY)
            summary: dict[str, Any] = json.loads(member.read()) if member else {}
        return summary

    def load(self, source: Path) -> dict[str, Any]:
        """Replace the ledger by that of a tar file; return what is in it. The gateway must not run."""
        words = ["load", LEDGER]
        text = self._run_module("lmstack.ledger.backup", words, BACKUP_SECONDS, given=source)
        summary: dict[str, Any] = json.loads(text)
        return summary

    def _run_module(
        self, module: str, arguments: list[str], seconds: float, given: Path | None = None, into: Path | None = None
    ) -> str:
        """Run one of our modules in the running container, else in a short-lived one; return what it prints."""
        self.compose.require_own_name()
        running = self._runs()
        if not running and given is None:
            self._require_volume()
        words = ["python3", "-m", module, *arguments]
        argv = self.compose.argv(*(_exec_words(words) if running else _run_words(words)))
        done = proc.run(
            argv, timeout=seconds, cwd=self.compose.root, check=False, env=self.compose.environment(), given=given, into=into
        )  # fmt: skip
        if done.code:
            last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            if "FileNotFoundError" in last:
                raise no_ledger()
            if last.startswith(KEY_CHANGE_ERROR):
                raise LmError(f"{last.removeprefix(KEY_CHANGE_ERROR)}; nothing was changed", "lm key list")
            raise LmError(f"the ledger in the container cannot be read or written: {last}", "see: lm logs")
        return done.stdout

    def _runs(self) -> bool:
        found = self.compose.containers()
        return any(c.labels["com.docker.compose.service"] == PROXY_SERVICE and c.status == "running" for c in found)

    def _require_volume(self) -> None:
        """Raise NoLedgerError when there is no volume. Compose would build an image before it noticed that."""
        import docker

        argv = self.compose.argv("config", "--format", "json")
        done = proc.run(argv, timeout=30, cwd=self.compose.root, check=False, env=self.compose.environment())
        if done.code:  # docker-compose 1 does not know the format: then a container is asked
            return
        with engine_errors():
            try:
                docker_client().volumes.get(json.loads(done.stdout)["volumes"]["litellm-logs"]["name"])
            except docker.errors.NotFound:
                raise no_ledger() from None


def no_ledger() -> NoLedgerError:
    """Return the error for a volume without a ledger."""
    return NoLedgerError(f"there is no ledger at {LEDGER} yet", "it appears with the first request; start with: lm up")


def _exec_words(words: list[str]) -> list[str]:
    return ["exec", "-T", PROXY_SERVICE, *words]


def _run_words(words: list[str]) -> list[str]:
    return ["run", "--rm", "--no-deps", "-T", "--entrypoint", words[0], PROXY_SERVICE, *words[1:]]
