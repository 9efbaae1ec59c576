"""upgrade and rollback: real starts of real LiteLLM, in environments of their own that call themselves another release.

A real installation of another release takes a minute of downloading; `lm upgrade --to` of it was run by hand.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmstack.releases.pins import LITELLM_VERSION
from lmstack.stack import health
from other_release import release
from support import KEY, LM, ROOT, Mock, Stack, clean_environ, running, wait_for

OTHER = "1.106.3"


def sabotage(made: Path, code: str) -> None:
    """Run ``code`` in the release's interpreter before the proxy starts."""
    packages = next(made.glob("lib/python3*/site-packages"))
    served = 'import os, sys\nif "lmstack.gateway.app.serve" in sys.orig_argv:\n    '
    (packages / "sabotage.py").write_text(served + code + "\n")
    (packages / "sabotage.pth").write_text("import sabotage\n")


def legal_keys(version: str) -> dict[str, Any]:
    known: dict[str, Any] = json.loads((ROOT / "src" / "lmstack" / "config" / "legal_keys.json").read_text())
    return known | {"litellm": version}


def tells_keys(made: Path, known: dict[str, Any]) -> None:
    """Let the release's interpreter tell its legal keys at once. LiteLLM's import takes seconds."""
    (made / "keys.json").write_text(json.dumps(known))
    python = made / "bin" / "python"
    real = python.rename(made / "bin" / "python-of-venv")
    python.write_text(f'#!/bin/sh\n[ "$1" = - ] && exec cat {made}/keys.json\nexec {real} "$@"\n')
    python.chmod(0o755)


def runs(stack: Stack) -> str:
    return health.release(stack.url, KEY)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, mock: Mock) -> Iterator[Stack]:
    with running(
        tmp_path_factory.mktemp("upgrade"), OPENAI_API_KEY="sk-x0123456789", OPENAI_API_BASE=f"{mock.url}/v1"
    ) as made:
        yield made


def test_another_release_is_proven_and_comes_back_with_rollback(stack: Stack) -> None:
    release(stack, OTHER)
    env = (stack.root / ".env").read_text()
    checked = stack.json("upgrade", "--check", "--to", OTHER)["data"]
    assert (checked["checked"], checked["changed"], runs(stack)) == (True, False, LITELLM_VERSION)
    assert (stack.root / ".env").read_text() == env

    moved = stack.json("upgrade", "--to", OTHER)
    assert moved["data"] == {
        "from": LITELLM_VERSION,
        "to": OTHER,
        "changed": True,
        "checked": True,
        "running": True,
        "recorded": None,
    }
    assert any("was tested with LiteLLM" in message for message in moved["messages"])
    assert runs(stack) == OTHER
    assert f"LITELLM_VERSION={OTHER}\n" in (stack.root / ".env").read_text()
    assert stack.json("status")["data"]["litellm"] == OTHER
    proof = stack.ask("requests", limit=1)[0]
    assert (proof["status"], proof["agent_id"]) == ("rejected", "lm-proof")
    assert stack.json("up")["data"]["changed"] is False

    back = stack.json("rollback")["data"]
    assert back == {
        "from": OTHER,
        "to": LITELLM_VERSION,
        "changed": True,
        "checked": True,
        "running": True,
        "recorded": None,
    }
    assert runs(stack) == LITELLM_VERSION
    assert (stack.root / ".env").read_text() == env


@pytest.mark.exhaustive
def test_an_upgrade_that_is_killed_is_undone_by_rollback(stack: Stack) -> None:
    release(stack, OTHER)
    env = (stack.root / ".env").read_text()
    environ = clean_environ(stack.root, **stack.env)
    process = subprocess.Popen([*LM, "upgrade", "--to", OTHER], cwd=stack.root, env=environ, start_new_session=True)
    wait_for(lambda: OTHER in (stack.root / ".env").read_text(), 60, "the new release in .env")
    process.kill()
    process.wait(10)
    stack.lm("rollback")
    assert (stack.root / ".env").read_text() == env
    assert runs(stack) == LITELLM_VERSION


FAILING = {
    "it does not start": ("sys.exit('ImportError: a release that does not start')", "a release that does not start"),
    "our routes are not in it": ("del os.environ['LITELLM_WORKER_STARTUP_HOOKS']", "has no /health"),
    "its calls are not on the ledger": ("os.environ['LEDGER_PATH'] += '.other'", "is missing in the ledger"),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("start", "says"), FAILING.values(), ids=FAILING)
def test_a_release_that_fails_its_proof_is_left_and_the_old_one_runs_again(stack: Stack, start: str, says: str) -> None:
    env = (stack.root / ".env").read_text()
    made = release(stack, "1.106.4")
    tells_keys(made, legal_keys("1.106.4"))
    sabotage(made, start)
    done = stack.lm("upgrade", "--to", "1.106.4", "--timeout", "60", check=False)
    assert done.returncode == 5, done.stderr
    assert says in done.stderr
    assert f"LiteLLM {LITELLM_VERSION} runs again; nothing was changed." in done.stderr
    assert "Traceback" not in done.stderr
    assert (stack.root / ".env").read_text() == env
    assert runs(stack) == LITELLM_VERSION
    assert not made.exists()  # it takes most of a gigabyte


def test_a_release_that_does_not_know_our_settings_is_refused_before_anything_stops(stack: Stack) -> None:
    known = legal_keys("1.106.5")
    known["router_settings"].remove("routing_groups")
    tells_keys(release(stack, "1.106.5"), known)
    started = stack.json("status")["data"]["started_at"]
    done = stack.lm("upgrade", "--to", "1.106.5", check=False)
    assert done.returncode == 3
    assert "unknown key 'routing_groups'" in done.stderr
    assert stack.json("status")["data"]["started_at"] == started
    assert runs(stack) == LITELLM_VERSION


def test_what_calls_itself_another_release_is_refused(stack: Stack) -> None:
    release(stack, "1.106.6", calls_itself="1.99.0")
    done = stack.lm("upgrade", "--to", "1.106.6", check=False)
    assert done.returncode == 3
    assert (
        "the release that was installed as LiteLLM 1.106.6 says that it is 1.99.0; nothing was changed" in done.stderr
    )
