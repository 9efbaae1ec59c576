"""Docker Compose, python-dotenv and lm read the same values from .env, or lm says in which line they do not."""

import json
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest
from dotenv import dotenv_values

from lmstack.config.check_env import docker_problems, env_problems
from lmstack.config.compose_env import ComposeError, read_as_compose
from lmstack.config.envfile import parse_env, quote
from lmstack.errors import ConfigError, UsageError

WORDS = (
    "sk-1", " ", "#", "'", '"', "\\", "=", "é", "a#b", "`", "!", "\t", "\\n", "\\t", "\\0", "\\101", "\\x", "x y", "%", "\u00a0", "\u2003", "\v",
    "\\'", '\\"', "\\\\", "[", ":", "\\c", "\\u0041", "$", "${A}",
)  # fmt: skip


def words(random: Random) -> str:
    return "".join(random.choices(WORDS, k=random.randint(0, 4)))


def line(random: Random) -> str:
    value = words(random)
    form = random.choice(("{}", "{}", "'{}'", '"{}"', " {}", '"{}" # why', "'{}'\t#why", "{}\t# why")).format(value)
    return f"{random.choice(('V', 'V', 'V', 'export V', 'A.B-C', 'V '))}={form}\n"


def compose_reads(folder: Path, texts: list[str]) -> list[dict[str, str] | None]:
    """What the real Docker Compose gives to a container for each text; None where it refuses the file."""
    services = {f"s{n}": {"image": "x", "env_file": [f"{n}.env"]} for n in range(len(texts))}
    for n, text in enumerate(texts):
        (folder / f"{n}.env").write_bytes(text.encode())
    (folder / "docker-compose.yml").write_text(json.dumps({"services": services}))
    argv = ["docker", "compose", "config", "--format", "json"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        half = len(texts) // 2
        return [None] if len(texts) == 1 else compose_reads(folder, texts[:half]) + compose_reads(folder, texts[half:])
    found = json.loads(done.stdout)["services"]
    # compose writes a dollar twice, so that its output can be read again
    environments = [found[name].get("environment") or {} for name in services]
    return [{k: (v or "").replace("$$", "$") for k, v in one.items()} for one in environments]


@pytest.fixture(scope="module")
def compose() -> None:
    argv = ["docker", "compose", "version"]
    if shutil.which("docker") is None or subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")


@pytest.mark.usefixtures("compose")
def test_our_reading_of_compose_is_what_compose_reads(tmp_path: Path) -> None:
    texts = [line(Random(n)) for n in range(400)]  # noqa: S311
    ours: list[dict[str, str | None] | None] = []
    for text in texts:
        try:
            ours.append(read_as_compose(text))
        except ComposeError:
            ours.append(None)
    readable = [n for n, found in enumerate(ours) if found is not None and None not in found.values()]
    refused = [n for n, found in enumerate(ours) if found is None][:4]
    theirs = compose_reads(tmp_path, [texts[n] for n in readable])
    assert [(texts[n], ours[n]) for n in readable] == [(texts[n], t) for n, t in zip(readable, theirs, strict=True)]
    for n in refused:
        assert compose_reads(tmp_path, [texts[n]]) == [None], texts[n]
    assert len(readable) > 200


@pytest.mark.usefixtures("compose")
def test_a_text_without_problems_means_the_same_for_all_and_a_written_value_too(tmp_path: Path) -> None:
    texts = []
    for n in range(600):
        random = Random(n)  # noqa: S311
        text = line(random)
        if n % 2:
            try:
                text = f"V={quote(words(random).strip())}\n"
            except UsageError:
                continue
        try:
            if not docker_problems(text):
                texts.append(text)
        except ConfigError:
            assert not n % 2, "what lm writes, lm can read"
    assert len(texts) > 350
    for text, theirs in zip(texts, compose_reads(tmp_path, texts), strict=True):
        (tmp_path / "one.env").write_bytes(text.encode())
        dotenv = {k: v or "" for k, v in dotenv_values(tmp_path / "one.env", interpolate=False).items()}
        assert theirs == dotenv == {name: entry.value for name, entry in parse_env(text).items()}, text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A=1\nK=a$b\n", ".env:2: K holds a $, which Docker would expand"),
        ('K="a${b}"\n', ".env:1: K holds a $"),
        ("K=a\t# why\n", ".env:1: K has another value for Docker Compose than for lm"),  # compose ends at ' #' alone
        ("K='a\\\\b'\n", "K has another value"),  # compose keeps both backslashes
        ('K="a\\\'b"\n', "K has another value"),  # and this one
        ('K="\\101"\n', ""),
        ('K="\\0101"\n', "K has another value"),  # an octal number for compose
        ("K=\u2003a\n", "K has another value"),
        ("'K'=a\n", ".env:1: Docker Compose cannot read this file"),
        ("A=1\n\nB:C=2\n", ".env:3: B:C is not read by Docker Compose"),
        ("K=a\rB=2\n", "has another value"),
        ("K='a$b'\nL=a\nM='x # y' # z\nN=\"é\\n\"\n", ""),
        ("\ufeffK=a\r\nL='b'\r\n", ""),
    ],
)  # fmt: skip
def test_each_form_that_compose_reads_otherwise_is_named_with_its_line(text: str, says: str) -> None:
    found = [str(problem) for problem in docker_problems(text)]
    assert bool(found) is bool(says)
    assert says in " ".join(found)


def test_a_double_name_is_a_warning_and_a_nul_is_an_error_each_with_its_line() -> None:
    (found,) = env_problems("A=1\n# x\nB=2\nA=3\n")
    assert str(found) == ".env:4: A is set twice, first in line 1; the last value counts (keep one of them)"
    assert found.warning
    with pytest.raises(ConfigError) as caught:
        parse_env("A=1\n\nB=a\x00b\n")
    assert [str(p) for p in caught.value.problems] == [".env:3: 'B' holds a NUL character (remove it)"]


def test_a_local_stack_is_only_warned_of_what_docker_reads_otherwise() -> None:
    assert [p.warning for p in env_problems("K=a$b\n", for_docker=False)] == [True]
    assert [p.warning for p in env_problems("K=a$b\n")] == [False]
