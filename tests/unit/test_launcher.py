"""start-litellm.sh runs under the bash 3.2 and the BSD tools of macOS."""

import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import ROOT, InProcessStack

SCRIPT = (ROOT / "start-litellm.sh").read_text()
CODE = "\n".join(line for line in SCRIPT.splitlines() if not line.lstrip().startswith("#"))


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"\b(?:declare|local|typeset)\s+-[A-Za-z]*[Agn]", "associative arrays and namerefs came with bash 4"),
        (r"\b(?:mapfile|readarray|coproc)\b", "bash 4"),
        (r"\$\{\w+(?:\[[^]]*\])?(?:,,|\^\^|@[A-Z])", "changing case came with bash 4"),
        (r"&>>|\|&|;;&|;&", "bash 4"),
        (r"\bprintf\b[^\n]*%\(", "times in printf came with bash 4"),
        (r"\breadlink -f|\brealpath\b|\bsed -i|\bdate -d|\bgrep -[a-zA-Z]*P|\bstat -c|\bmktemp -p|\bxargs -r|\btimeout\b", "GNU only"),
        (r"\bss\b|/proc/|\bnproc\b|\bsha256sum\b", "Linux only"),
    ],
)  # fmt: skip
def test_it_uses_nothing_that_macos_lacks(pattern: str, why: str) -> None:
    assert not re.findall(pattern, CODE), why


def test_an_empty_array_is_only_expanded_where_it_is_set() -> None:
    """Under ``set -u`` bash 3.2 takes an empty array for an unset variable."""
    bare = re.findall(r'"\$\{(\w+)\[@\]\}"', re.sub(r'\$\{(\w+)\[@\]\+"\$\{\1\[@\]\}"\}', "", CODE))
    assert bare == []


# A stand-in for Python: it makes a .venv with itself and with an `lm` that prints its arguments.
PYTHON = """#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && printf '#!/bin/sh\\necho "lm $*"\\n' >.venv/bin/lm && chmod +x .venv/bin/lm ;;
  *"-m pip install"*) echo "pip $*" >>pip.log; [ -z "$FAIL" ] || { echo "ERROR: no network"; exit 1; } ;;
  --version) echo "Python 3.12.0" ;;
esac
"""
# What the script uses; macOS has each of them in /bin or /usr/bin.
TOOLS = ("awk", "bash", "cat", "chmod", "cksum", "cp", "dirname", "mkdir", "sh", "touch")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    (folder / "requirements").mkdir(parents=True)
    for name in ("start-litellm.sh", ".env.example", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "requirements" / "runtime.txt").write_text("x==1\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    (tools / "python3").write_text(PYTHON)
    (tools / "python3").chmod(0o755)
    return folder


def run(clone: Path, *words: str, on_terminal: bool = False, **env: str) -> tuple[int, str, str]:
    """Run the script with bash set to the behaviour of 3.2 and only the tools that macOS has too."""
    environ = {"PATH": str(clone.parent / "tools"), "HOME": str(clone), "BASH_COMPAT": "3.2", **env}
    master, slave = pty.openpty()
    stderr = slave if on_terminal else subprocess.PIPE
    done = subprocess.run(["bash", "start-litellm.sh", *words], cwd=clone, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True)  # fmt: skip
    os.close(slave)
    os.close(master)
    return done.returncode, done.stdout, done.stderr or ""


@pytest.mark.parametrize("on_terminal", [False, True], ids=["in a pipe", "on a terminal"])
def test_it_sets_up_once_and_starts_with_the_tools_of_macos(clone: Path, on_terminal: bool) -> None:
    """Check both cases. On a terminal, an array of the script is empty, which bash 3.2 does not allow everywhere."""
    code, out, err = run(clone, "--port", "4100", on_terminal=on_terminal)
    assert (code, out) == (0, "lm up --port 4100\n"), err
    assert ("--progress-bar" in (clone / "pip.log").read_text()) is not on_terminal
    assert (clone / ".env").stat().st_mode & 0o777 == 0o600
    installs = (clone / "pip.log").read_text()
    assert "--no-deps --require-hashes" in installs.splitlines()[0]
    assert run(clone)[:2] == (0, "lm up\n")
    assert (clone / "pip.log").read_text() == installs


def test_what_changes_nothing_makes_no_env_file(clone: Path) -> None:
    for option in ("--help", "-h", "--dry-run"):
        assert run(clone, option)[:2] == (0, f"lm up {option}\n")
    assert not (clone / ".env").exists()


def test_set_up_only_starts_nothing_and_a_failed_install_is_one_error(clone: Path) -> None:
    code, _, err = run(clone, "--setup-only", FAIL="1")
    assert code == 4
    assert "error: the packages could not be installed" in err
    assert run(clone, "--setup-only")[:2] == (0, "")


def test_every_locked_package_has_a_version_and_hashes() -> None:
    text = (ROOT / "requirements" / "runtime.txt").read_text().replace("\\\n", " ")
    packages = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(packages) > 100
    assert [line for line in packages if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def git(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Git without the configuration of the machine."""
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}  # fmt: skip
    nothing = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(
        ["git", *words], cwd=folder, env={**os.environ, **identity, **nothing}, check=check, capture_output=True, text=True
    )  # fmt: skip


def test_the_documented_upgrade_of_a_checkout_works_after_a_start(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    (origin / "start-litellm.sh").write_text("#!/bin/sh\ncp litellm-config.yaml started-with\n")
    (origin / "start-litellm.sh").chmod(0o755)
    (origin / "callbacks").mkdir()
    shutil.copy(ROOT / "callbacks" / "taskmaster.py", origin / "callbacks")
    shutil.copy(ROOT / "docker-compose.yml", origin)
    config = (ROOT / "litellm-config.yaml").read_text()
    git(origin, "init", "--quiet")
    for text in (config, f"# a newer release\n{config}"):
        (origin / "litellm-config.yaml").write_text(text)
        git(origin, "add", ".")
        git(origin, "commit", "--quiet", "-m", "a release")
    git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    git(clone, "reset", "--quiet", "--hard", "HEAD~1")
    (clone / "models.yaml").write_text("models:\n  mine: {provider: openai, model: gpt-4o-mini}\n")
    InProcessStack(clone, 0, {"OPENAI_API_KEY": "sk-0123456789", "LITELLM_RUNTIME": "local"}).lm("render", "-C", str(clone))  # fmt: skip
    assert "would be overwritten" in git(clone, "pull", "--ff-only", check=False).stderr
    documented = re.search(r"^git checkout .*&& \./start-litellm\.sh$", (ROOT / "docs/operations.md").read_text(), re.M)
    assert documented
    subprocess.run(["bash", "-c", documented[0]], cwd=clone, check=True, capture_output=True)
    assert (clone / "started-with").read_text().startswith("# a newer release\n")
    assert (clone / "models.yaml").exists()
