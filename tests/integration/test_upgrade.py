"""upgrade and rollback: real starts of real LiteLLM, in environments of their own that call themselves another release.

A real installation of another release takes a minute of downloading; `lm upgrade --to` of it was run by hand.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from campaign import Load, SlowProvider
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.releases.proven import proven
from lmstack.stack import health
from other_release import release
from support import KEY, LM, ROOT, Mock, Stack, clean_environ, running, wait_for

# A proven release that is not the one under test, and one that no test has run with.
OTHER = next((version for version in proven() if version != LITELLM_VERSION), "")
UNPROVEN = "1.106.3"


SABOTAGE = """
import os, sys
if "lmstack.gateway.app.serve" in sys.orig_argv:
    from lmstack.gateway.app.server_files import ServerFiles
    plain = ServerFiles.apply_environment
    def apply(self):
        plain(self)
        {code}
    ServerFiles.apply_environment = apply
"""


def sabotage(made: Path, code: str) -> None:
    """Run ``code`` in the release's interpreter before the proxy starts, when it has its settings."""
    packages = next(made.glob("lib/python3*/site-packages"))
    (packages / "sabotage.py").write_text(SABOTAGE.format(code=code))
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


@pytest.fixture
def load(stack: Stack) -> Iterator[Load]:
    """Send 10 requests per second, half of them streams of 3 s, while the test runs. None may be refused or cut."""
    provider, env = SlowProvider(3.0), (stack.root / ".env").read_text()
    (stack.root / ".env").write_text(re.sub("OPENAI_API_BASE=.*", f"OPENAI_API_BASE={provider.base}", env))
    stack.lm("up")
    made = Load(stack)
    with made.running():
        yield made
    (stack.root / ".env").write_text(env)
    stack.lm("up")
    provider.stop()
    print(f"sent {made.sent}, answered {made.answered}, streams {made.streams}, failed {len(made.failed)}, longest {made.longest:.2f} s")  # fmt: skip
    assert made.failed == []
    assert made.answered == made.sent > 50


def told(moved: dict[str, Any], **differs: Any) -> bool:
    """Return whether a move between the two releases told what it did, with these differences."""
    known = {"from": LITELLM_VERSION, "to": OTHER, "changed": True, "checked": True, "running": True, "recorded": None, "proven": True}  # fmt: skip
    return bool(moved == known | differs)


@pytest.mark.skipif(not OTHER, reason="no other release is proven")
def test_a_proven_release_takes_over_and_comes_back_with_rollback_and_no_request_is_refused(
    stack: Stack, load: Load
) -> None:
    release(stack, OTHER)
    env = (stack.root / ".env").read_text()
    assert told(stack.json("upgrade", "--check", "--to", OTHER)["data"], changed=False)
    assert runs(stack) == LITELLM_VERSION
    assert (stack.root / ".env").read_text() == env

    began = load.answered
    moved = stack.json("upgrade", "--to", OTHER)
    assert told(moved["data"])
    wait_for(lambda: load.answered > began + 20, what="answers")
    assert not any("not proven" in message for message in moved["messages"])
    assert runs(stack) == OTHER
    assert f"LITELLM_VERSION={OTHER}\n" in (stack.root / ".env").read_text()
    assert stack.json("status")["data"]["litellm"] == OTHER
    assert "rejected" in {row["status"] for row in stack.ask("requests", limit=200) if row["agent_id"] == "lm-proof"}
    assert stack.json("up")["data"]["changed"] is False

    assert told(stack.json("rollback")["data"], **{"from": OTHER, "to": LITELLM_VERSION})
    assert runs(stack) == LITELLM_VERSION
    assert (stack.root / ".env").read_text() == env


@pytest.mark.exhaustive
def test_an_unproven_release_needs_the_flag_and_proves_more(stack: Stack, mock: Mock) -> None:
    release(stack, UNPROVEN)
    env = (stack.root / ".env").read_text()
    checked = stack.lm("upgrade", "--check", "--to", UNPROVEN)
    assert f"not proven. Move to it: lm upgrade --to {UNPROVEN} --unproven" in checked.stdout
    refused = stack.lm("upgrade", "--to", UNPROVEN, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines() == [
        f"error: LiteLLM {UNPROVEN} is not proven: lmstack's tests have not passed with it",
        f"  → try it, and go back if it fails: lm upgrade --to {UNPROVEN} --unproven",
    ]
    assert (stack.root / ".env").read_text() == env

    mock.reset()
    moved = stack.json("upgrade", "--to", UNPROVEN, "--unproven")
    assert told(moved["data"], to=UNPROVEN, proven=False)
    assert any("is not proven" in message for message in moved["messages"])
    assert runs(stack) == UNPROVEN
    calls = [row for row in stack.ask("requests", limit=20) if row["agent_id"] == "lm-proof"]
    ends = sorted((row["status"], row["attempts"], row["stream"]) for row in calls[:6])
    assert ends == [
        ("rejected", 0, 0),  # an unknown model
        ("rejected", 0, 0),  # over its budget
        ("succeeded", 1, 0),  # an answer
        ("succeeded", 1, 0),  # the call that uses the budget up
        ("succeeded", 1, 1),  # a stream
        ("succeeded", 2, 0),  # a fallback
    ]
    assert len([one for one in mock.requests() if one["path"].endswith("/chat/completions")]) == 4
    stack.lm("rollback")
    assert runs(stack) == LITELLM_VERSION


@pytest.mark.exhaustive
@pytest.mark.skipif(not OTHER, reason="no other release is proven")
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


# The last one only an unproven release has to show.
FAILING = {
    "it does not start": ("sys.exit('ImportError: a release that does not start')", "a release that does not start"),
    "our routes are not in it": ("del os.environ['LITELLM_WORKER_STARTUP_HOOKS']", "not every model is served"),
    "its calls are not on the ledger": ("os.environ['LEDGER_PATH'] += '.other'", "is missing in the ledger"),
    "it keeps no budget": (
        "import lmstack.ledger.spending as s; s.room = lambda *_: 1.0",
        "a call over its budget got the answer 200",
    ),
}


@pytest.mark.exhaustive
@pytest.mark.xdist_group("test_upgrade_fails")  # with a gateway of their own, beside the others
@pytest.mark.parametrize(("start", "says"), FAILING.values(), ids=FAILING)
def test_a_release_that_fails_its_proof_is_left_and_the_old_one_goes_on(stack: Stack, start: str, says: str) -> None:
    env = (stack.root / ".env").read_text()
    made = release(stack, "1.106.4")
    tells_keys(made, legal_keys("1.106.4"))
    sabotage(made, start)
    done = stack.lm("upgrade", "--to", "1.106.4", "--unproven", "--timeout", "30", check=False)
    assert done.returncode == 5, done.stderr
    assert says in done.stderr
    assert f"LiteLLM {LITELLM_VERSION} runs as before; nothing was changed." in done.stderr
    assert "Traceback" not in done.stderr
    assert (stack.root / ".env").read_text() == env
    assert runs(stack) == LITELLM_VERSION
    assert not made.exists()  # it takes most of a gigabyte


def test_a_release_that_does_not_know_our_settings_is_refused_before_anything_stops(stack: Stack) -> None:
    known = legal_keys("1.106.5")
    known["router_settings"].remove("routing_groups")
    tells_keys(release(stack, "1.106.5"), known)
    started = stack.json("status")["data"]["started_at"]
    done = stack.lm("upgrade", "--to", "1.106.5", "--unproven", check=False)
    assert done.returncode == 3
    assert "unknown key 'routing_groups'" in done.stderr
    assert stack.json("status")["data"]["started_at"] == started
    assert runs(stack) == LITELLM_VERSION


def test_what_calls_itself_another_release_is_refused(stack: Stack) -> None:
    release(stack, "1.106.6", calls_itself="1.99.0")
    done = stack.lm("upgrade", "--to", "1.106.6", "--unproven", check=False)
    assert done.returncode == 3
    assert (
        "the release that was installed as LiteLLM 1.106.6 says that it is 1.99.0; nothing was changed" in done.stderr
    )
