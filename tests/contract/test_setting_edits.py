"""`lm config set` and `unset` mend a wrong value, whatever else is wrong, and never write a wrong one."""

import pytest

from lmstack.releases.pins import IMAGE
from support import Stack


def test_a_wrong_value_can_be_replaced_or_removed(stack: Stack) -> None:
    for words in (["set", "LITELLM_PORT", "4200"], ["unset", "LITELLM_PORT"]):
        stack.write_env(LITELLM_PORT="abc")
        assert stack.lm("config", "show", check=False).returncode == 3
        stack.lm("config", *words)
        stack.lm("config", "show")


def test_wrong_values_are_mended_one_after_the_other(stack: Stack) -> None:
    stack.write_env(LITELLM_PORT="abc", LITELLM_TIMEOUT="never", TASKMASTER_API_URL="nowhere")
    stack.lm("config", "set", "LITELLM_PORT", "4200")
    done = stack.lm("config", "set", "LITELLM_TIMEOUT", "soon", check=False)
    assert done.returncode == 3
    assert "LITELLM_TIMEOUT must be" in done.stderr
    assert "TASKMASTER_API_URL" not in done.stderr
    stack.lm("config", "set", "LITELLM_TIMEOUT", "60")
    stack.lm("config", "unset", "TASKMASTER_API_URL")
    assert stack.lm("config", "get", "LITELLM_PORT").stdout.strip() == "4200"
    assert stack.lm("config", "get", "LITELLM_TIMEOUT").stdout.strip() == "60"


def test_an_edit_that_causes_another_problem_is_refused(stack: Stack) -> None:
    before = (stack.root / ".env").read_text()
    done = stack.lm("config", "set", "LITELLM_HOST", "0.0.0.0", check=False)
    assert done.returncode == 3
    assert "the default key is refused while LITELLM_HOST is 0.0.0.0" in done.stderr
    assert (stack.root / ".env").read_text() == before


@pytest.mark.parametrize("words", [["set", "LITELLM_TIMEOUT", "60"], ["unset", "LITELLM_TIMEOUT"]])
def test_a_wrong_value_in_the_shell_does_not_block_an_edit(stack: Stack, words: list[str]) -> None:
    stack.env["LITELLM_PORT"] = "abc"
    assert stack.lm("config", "show", check=False).returncode == 3
    stack.lm("config", *words)


@pytest.mark.parametrize("words", [["set", "LITELLM_PROT", "1"], ["unset", "LITELLM_PROT"]])
def test_an_unknown_name_is_still_refused(stack: Stack, words: list[str]) -> None:
    done = stack.lm("config", *words, check=False)
    assert done.returncode == 2
    assert "did you mean 'LITELLM_PORT'?" in done.stderr


def test_an_unknown_name_in_the_file_can_be_removed(stack: Stack) -> None:
    stack.write_env(LITELLM_PROT="4100")
    assert stack.lm("config", "show", check=False).returncode == 3
    stack.lm("config", "unset", "LITELLM_PROT")
    stack.lm("config", "show")


def test_a_new_key_that_the_environment_overrides_is_remarked(stack: Stack) -> None:
    assert "counts before .env" not in stack.lm("key", "rotate").stdout
    stack.env["LITELLM_MASTER_KEY"] = "sk-of-the-shell-0123456789abcdef"
    done = stack.lm("key", "rotate")
    assert "The environment variable LITELLM_MASTER_KEY is set, and it counts before .env." in done.stdout


def test_a_refused_image_comes_with_one_that_may_run(stack: Stack) -> None:
    compose = stack.root / "docker-compose.yml"
    compose.write_text("services: {litellm-proxy: {image: example.com/me/litellm:v9.9.9}}\n")
    done = stack.lm("validate", check=False)
    assert "is not one of LiteLLM's own image repositories" in done.stderr + done.stdout
    assert f"such as {IMAGE}" in done.stderr + done.stdout
