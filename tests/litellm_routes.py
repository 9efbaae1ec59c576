"""Print every route of LiteLLM's app, its lazy features loaded: one `METHOD path` per line. Run by test_routes.py."""

import gc
import importlib
import os
from collections.abc import Iterator
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


def _walk(routes: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for route in routes:
        if hasattr(route, "effective_candidates"):
            yield from _walk(route.effective_candidates(), prefix)
            continue
        plain = getattr(route, "original_route", route)
        path = prefix + (getattr(route, "path", None) or getattr(plain, "path", ""))
        methods = getattr(route, "methods", None) or getattr(plain, "methods", None)
        if methods:
            yield from ((method, path) for method in methods)
        elif "WebSocket" in type(plain).__name__:
            yield "WS", path
        else:
            yield "MOUNT", path
            yield from _walk(getattr(plain, "routes", None) or (), path)


def main() -> None:
    gc.disable()  # it would take a third of the time
    from litellm.proxy import proxy_server
    from litellm.proxy._lazy_features import LAZY_FEATURES

    app = proxy_server.app
    found = set(_walk(app.router.routes))
    for feature in LAZY_FEATURES:
        feature.register_fn(app, importlib.import_module(feature.module_path))
        found |= set(_walk(app.router.routes))
    for method, path in sorted(found, key=lambda pair: (pair[1], pair[0])):
        print(method, path)


if __name__ == "__main__":
    main()
