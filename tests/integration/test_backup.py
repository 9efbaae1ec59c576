"""backup and restore on a running gateway, real SQLite, real archives."""

import io
import json
import sqlite3
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from lmstack.ledger import backup as ledger_backup
from lmstack.ledger import schema
from lmstack.operate import archive
from support import LM, Mock, Stack, running

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT = "/v1/chat/completions"


def ask(stack: Stack, task: str) -> str:
    answer = stack.post(CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, x_task_id=task)
    assert answer.status_code == 200, answer.text
    call: str = answer.headers["x-litellm-call-id"]
    stack.row(call)
    return call


def tasks(stack: Stack) -> dict[str, int]:
    return {row["name"]: row["requests"] for row in stack.json("usage", "--by", "task")["data"]["rows"]}


def test_a_backup_is_taken_under_load_and_put_back_with_its_waiting_events(tmp_path: Path, mock: Mock) -> None:
    mock.reset()
    # Nobody listens there: every event waits.
    with running(
        tmp_path, "models:\n  gpt-4o: {tier: 3}\n", **mock.bases(), TASKMASTER_API_URL="http://127.0.0.1:9"
    ) as stack:
        stop, sent = threading.Event(), []

        def load() -> None:
            while not stop.is_set():
                sent.append(ask(stack, "load"))

        thread = threading.Thread(target=load)
        thread.start()
        first = ask(stack, "before")
        saved = stack.json("backup", "--no-env")["data"]
        stop.set()
        thread.join()
        assert saved["parts"] == ["ledger.tar", "models.yaml"]
        assert 1 <= saved["ledger"]["requests"] <= len(sent) + 1
        assert saved["ledger"]["waiting_events"] >= 2
        file = Path(saved["file"])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        content = file.read_bytes()
        with tarfile.open(file) as given:
            plain = b"".join(m.read() for name in given.getnames() if (m := given.extractfile(name)))
        assert not [key for key in mock.bases().values() if key.encode() in content + plain and "test" in key]
        ask(stack, "after")
        (tmp_path / "models.yaml").write_text("models:\n  gpt-4o: {tier: 2}\n")
        assert tasks(stack)["after"] == 1

        done = stack.json("restore", str(file), "--yes")["data"]
        assert done["running"] is True
        assert "after" not in tasks(stack)
        assert stack.row(first)["status"] == "succeeded"
        assert "tier: 3" in (tmp_path / "models.yaml").read_text()
        assert len(stack.ask("events", limit=10_000)) >= saved["ledger"]["waiting_events"]
        ask(stack, "later")  # it goes on

        stack.lm("down")  # it works without a gateway, too
        assert stack.json("restore", done["kept"], "--yes")["data"]["running"] is False
        assert {"before", "after", "load"} <= set(tasks(stack))
        assert "tier: 2" in (tmp_path / "models.yaml").read_text()


def test_env_is_saved_and_put_back_only_when_asked(stack: Stack) -> None:
    stack.write_env(OPENAI_API_KEY="sk-test-openai-0123456789")
    before = (stack.root / ".env").read_text()
    file = stack.json("backup", "one.tar.gz", "--env")["data"]
    assert file["parts"] == [".env"]
    stack.write_env(OPENAI_API_KEY="sk-other-openai-0123456789")
    other = (stack.root / ".env").read_text()
    stack.lm("restore", "one.tar.gz", "--yes")
    assert (stack.root / ".env").read_text() == other
    stack.lm("restore", "one.tar.gz", "--yes", "--env")
    assert (stack.root / ".env").read_text() == before
    assert stat.S_IMODE((stack.root / ".env").stat().st_mode) == 0o600


def damaged(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(b"\0" * 64)


def swapped(path: Path) -> None:
    """A part that is not what the manifest says."""
    with tarfile.open(path) as given:
        parts = {m.name: given.extractfile(m).read() for m in given.getmembers()}  # type: ignore[union-attr]
    parts["models.yaml"] = b"models: {}\n# other\n"
    with tarfile.open(path, "w:gz") as out:
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (damaged, "not a backup of lmstack, or it is damaged"),
        (swapped, "models.yaml is not what was saved"),
        (lambda path: path.write_text("hello"), "not a backup of lmstack"),
        (lambda path: path.write_bytes(b""), "not a backup of lmstack"),
        (lambda path: path.unlink(), "there is no file"),
    ],
)
def test_what_is_no_sound_backup_is_refused_and_nothing_changes(stack: Stack, spoil: object, says: str) -> None:
    (stack.root / "models.yaml").write_text("models:\n  gpt-4o: {tier: 3} # " + "x" * 2000 + "\n")
    stack.lm("backup", "b.tar.gz")
    spoil(stack.root / "b.tar.gz")  # type: ignore[operator]
    (stack.root / "models.yaml").write_text("models: {}\n")
    done = stack.lm("restore", "b.tar.gz", "--yes", check=False)
    assert (done.returncode, says in done.stderr) == (1, True), done.stderr
    assert (stack.root / "models.yaml").read_text() == "models: {}\n"
    assert not (stack.root / "backups").exists()


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (ALIASES, "it is too large with its aliases written out"),
        ("models: " + "[" * 100_000, "it is nested too deeply"),
        ("models: &a {x: *a}\n", "alias"),
        ("models: {x: 1}\n" + "#" * 11_000_000, "models.yaml has 110"),
        ("models: {x: 1}\n" + "#" * 2_000_000, "it is too large"),
        ("models: \x00\n", "not readable as YAML"),
    ],
    ids=["alias bomb", "deep", "endless", "11 MB", "2 MB", "not YAML"],
)
def test_a_models_file_that_is_a_bomb_is_one_error_and_nothing_changes(stack: Stack, models: str, says: str) -> None:
    (stack.root / "models.yaml").write_text(models)
    archive.pack(stack.root / "b.tar.gz", {"models.yaml": stack.root / "models.yaml"}, {"at": "today"})
    (stack.root / "models.yaml").write_text("models: {}\n")
    done = stack.lm("restore", "b.tar.gz", "--yes", check=False)
    assert done.returncode in (1, 3), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1500
    assert (stack.root / "models.yaml").read_text() == "models: {}\n"
    assert not (stack.root / "backups").exists()


def test_restore_asks_first(stack: Stack) -> None:
    (stack.root / "models.yaml").write_text("models: {}\n")
    stack.lm("backup", "b.tar.gz")
    assert "nothing was changed" in stack.shell(f"echo n | {' '.join(LM)} restore b.tar.gz", check=False).stderr


def test_a_ledger_of_a_newer_lmstack_is_not_put_back(tmp_path: Path) -> None:
    newer = tmp_path / "newer" / "litellm.db"
    newer.parent.mkdir()
    conn = schema.connect(newer)
    schema.migrate(conn)
    saved = io.BytesIO()
    ledger_backup.save(newer, saved)
    conn.execute("INSERT INTO migrations VALUES (99, 'from_the_future', 0)")
    conn.close()
    future = io.BytesIO()
    ours = tmp_path / "litellm.db"
    with pytest.raises(schema.LedgerVersionError):
        ledger_backup.save(newer, future)
    ledger_backup.load(ours, io.BytesIO(saved.getvalue()))
    before = ours.read_bytes()
    with tarfile.open(fileobj=future, mode="w") as out:
        out.add(newer, "litellm.db")
    with pytest.raises(schema.LedgerVersionError):
        ledger_backup.load(ours, io.BytesIO(future.getvalue()))
    assert ours.read_bytes() == before
    assert not list(tmp_path.glob(".backup-*"))


def test_a_spool_is_saved_with_its_ledger_and_taken_over_after_it_is_put_back(tmp_path: Path) -> None:
    ours = tmp_path / "litellm.db"
    conn = schema.connect(ours)
    schema.migrate(conn)
    conn.close()
    (tmp_path / "litellm.db.spool-1-2.jsonl").write_text(json.dumps({"kind": "x"}) + "\n")
    saved = io.BytesIO()
    summary = ledger_backup.save(ours, saved)
    assert summary["schema"] == schema.VERSION
    there = tmp_path / "there" / "litellm.db"
    ledger_backup.load(there, io.BytesIO(saved.getvalue()))
    assert (there.parent / "litellm.db.spool-1-2.jsonl").read_text() == json.dumps({"kind": "x"}) + "\n"
    assert sqlite3.connect(there).execute("PRAGMA integrity_check").fetchone() == ("ok",)
