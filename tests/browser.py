"""A real browser for tests of pages, if one is installed."""

import time
from contextlib import ExitStack, contextmanager

import pytest
from measure.browser import NoBrowserError, chromium


@contextmanager
def browser(*flags):
    """A headless Chromium, driven by Playwright; skips the calling test where either is not installed."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(chromium(*flags))
        except NoBrowserError as error:
            pytest.skip(f"{error}: pages are not tested")
        yield running


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
