"""A browser for the tests of pages: Debian's Chromium, driven by Playwright, or a sentence about what is missing."""

import importlib.util
import shutil
from contextlib import contextmanager

import pytest

#: What is missing here for the tests of pages, in a sentence; empty if nothing is.
MISSING = ""
for package, extra in (("playwright", "browser"), ("panel", "explore")):
    if importlib.util.find_spec(package) is None:
        MISSING = f"the package {package} is not installed: python -m pip install '.[{extra}]'"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    MISSING = MISSING or "there is no Chromium: apt-get install chromium"

needs_browser = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@contextmanager
def chromium():
    """A Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


def watched(browser, **options):
    """A page, and the list of its errors, which grows."""
    page, errors = browser.new_page(**options), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page, errors


def answered(page, question):
    """Wait for an answer on the page of ``stedyn explore``."""
    page.locator(f'[data-number="{question}"]:not([data-stage="asked"], [data-stage="fault"])').wait_for()


def newest(page):
    """The number of the newest question."""
    return int(page.locator("[data-number]").get_attribute("data-number"))


def change(page, key, value):
    """Type a value into a control, and wait for the answer."""
    before, field = newest(page), page.locator(f".{key} input").first
    field.fill(value)
    field.press("Enter")
    answered(page, before + 1)
