"""What we lean on in the pinned LiteLLM. A bump of the pin that breaks one of these breaks us."""

import ast
import asyncio
import contextlib
import importlib.metadata
import inspect
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import litellm
import pytest
from bench.routing.data import load
from fastapi import HTTPException
from litellm._logging import JsonFormatter
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.llms.gemini.count_tokens.handler import GoogleAIStudioTokenCounter
from litellm.llms.openai import openai
from litellm.proxy._types import ProxyException
from litellm.router_utils.cooldown_handlers import set_cooldown_deployments
from litellm.types.router import RouterRateLimitError
from pytest_httpserver import HTTPServer
from starlette.routing import Router

from lmstack.catalog.models import parse_catalog
from lmstack.catalog.prices import differences, load_price_map
from lmstack.config.settings import BY_NAME
from lmstack.gateway.app import litellm_patches
from lmstack.gateway.calls import hooks as ours
from lmstack.releases import pins
from lmstack.routing.needs import tokens_of
from lmstack.stack.project import shipped_catalog

CATALOG = parse_catalog(shipped_catalog())
SOURCES = Path(litellm.__file__).parent
REFUSES_THE_FIELD = json.dumps({"detail": [{"loc": ["body", "temperature"], "msg": "temperature is not supported"}]})


@pytest.mark.pinned_release("its number is in the files that install it")
def test_the_installed_version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("litellm") == pins.LITELLM_VERSION
    root = Path(__file__).resolve().parents[2]
    project = (root / "pyproject.toml").read_text()
    assert f"litellm[proxy]=={pins.LITELLM_VERSION}" in project
    assert "override-dependencies = [" + ", ".join(f'"{text}"' for text in pins.OVERRIDES) in project
    assert f"LITELLM_VERSION={pins.LITELLM_VERSION}\n" in (root / "Dockerfile").read_text()
    assert f"{pins.IMAGE_REPOSITORY}:v${{LITELLM_VERSION}}" in (root / "Dockerfile").read_text()
    assert f"${{LITELLM_VERSION:-{pins.LITELLM_VERSION}}}" in (root / "docker-compose.yml").read_text()


def test_the_catalog_agrees_with_litellms_price_map() -> None:
    assert differences(CATALOG, load_price_map()) == []
    for model in CATALOG.models.values():
        if not model.free and model.successor is None:
            prefix = CATALOG.providers[model.provider].prefix
            entry = litellm.model_cost.get(f"{prefix}/{model.model}") or litellm.model_cost[model.model]
            assert model.mode == entry["mode"]


@pytest.mark.parametrize("language", ["en", "de", "fr", "es", "zh"])
def test_our_estimate_of_tokens_is_near_litellms_tokenizer(language: str) -> None:
    texts = [p.text for p in load() if p.language == language]
    ours, theirs = sum(map(tokens_of, texts)), sum(len(litellm.encoding.encode(text)) for text in texts)
    assert 0.6 < ours / theirs < 1.4


@pytest.mark.parametrize("name", ["claude-3-5-sonnet-20241022", "claude-3-haiku-20240307", "gemini/gemini-2.0-flash"])
def test_retired_models_are_gone_from_litellms_map(name: str) -> None:
    assert name not in litellm.model_cost


@pytest.mark.parametrize(
    "name", [n for n, f in vars(ours.LedgerHandler).items() if n.startswith(("async_", "log_")) and callable(f)]
)
def test_our_hooks_have_the_parameters_that_litellm_passes_by_keyword(name: str) -> None:
    theirs = list(inspect.signature(getattr(CustomLogger, name)).parameters)
    mine = list(inspect.signature(getattr(ours.LedgerHandler, name)).parameters)
    assert mine == theirs


def test_the_private_names_that_we_wrap_are_there() -> None:
    from litellm.proxy import proxy_server  # here, because it takes seconds, and each worker of xdist reads this file

    assert inspect.iscoroutinefunction(proxy_server.proxy_shutdown_event)
    assert inspect.iscoroutinefunction(GLOBAL_LOGGING_WORKER.flush)
    assert isinstance(proxy_server.app.router, Router)
    assert isinstance(proxy_server.health_check_results, dict)
    assert "await proxy_shutdown_event(" in (SOURCES / "proxy" / "proxy_server.py").read_text()
    assert "LITELLM_WORKER_STARTUP_HOOKS" in (SOURCES / "proxy" / "proxy_server.py").read_text()


def test_run_granian_takes_the_class_and_the_port_check_that_we_replace() -> None:
    text = (SOURCES / "proxy" / "proxy_cli.py").read_text()
    assert "from granian import Granian\n" in text
    assert "Granian(**kwargs).serve()" in text
    assert "ProxyInitializationHelpers.is_port_in_use(port)" in text


def _router(**settings: Any) -> litellm.Router:
    listed = [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}", "api_key": "sk-none", **params},
            "model_info": {"id": name},
        }
        for name, params in (("dead", {"api_base": "http://127.0.0.1:9/v1"}), ("backup", {"mock_response": "hello"}))
    ]
    return litellm.Router(listed, fallbacks=[{"dead": ["backup"]}], num_retries=0, **settings)


async def _cooling(router: litellm.Router) -> list[str]:
    found = await router.cooldown_cache.async_get_active_cooldowns(["dead", "backup"], None)
    return [name for name, _ in found]


def test_with_disable_cooldowns_litellm_cools_nothing_down_by_itself() -> None:
    """Without it 1.108 cools down a healthy fallback.

    There its own error "no deployments available", for a model that cools down, has the status 429. LiteLLM reports it when
    the fallback is already chosen, and takes that for the model that failed.
    """
    error = litellm.InternalServerError("no", "openai", "dead")

    async def own_decision(router: litellm.Router) -> set[bool]:
        return {
            set_cooldown_deployments(router, error, status, "dead", time_to_cooldown=20.0, requested_model_group="dead")
            for status in (401, 429, 500)
        }

    assert asyncio.run(own_decision(_router(disable_cooldowns=True))) == {False}
    assert asyncio.run(own_decision(_router(allowed_fails=0))) == {True}
    setters = {p.name for p in SOURCES.rglob("*.py") if "cooldown_cache.add_deployment_to_cooldown(" in p.read_text()}
    assert setters - {"cooldown_cache.py"} == {"cooldown_handlers.py"}


def test_a_cooldown_that_we_add_is_kept_while_litellms_own_are_off() -> None:
    async def run() -> None:
        router = _router(disable_cooldowns=True)
        error = litellm.InternalServerError("no", "openai", "backup")
        router.cooldown_cache.add_deployment_to_cooldown(
            model_id="backup", original_exception=error, exception_status=500, cooldown_time=20.0
        )
        entry = router.cooldown_cache.in_memory_cache.get_cache(router.cooldown_cache.get_cooldown_cache_key("backup"))
        assert (entry["status_code"], entry["cooldown_time"]) == ("500", 20.0)
        with pytest.raises(RouterRateLimitError):
            await router.acompletion("backup", [{"role": "user", "content": "hi"}])
        router.cooldown_cache.add_deployment_to_cooldown(
            model_id="dead", original_exception=error, exception_status=500, cooldown_time=20.0
        )
        assert await _cooling(router) == ["dead", "backup"]

    asyncio.run(run())


def test_a_failed_import_of_the_opentelemetry_logger_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM tries it in the authentication of each request."""
    name = "litellm.integrations.otel.logger"
    text = (SOURCES / "proxy" / "auth" / "user_api_key_auth.py").read_text()
    assert f"from {name} import" in text
    monkeypatch.delitem(sys.modules, name, raising=False)
    litellm_patches.do_not_import_again()
    assert sys.modules[name] is None


def test_litellms_log_prints_the_traceback_that_a_filter_leaves() -> None:
    record = logging.LogRecord("LiteLLM", logging.ERROR, "f.py", 1, "m", (), (ValueError, ValueError("secret"), None))
    record.exc_text = "ours"
    assert json.loads(JsonFormatter().format(record))["stacktrace"] == "ours"


def test_redis_pys_default_policy_is_one_object_whose_retries_we_can_set() -> None:
    import redis

    from lmstack.gateway.app.litellm_patches import disable_redis_retries

    disable_redis_retries()
    client = redis.Redis(host="127.0.0.1", port=1)
    assert client.connection_pool.make_connection().retry.get_retries() == 0


def test_callback_settings_of_any_name_reach_the_module() -> None:
    assert "litellm.callback_settings = callback_settings" in (SOURCES / "proxy" / "proxy_server.py").read_text()


def test_an_unpriced_model_has_no_price_from_litellm() -> None:
    with pytest.raises(Exception, match="isn't mapped"):
        litellm.cost_per_token(model="groq/no-such-model", prompt_tokens=1, completion_tokens=1)


def test_an_error_keeps_the_details_of_the_exception_that_it_is_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM makes it so on /v1/completions, images, moderations and rerank."""
    monkeypatch.setattr(ProxyException, "__init__", ProxyException.__init__)
    litellm_patches.keep_error_details()

    def made(message: str | None = None) -> ProxyException:
        try:
            raise HTTPException(429, {"error": "used up", "budget": {"name": "t"}}, {"retry-after": "5"})
        except HTTPException as error:
            return ProxyException(message or str(error), "budget_exceeded", "None", 429, {"x-litellm-call-id": "c"})

    error = made()
    assert error.to_dict()["message"] == "used up"
    assert error.to_dict()["provider_specific_fields"]["budget"] == {"name": "t"}
    assert (error.param, error.headers) == (None, {"retry-after": "5", "x-litellm-call-id": "c"})
    assert (made("a better text").message, made("a better text").provider_specific_fields) == ("a better text", None)
    assert ProxyException("plain", "t", None, 400).message == "plain"


@pytest.mark.parametrize(
    ("method", "headers", "location", "followed"),
    [
        ("POST", {}, "http://127.0.0.1:1/x", False),
        ("POST", {}, "http://other.example/x", False),
        ("POST", {}, "https://provider.example/x", False),
        ("POST", {"x-api-key": "k"}, "/v2/x", True),
        ("GET", {"x-goog-api-key": "k"}, "http://other.example/x", False),
        ("GET", {}, "http://other.example/picture", True),
    ],
)
def test_no_client_of_litellm_takes_a_request_or_a_key_to_another_host(
    monkeypatch: pytest.MonkeyPatch, method: str, headers: dict[str, str], location: str, followed: bool
) -> None:
    for kind in (httpx.AsyncClient, httpx.Client):
        monkeypatch.setattr(kind, "_build_redirect_request", kind._build_redirect_request)
    litellm_patches.refuse_foreign_redirects()
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200) if len(asked) > 1 else httpx.Response(307, headers={"location": location})

    with httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True) as client:
        with contextlib.ExitStack() as refused:
            if not followed:
                refused.enter_context(pytest.raises(httpx.TooManyRedirects, match="redirects to"))
            client.request(method, "http://provider.example/v1/x", headers=headers)
    assert len(asked) == 1 + followed


@pytest.mark.parametrize("base", [None, "http://g.example", "http://g.example/v1beta", "http://g.example/v1beta/"])
def test_gemini_counts_tokens_at_the_address_of_all_other_calls(
    monkeypatch: pytest.MonkeyPatch, base: str | None
) -> None:
    monkeypatch.setattr(GoogleAIStudioTokenCounter, "_construct_url", GoogleAIStudioTokenCounter._construct_url)
    litellm_patches.keep_gemini_address()
    host = "http://g.example" if base else "https://generativelanguage.googleapis.com"
    assert GoogleAIStudioTokenCounter()._construct_url("m", base) == f"{host}/v1beta/models/m:countTokens"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("message", "calls"), [("temperature: a number is expected", 1), (REFUSES_THE_FIELD, 2)])
def test_a_request_that_the_provider_refuses_with_422_fails(
    monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer, stream: bool, message: str, calls: int
) -> None:
    """LiteLLM would return nothing, so the client would get 200 and null."""
    name = "drop_params_from_unprocessable_entity_error"
    monkeypatch.setattr(openai, name, getattr(openai, name))
    monkeypatch.setattr(litellm, "drop_params", True)  # as in our configuration
    litellm_patches.report_unprocessable_requests()
    httpserver.expect_request("/chat/completions").respond_with_json({"error": {"message": message}}, 422)
    asked = litellm.acompletion(
        "openai/m", [{"role": "user", "content": "hi"}], temperature=9, stream=stream, max_retries=0,
        api_base=httpserver.url_for("/"), api_key="sk-test",
    )  # fmt: skip
    with pytest.raises((litellm.BadRequestError, litellm.UnprocessableEntityError), match="temperature"):
        asyncio.run(asked)
    assert len(httpserver.log) == calls


def test_no_module_of_litellm_reads_a_setting_of_ours_when_it_is_imported() -> None:
    """The server imports LiteLLM once. A setting that is read then would keep its old value in new workers."""
    names = {*BY_NAME, *CATALOG.variables}
    quoted = re.compile("|".join(f"[\"']{name}[\"']" for name in names))
    texts = [text for path in SOURCES.rglob("*.py") if quoted.search(text := path.read_text(encoding="utf-8"))]
    assert len(texts) > 20
    found = [name for text in texts for node in _run_at_import(ast.parse(text)) for name in _read_from_environ(node)]
    assert not set(found) & names
    sample = "import os\nclass A:\n    x = os.getenv('OPENAI_API_KEY')\ndef f(y=os.environ['REDIS_URL']):\n    os.getenv('A')"
    assert [name for node in _run_at_import(ast.parse(sample)) for name in _read_from_environ(node)] == ["OPENAI_API_KEY", "REDIS_URL"]  # fmt: skip


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield each part of a module that runs when it is imported: everything but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _run_at_import(child.args)
        else:
            yield child
            yield from _run_at_import(child)


def _read_from_environ(node: ast.AST) -> list[str]:
    """Return the names of the variables that an expression reads."""
    given: list[ast.expr] = []
    if isinstance(node, ast.Call) and re.search(r"getenv|environ|get_secret", ast.unparse(node.func)):
        given = node.args[:1]
    elif isinstance(node, ast.Subscript) and "environ" in ast.unparse(node.value):
        given = [node.slice]
    return [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]


def test_the_proxy_has_the_name_of_its_configuration_file_where_we_set_it() -> None:
    from litellm.proxy import proxy_server

    assert hasattr(proxy_server, "user_config_file_path")
