"""The page that a real gateway serves: behind the gate, from the real ledger, with the same numbers as `lm`."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from support import KEY, Stack, wait_for

BEARER = {"authorization": f"Bearer {KEY}"}
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture
def browser(gateway: Stack) -> Iterator[httpx.Client]:
    """A client that keeps cookies and is logged in."""
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client:
        form = client.get("/dashboard/login")
        token = re.findall('name="token" value="([^"]+)"', form.text)[0]
        assert client.post("/dashboard/login", data={"token": token, "key": KEY}).status_code == 303
        yield client


def test_the_page_shows_a_call_as_the_command_line_does(gateway: Stack, browser: httpx.Client) -> None:
    answer = gateway.post("/v1/chat/completions", CHAT, x_task_id="page-task")
    row = gateway.row(answer.headers["x-litellm-call-id"])
    assert row["id"] in browser.get("/dashboard/requests?task=page-task").text
    one = browser.get(f"/dashboard/requests/{row['id']}").text
    assert "gpt-4o-mini" in one
    assert "Tokens in" in one
    shown = browser.get("/api/v1/usage?by=task&since=1h").json()
    told = gateway.json("usage", "--by", "task", "--since", "1h")["data"]
    assert shown["rows"] == told["rows"]
    compared = browser.get("/api/v1/overview?since=1h").json()["premium"]
    assert compared["model"] == told["dearest"]["model"]


def test_the_page_knows_models_prices_and_health(browser: httpx.Client) -> None:
    models = {model["name"]: model for model in browser.get("/api/v1/models").json()["models"]}
    mini = models["gpt-4o-mini"]
    assert (mini["provider"], mini["tier"], mini["input_usd"], mini["output_usd"]) == ("openai", 1, 0.15, 0.6)
    assert mini["retires_on"] == "2027-01-14"
    assert models["claude-3-haiku"]["retired"]
    assert {model["state"] for model in models.values()} <= {"healthy", "unhealthy", "unchecked"}


def test_the_gate_is_before_the_page(gateway: Stack, browser: httpx.Client) -> None:
    assert browser.get("/dashboard", headers={"host": "evil.example"}).status_code == 403
    assert browser.get("/api/v1/usage", headers={"origin": "https://evil.example"}).status_code == 403
    big = httpx.post(f"{gateway.url}/dashboard/login", data={"key": "x" * 20_000}, trust_env=False)
    assert big.status_code == 413
    assert browser.put("/dashboard").status_code == 404
    assert httpx.get(f"{gateway.url}/api/v1/usage", trust_env=False).status_code == 401
    assert httpx.get(f"{gateway.url}/dashboard", trust_env=False).status_code == 303


def test_no_request_of_the_page_gets_a_row(gateway: Stack, browser: httpx.Client) -> None:
    before = gateway.ask("status")
    for path in ("/dashboard", "/dashboard/requests", "/api/v1/overview"):
        assert browser.get(path).status_code == 200
    assert gateway.ask("status") == before


def test_a_live_request_reaches_an_open_page(gateway: Stack, browser: httpx.Client) -> None:
    got: list[str] = []

    def follow() -> None:
        with contextlib.suppress(httpx.HTTPError), browser.stream("GET", "/dashboard/live?task=live-task") as stream:
            for line in stream.iter_lines():
                got.append(line)
                if "live-task" in line:
                    return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    wait_for(lambda: got, what="the stream")

    def appears() -> bool:
        gateway.post("/v1/chat/completions", CHAT, x_task_id="live-task")
        time.sleep(0.3)  # between two calls, not before a check
        return any("live-task" in line for line in got)

    wait_for(appears, what="a live request")


def test_the_link_of_lm_dashboard_logs_in_once(gateway: Stack) -> None:
    link = gateway.lm("dashboard", "--print").stdout.strip()
    with httpx.Client(trust_env=False) as client, httpx.Client(trust_env=False) as second:
        assert client.get(link).status_code == 200
        assert "Cost today" in client.get(f"{gateway.url}/dashboard").text
        assert second.get(link).status_code == 401
