"""Chromium from the system's packages, without a window, that may reach one address only."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

WIDTHS = (390, 1280)
"""A phone and a desktop."""

PHONE_FIRST = (WIDTHS[0], pytest.param(WIDTHS[1], marks=pytest.mark.long))
"""The same, with a desktop in the long form of a test."""


@contextmanager
def chromium() -> Iterator["Browser"]:
    """The browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine: install the system's package")
    with playwright.sync_playwright() as library:
        # Without a sandbox, because tests can run as root; the pages are our own.
        browser = library.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, what it asked of other addresses, and what its console said."""

    def __init__(self, browser: "Browser", address: str, width: int, *, dark: bool) -> None:
        self.address = address
        self.elsewhere: list[str] = []
        self.said: list[str] = []
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            java_script_enabled=True,
        )
        context.set_default_timeout(10_000)
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.route("**/*", self._route)

    def _route(self, route: "Route") -> None:
        if route.request.url.startswith(self.address):
            route.continue_()
        else:
            self.elsewhere.append(route.request.url)
            route.abort()

    def check(self) -> None:
        """Nothing went wrong, and the page is no wider than the window."""
        assert self.said == []
        assert self.elsewhere == []
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.page.evaluate(wide) <= 0, f"{self.page.url} scrolls sideways"
