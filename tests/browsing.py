"""Pages in a browser: Debian's Chromium, opened from disk, and what tests of the page of csn_jax.explore do in it.

Without a browser these tests are skipped, unless CSN_JAX_BROWSER=required says that there must be one.
"""

import os
import shutil

import pytest

QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CSN_JAX_BROWSER") == "required":
            pytest.fail("CSN_JAX_BROWSER=required and there is no chromium; apt-get install chromium")
        pytest.skip("no chromium; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """visit(address, **context) -> page. Console output and requests for anything but files fail the test."""
    contexts, faults = [], []

    def visit(address, width=1280, height=800, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        page.on("request", lambda request: faults.append(request.url) if not local(request.url) else None)
        page.goto(address)
        until(page, "isSettled()")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults == []


def until(page, condition):
    """Wait until an expression is true. The page's policy forbids the evaluation in Playwright's own waiting."""
    for _ in range(500):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"still false: {condition}")


def seek(page, text):
    """Type into the search box, and wait until the page has searched for all of it."""
    page.locator("#query").fill("")
    page.locator("#query").press_sequentially(text)
    until(page, "state.query === $('query').value")


def local(url):
    return url.startswith(("file:", "data:", "blob:"))


def click(page, item):
    """Click an item on the map, zoomed in until it is visible."""
    page.evaluate("(item) => itemMap.look({ x: itemMap.x[item], y: itemMap.y[item], zoom: 60 }, false)", item)
    until(page, "!itemMap.waiting")
    x, y = page.evaluate("(item) => itemMap.screen(item)", item)
    box = page.locator("#map").bounding_box()
    page.mouse.click(box["x"] + x, box["y"] + y)


def hits(page, where):
    """Ids and distances in a row of neighbours."""
    pairs = page.locator(f"{where} .hit").evaluate_all("all => all.map(e => [ids[e.dataset.item], e.dataset.distance])")
    return [name for name, _ in pairs], [float(distance) for _, distance in pairs]
