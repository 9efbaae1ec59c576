"""Planning, rendering and strict validation."""

import pytest
import yaml

from lmstack.catalog.models import Catalog, parse_catalog
from lmstack.config.check_litellm import check_litellm_config
from lmstack.config.envfile import parse_env
from lmstack.config.settings import parse_settings
from lmstack.config.validate import check_file
from lmstack.stack.plan import Facts, Plan, plan_stack, reachable_from
from lmstack.stack.project import shipped_catalog, shipped_config
from lmstack.stack.render import diff_config, render_config
from support import ROOT

CATALOG: Catalog = parse_catalog(shipped_catalog())
LOCAL = Facts("local", ollama=False, embedded=True)


def plan(env: str = "", facts: Facts = LOCAL, models: str | None = None) -> Plan:
    catalog = parse_catalog(shipped_catalog(), models) if models else CATALOG
    extra = frozenset(n for p in catalog.providers.values() for n in (p.key, p.base) if n)
    return plan_stack(parse_settings(parse_env(env), {}, {}, extra), catalog, facts)


def test_only_providers_with_a_key_are_served_and_the_others_name_their_variable() -> None:
    made = plan("OPENAI_API_KEY=sk-x123456")
    assert {d.provider.name for d in made.deployments} == {"openai"}
    assert made.unserved["claude-3-haiku"] == "ANTHROPIC_API_KEY"
    assert made.unserved["llama3.2"] == "OLLAMA_API_BASE"
    assert not made.embedded


def test_nothing_configured_means_the_built_in_model_in_the_local_runtime_only() -> None:
    assert [d.name for d in plan().deployments] == ["smollm2"]
    assert plan(facts=Facts("docker", embedded=True)).deployments == ()
    assert plan(facts=Facts("local", ollama=True, embedded=True)).deployments[0].name == "llama3.2"


def test_groups_walk_their_own_tier_by_price_then_upwards_and_skip_second_doors() -> None:
    made = plan("OPENAI_API_KEY=sk-x123456\nANTHROPIC_API_KEY=sk-ant-123456")
    walk = made.groups["cheap"]
    tiers = [CATALOG.models[name].tier for name in walk]
    assert tiers == sorted(tiers)  # type: ignore[type-var]
    assert walk.index("claude-haiku-5-5") < walk.index("gpt-4o-mini")
    assert "claude-3-haiku" not in walk
    assert made.groups["premium"][0] in ("claude-sonnet-5-5",)


def test_a_retired_name_is_served_by_its_successor_and_says_so() -> None:
    made = plan("ANTHROPIC_API_KEY=sk-ant-123456")
    assert next(d for d in made.deployments if d.name == "claude-3-haiku").litellm_model == "anthropic/claude-haiku-5-5"
    assert any(m.startswith("claude-3-haiku was retired") for m in made.messages)
    assert "# claude-3-haiku: retired by Anthropic (2026-04-19), served by claude-haiku-5-5" in render_config(made)


def test_an_address_of_this_machine_is_written_as_the_runtime_sees_it() -> None:
    assert reachable_from("http://localhost:11434", "docker") == "http://host.docker.internal:11434"
    assert reachable_from("http://host.docker.internal:3001/x", "local") == "http://127.0.0.1:3001/x"
    assert reachable_from("http://ollama.lan:11434", "docker") == "http://ollama.lan:11434"
    assert reachable_from("http://me:pw@localhost/x", "docker") == "http://me:pw@host.docker.internal/x"


def test_rendering_is_deterministic_and_holds_no_key() -> None:
    env = "OPENAI_API_KEY=sk-verysecret\nLITELLM_MASTER_KEY=sk-alsoverysecret12345"
    text = render_config(plan(env))
    assert text == render_config(plan(env))
    assert "verysecret" not in text
    assert diff_config(text, text) == ""


def test_an_unknown_price_is_marked_and_a_users_price_is_rendered() -> None:
    models = (
        "providers:\n  groq: {prefix: groq}\nmodels:\n  fast: {provider: groq, model: llama-x}\n  gpt-4o: {input: 1}\n"
    )
    rendered = yaml.safe_load(render_config(plan("OPENAI_API_KEY=sk-x123456\nGROQ_API_KEY=gsk-1", models=models)))
    entries = {e["model_name"]: e for e in rendered["model_list"]}
    assert entries["fast"]["model_info"].get("lm_rates") is None
    assert entries["gpt-4o"]["litellm_params"]["input_cost_per_token"] == pytest.approx(1e-6)
    assert "input_cost_per_token" not in entries["gpt-4o-mini"]["litellm_params"]


def test_a_model_that_does_not_chat_is_in_no_group_and_a_mode_that_is_not_set_is_not_rendered() -> None:
    """The gateway refuses a call of another kind where the mode is known."""
    names = (
        "audio_speech",
        "audio_transcription",
        "image_generation",
        "image_edit",
        "realtime",
        "rerank",
        "moderation",
        "embedding",
    )
    lines = [f"  {name}: {{provider: openai, model: own-{name}, mode: {name}}}" for name in names]
    text = "\n".join(["models:", *lines, "  plain: {provider: openai, model: own}", "  gpt-4o: {tier: 3}\n"])
    made = plan("OPENAI_API_KEY=sk-x123456", models=text)
    infos = {d["model_name"]: d.get("model_info", {}) for d in yaml.safe_load(render_config(made))["model_list"]}
    assert {name: infos[name]["mode"] for name in names} == {name: name for name in names}
    assert all("lm_tier" not in infos[name] for name in names)
    assert not set(names) & {name for walk in made.groups.values() for name in walk}
    assert "mode" not in infos["plain"]
    assert "plain" in made.groups["cheap"]
    assert infos["gpt-4o"]["mode"] == "chat"
    assert [p for p in check_litellm_config(render_config(made), "f.yaml") if not p.warning] == []


def test_only_free_models_are_probed_in_the_background() -> None:
    rendered = yaml.safe_load(shipped_config())
    for entry in rendered["model_list"]:
        info = entry.get("model_info")
        if info:
            assert info.get("disable_background_health_check", False) != (info.get("lm_rates") == [0.0, 0.0])


def test_the_digest_changes_with_a_key_and_reveals_none() -> None:
    one, two = plan("OPENAI_API_KEY=sk-aaaaaa"), plan("OPENAI_API_KEY=sk-bbbbbb")
    assert one.digest("x") != two.digest("x")
    assert one.digest("x") == plan("OPENAI_API_KEY=sk-aaaaaa").digest("x")


def test_what_we_render_passes_our_own_strict_check() -> None:
    assert check_litellm_config(shipped_config(), "f") == []
    assert check_litellm_config(render_config(plan()), "f") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model_lst: []", "c.yaml:1: model_lst: unknown key 'model_lst' (did you mean 'model_list'?)"),
        ("router_settings:\n  num_retires: 2", "c.yaml:2: router_settings.num_retires: unknown key 'num_retires' (did you mean 'num_retries'?)"),
        ("general_settings:\n  mastr_key: x", "c.yaml:2: general_settings.mastr_key: unknown key 'mastr_key' (did you mean 'master_key'?)"),
        ("litellm_settings:\n  json_log: true", "c.yaml:2: litellm_settings.json_log: unknown key 'json_log' (did you mean 'json_logs'?)"),
        (
            "model_list:\n- model_name: a\n  litellm_params: {model: opneai/gpt-4o}",
            "c.yaml:3: model_list[0].litellm_params.model: unknown provider 'opneai' in 'opneai/gpt-4o' (did you mean 'openai'?)",
        ),
        (
            "model_list:\n- model_name: gpt-a\n  litellm_params: {model: openai/gpt-4o}\nrouter_settings:\n  fallbacks:\n  - gpt-a: [gpt-b]",
            "c.yaml:6: router_settings.fallbacks[0].gpt-a: refers to a missing model 'gpt-b' (did you mean 'gpt-a'?)",
        ),
        ("model_list:\n- {model_name: a", "c.yaml:3: not readable as YAML: did not find expected ',' or '}' (check the indentation)"),
        ("- a\n- b", "c.yaml:1: a LiteLLM config must be a mapping with 'model_list' (see litellm-config.yaml)"),
        (
            "model_list:\n- model_name: a\n  litellm_params: {model: openai/gpt-4o, api_key: sk-0123456789abcdefghijk}",
            "c.yaml:3: model_list[0].litellm_params.api_key: a key is written in the file (write os.environ/NAME and put the key into .env)",
        ),
        ("router_settings:\n  num_retries: many", "c.yaml:2: router_settings.num_retries: must be int, not 'many'"),
        ("litellm_settings:\n  add_function_to_prompt: [1]", "c.yaml:2: litellm_settings.add_function_to_prompt: must be bool, not [1]"),
        ("general_settings:\n  master_key: 1234", "c.yaml:2: general_settings.master_key: must be str, not 1234"),
        (
            "model_list:\n- {model_name: a, litellm_params: {model: openai/gpt-4o-mimi}}",
            "c.yaml:2: model_list[0].litellm_params.model: LiteLLM 1.108.7 knows no 'gpt-4o-mimi' of openai, nor its price (did you mean 'gpt-4o-mini'?)",
        ),
        (
            "model_list:\n- {model_name: a, litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEI}}",
            "c.yaml:2: model_list[0].litellm_params.api_key: OPENAI_API_KEI is not set (did you mean 'OPENAI_API_KEY'?)",
        ),
        (
            "general_settings: {background_health_checks: true}\nmodel_list:\n- {model_name: a, litellm_params: {model: openai/gpt-4o}}\n"
            "- {model_name: b, litellm_params: {model: ollama/llama3.2}}",
            "c.yaml:1: general_settings.background_health_checks: a paid call every 300 s to each of a (model_info.disable_background_health_check: true)",
        ),
        (
            "litellm_settings:\n  redis_host: localhost",
            "c.yaml:2: litellm_settings.redis_host: unknown key 'redis_host' (Redis for cooldowns: general_settings.coordination_redis, or "
            "router_settings.redis_host; for caching answers: litellm_settings.cache_params)",
        ),
    ],
)  # fmt: skip
def test_a_bad_config_gives_one_line_with_file_line_field_and_mend(text: str, expected: str) -> None:
    assert [str(p) for p in check_file(text, "c.yaml", {"OPENAI_API_KEY": "x"})] == [expected]


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("Dockerfile", "FROM ghcr.io/berriai/litellm:main-latest\n", "Dockerfile:1: ghcr.io/berriai/litellm:main-latest: 'main-latest' floats"),
        ("a/Dockerfile.prod", "ARG X=1\nFROM ghcr.io/berriai/litellm:v1.107.0\n", "a/Dockerfile.prod:2: ghcr.io/berriai/litellm:v1.107.0: LiteLLM 1.107.0 is a malicious"),
        ("c.yml", "services:\n  p:\n    image: ghcr.io/berriai/litellm\n", "c.yml:3: ghcr.io/berriai/litellm: 'no tag' floats"),
        ("c.yml", "services:\n  p:\n    healthcheck:\n      test: curl -f http://localhost:4000/health\n", "c.yml:4: services.p.healthcheck.test: /health of stock LiteLLM makes a paid call"),
        ("c.yml", "services: [a]\n", "c.yml:1: a compose file must have a mapping 'services'"),
    ],
)  # fmt: skip
def test_compose_files_and_dockerfiles_are_checked_too(file: str, text: str, expected: str) -> None:
    (problem,) = check_file(text, file)
    assert str(problem).startswith(expected)


def test_our_own_compose_file_and_dockerfile_pass() -> None:
    for name in ("Dockerfile", "docker-compose.yml"):
        assert check_file((ROOT / name).read_text(), name) == []


@pytest.mark.parametrize(
    ("env", "cores", "memory", "workers"),
    [("", 8, 64_000, 4), ("", 2, 8_000, 2), ("", 2, 2_000, 1), ("", 1, 0, 1), ("LITELLM_WORKERS=auto", 2, 8_000, 2), ("LITELLM_WORKERS=7", 1, 0, 7)],
)  # fmt: skip
def test_workers_follow_cores_and_memory_unless_set(env: str, cores: int, memory: int, workers: int) -> None:
    assert plan(env, facts=Facts("local", cores=cores, memory_mb=memory)).workers == workers
