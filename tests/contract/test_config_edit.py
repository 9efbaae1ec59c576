"""`lm config edit` on a real terminal, with a real program as the editor."""

import json
import os
import pty
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support import LM, clean_environ, wait_for

# The editor of these tests: it takes the first of the texts that are left, and writes it into the file. An empty word
# leaves the file as it is; `fail` ends it with status 3. It notes which file it was given.
EDITOR = """#!{python}
import os, stat, sys
folder, file = {folder!r}, sys.argv[-1]
with open(folder + "/seen", "a") as seen:
    mode = stat.S_IMODE(os.stat(file).st_mode), stat.S_IMODE(os.stat(os.path.dirname(file)).st_mode)
    seen.write(repr((file, sys.argv[1:-1], mode, open(file, "rb").read())) + "\\n")
texts = sorted(name for name in os.listdir(folder) if name.startswith("text"))
if texts:
    content = open(folder + "/" + texts[0], "rb").read()
    os.unlink(folder + "/" + texts[0])
    if content == b"fail":
        sys.exit(3)
    if content == b"delete":
        os.unlink(file)
    elif content:
        open(file, "wb").write(content)
"""


class Session:
    """One `lm config edit` on a terminal of its own."""

    def __init__(self, root: Path, texts: list[bytes], *words: str, **environ: str) -> None:
        self.root, self.tools, self.shown = root, root.parent / "tools", ""
        self.tools.mkdir(exist_ok=True)
        for path in self.tools.iterdir():
            path.unlink()
        for number, text in enumerate(texts):
            (self.tools / f"text{number}").write_bytes(text)
        editor = self.tools / "editor"
        editor.write_text(EDITOR.format(python=sys.executable, folder=str(self.tools)))
        editor.chmod(0o755)
        given = {
            "EDITOR": str(editor),
            **{name: value.replace("EDITOR", str(editor)) for name, value in environ.items()},
        }
        env = {
            name: value
            for name, value in {**clean_environ(root), "VISUAL": "", "TERM": "dumb", **given}.items()
            if value
        }
        self.master, slave = pty.openpty()
        argv = [*LM, "config", "edit", *words, "-C", str(root)]
        self.process = subprocess.Popen(argv, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)

    def until(self, text: str) -> None:
        wait_for(lambda: (self._read() and False) or text in self.shown, 60, f"{text!r} in {self.shown!r}")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        wait_for(lambda: (self._read(), self.process.poll() is not None)[1], 60, f"the end: {self.shown!r}")
        self._read()
        os.close(self.master)
        assert "Traceback" not in self.shown
        return self.process.returncode

    def seen(self) -> list[str]:
        return (self.tools / "seen").read_text().splitlines()

    def _read(self) -> None:
        if select.select([self.master], [], [], 0.05)[0]:
            try:
                self.shown += os.read(self.master, 65536).decode(errors="replace")
            except OSError:  # the other side has closed
                return


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "stack"
    folder.mkdir()
    (folder / ".env").write_bytes(b"# mine\r\nLITELLM_PORT=4100 # why\r\n")
    (folder / ".env").chmod(0o640)
    return folder


def test_a_valid_text_is_written_and_the_editor_gets_a_private_copy(root: Path) -> None:
    new = b"# mine\r\nLITELLM_PORT=4200 # why\r\n\r\nB='x # y'\r\n"
    session = Session(root, [new], VISUAL="EDITOR --wait 'a b'", EDITOR="/no/such/editor")
    assert session.end() == 0
    assert ".env: written" in session.shown
    assert f"Next: lm -C {root} up (applies it)" in session.shown
    assert (root / ".env").read_bytes() == new
    assert stat.S_IMODE((root / ".env").stat().st_mode) == 0o640
    ((file, options, mode, before),) = [eval(line) for line in session.seen()]  # noqa: S307 - our own repr
    assert options == ["--wait", "a b"]
    assert mode == (0o600, 0o700)
    assert before == b"# mine\r\nLITELLM_PORT=4100 # why\r\n"
    assert Path(file).name == ".env"
    assert not Path(file).parent.exists(), "the copy, which holds keys, is deleted"


def test_every_problem_is_shown_and_the_editor_opens_the_same_text_again(root: Path) -> None:
    wrong, right = b"LITELLM_PORT=x\nOPENAI_API_KEI=1\nK=a$b\n", b"LITELLM_PORT=4300\n"
    session = Session(root, [wrong, b"\xff\xfe", right])
    session.until("Edit again?")
    assert ".env:1: LITELLM_PORT must be a port from 1 to 65535, not 'x'" in session.shown
    assert ".env:2: unknown variable OPENAI_API_KEI (did you mean 'OPENAI_API_KEY'?)" in session.shown
    assert (root / ".env").read_bytes().startswith(b"# mine"), "nothing is written before the text is valid"
    session.type("y\n")
    session.until("save it as UTF-8 text")
    session.type("\n")
    assert session.end() == 0
    assert (root / ".env").read_bytes() == right
    assert repr(wrong) in session.seen()[1]


@pytest.mark.parametrize("answer", ["n\n", "\x03"])
def test_who_gives_up_changes_nothing(root: Path, answer: str) -> None:
    before = (root / ".env").read_bytes()
    session = Session(root, [b"LITELLM_PORT=x\n"])
    session.until("Edit again?")
    if answer == "\x03":
        os.killpg(session.process.pid, signal.SIGINT)
    else:
        session.type(answer)
    assert session.end() == (3 if answer == "n\n" else 1)
    assert (root / ".env").read_bytes() == before
    assert sorted(path.name for path in root.iterdir()) == [".env"]


def test_models_yaml_is_edited_and_made_where_there_is_none(root: Path) -> None:
    session = Session(
        root, [b"models: {auto: {tier: 9}}\n", b"models:\n  gpt-4o: {tier: 1}\n"], "models.yaml", "--json"
    )
    assert session.end() == 3  # --json asks nothing
    assert not (root / "models.yaml").exists()
    session = Session(root, [b""], "models.yaml")
    assert session.end() == 0
    assert "models.yaml: unchanged" in session.shown
    assert not (root / "models.yaml").exists()
    session = Session(root, [b"models:\n  gpt-4o: {tier: 1}\n"], "models.yaml", "--json")
    assert session.end() == 0
    found = json.loads(session.shown)
    assert found["command"] == "config edit"
    assert found["data"] == {"file": str(root / "models.yaml"), "changed": True}
    assert (root / "models.yaml").read_text() == "models:\n  gpt-4o: {tier: 1}\n"


@pytest.mark.parametrize("kind", ["link", "hard"])
def test_a_link_leads_where_it_led(root: Path, tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other"
    (root / ".env").rename(other)
    ((root / ".env").symlink_to if kind == "link" else (root / ".env").hardlink_to)(other)
    assert Session(root, [b"LITELLM_PORT=4400\n"]).end() == 0
    assert other.read_bytes() == b"LITELLM_PORT=4400\n"
    assert (root / ".env").is_symlink() is (kind == "link")
    assert other.samefile(root / ".env")


@pytest.mark.parametrize(
    ("texts", "environ", "code", "says"),
    [
        ([b"fail"], {}, 1, "ended with status 3; nothing was written"),
        ([b"delete"], {}, 1, "the editor deleted the file; nothing was written"),
        ([], {"EDITOR": "/no/such/editor"}, 4, "the editor '/no/such/editor' of $EDITOR is not installed"),
        ([], {"VISUAL": "a 'b"}, 2, "$VISUAL cannot be read: No closing quotation"),
        ([], {"EDITOR": "", "PATH": "/no/such"}, 4, "no editor was found"),
    ],
)
def test_an_editor_that_does_not_work_is_one_error(
    root: Path, texts: list[bytes], environ: dict[str, str], code: int, says: str
) -> None:
    before = (root / ".env").read_bytes()
    session = Session(root, texts, **environ)
    assert session.end() == code, session.shown
    assert says in session.shown
    assert session.shown.count("error: ") == 1
    assert (root / ".env").read_bytes() == before


def test_a_file_that_changed_meanwhile_is_not_overwritten(root: Path) -> None:
    editor = root.parent / "slow"
    editor.write_text(f'#!/bin/sh\necho LITELLM_PORT=4500 > {root}/.env\necho LITELLM_PORT=4600 > "$1"\n')
    editor.chmod(0o755)
    session = Session(root, [], EDITOR=str(editor))
    assert session.end() == 1
    assert "was changed by another program; nothing was written" in session.shown
    assert (root / ".env").read_bytes() == b"LITELLM_PORT=4500\n"


def test_without_a_terminal_it_is_one_error(root: Path) -> None:
    argv = [*LM, "config", "edit", "-C", str(root)]
    done = subprocess.run(argv, env=clean_environ(root, EDITOR="true"), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "an editor needs a terminal" in done.stderr
    assert "config set NAME VALUE" in done.stderr
