"""The server's private files in a container: what a restart keeps, and what a new container must not see."""

import json
import os
import sys
from pathlib import Path

import pytest

from lmstack.gateway.app import ask_server, container


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the volume, with an image's configuration beside it."""
    made = tmp_path / "config"
    made.mkdir()
    (tmp_path / "litellm-config.yaml").write_text("of the image")
    monkeypatch.setenv("LMSTACK_SERVER_FILES", str(made / ".server"))
    monkeypatch.setenv("LMSTACK_IMAGE_CONFIG", str(tmp_path / "litellm-config.yaml"))
    monkeypatch.setattr("socket.gethostname", lambda: "container-1")
    monkeypatch.setattr(sys, "argv", ["serve", "--config", str(made / "litellm-config.yaml")])
    return made


def change(volume: Path) -> None:
    """Leave what a change and a run leave."""
    (volume / "litellm-config.yaml").write_text("changed")
    for name in ("environment.json", "report.json", "next.json"):
        (volume / ".server" / name).write_text("{}")
    (volume / ".litellm-config.next.yaml").write_text("half a change")


def test_a_restarted_container_goes_on_with_its_last_change(volume: Path) -> None:
    container.prepare()
    change(volume)
    container.prepare()
    assert (volume / "litellm-config.yaml").read_text() == "changed"
    assert sorted(p.name for p in (volume / ".server").iterdir()) == ["container", "environment.json"]
    assert not (volume / ".litellm-config.next.yaml").exists()


@pytest.mark.parametrize("new", ["another container", "other settings", "another image", "another variable"])
def test_a_new_container_begins_with_the_image_and_no_old_settings(
    volume: Path, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    container.prepare()
    change(volume)
    monkeypatch.setattr("socket.gethostname", lambda: "container-2" if new == "another container" else "container-1")
    monkeypatch.setenv("LMSTACK_CONFIG_DIGEST", "another" if new == "other settings" else "")
    if new == "another image":  # Plain compose gives no digest, and a compose file may set the name.
        (volume.parent / "litellm-config.yaml").write_text("of the image, rebuilt")
    if new == "another variable":
        monkeypatch.setenv("OPENAI_API_KEY", "secret-of-the-test")
    container.prepare()
    assert (volume / "litellm-config.yaml").read_text() == (volume.parent / "litellm-config.yaml").read_text()
    assert "secret" not in (volume / ".server" / "container").read_text()
    assert [p.name for p in (volume / ".server").iterdir()] == ["container"]
    assert (volume / ".server").stat().st_mode & 0o777 == 0o700


def test_without_a_usable_volume_the_image_is_used_as_it_is(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume.rmdir()
    container.prepare()
    assert sys.argv[2].endswith("litellm-config.yaml")
    assert Path(sys.argv[2]).read_text() == "of the image"
    assert "LMSTACK_SERVER_FILES" not in os.environ
    assert "each change needs a new container" in capsys.readouterr().err


def test_a_change_for_a_server_that_is_gone_leaves_no_keys(
    volume: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    container.prepare()
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"id": "1", "wait": 1, "environment": {"K": "secret"}})))
    ask_server.main(["change"])
    assert json.loads(capsys.readouterr().out) == {"state": "unreachable"}
    assert not (volume / ".server" / "next.json").exists()
