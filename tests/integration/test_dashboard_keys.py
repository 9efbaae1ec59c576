"""Keys on the page of a real gateway, in a real Chromium: made, used, raised, rotated, revoked; and a viewer's key."""

import re
import time
from typing import Any

import httpx

from chromium import Page, launched, needed
from lmstack.keys.secret import digest
from support import KEY, Stack, wait_for

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]}


def call(stack: Stack, secret: str) -> httpx.Response:
    """Make a request with a key."""
    return httpx.post(f"{stack.url}/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {secret}"}, trust_env=False, timeout=60)  # fmt: skip


def secret_of(page: Page) -> str:
    """Return the secret that the page shows now."""
    page.tab.wait_for_selector("#secret")
    return str(page.tab.inner_text("#secret")).strip()


@needed
def test_the_life_of_a_key_on_the_page(gateway: Stack) -> None:
    with launched() as chromium:
        page = Page(chromium, gateway.url, key=KEY)
        name = f"page-{time.time_ns() % 10**9}"
        page.open("/keys")
        page.tab.click("summary:has-text('Make a key')")
        for field, value in (("name", name), ("team", "core"), ("budget", "5/day"), ("rpm", "60")):
            page.tab.fill(f".fields [name={field}]", value)
        page.tab.click("button:text('Make the key')")
        secret = secret_of(page)
        assert re.fullmatch(r"sk-lm-[\w-]{43}", secret)
        assert secret not in page.tab.url

        wait_for(lambda: call(gateway, secret).status_code == 200, 5, "the key is valid")
        page.tab.click("a:text('Go to the key')")
        page.tab.wait_for_selector(f"h1:has-text('{name}')")
        assert secret not in page.tab.content()
        wait_for(lambda: "1 of 60 requests" in _reloaded(page), 10, "the rate in use")
        row = gateway.json("key", "show", name)["data"]["key"]
        assert row["last_used_at"] is not None
        assert row["rates"]["rpm"]["used"] >= 1
        assert [change["actor"][:5] for change in gateway.json("audit", "--key", name)["data"]["changes"]] == ["page:"]

        _raise(page)
        page.tab.wait_for_selector(".notice:has-text('raised')")
        assert gateway.json("key", "show", name)["data"]["key"]["budgets"][0]["limit_usd"] == 8.0

        page.tab.click("summary:has-text('Rotate')")
        page.tab.fill("[name=keep]", "1h")
        page.tab.click("button:has-text('Rotate')")
        second = secret_of(page)
        wait_for(lambda: call(gateway, second).status_code == 200, 5, "the new secret is valid")
        assert call(gateway, secret).status_code == 200

        page.open(f"/keys/{name}")
        page.tab.click("summary:has-text('Revoke')")
        page.tab.click("button:has-text('Revoke')")
        page.tab.wait_for_selector(".state:text('revoked')")
        revoked = time.monotonic()
        wait_for(lambda: call(gateway, second).status_code == 401, 5, "the revoked key is refused")
        assert time.monotonic() - revoked < 1.0
        assert call(gateway, secret).json()["error"]["type"] == "key_revoked"
        assert page.problems == []
        _no_trace(gateway, secret, second)
        _viewer(gateway, chromium)


def _reloaded(page: Page) -> str:
    page.tab.reload()
    return str(page.tab.inner_text("main"))


def _raise(page: Page) -> None:
    page.tab.click("summary:has-text('Raise the budgets')")
    page.tab.fill("[name=usd]", "3")
    page.tab.fill("[name=until]", "1d")
    page.tab.click("button:has-text('Raise')")


def _no_trace(stack: Stack, *secrets: str) -> None:
    """Look for the secrets in everything that the stack has written."""
    everything = b"".join(path.read_bytes() for path in stack.root.rglob("*") if path.is_file())
    assert digest(secrets[0]).encode() in everything
    assert not any(secret.encode() in everything for secret in secrets)


def _viewer(stack: Stack, chromium: Any) -> None:
    """Log in with the key of a viewer: it sees keys and no forms, and calls nothing."""
    name = f"viewer-{time.time_ns() % 10**9}"
    secret = str(stack.json("key", "create", name, "--role", "viewer")["data"]["secret"])
    page = Page(chromium, stack.url, key=secret)
    page.open("/keys")
    assert page.tab.locator("form[method=post]:not([action$=logout])").count() == 0
    assert page.problems == []
    wait_for(lambda: call(stack, secret).status_code == 403, 5, "the gateway knows the key")
    assert call(stack, secret).json()["error"]["type"] == "route_not_allowed"
    stack.lm("key", "revoke", name)
    page.tab.goto(f"{stack.url}/dashboard/keys")
    page.tab.wait_for_selector("#key")
