"""The page in a real Chromium: each view in light, dark and narrow, live requests, filters, zoom, log-out; axe-core finds nothing."""

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import page_site
from chromium import LOOKS, Page, launched, needed
from support import free_port

pytestmark = needed
AXE = "axe-core@4.14.1"
VIEWS = ("", "/requests", "/models", "/keys", "/keys/coder", "/budgets", "/errors", "/outbox")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site") / "litellm.db"
    page_site.fill(path, 3000, 3)
    return path


@pytest.fixture(scope="module")
def site(ledger: Path) -> Iterator[str]:
    with page_site.serving(ledger, free_port()) as url:
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the source of axe-core. Skip where npm is missing or reaches nothing."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        ["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        pytest.skip(f"npm cannot get {AXE}: {done.stderr.strip()[:200]}")
    with tarfile.open(fileobj=io.BytesIO(next(folder.glob("*.tgz")).read_bytes())) as packed:
        source = packed.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


@pytest.fixture
def page(chromium: Any, site: str) -> Iterator[Page]:
    made = Page(chromium, site)
    yield made
    made.context.close()


@pytest.mark.parametrize("look", LOOKS)
def test_each_view_is_accessible_and_has_no_error_in_the_console(
    chromium: Any, site: str, ledger: Path, axe: str, look: str
) -> None:
    made = Page(chromium, site, look)
    one = page_site.write_one(ledger)
    for path in (
        *VIEWS,
        f"/requests/{one}",
        "?since=30d&by=day",
        "?since=90d&by=task&show=requests",
        "/requests?task=nothing",
    ):
        made.open(path)
        for details in made.tab.locator("summary").all():
            details.click()
        assert made.accessibility(axe) == [], path
        # Nothing is wider than the screen: only tables scroll, within themselves.
        assert made.tab.evaluate("document.documentElement.scrollWidth") <= LOOKS[look][0], path
    assert made.problems == []
    made.context.close()


def test_a_viewer_has_no_form_of_change(chromium: Any, site: str, axe: str) -> None:
    made = Page(chromium, site, key=page_site.VIEWER_SECRET)
    for path in VIEWS:
        made.open(path)
        assert made.tab.locator("form[method=post]:not([action$=logout])").count() == 0, path
    made.open("/keys")
    assert made.accessibility(axe) == []
    made.tab.click("button:text('Log out')")
    made.tab.wait_for_selector("#key")
    assert made.problems == []
    made.context.close()


def test_a_live_request_appears_and_the_filter_holds(page: Page, ledger: Path) -> None:
    page.open("/requests?task=live")
    page.tab.wait_for_selector(".live.on")
    assert page.tab.locator("#rows tr").count() == 0
    page_site.write_one(ledger, task="other")
    shown = page_site.write_one(ledger, task="live")
    page.tab.wait_for_selector(f"#rows #{shown}")
    assert page.tab.locator("#rows tr").count() == 1
    page.tab.click(f"#{shown} a")
    page.tab.wait_for_selector(f"h1:has-text('{shown}')")
    assert page.problems == []


def test_a_filter_and_a_span_are_in_the_address(page: Page) -> None:
    page.open("/requests?since=7d")
    page.tab.select_option("select[name=status]", "failed")
    page.tab.wait_for_url("**status=failed**")
    page.tab.wait_for_selector("select[name=status] option[selected]:text('failed')", state="attached")
    assert "since=7d" in page.tab.url
    assert set(page.tab.locator("#rows .state").all_inner_texts()) == {"failed"}
    page.tab.click(".spans a:text('30d')")
    page.tab.wait_for_url("**since=30d**")
    assert "status=failed" in page.tab.url
    assert page.problems == []


def test_a_chart_shows_its_values_and_zooms(page: Page) -> None:
    page.open("?since=7d&show=requests&by=provider")
    plot = page.tab.locator(".u-over")
    box = plot.bounding_box()
    assert box is not None
    page.tab.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 40)
    page.tab.wait_for_selector(".tip:not([hidden]) p >> nth=1")
    page.tab.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 60)
    page.tab.mouse.down()
    page.tab.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 60, steps=4)
    page.tab.mouse.up()
    page.tab.wait_for_url("**from=**to=**")
    page.tab.wait_for_selector(".u-over")
    assert "by=provider" in page.tab.url
    assert page.tab.locator(".zoomed").count() == 1
    assert page.problems == []


def test_everything_is_reached_with_the_keyboard(page: Page) -> None:
    page.open("")
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached = set()
    for _ in range(60):
        page.tab.keyboard.press("Tab")
        reached.add(page.tab.evaluate("document.activeElement.textContent.trim().slice(0, 20)"))
    assert {"Requests", "Models", "Keys", "Budgets", "Errors", "Outbox", "Log out", "7d", "Download as CSV"} <= reached


def test_the_first_view_is_small_and_a_log_out_ends_it(page: Page) -> None:
    sizes: dict[str, int] = {}
    fresh = page.context.new_page()
    fresh.on("requestfinished", lambda request: sizes.__setitem__(request.url, request.sizes()["responseBodySize"]))
    fresh.goto(f"{page.site}/dashboard", wait_until="networkidle")
    assert 0 < sum(sizes.values()) < 200_000, sizes
    page.tab.click("button:text('Log out')")
    page.tab.wait_for_selector("#key")
    page.tab.goto(f"{page.site}/dashboard")
    page.tab.wait_for_selector("#key")
    assert page.problems == []
