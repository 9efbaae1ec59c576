"""No command writes into a folder of another program, and a hand-written litellm-config.yaml is never replaced."""

from pathlib import Path

import pytest

from support import InProcessStack, Stack, free_port

THEIR_COMPOSE = "services: {web: {image: nginx}}\n"
THEIR_CONFIG = "model_list: []  # mine\n"


@pytest.fixture
def theirs(tmp_path: Path) -> Stack:
    """Make a folder with another program's compose file, and with a configuration that somebody wrote by hand."""
    made = InProcessStack(tmp_path, free_port())
    (made.root / "docker-compose.yml").write_text(THEIR_COMPOSE)
    (made.root / "litellm-config.yaml").write_text(THEIR_CONFIG)
    return made


def texts(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        ["render"], ["key", "rotate"], ["budget", "set", "task", "T", "5"], ["budget", "unset", "task", "T"],
        ["config", "set", "LITELLM_PORT", "4100"], ["config", "unset", "LITELLM_PORT"], ["up", "--dry-run"], ["up"],
    ],
)  # fmt: skip
def test_a_command_that_writes_refuses_another_programs_folder(theirs: Stack, words: list[str]) -> None:
    before = texts(theirs.root)
    done = theirs.lm(*words, check=False)
    assert done.returncode == 3, done.stderr
    assert "holds no lmstack stack" in done.stderr
    assert texts(theirs.root) == before


def test_commands_that_only_show_something_work_in_any_folder(theirs: Stack) -> None:
    for words in (["render", "--stdout"], ["config", "show"], ["models"], ["budget", "show"]):
        theirs.lm(*words)


@pytest.mark.parametrize("words", [["render"], ["up"], ["up", "--dry-run"]])
def test_a_hand_written_configuration_is_kept_and_the_error_says_how_to_go_on(stack: Stack, words: list[str]) -> None:
    stack.write_env(OPENAI_API_KEY="sk-test-openai-0123456789")
    (stack.root / "litellm-config.yaml").write_text(THEIR_CONFIG)
    before = texts(stack.root)
    done = stack.lm(*words, check=False)
    assert done.returncode == 3
    assert "litellm-config.yaml was not written by lm" in done.stderr
    assert "mv " in done.stderr
    assert {name: text for name, text in texts(stack.root).items() if not name.startswith(".lmstack")} == before
    assert "model_list: []" in stack.lm("render", "--diff", check=False).stdout


def test_a_new_folder_can_be_prepared_before_the_stack_is_made(tmp_path: Path) -> None:
    made = InProcessStack(tmp_path, free_port())
    made.lm("config", "set", "OPENAI_API_KEY", "sk-test-openai-0123456789")
    for _ in range(2):
        made.lm("render")
    made.lm("budget", "set", "task", "T", "5")
    made.lm("key", "rotate")
    assert sorted(texts(made.root)) == [".env", "litellm-config.yaml", "models.yaml"]
