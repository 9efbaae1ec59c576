"""What the gateway serves, and to whom. Every route of LiteLLM's app is tried: without a key, with a wrong one, with the right one."""

import re
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from lmstack.gateway.app import routes
from lmstack.gateway.app.routes import Access
from support import KEY, ROOT, Mock, Stack

KNOWN = ROOT / "tests" / "data" / "litellm_routes.txt"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
REFUSED = {401, 403, 404, 405}


def _known() -> list[tuple[str, str]]:
    pairs = [tuple(line.split(" ", 1)) for line in KNOWN.read_text().splitlines()]
    return [(method, path) for method, path in pairs]


def _urls() -> Iterator[tuple[str, str]]:
    """Every pair of method and URL; a mounted app is tried at its root and below, a WebSocket by a plain GET."""
    for method, path in _known():
        url = re.sub(r"\{[^}]*\}", "zz", path)
        for plain in METHODS if method == "MOUNT" else ("GET",) if method == "WS" else (method,):
            yield plain, url
            if method == "MOUNT":
                yield plain, f"{url}/zz"


def test_this_release_of_litellm_has_the_routes_that_we_know() -> None:
    """A new route is closed, but somebody has to look at it: run tests/litellm_routes.py > tests/data/litellm_routes.txt."""
    script = ROOT / "tests" / "litellm_routes.py"
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.splitlines() == KNOWN.read_text().splitlines()


def test_every_route_in_our_table_exists_in_litellm() -> None:
    known = {(method, re.sub(r"\{\w+", "{x", path)) for method, path in _known()}
    missing = [r for r in routes.ROUTES if (r.method, re.sub(r"\{\w+", "{x", r.path)) not in known]
    assert missing == []


@pytest.mark.parametrize("key", ["", "wrong", KEY[:-1], KEY])
def test_no_route_answers_but_those_in_the_table(gateway: Stack, mock: Mock, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    before, rows = len(mock.requests()), gateway.ask("requests", limit=1000)
    answered = []
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=30, trust_env=False) as client:
        for method, url in _urls():
            route = routes.find(method, url)
            if route is not None and (route.access is Access.ANYONE or key == KEY):
                continue
            status = client.request(method, url, json={} if method in ("POST", "PUT", "PATCH") else None).status_code
            if status not in REFUSED or (route is None and status != 404):
                answered.append((method, url, status))
    assert answered == []
    assert len(mock.requests()) == before
    assert gateway.ask("requests", limit=1000) == rows
