"""Print what differs between two LiteLLM releases, of all that lmstack relies on.

``python tools/litellm_changes.py OLD NEW``: two releases, or the Pythons of two environments with one each. Compared are the
parameters and sources of the private names (gateway/stock/uses.py), of our hooks, and of the functions that decide how a
request goes. So are routes, configuration keys and prices. For some requests, the order of the hooks and what LiteLLM
cools down are compared too (hook_order.py). LiteLLM's app answers them in one process, and no provider is called.
"""

import ast
import difflib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
HOOKS = SRC / "lmstack" / "gateway" / "calls" / "hooks.py"
SECTIONS = ("private names", "hooks", "decisions", "calls of hooks", "routes", "configuration keys", "prices")
# The functions that decide which model is tried, what cools down, which key counts, and when a hook is called.
DECISIONS = (
    "litellm.router:Router.async_function_with_fallbacks",
    "litellm.router:Router.async_function_with_retries",
    "litellm.router:Router.deployment_callback_on_failure",
    "litellm.router:Router.async_deployment_callback_on_failure",
    "litellm.router:Router.async_get_available_deployment",
    "litellm.router_utils.cooldown_handlers:_is_cooldown_required",
    "litellm.router_utils.cooldown_handlers:_set_cooldown_deployments",
    "litellm.router_utils.cooldown_handlers:set_cooldown_deployments",
    "litellm.router_utils.fallback_event_handlers:run_async_fallback",
    "litellm.types.router:RouterRateLimitError",
    "litellm.types.router:RouterRateLimitErrorBasic",
    "litellm.proxy.auth.user_api_key_auth:get_api_key",
    "litellm.proxy.common_request_processing:ProxyBaseLLMRequestProcessing.base_process_llm_request",
    "litellm.proxy.common_request_processing:stream_usage_tracking_updates",
    "litellm.proxy.utils:ProxyLogging.pre_call_hook",
    "litellm.proxy.utils:ProxyLogging.post_call_failure_hook",
    "litellm.proxy.proxy_server:async_data_generator",
    "litellm.proxy.proxy_server:proxy_startup_event",
)
# The attributes of the running router belong to these classes.
ROUTER, COOLDOWNS = "litellm.router:Router", "litellm.router_utils.cooldown_cache:CooldownCache"

PROBE = """
import hashlib, importlib, inspect, json, os, sys, types
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
def about(place):
    module, _, path = place.partition(":")
    try:
        found = importlib.import_module(module)
        for name in filter(None, path.split(".")):
            found = getattr(found, name)
    except Exception as error:
        return None
    known = {"kind": type(found).__name__}
    try:
        known["parameters"] = [p.split(":")[0].split("=")[0].strip() for p in map(str, inspect.signature(found).parameters.values())]
    except (TypeError, ValueError):
        pass
    try:
        known["source"] = hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:12]
    except (TypeError, OSError):
        pass
    return known
asked = json.load(sys.stdin)
import litellm
found = {section: {place: about(place) for place in places} for section, places in asked.items()}
prices = ("input_cost_per_token", "output_cost_per_token", "mode")
found["prices"] = {name: {p: entry.get(p) for p in prices} for name, entry in litellm.model_cost.items()}
json.dump(found, sys.stdout)
"""


def asked() -> dict[str, list[str]]:
    """Return the places of the private names, the hooks and the decisions."""
    sys.path.insert(0, str(SRC))
    from lmstack.gateway.stock.uses import USES

    classes = [
        n for n in ast.parse(HOOKS.read_text()).body if isinstance(n, ast.ClassDef) and n.name == "LedgerHandler"
    ]
    hooks = [n.name for n in classes[0].body if isinstance(n, ast.AsyncFunctionDef | ast.FunctionDef)]
    return {
        "private names": sorted({_place(use.place) for use in USES}),
        "hooks": [f"litellm.integrations.custom_logger:CustomLogger.{name}" for name in hooks],
        "decisions": list(DECISIONS),
    }


def _place(place: str) -> str:
    """Return the class member for a name of the running router. Members that only an object has are left to its class."""
    if not place.startswith("router."):
        return place
    first, *rest = place.split(".")[1:]
    if first != "cooldown_cache":
        return ROUTER if first == "model_list" else f"{ROUTER}.{first}"
    return COOLDOWNS if rest[0] == "in_memory_cache" else f"{COOLDOWNS}.{rest[0]}"


def answers(python: str, places: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Return what a release answers: for each section, what is known of each name."""
    found: dict[str, dict[str, Any]] = json.loads(
        _ask([python, "-c", PROBE], json.dumps(places)).strip().splitlines()[-1]
    )
    keys = json.loads(_ask([python, str(SRC / "lmstack" / "config" / "legal_keys.py")]))
    listed = {section: names for section, names in keys.items() if isinstance(names, list)}
    found["configuration keys"] = {f"{section}: {name}": "known" for section, names in listed.items() for name in names}
    hooks = [place.rpartition(".")[2] for place in places["hooks"]]
    order = json.loads(_ask([python, str(ROOT / "tools" / "hook_order.py"), *hooks]).strip().splitlines()[-1])
    found["calls of hooks"] = {kind: {"": calls} for kind, calls in order.items()}
    found["routes"] = dict.fromkeys(_ask([python, str(ROOT / "tests" / "litellm_routes.py")]).splitlines(), "served")
    return found


def _python(given: str) -> str:
    """Return the Python of a release; any other text is a Python already."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", given):
        return given
    from release_env import python_with

    return str(python_with(given))


def _ask(argv: list[str], text: str = "") -> str:
    done = subprocess.run(
        argv, input=text, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{argv[0]} cannot be asked: {done.stderr.strip()[-500:]}")
    return done.stdout


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return one line for each name of a section that is gone, new or changed."""
    lines = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if after is None:
            lines.append(f"gone     {name}")
        elif before is None:
            lines.append(f"new      {name}")
        else:
            lines.append(f"changed  {name}: {_difference(before, after)}")
    return lines


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    told = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return "; ".join(_told(key, before.get(key), after.get(key)) for key in told)


def _told(key: str, before: Any, after: Any) -> str:
    if key == "source":
        return key
    if not isinstance(before, list) or not isinstance(after, list):
        return f"{key} {before} → {after}"
    signs = [f"{line[0]}{line[2:]}" for line in difflib.ndiff(before, after) if line[0] in "+-"]
    return f"{key} {', '.join(signs)}".strip()


def main(argv: list[str]) -> int:
    """Print the changes by section. Return 1 when a private name, a hook, a decision or a call has changed."""
    if len(argv) != 2:
        sys.exit("usage: litellm_changes.py OLD NEW")
    places = asked()
    old, new = (answers(_python(given), places) for given in argv)
    found = {section: changes(old[section], new[section]) for section in SECTIONS}
    for section, lines in found.items():
        print(f"\n{section}: {len(lines)} of {len({*old[section], *new[section]})} differ")
        print("\n".join(f"  {line}" for line in lines))
    return 1 if any(found[section] for section in SECTIONS[:4]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
