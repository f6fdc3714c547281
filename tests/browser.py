"""A real browser for the tests of pages."""

import shutil
import time
from contextlib import contextmanager

import pytest

WAIT_S = 60  # of a machine that does other things beside


@contextmanager
def open_browser():
    """A headless Chromium, driven by Selenium; skips where there is none."""
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("no Chromium and its chromedriver are installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def resize(browser, width, height):
    """Give the page so many px."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait_for(condition):
    """Wait until something is there, and return it."""
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "the page did not get there"
        time.sleep(0.02)
    return found
