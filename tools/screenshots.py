"""Take the pictures of docs/dashboard.md from a real Chromium, over a ledger of made-up requests: docs/assets/dashboard-*.png.

Needs Debian's package chromium. The numbers differ between two runs, because the requests end now.
"""

import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
ASSETS = ROOT / "docs" / "assets"
MOST_BYTES = 150_000
# Name, path, width, height, colours. "{request}" is a request that needed a second model.
PICTURES = (
    ("overview", "?since=7d", 1180, 960, "light"),
    ("overview-dark", "?since=30d&by=task", 1180, 960, "dark"),
    ("requests", "/requests?since=24h", 1180, 640, "light"),
    ("request", "/requests/{request}", 1180, 800, "light"),
    ("keys", "/keys", 1240, 560, "light"),
    ("key", "/keys/coder?since=7d", 1180, 900, "light"),
    ("models", "/models?since=7d", 1180, 700, "light"),
    ("narrow", "", 390, 844, "light"),
)


def main() -> int:
    """Write all pictures; return 1 when one is too large, or no Chromium is installed."""
    from playwright.sync_api import sync_playwright

    import page_site

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium is installed (Debian: apt-get install chromium)")
        return 1
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        ledger = Path(folder) / "litellm.db"
        page_site.fill(ledger, 60_000, 31)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with page_site.serving(ledger, _free_port()) as url:
            sizes = [_take(browser, url, page_site.KEY, _with_fallback(ledger), *picture) for picture in PICTURES]
        browser.close()
    return int(max(sizes) > MOST_BYTES)


def _take(
    browser: Any, url: str, key: str, request: str, name: str, path: str, width: int, height: int, colours: str
) -> int:
    """Take one picture and return its size in bytes."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
    tab = context.new_page()
    tab.goto(f"{url}/dashboard/login")
    tab.fill("#key", key)
    tab.click("button")
    tab.wait_for_selector("h1")
    tab.goto(f"{url}/dashboard{path.format(request=request)}", wait_until="load")
    tab.wait_for_function("document.fonts.status === 'loaded'")
    target = ASSETS / f"dashboard-{name}.png"
    tab.screenshot(path=target)
    context.close()
    size = target.stat().st_size
    print(f"{target.relative_to(ROOT)}: {size // 1000} kB")
    return size


def _with_fallback(ledger: Path) -> str:
    """Return the newest request that a second model answered."""
    import contextlib
    import sqlite3

    sql = "SELECT id FROM requests WHERE attempts > 1 AND status = 'succeeded' AND stream ORDER BY started_at DESC LIMIT 1"
    with contextlib.closing(sqlite3.connect(ledger)) as conn:
        return str(conn.execute(sql).fetchone()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
