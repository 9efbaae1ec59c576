"""No command writes or prints a secret that was not asked for: not the key of an own provider, not a password in an address."""

import json
import tarfile
from pathlib import Path

import litellm
import pytest

from lmstack.gateway.calls import fields
from lmstack.ledger.redact import redacted, secret_values
from lmstack.stack.plan import Facts, plan_stack
from lmstack.stack.project import Project
from support import Stack

# The name of the second key does not show that it is one. PREFIX-like shapes cannot help: these keys have none.
KEYS = {"ACME_KEY": "acme-0123-value", "OTHER_LOGIN": 'other"0123-value'}
PASSWORD = "passw0rd"
MODELS = """\
providers:
  acme: {prefix: openai, key: ACME_KEY, base: ACME_BASE}
  other: {prefix: openai, key: OTHER_LOGIN, base: OTHER_BASE}
models:
  acme-1: {provider: acme, model: a, tier: 1, input: 1, output: 1}
  other-1: {provider: other, model: b, tier: 1, input: 1, output: 1}
"""


@pytest.fixture
def own_providers(stack: Stack) -> Stack:
    """Make a stack with two own providers, and with every secret in its log."""
    (stack.root / "models.yaml").write_text(MODELS)
    address = f"http://user:{PASSWORD}@127.0.0.1:9"
    bases = dict.fromkeys(("OPENAI_API_BASE", "ACME_BASE", "OTHER_BASE", "OLLAMA_API_BASE"), f"{address}/v1")
    stack.write_env(**KEYS, **bases, OPENAI_API_KEY="sk-test-openai-0123456789", TASKMASTER_API_URL=address)
    stack.ledger.parent.mkdir(exist_ok=True)
    lines = [*KEYS.values(), json.dumps(KEYS), f"password {PASSWORD}", address, "redis://:hunter22@host"]
    (stack.ledger.parent / "litellm-proxy.log").write_text("\n".join(lines) + "\nthe last line\n")
    return stack


def shown_secrets(text: str) -> list[str]:
    spellings = [*KEYS.values(), json.dumps(KEYS["OTHER_LOGIN"])[1:-1], PASSWORD, "hunter22", "sk-test-openai"]
    return [secret for secret in spellings if secret in text]


def members(target: Path) -> dict[str, str]:
    with tarfile.open(target) as bundle:
        return {m.name: bundle.extractfile(m).read().decode() for m in bundle.getmembers()}  # type: ignore[union-attr]


def test_the_report_of_doctor_shows_no_secret(own_providers: Stack) -> None:
    target = own_providers.root / "report.tar.gz"
    done = own_providers.lm("doctor", "--report", str(target), check=False)
    assert shown_secrets(done.stdout + done.stderr) == []
    found = members(target)
    assert "the last line" in found["lmstack-report/log.txt"]
    assert {name: secrets for name, text in found.items() if (secrets := shown_secrets(text))} == {}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".env", "LITELLM_PORT=abc\n"),
        (".env", "not a line\n"),
        (".env", "LITELLM_PORT=\xff\n"),
        ("models.yaml", "models: [\n"),
    ],
)
def test_the_report_is_written_while_a_file_has_errors(own_providers: Stack, file: str, text: str) -> None:
    with (own_providers.root / file).open("a", encoding="latin-1") as stream:
        stream.write(text)
    target = own_providers.root / "report.tar.gz"
    done = own_providers.lm("doctor", "--report", str(target), check=False)
    assert done.returncode == 5, done.stderr
    assert shown_secrets(done.stdout + done.stderr) == []
    found = members(target)
    assert '"status": "fail"' in found["lmstack-report/doctor.json"]
    assert found["lmstack-report/settings.txt"].startswith("not in this report: ")
    assert "the last line" in found["lmstack-report/log.txt"]
    assert {name: secrets for name, text in found.items() if (secrets := shown_secrets(text))} == {}


@pytest.mark.parametrize(
    "words",
    [["config", "show"], ["config", "show", "--json"], ["render", "--stdout"], ["models"], ["health"], ["status"]],
)
def test_no_command_shows_a_secret(own_providers: Stack, words: list[str]) -> None:
    done = own_providers.lm(*words, check=False)
    assert shown_secrets(done.stdout + done.stderr) == []
    assert done.stdout


def test_ollama_gets_an_address_with_a_password_through_the_environment(own_providers: Stack) -> None:
    project = Project(own_providers.root)
    plan = plan_stack(project.settings(), project.catalog(), Facts("local"))
    (base,) = {d.api_base for d in plan.deployments if d.provider.name == "ollama"}
    assert base == "os.environ/OLLAMA_API_BASE"
    assert plan.environ["OLLAMA_API_BASE"] == f"http://user:{PASSWORD}@127.0.0.1:9/v1"


def test_an_address_keeps_what_is_not_secret(own_providers: Stack) -> None:
    assert "http://***@127.0.0.1:9/v1" in own_providers.lm("config", "show").stdout
    assert PASSWORD in own_providers.lm("config", "get", "OPENAI_API_BASE").stdout  # it was asked for


def test_a_wrong_address_with_a_password_is_not_repeated(stack: Stack) -> None:
    done = stack.lm("config", "set", "OPENAI_API_BASE", f"ftp://user:{PASSWORD}@host", check=False)
    assert done.returncode == 3
    assert "must be an http:// or https:// address" in done.stderr
    assert shown_secrets(done.stderr) == []


def test_the_gateway_redacts_the_keys_of_own_providers(own_providers: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    rendered = yaml.safe_load(own_providers.lm("render", "--stdout").stdout)["callback_settings"]
    assert rendered["lmstack"]["key_variables"] == ["OTHER_LOGIN"]
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(litellm, "callback_settings", rendered)
    fields._secret_values.cache_clear()
    for value in KEYS.values():
        assert fields.redact(f"the key {value} is wrong") == "the key *** is wrong"
    fields._secret_values.cache_clear()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://user:pa@ss@host/v1 there", "see https://***@host/v1 there"),
        ("redis://:hunter22@h", "redis://***@h"),
        ("https://host/a@b", "https://host/a@b"),
        ("write to me@example.com", "write to me@example.com"),
    ],
)
def test_an_address_loses_its_user_and_password(text: str, shown: str) -> None:
    assert redacted(text, ()) == shown


def test_secrets_are_found_by_name_and_in_addresses() -> None:
    environ = {"ACME_KEY": "acme-value", "MYSECRET": "my-secret", "B": "http://u:pass%20word@h", "MONKEY": "not-secret"}
    found = secret_values(environ)
    assert {"acme-value", "my-secret", "pass%20word", "pass word"} <= set(found)
    assert "not-secret" not in found
