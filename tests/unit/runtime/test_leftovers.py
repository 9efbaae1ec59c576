"""`lm down --volumes` for a stack whose folder is gone: it stops the containers and names the volumes that stay."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lmstack.cli import app
from lmstack.runtime import leftovers
from lmstack.stack import registry


def test_the_volumes_of_a_deleted_folder_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    labels = {"com.docker.compose.project": "mine", "com.docker.compose.service": "litellm-proxy"}
    running: list[Any] = [mock.Mock(labels=labels)]
    running[0].remove.side_effect = running.clear
    volumes = {"mine": {"mine_litellm-logs"}}
    monkeypatch.setattr("lmstack.cli.shared.started_folders", lambda: [str(gone)], raising=False)
    monkeypatch.setattr(registry, "started_folders", lambda: [str(gone)])
    monkeypatch.setattr(registry, "forget", lambda _: None)
    monkeypatch.setattr(leftovers, "_containers", lambda _: [*running])
    monkeypatch.setattr(leftovers, "list_volumes", volumes.__getitem__, raising=False)
    assert app.run(("-C", str(gone), "down", "--volumes", "--yes")) == 0
    out = capfd.readouterr().out
    assert not running
    assert "Delete them with: docker volume rm mine_litellm-logs" in out
    assert "no data to delete" not in out
