"""A real browser for tests of pages, if one is installed."""

import shutil
import time
from contextlib import contextmanager

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def browser():
    """A headless Chromium, driven by Playwright; skips the calling test where either is not installed."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pages are not tested")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser is installed (such as Debian's package chromium): pages are not tested")
    with driver.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@contextmanager
def page_at(running, url, **options):
    """A page that must load, and log no error to the console until it is closed."""
    page = running.new_page(viewport={"width": 1280, "height": 760}, **options)
    page.set_default_timeout(30_000)
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    yield page
    page.close()
    assert not errors, errors


def until(page, expression):
    """Waits until an expression is true in the page, whose security policy forbids Playwright's own way to wait."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"{expression} did not become true: {page.evaluate('rtskelStats')}"
        page.wait_for_timeout(10)
