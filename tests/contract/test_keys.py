"""The commands for keys, without a gateway: the ledger is made with the first key."""

import json

import pytest

from documented import check_json_keys
from support import Stack


def test_the_life_of_a_key(stack: Stack) -> None:
    made = stack.json(
        "key", "create", "coder", "--team", "core", "--budget", "5/day", "--budget", "50/month", "--rpm", "60"
    )
    check_json_keys("key create coder", made)
    secret = made["data"]["secret"]
    assert secret.startswith("sk-lm-")
    listed = stack.json("key", "list")
    check_json_keys("key list", listed)
    [row] = listed["data"]["keys"]
    assert (row["name"], row["state"], row["limits"]["rpm"], row["limits"]["team"]) == ("coder", "active", 60, "core")
    assert [(b["period"], b["limit_usd"], b["spent_usd"]) for b in row["budgets"]] == [("day", 5.0, 0.0), ("month", 50.0, 0.0)]  # fmt: skip
    edited = stack.json("key", "edit", "coder", "--rpm", "none", "--raise", "10", "--until", "7d")
    check_json_keys("key edit coder --rpm 5", edited)
    assert stack.json("key", "show", "coder")["data"]["key"]["budgets"][0]["limit_usd"] == 15.0
    rotated = stack.json("key", "rotate", "coder", "--keep-old", "1h")
    check_json_keys("key rotate coder", rotated)
    assert rotated["data"]["secret"] != secret
    check_json_keys("key revoke coder", stack.json("key", "revoke", "coder"))
    audit = stack.json("audit")
    check_json_keys("audit", audit)
    assert [change["action"] for change in audit["data"]["changes"]] == ["revoke", "rotate", "edit", "edit", "create"]
    everything = "".join(path.read_bytes().decode("latin-1") for path in stack.root.rglob("*") if path.is_file())
    assert secret not in everything
    assert secret not in json.dumps(audit)


def test_the_secret_alone_is_on_standard_output(stack: Stack) -> None:
    done = stack.lm("key", "create", "coder")
    assert done.stdout.startswith("sk-lm-")
    assert len(done.stdout.split()) == 1
    assert "cannot be shown again" in done.stderr


def test_the_master_key_is_still_shown_and_rotated_without_a_name(stack: Stack) -> None:
    before = stack.lm("key", "show").stdout
    stack.lm("key", "rotate")
    assert stack.lm("key", "show").stdout not in ("", before)
    assert stack.json("key", "list")["data"]["keys"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("key", "show", "nobody"), ("key", "edit", "nobody", "--rpm", "5"), ("key", "revoke", "nobody"), ("key", "rotate", "nobody"),
        ("key", "create", "a b"), ("key", "create", "x", "--budget", "5/year"), ("key", "create", "x", "--models", "cheap"),
        ("key", "create", "x", "--expires", "2001-01-01"), ("key", "rotate", "--keep-old", "1h"), ("key", "edit", "x"),
        ("key", "edit", "x", "--raise", "10"), ("key", "create", "x", "--rpm", "-5"), ("key", "create"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_error_and_changes_nothing(stack: Stack, words: tuple[str, ...]) -> None:
    done = stack.lm(*words, check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert stack.json("key", "list")["data"]["keys"] == []


def test_models_yaml_declares_limits_and_an_edit_of_such_a_key_is_refused(stack: Stack) -> None:
    (stack.root / "models.yaml").write_text("keys:\n  bot: {models: [gpt-4o-mini], budgets: {day: 2}, tpm: 10k}\n")
    limits = stack.json("key", "create", "bot")["data"]["key"]["limits"]
    assert limits == {"models": ["gpt-4o-mini"], "budgets": {"day": 2.0}, "tpm": 10_000}
    done = stack.lm("key", "edit", "bot", "--tpm", "5", check=False)
    assert done.returncode == 2
    assert "models.yaml" in done.stderr


def test_a_viewer_is_listed_declared_and_edited_and_no_client_is_set_up_with_it(stack: Stack) -> None:
    models = stack.root / "models.yaml"
    models.write_text("keys:\n  finance: {role: viewer}\n")
    assert stack.json("key", "create", "finance")["data"]["key"]["role"] == "viewer"
    made = stack.json("key", "create", "boss", "--role", "viewer", "--expires", "30d")["data"]["key"]
    assert made["limits"] == {"role": "viewer"}
    assert "viewer" in stack.lm("key", "list").stdout
    assert "limits: viewer" in stack.lm("key", "show", "boss").stdout
    assert 'role: "viewer"' in stack.lm("audit", "--key", "boss").stdout
    for words in (
        ("key", "edit", "boss", "--rpm", "5"),
        ("key", "create", "x", "--role", "viewer", "--budget", "5/day"),
    ):
        done = stack.lm(*words, check=False)
        assert (done.returncode in (1, 2), "a viewer calls nothing" in done.stderr) == (True, True)
    assert "a viewer's" in stack.lm("env", "openai", "--key", "boss", check=False).stderr
    stack.lm("key", "edit", "boss", "--role", "agent", "--rpm", "5")
    assert stack.json("key", "show", "boss")["data"]["key"]["role"] == "agent"
    for wrong in ("{role: admin}", "{role: viewer, rpm: 5}", "{role: 5}"):
        models.write_text(f"keys:\n  finance: {wrong}\n")
        done = stack.lm("validate", check=False)
        assert (done.returncode, "keys.finance" in done.stdout + done.stderr) == (3, True)


def test_the_rates_in_use_are_shown(stack: Stack) -> None:
    from lmstack.gateway.rates import Rates
    from lmstack.keys.key import Key, KeyLimits
    from lmstack.ledger import rates_file

    made = stack.json("key", "create", "coder", "--rpm", "60", "--tpm", "100k")["data"]["key"]
    assert "rpm: unknown of 60" in stack.lm("key", "show", "coder").stdout
    ledger = next(stack.root.rglob("litellm.db"))
    key = Key(made["id"], "coder", KeyLimits(rpm=60))
    rates = Rates(rates_file.beside(ledger))
    rates.begin(key)
    rates.add_tokens(key.id, 700)
    shown = stack.json("key", "show", "coder")
    check_json_keys("key show coder", shown)
    rates_shown = shown["data"]["key"]["rates"]
    assert (rates_shown["rpm"], rates_shown["tpm"]) == ({"limit": 60, "used": 1}, {"limit": 100_000, "used": 700})
    assert rates_shown["parallel"]["limit"] is None
    assert "rpm: 1 in use of 60" in stack.lm("key", "show", "coder").stdout


def test_a_broken_models_yaml_makes_no_key_without_its_limits(stack: Stack) -> None:
    stack.lm("key", "create", "other")
    (stack.root / "models.yaml").write_text("keys:\n  bot: {tpm: 10k}\nbudgets: 5\n")
    done = stack.lm("key", "create", "bot", check=False)
    assert done.returncode == 3
    assert "models.yaml" in done.stderr
    stack.lm("key", "revoke", "other")  # needs no limits
    assert [row["name"] for row in stack.json("key", "list")["data"]["keys"]] == ["other"]


def test_declared_limits_are_applied_and_those_of_other_keys_stay(stack: Stack) -> None:
    from lmstack.operate import keys
    from lmstack.stack.project import Project

    stack.lm("key", "create", "bot", "--rpm", "1")
    stack.lm("key", "create", "other", "--rpm", "1")
    models, project = stack.root / "models.yaml", Project(stack.root)
    models.write_text("keys:\n  bot: {tpm: 7}\n  later: {}\n")
    applied = pytest.MonkeyPatch()
    applied.setenv("LITELLM_RUNTIME", "local")
    try:
        assert keys.apply_declared(project) == ["bot"]
        assert keys.apply_declared(project) == []
        assert {row["name"]: row["limits"] for row in keys.keys(project)} == {"bot": {"tpm": 7}, "other": {"rpm": 1}}
        models.write_text("")
        assert keys.apply_declared(project) == ["bot"]
        assert [(row["limits"], row["declared"]) for row in keys.keys(project, "bot")] == [({"tpm": 7}, False)]
    finally:
        applied.undo()


def test_env_prints_no_secret_and_run_needs_the_one_of_that_key(stack: Stack) -> None:
    secret, other = (stack.json("key", "create", name)["data"]["secret"] for name in ("coder", "other"))
    printed = stack.lm("env", "openai", "--key", "coder").stdout
    assert secret not in printed
    assert 'OPENAI_API_KEY="${LITELLM_API_KEY:?' in printed
    assert stack.lm("env", "openai", "--key", "nobody", check=False).returncode == 2
    runner = Stack(stack.root, stack.port, dict(stack.env))  # `lm run` replaces its process
    words = ("run", "--key", "coder", "openai", "sh", "-c", "echo $OPENAI_API_KEY")
    for given, told in (("", "not set"), (other, "the key 'other'"), ("sk-lm-x", "no secret")):
        runner.env["LITELLM_API_KEY"] = given
        done = runner.lm(*words, check=False)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr
        assert not given or given not in done.stderr
    runner.env["LITELLM_API_KEY"] = secret
    assert runner.lm(*words).stdout.strip() == secret
    stack.lm("key", "revoke", "coder")
    assert runner.lm(*words, check=False).returncode == 2


def test_an_agent_gets_its_key_although_the_gateway_does_not_run(stack: Stack) -> None:
    done = stack.lm("agent", "add", "coder", "--client", "curl", "--rpm", "5", check=False)
    assert done.returncode == 5
    assert "export LM_KEY=sk-lm-" in done.stdout
    assert "the first call failed" in done.stderr
    assert stack.json("key", "show", "coder")["data"]["key"]["limits"] == {"rpm": 5}


def test_usage_of_a_key_needs_the_key(stack: Stack) -> None:
    done = stack.lm("usage", "--key", check=False)
    assert (done.returncode, "LITELLM_API_KEY is not set" in done.stderr) == (2, True)
