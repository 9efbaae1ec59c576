"""Reads out of the installed, pinned LiteLLM which configuration keys it knows, into src/lmstack/legal_keys.json.

Stock's own --validate_config accepts any misspelling; `lm validate` does not, and its list is never typed by hand.
Run by `make docs`; a contract test fails when the file differs from what the pinned LiteLLM says.
"""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "src" / "lmstack" / "legal_keys.json"


def legal_keys() -> dict[str, Any]:
    """Root, *_settings and model entry keys, and provider prefixes, of the installed LiteLLM."""
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
        "providers": sorted({getattr(p, "value", str(p)) for p in litellm.provider_list} | {"auto_router"}),
    }


def _gets(variable: str, sources: list[str]) -> set[str]:
    pattern = re.compile(rf'{variable}(?:\.get\(\s*|\[)["\'](\w+)["\']')
    return {name for text in sources for name in pattern.findall(text)}


def text() -> str:
    """The file's content, from a fresh interpreter: importing more of LiteLLM adds names to its module."""
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(json.dumps(legal_keys(), indent=1))
