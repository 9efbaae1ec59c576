"""The page in a real Chromium. For tests."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

import page_site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
# Width, height, colours.
LOOKS = {"light": (1280, 900, "light"), "dark": (1280, 900, "dark"), "narrow": (360, 740, "light")}


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Yield a browser. While it runs, no test of this process can run an event loop of its own."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright's Python client is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Page:
    """One page of a browser that is logged in. ``problems``: what its console reported, and what was not loaded."""

    def __init__(self, chromium: Any, site: str, look: str = "light", key: str = page_site.KEY) -> None:
        width, height, colours = LOOKS[look]
        self.site, self.problems = site, list[str]()
        self.context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(15_000)
        self.tab.on("console", self._note)
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.on(
            "response", lambda answer: answer.status >= 400 and self.problems.append(f"{answer.status} {answer.url}")
        )
        self.tab.goto(f"{site}/dashboard/login")
        self.tab.fill("#key", key)
        self.tab.click("button")
        self.tab.wait_for_selector("h1:has-text('Overview')")

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def open(self, path: str) -> None:
        self.tab.goto(f"{self.site}/dashboard{path}")
        self.tab.wait_for_selector("main")

    def accessibility(self, axe: str) -> list[Any]:
        """Return what axe-core finds wrong. ``axe``: its source."""
        found = self.tab.evaluate(f"(() => {{ {axe}; return axe.run({{resultTypes: ['violations']}}); }})()")
        return [(one["id"], [node["target"] for node in one["nodes"]]) for one in found["violations"]]
