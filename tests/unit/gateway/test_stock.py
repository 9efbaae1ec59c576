"""The private names of LiteLLM: all are in one table, and each function does without its own."""

import ast
import asyncio
import inspect
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import litellm
import pytest

from lmstack.gateway.app import litellm_patches
from lmstack.gateway.stock import live, lookup, uses
from lmstack.gateway.stock.uses import USES, Use
from support import ROOT

GATEWAY = ROOT / "src" / "lmstack" / "gateway"
# What LiteLLM documents, and its command line, which starts everything.
PUBLIC = {"litellm", "litellm.integrations.custom_logger", "litellm.proxy:proxy_server", "litellm.proxy:proxy_cli"}
MODELS = [{"model_name": "a", "litellm_params": {"model": "openai/a"}, "model_info": {"id": "a"}}]


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that takes names away from us."""
    look, hidden = lookup._look, set[Use]()
    monkeypatch.setattr(lookup, "_look", lambda use: lookup._ABSENT if use in hidden else look(use))
    monkeypatch.setattr(lookup, "_missing", set())
    monkeypatch.setattr(lookup, "_made", [])
    yield lambda *names: hidden.update(names)
    live._settings_in_file.cache_clear()


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "litellm.proxy":
            yield from (f"{node.module}:{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", sorted(GATEWAY.rglob("*.py")), ids=lambda p: str(p.relative_to(GATEWAY)))
def test_no_module_imports_a_private_part_of_litellm(path: Path) -> None:
    assert {name for name in imported(path) if name.split(".")[0] == "litellm"} <= PUBLIC


def test_only_the_app_itself_is_read_from_the_proxy_server() -> None:
    for path in GATEWAY.rglob("*.py"):
        read = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        found = {node.attr for node in read if isinstance(node.value, ast.Name) and node.value.id == "proxy_server"}
        assert found <= {"app"}, path


def test_the_pinned_release_has_every_name(hide: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litellm.proxy.proxy_server.llm_router", litellm.Router(MODELS))
    assert lookup.missing() == []


def test_a_name_that_is_missing_is_listed_and_logged_once_with_what_is_done_without(
    hide: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("litellm.proxy.proxy_server.llm_router", litellm.Router(MODELS))
    hide(uses.PROBES)
    assert lookup.missing() == [uses.PROBES]
    asyncio.run(lookup._report_when_loaded())
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "lacks" in r.getMessage()]
    assert uses.PROBES.place in line
    assert uses.PROBES.without in line


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        (litellm_patches.keep_error_details, uses.PROXY_ERROR),
        (litellm_patches.keep_error_details, uses.ERROR_DETAIL),
        (litellm_patches.keep_gemini_address, uses.GEMINI_URL),
        (litellm_patches.report_unprocessable_requests, uses.DROP_PARAMS),
        (litellm_patches.refuse_foreign_session_redirects, uses.SESSION_REDIRECTS),
        (litellm_patches.keep_port, uses.PORT_CHECK),
        (lambda: litellm_patches.run_before_shutdown(lambda: asyncio.sleep(0)), uses.SHUTDOWN),
    ],
)
def test_a_change_without_its_private_name_changes_nothing(
    hide: Callable[..., None], monkeypatch: pytest.MonkeyPatch, change: Callable[[], None], needed: Use
) -> None:
    monkeypatch.setattr(litellm_patches, "_replace", lambda use, ours: pytest.fail(f"{use.place} is changed"))
    hide(needed)
    change()
    assert needed in lookup._missing


def test_without_its_name_the_router_is_the_one_that_litellm_has_made(
    hide: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm.Router, "__init__", litellm.Router.__init__)
    plain = inspect.getfullargspec(litellm.Router.__init__)
    hide(uses.ROUTER)
    lookup.remember_router()
    assert lookup.router() is None
    made = litellm.Router(MODELS)
    assert lookup.router() is made
    assert inspect.getfullargspec(litellm.Router.__init__) == plain  # LiteLLM passes on only the settings in it


def test_deployments_and_names_are_the_same_without_the_private_names(
    hide: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litellm.proxy.proxy_server.llm_router", litellm.Router(MODELS))
    ids, names = [d["model_info"]["id"] for d in live.deployments()], list(live.names())
    hide(uses.DEPLOYMENTS, uses.NAMES)
    assert [d["model_info"]["id"] for d in live.deployments()] == ids == ["a"]
    assert list(live.names()) == names == ["a"]


def test_without_the_cooldown_cache_nothing_cools_down(
    hide: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litellm.proxy.proxy_server.llm_router", litellm.Router(MODELS))
    live.cool_down("a", Exception("no"), 500, 20.0)
    assert live.cooldown_of("a") is not None
    hide(uses.COOLDOWN_KEY)
    assert live.cooldown_of("a") is None
    hide(uses.COOL_DOWN)
    live.cool_down("a", Exception("no"), 500, 20.0)


def test_without_callback_settings_our_rules_are_read_from_the_file(
    hide: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "litellm-config.yaml"
    file.write_text("callback_settings: {lmstack: {unserved: {a: A_KEY}}}\n")
    monkeypatch.setenv("WORKER_CONFIG", json.dumps({"config": str(file)}))
    hide(uses.SETTINGS)
    assert live.settings() == {"unserved": {"a": "A_KEY"}}


def test_without_any_configuration_file_the_rules_are_unknown_and_not_empty(
    hide: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget fails closed: lmstack.gateway.calls.admission refuses the request after this error."""
    monkeypatch.delenv("WORKER_CONFIG", raising=False)
    monkeypatch.delenv("CONFIG_FILE_PATH", raising=False)
    hide(uses.SETTINGS)
    with pytest.raises(KeyError):
        live.settings()


def test_without_its_name_the_key_is_that_of_the_environment(
    hide: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-of-the-environment")
    assert live.master_key() != "sk-of-the-environment"
    hide(uses.MASTER_KEY)
    assert live.master_key() == "sk-of-the-environment"


@pytest.mark.parametrize("hidden", [(), (uses.NO_MODEL_LEFT,), (uses.NO_MODEL_LEFT_PLAIN,)])
def test_an_error_without_any_model_is_known_by_its_type_or_by_its_text(
    hide: Callable[..., None], hidden: tuple[Use, ...]
) -> None:
    from litellm.types.router import RouterRateLimitError, RouterRateLimitErrorBasic

    hide(*hidden)
    error = RouterRateLimitError("cheap", 20.0, False, ["a"], ["a"])
    assert live.is_no_model_left(error)
    assert live.is_no_model_left(RouterRateLimitErrorBasic("cheap"))
    assert not live.is_no_model_left(litellm.InternalServerError("no", "openai", "a"))
    assert live.name_without_models(error) == (None if uses.NO_MODEL_LEFT in hidden else "cheap")


def test_a_module_that_is_gone_is_a_missing_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_missing", set())
    gone = (Use("litellm.no.such.module:name", "", ""), Use("json:no_such_name", "", ""))
    assert [lookup.find(use, "default") for use in gone] == ["default", "default"]


def test_every_name_says_what_is_done_without_it() -> None:
    assert len({use.place for use in USES}) == len(USES)
    for row in (*USES, *uses.FIELDS):
        assert row.why
        assert row.without


def test_the_app_is_wrapped_once_and_stays_an_app(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class App:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(("app", scope))

    def wrap(inner: Any) -> Any:
        async def gate(scope: Any, receive: Any, send: Any) -> None:
            seen.append(("gate", scope))
            await inner(scope, receive, send)

        return gate

    app = App()
    monkeypatch.setattr(litellm_patches, "proxy_server", SimpleNamespace(app=app))
    assert litellm_patches.wrap_app(wrap) is True
    assert litellm_patches.wrap_app(wrap) is False
    asyncio.run(app("request", None, None))
    assert seen == [("gate", "request"), ("app", "request")]
