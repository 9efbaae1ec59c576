"""The CLI's contract: envelope, exit codes, help with an example, no traceback for an expected failure."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

import generate
from documented import JSON_OUTPUT, NEED_A_GATEWAY, check_json_keys
from lmstack.cli.app import FAMILIES
from lmstack.config.settings import SETTINGS
from lmstack.stack.assets import ASSETS
from support import LM, ROOT, InProcessStack, Stack, clean_environ

# These start a program, wait for Ctrl-C or need a terminal; test_command_line.py and test_config_edit.py compare their keys.
PROGRAMS = {"run openai true", "taskmaster dev", "config edit", "usage --key"}


@pytest.mark.parametrize("words", sorted(JSON_OUTPUT.keys() - NEED_A_GATEWAY - PROGRAMS))
def test_the_json_of_a_command_has_the_keys_that_the_docs_list(stack: Stack, words: str) -> None:
    stack.write_env(OPENAI_API_KEY="sk-x0123456789", OPENAI_API_BASE="http://127.0.0.1:9/v1")
    if words.startswith(("budget show", "budget unset")):
        stack.lm("budget", "set", "task", "T", "2")
    if " coder" in words and words not in ("key create coder", "agent add coder"):
        stack.lm("key", "create", "coder", "--budget", "5/day")
    if words.startswith("restore"):
        stack.lm("backup", "b.tar.gz", "--env")
    check_json_keys(words, json.loads(stack.lm(*words.split(), "--json", check=False).stdout))


@pytest.mark.exhaustive
def test_a_command_imports_its_own_family_and_that_has_it() -> None:
    listed = [word for words in FAMILIES.values() for word in words]
    assert sorted(listed) == sorted({words[0] for words in generate.command_names()})
    for module, words in FAMILIES.items():
        code = (
            "import sys, typer; from lmstack.cli.app import registered; "
            f"found = typer.main.get_command(registered({words[0]!r})).commands; assert set({words!r}) <= set(found), found; "
            f"others = {sorted(FAMILIES.keys() - {module})!r}; print(*[o for o in others if 'lmstack.cli.' + o in sys.modules])"
        )
        done = subprocess.run([LM[0], "-c", code], capture_output=True, text=True, check=True)
        assert len(done.stdout.split()) <= 2, (module, done.stdout)


def test_a_command_imports_no_library_that_it_can_do_without(stack: Stack) -> None:
    """What decides the start-up time: pydantic 90 ms of CPU, rich 70, docker 80, litellm seconds."""
    slow = {
        "pydantic",
        "rich.table",
        "rich.console",
        "docker",
        "litellm",
        "ruamel.yaml",
        "supervisor",
        "httpx",
        "requests",
    }
    for words in (
        ["models"],
        ["config", "get", "LITELLM_PORT"],
        ["budget", "show"],
        ["-C", ".", "key", "show"],
        ["env"],
    ):
        code = f"import sys; from lmstack.cli.app import run; run({words!r}); print(*sorted({slow!r} & set(sys.modules)), file=sys.stderr)"
        done = subprocess.run([LM[0], "-c", code], cwd=stack.root, env=clean_environ(stack.root), capture_output=True, text=True, check=True)  # fmt: skip
        assert done.stderr == "\n", words


def test_the_list_of_commands_cuts_no_sentence() -> None:
    for words in ([], *([group] for group in ("config", "key", "events", "budget", "taskmaster"))):
        listed = generate.help_text(*words).partition("Commands:\n")[2]
        assert listed
        assert "..." not in listed, words


def test_every_command_has_its_json_listed() -> None:
    listed = set(JSON_OUTPUT)
    for words in map(" ".join, generate.command_names()):
        assert any(one == words or one.startswith(f"{words} ") for one in listed), words


@pytest.mark.parametrize("words", generate.command_names(), ids=" ".join)
def test_every_command_has_an_example_in_its_help_and_a_place_in_the_docs(words: tuple[str, ...]) -> None:
    text = generate.help_text(*words)
    assert "Example: lm " in text
    for option in ("--json", "--quiet", "--dir"):
        assert option in text
    assert f"## lm {' '.join(words)}\n" in (ROOT / "docs" / "cli.md").read_text()


@pytest.mark.parametrize(
    ("words", "env", "code", "says"),
    [
        (["up"], {"LITELLM_PORT": "99999"}, 3, "LITELLM_PORT must be a port"),
        (["health"], {}, 5, "start it with: lm up"),
        (["usage", "--by", "colour"], {}, 2, "'colour' is not one of"),
        (["events", "list", "--state", "bogus"], {}, 2, "'bogus' is not one of"),
        (["env", "opanai"], {}, 2, "did you mean 'openai'?"),
        (["down", "-C", ""], {}, 2, "--dir is empty"),
        (["-C", "one", "status", "-C", "two"], {}, 2, "--dir names two folders: one and two"),
        (["up", "-C", "Dockerfile"], {}, 2, "--dir Dockerfile is not a folder"),
        (["usage", "--since", "1e300"], {}, 2, "'1e300' is no time span"),
        (["requests", "-n", "9" * 30], {}, 2, "Invalid value for '--limit'"),
        (["down", "--volumes"], {}, 1, "a question was not answered"),
        (["doctor", "--report", "Dockerfile"], {}, 1, "Dockerfile exists already; nothing was written"),
        (["doctor", "--report", "no/such/report.tgz"], {}, 1, "there is no folder no/such"),
        (["doctor", "--report", ".", "--force"], {}, 1, ". is not a file"),
        (["usage"], {}, 1, "there is no ledger"),
        (["restart"], {}, 1, "nothing was started from this folder"),
        (["logs", "--level", "loud"], {}, 2, "'loud' is not one of"),
        (["logs", "--since", "yesterday"], {}, 2, "is no time span"),
        (["validate", "nowhere.yaml"], {}, 1, "there is no file nowhere.yaml"),
        (["up", "--port", "many"], {}, 2, "Invalid value for '--port'"),
        (["upp"], {}, 2, "No such command"),
    ],
)
def test_an_expected_failure_is_one_clear_message_with_its_exit_code(
    stack: Stack, words: list[str], env: dict[str, str], code: int, says: str
) -> None:
    before = sorted(str(p) for p in stack.root.rglob("*"))
    done = InProcessStack(stack.root, stack.port, {**stack.env, **env}).lm(*words, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    assert says in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    left = {p for p in (str(p) for p in stack.root.rglob("*")) if ".lmstack" not in p}
    assert left <= set(before)


@pytest.mark.exhaustive  # `make lint` compares them too
def test_the_committed_generated_files_are_fresh() -> None:
    for name, make in generate.generated().items():
        assert (ROOT / name).read_text() == make(), f"{name} is stale: run make docs"


def test_init_lays_down_the_repositorys_own_files(stack: Stack) -> None:
    for name in ASSETS:
        assert (stack.root / name).read_text() == (ROOT / name).read_text(), name
    assert (stack.root / "src/lmstack/gateway/calls/hooks.py").exists()
    assert oct((ROOT / "start-litellm.sh").stat().st_mode)[-3:] == "755"


def test_init_makes_env_private_and_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("mine\n")
    subprocess.run([*LM, "init", "-C", str(tmp_path)], env=clean_environ(tmp_path), check=True, capture_output=True)
    assert (tmp_path / "Dockerfile").read_text() == "mine\n"
    assert oct((tmp_path / ".env").stat().st_mode)[-3:] == "600"


def test_key_rotate_writes_a_strong_key_and_keeps_the_rest(stack: Stack) -> None:
    (stack.root / ".env").write_text("# mine\nLITELLM_MASTER_KEY=old-key-0123456789 # why\nOPENAI_API_KEY=x\n")
    done = stack.lm("key", "rotate")
    text = (stack.root / ".env").read_text()
    assert text.startswith("# mine\nLITELLM_MASTER_KEY=sk-")
    assert text.endswith(" # why\nOPENAI_API_KEY=x\n")
    key = stack.json("key", "show")["data"]["key"]
    assert len(key) > 40
    assert key not in done.stdout
    assert oct((stack.root / ".env").stat().st_mode)[-3:] == "600"


def test_secrets_are_hidden_in_config_show(stack: Stack) -> None:
    stack.write_env(OPENAI_API_KEY="sk-test-openai-0123456789", MY_OWN_API_KEY="very-secret-thing")
    shown = stack.lm("config", "show").stdout
    assert "0123456789" not in shown
    assert "very-secret" not in shown
    assert ".env:2" in shown


def test_the_wheel_carries_the_package_and_the_assets(tmp_path: Path) -> None:
    argv = [LM[0], "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(argv, check=True, env=clean_environ(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"lmstack/assets/{name}" for name in ASSETS} <= names
    assert {
        "lmstack/catalog/catalog.yaml",
        "lmstack/help.json",
        "lmstack/routing/classify.py",
        "lmstack/config/legal_keys.json",
        "lmstack/gateway/calls/hooks.py",
    } <= names


def test_compose_and_the_plan_agree_on_variables_and_stock_switches() -> None:
    from lmstack.stack.plan import STOCK_ENVIRON

    compose, docker = (ROOT / "docker-compose.yml").read_text(), (ROOT / "Dockerfile").read_text()
    for name, value in STOCK_ENVIRON.items():
        assert f"{name}={value}" in docker
    inside = ("API_KEY", "API_BASE", "TASKMASTER_", "MASTER_KEY", "LOG_LEVEL", "LEDGER_", "REDIS_")
    for setting in SETTINGS:
        if any(part in setting.name for part in inside) and setting.name != "LITELLM_REDIS":
            assert f"{setting.name}: ${{{setting.name}:-{setting.default}}}" in compose, setting.name


def test_version_is_an_option_too(stack: Stack) -> None:
    assert stack.lm("--version").stdout == stack.lm("version").stdout


def test_no_colour_and_no_cut_lines_in_a_pipe(stack: Stack) -> None:
    text = stack.lm("models").stdout
    assert "\x1b" not in text
    assert "…" not in text


def test_a_quiet_doctor_prints_the_failed_checks_only(stack: Stack) -> None:
    stack.write_env(LEDGER_KEEP_DAYS="many")
    done = stack.lm("doctor", "--quiet", check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert "LEDGER_KEEP_DAYS must be a whole number" in done.stderr
    (line,) = done.stderr.splitlines()  # one line for each problem
    assert "the gateway cannot start. Fix: edit .env:3" in line
    assert "python" not in done.stderr


def test_quiet_prints_nothing_and_a_closed_pipe_is_no_error(stack: Stack) -> None:
    assert stack.lm("models", "--quiet").stdout == ""
    script = f"set -o pipefail; {' '.join(LM)} models | head -1"
    done = subprocess.run(
        ["bash", "-c", script], cwd=stack.root, env=clean_environ(stack.root), capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert os.linesep.join(done.stdout.splitlines()).startswith("MODEL")
