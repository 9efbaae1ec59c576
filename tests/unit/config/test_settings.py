"""Settings, .env and models.yaml: precedence, sources, and one clear line for each mistake."""

import pytest

from lmstack.addresses import is_loopback
from lmstack.catalog.models import GUIDE_NAMES, parse_catalog
from lmstack.config.env_example import env_example
from lmstack.config.envfile import parse_env, set_line, unset_line
from lmstack.config.settings import SETTINGS, parse_settings
from lmstack.errors import ConfigError
from lmstack.stack.project import shipped_catalog


def problems(env: str = "", **flags: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_settings(parse_env(env), {}, flags)
    return [str(p) for p in caught.value.problems]


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default() -> None:
    env = parse_env("# comment\nLITELLM_PORT=4001\nLITELLM_WORKERS=2\nOPENAI_API_KEY=from-file\n")
    settings = parse_settings(env, {"LITELLM_PORT": "4002", "OPENAI_API_KEY": "from-env"}, {"LITELLM_PORT": "4003"})
    assert (settings.port, settings.values["LITELLM_PORT"].source) == (4003, "flag")
    assert (settings.get("OPENAI_API_KEY"), settings.values["OPENAI_API_KEY"].source) == ("from-env", "environment")
    assert (settings.workers, settings.values["LITELLM_WORKERS"].source) == (2, ".env:3")
    assert (settings.host, settings.values["LITELLM_HOST"].source) == ("127.0.0.1", "default")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ("LITELLM_PORT=70000", ".env:1: LITELLM_PORT must be a port from 1 to 65535, not '70000'"),
        ("\nLITELLM_PORT=web", ".env:2: LITELLM_PORT must be a port from 1 to 65535, not 'web'"),
        ("LITELLM_HOST=example.org", ".env:1: LITELLM_HOST must be an IP address or 'localhost', not 'example.org'"),
        ("LITELLM_LOG_LEVEL=loud", ".env:1: LITELLM_LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR, not 'loud'"),
        ("LITELLM_WORKERS=0", ".env:1: LITELLM_WORKERS must be 'auto' or a whole number from 1 to 1000, not '0'"),
        (
            "LITELLM_MASTER_KEY=sk-1234",
            ".env:1: LITELLM_MASTER_KEY is empty or a well-known key, which LiteLLM refuses to start with",
        ),
        (
            "TASKMASTER_API_URL=localhost:3001",
            ".env:1: TASKMASTER_API_URL must be an http:// or https:// address, not 'localhost:3001'",
        ),
        ("OPENAI_API_KEYS=x", ".env:1: unknown variable OPENAI_API_KEYS (did you mean 'OPENAI_API_KEY'?)"),
        ("LITELM_MASTER_KEY=x", ".env:1: unknown variable LITELM_MASTER_KEY (did you mean 'LITELLM_MASTER_KEY'?)"),
        ("OPNAI_API_KEY=x", ".env:1: unknown variable OPNAI_API_KEY (did you mean 'OPENAI_API_KEY'?)"),
        ("REDSI_URL=x", ".env:1: unknown variable REDSI_URL (did you mean 'REDIS_URL'?)"),
        ("openai_api_key=x", ".env:1: unknown variable openai_api_key (did you mean 'OPENAI_API_KEY'?)"),
        ("OPENAI_API_KEY='sk a'", ".env:1: OPENAI_API_KEY has spaces or line breaks in it"),
        ("LITELLM_RUNTIME=podman", ".env:1: LITELLM_RUNTIME must be one of auto, docker, local, not 'podman'"),
    ],
)
def test_a_bad_value_gives_one_line_with_file_line_and_mend(env: str, expected: str) -> None:
    assert problems(env) == [expected]


@pytest.mark.parametrize(
    "name", ["XAI_API_KEY", "GROQ_API_KEY", "VLLM_API_BASE", "OPENPIPE_API_KEY", "DATABASE_URL", "COMPOSE_PROJECT_NAME"]
)
def test_a_variable_of_another_tool_is_no_typing_error(name: str) -> None:
    assert parse_settings(parse_env(f"{name}=x"), {}).get(name) == "x"


def test_a_name_that_models_yaml_uses_is_no_typing_error() -> None:
    settings = parse_settings(parse_env("OPNAI_API_KEY=x"), {}, extra_names=frozenset({"OPNAI_API_KEY"}))
    assert settings.get("OPNAI_API_KEY") == "x"


def test_all_problems_come_at_once() -> None:
    assert len(problems("LITELLM_PORT=x\nLITELLM_WORKERS=y\nLITELLM_LOG_LEVEL=z")) == 3


def test_a_value_that_is_no_assignment_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_env("A=1\nthis is not one\n")
    assert str(caught.value.problems[0]).startswith(".env:2: not a NAME=value line")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::"])
@pytest.mark.parametrize("key", ["taskmaster-litellm-key", "short"])
def test_a_weak_key_is_refused_on_any_address_but_loopback(host: str, key: str) -> None:
    (problem,) = problems(f"LITELLM_HOST={host}\nLITELLM_MASTER_KEY={key}")
    assert "lm key rotate" in problem
    assert key not in problem


def test_a_strong_key_may_be_exposed_and_the_guides_key_is_fine_on_loopback() -> None:
    parse_settings(parse_env("LITELLM_HOST=0.0.0.0\nLITELLM_MASTER_KEY=sk-3f9c1e7ab2d84056c1a9"), {})
    assert parse_settings({}, {}).master_key == "taskmaster-litellm-key"
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.5", "", "localhost.example", "127.0.0.1.example")))


def test_the_guides_placeholders_count_as_unset() -> None:
    settings = parse_settings(parse_env("OPENAI_API_KEY=your_openai_key_here\nANTHROPIC_API_KEY=sk-ant-...\n"), {})
    assert settings.get("OPENAI_API_KEY") == settings.get("ANTHROPIC_API_KEY") == ""
    assert len(settings.notes) == 2
    assert all(note.warning for note in settings.notes)


def test_a_setting_without_effect_is_a_warning_when_it_is_on() -> None:
    (note,) = parse_settings(parse_env("\nLEDGER_STORE_PROMPTS=on"), {}).notes
    assert str(note).startswith(".env:2: LEDGER_STORE_PROMPTS has no effect: prompts and answers are never stored")
    assert parse_settings(parse_env("LEDGER_STORE_PROMPTS=off"), {}).notes == ()


def test_the_example_file_parses_to_the_defaults_and_names_every_setting() -> None:
    text = env_example()
    assert all(setting.name in text for setting in SETTINGS)
    assert parse_settings(parse_env(text), {}).values.keys() == parse_settings({}, {}).values.keys()
    assert parse_settings(parse_env(text), {}).port == 4000


def test_editing_a_line_keeps_every_other_byte() -> None:
    text = "# top\nexport A=1 # why\n\nB='x'\nA=2\n"
    assert set_line(text, "A", "3") == "# top\nexport A=1 # why\n\nB='x'\nA=3\n"
    assert set_line("A=1 # why\n", "A", "2") == "A=2 # why\n"
    assert set_line("B=1", "A", "a b'c") == 'B=1\nA="a b\'c"\n'
    assert unset_line(text, "B") == "# top\nexport A=1 # why\n\nA=2\n"
    assert parse_env(set_line("", "A", "a b'c"))["A"].value == "a b'c"


def test_the_guides_six_names_are_in_the_catalog_and_resolve_to_living_models() -> None:
    catalog = parse_catalog(shipped_catalog())
    for name in GUIDE_NAMES:
        real = catalog.resolve(catalog.models[name])
        assert real.name == name
        assert real.priced


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "models:\n  x: {provider: opneai}",
            "models.yaml:2: models.x.provider: unknown provider 'opneai' (did you mean 'openai'?)",
        ),
        ("models:\n  gpt-4o: {teir: 1}", "models.yaml:2: models.gpt-4o.teir: unknown field (did you mean 'tier'?)"),
        ("models:\n  gpt-4o: {tier: 7}", "models.yaml:2: models.gpt-4o.tier: must be one of 1, 2, 3, not 7"),
        (
            "models:\n  auto: {provider: openai}",
            "models.yaml:2: models.auto: is a reserved group name (choose another name)",
        ),
        ("model:\n  x: {}", "models.yaml:1: model: unknown key 'model' (did you mean 'models'?)"),
        ("models:\n  gpt-4o: {input: cheap}", "models.yaml:2: models.gpt-4o.input: must be int or float, not 'cheap'"),
        (
            "models:\n  a: {model: [1\n",
            "models.yaml:3: not readable as YAML: did not find expected ',' or ']' (check the indentation)",
        ),
    ],
)
def test_a_bad_models_file_gives_one_line_with_file_line_and_mend(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_catalog(shipped_catalog(), text)
    assert [str(p) for p in caught.value.problems] == [expected]


def test_models_yaml_adds_a_provider_and_changes_a_price() -> None:
    text = "providers:\n  groq: {prefix: groq}\nmodels:\n  llama-70b: {provider: groq, model: llama-3.3-70b-versatile}\n  gpt-4o: {input: 1, tier: 1}\n"
    catalog = parse_catalog(shipped_catalog(), text)
    assert catalog.providers["groq"].key == "GROQ_API_KEY"
    assert not catalog.models["llama-70b"].priced
    assert (catalog.models["gpt-4o"].input, catalog.models["gpt-4o"].output, catalog.models["gpt-4o"].own_price) == (
        1,
        10,
        True,
    )
