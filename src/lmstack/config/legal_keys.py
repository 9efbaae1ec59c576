"""Lists the configuration keys that a LiteLLM release knows, with their types.

`lm` never imports this module. The interpreter of a LiteLLM release runs it as a script. LiteLLM's own
check accepts any misspelling, so `lm validate` needs this list. It is never typed by hand. `make docs` writes
legal_keys.json from the pinned release, and `lm upgrade` asks the new release.
"""

import contextlib
import inspect
import json
import re
import typing
from pathlib import Path
from typing import Any

_CLOSED = ("openai", "anthropic", "gemini", "mistral", "groq", "deepseek", "xai")
_PLAIN = {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict", set: "list", tuple: "list"}


def legal_keys() -> dict[str, Any]:
    """Return the keys of the root, of each section and of a model entry, and the providers, of the installed LiteLLM."""
    import litellm
    from litellm.proxy._types import ConfigGeneralSettings
    from litellm.types.router import Deployment, LiteLLM_Params, ModelInfo, UpdateRouterConfig

    proxy = Path(litellm.__file__).parent / "proxy"
    server = (proxy / "proxy_server.py").read_text()
    sources = [path.read_text(errors="replace") for path in proxy.rglob("*.py")]
    router = set(inspect.signature(litellm.Router.__init__).parameters) - {"self", "kwargs", "model_list"}
    names = {name for name in vars(litellm) if name.islower() and not name.startswith("_")}
    return {
        "litellm": litellm._version.version,
        "root": sorted(
            set(re.findall(r'config(?:_data|_file)?\.get\(\s*"(\w+)"', server))
            | {
                "include",
                "model_list",
                "router_settings",
                "litellm_settings",
                "general_settings",
                "environment_variables",
            }
        ),
        "router_settings": sorted(router | set(UpdateRouterConfig.model_fields)),
        "litellm_settings": sorted(
            names | set(re.findall(r'key == "(\w+)"', server)) | _gets("litellm_settings", sources)
        ),
        "general_settings": sorted(set(ConfigGeneralSettings.model_fields) | _gets("general_settings", sources)),
        "model": sorted(set(Deployment.model_fields)),
        "litellm_params": sorted(
            set(LiteLLM_Params.model_fields)
            | set(litellm.OPENAI_CHAT_COMPLETION_PARAMS)
            | set(litellm.all_litellm_params)
        ),
        "model_info": sorted(
            set(ModelInfo.model_fields)
            | set(litellm.types.utils.ModelInfo.__annotations__)
            | set(litellm.types.utils.ModelInfoBase.__annotations__)
            | {
                "health_check_timeout",
                "health_check_model",
                "health_check_max_tokens",
                "disable_background_health_check",
                "health_check_voice",
            }
        ),
        "types": {
            "router_settings": _types(inspect.get_annotations(litellm.Router.__init__))
            | _types(_fields(UpdateRouterConfig)),
            "litellm_settings": _types(_resolved(litellm)),
            "general_settings": _types(_fields(ConfigGeneralSettings)),
            "litellm_params": _types(_fields(LiteLLM_Params)),
            "model_info": _types(_fields(ModelInfo)),
        },
        # Providers that serve what they list and nothing else: another name there is most likely a misspelling.
        "models": {provider: _models_of(provider) for provider in _CLOSED},
        "providers": sorted({getattr(p, "value", str(p)) for p in litellm.provider_list} | {"auto_router"}),
    }


def _models_of(provider: str) -> list[str]:
    import litellm

    listed = (name for name, entry in litellm.model_cost.items() if entry.get("litellm_provider") == provider)
    return sorted({name.removeprefix(f"{provider}/") for name in listed})


def _gets(variable: str, sources: list[str]) -> set[str]:
    pattern = re.compile(rf'{variable}(?:\.get\(\s*|\[)["\'](\w+)["\']')
    return {name for text in sources for name in pattern.findall(text)}


def _fields(model: Any) -> dict[str, Any]:
    return {name: field.annotation for name, field in model.model_fields.items()}


def _resolved(module: Any) -> dict[str, Any]:
    """Return the annotations of a module, which are text there. An unreadable one is left out, and so are lists: LiteLLM
    takes a single name in place of a list."""
    found = {}
    for name, text in inspect.get_annotations(module).items():
        with contextlib.suppress(Exception):
            found[name] = eval(text, {**vars(typing), **vars(module)}) if isinstance(text, str) else text  # noqa: S307
    return {name: annotation for name, annotation in found.items() if "list" not in _kinds(annotation)}


def _types(annotations: dict[str, Any]) -> dict[str, list[str]]:
    """Return the kinds of YAML value that each key takes. A key without a definite annotation is left out."""
    found = {name: _kinds(annotation) for name, annotation in annotations.items()}
    return {name: sorted(kinds) for name, kinds in sorted(found.items()) if kinds}


def _kinds(annotation: Any) -> set[str]:
    """Return the kinds that an annotation allows; empty when it allows anything."""
    origin = typing.get_origin(annotation)
    if annotation in _PLAIN or origin in _PLAIN:
        return {_PLAIN[origin or annotation]}
    if origin is typing.Literal:
        return {_PLAIN[type(value)] for value in typing.get_args(annotation) if type(value) in _PLAIN}
    if origin is typing.Union or type(annotation).__name__ == "UnionType":
        parts = [_kinds(part) for part in typing.get_args(annotation) if part is not type(None)]
        return set().union(*parts) if all(parts) else set()
    return set()


if __name__ == "__main__":
    print(json.dumps(legal_keys(), indent=1))
