"""The page in a real browser: ``make browser`` (needs Chromium).

Not collected by ``make test``: it needs a browser, which `make test` must not.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.reports.page.test_render import NASTY, make

WIDTHS = (375, 1024, 1920)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page there is already (``HEADROOM_PAGE``, if not empty), or a small one with nasty names."""
    given = os.environ.get("HEADROOM_PAGE")
    if given:
        return Path(given).resolve()
    from reports.page.render import write
    from reports.report import build

    runs = [make(head) for head in ("ridge", "lda", "knn", "logistic", "centroid")]
    return write(build(runs), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.fail("no Chromium: install it (Debian: apt-get install chromium) or name it in CHROMIUM=")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(browser: Browser, path: Path, width: int, scheme: Any = "light") -> tuple[Page, list[str]]:
    """The page at this width, and everything it complained about or asked for."""
    troubles: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda message: troubles.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "data:")) else troubles.append(f"request: {request.url}")
        ),
    )
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
    return page, troubles


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_complains_or_is_asked_for(
    browser: Browser, page_path: Path, width: int, scheme: str
) -> None:
    page, troubles = opened(browser, page_path, width, scheme)
    wide = page.evaluate(
        """() => [...document.querySelectorAll('body *')]
            .filter((item) => !item.closest('svg, pre, thead') || item.matches('svg, pre'))
            .filter((item) => item.getBoundingClientRect().right > innerWidth + 1)
            .map((item) => item.tagName + ' ' + item.textContent.trim().slice(0, 40))"""
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert troubles == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_before_any_click_there_are_the_answer_and_its_picture(
    browser: Browser, page_path: Path, width: int, height: int, scheme: Any
) -> None:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(page_path.as_uri())
    for part in (".answer", "figure svg:visible"):
        box = page.locator(part).first.bounding_box()
        assert box is not None and box["y"] > 0 and box["y"] + box["height"] <= height, part
        assert box["width"] > 0.9 * min(width - 32, 992), "it has the width that is there"
    page.close()


def test_a_row_unfolds_the_section_of_its_head(browser: Browser, page_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(page_path.as_uri())
    link = page.locator("table th[scope=row] a").first
    section = page.locator(link.get_attribute("href") or "")
    assert not section.is_visible()
    link.click()
    for part in ("figure svg", "pre"):
        assert section.locator(part).first.is_visible()
    page.close()


def test_a_click_sorts_and_another_turns_round(browser: Browser, page_path: Path) -> None:
    page, _ = opened(browser, page_path, 1024)
    table = page.locator("table.sortable").first

    def column() -> list[float]:
        cells = table.locator("tbody tr td:nth-child(5)").all()
        return [float(cell.get_attribute("data-value") or "nan") for cell in cells]

    before = column()
    button = table.locator("thead th:nth-child(5) button")
    button.click()
    assert column() == sorted(before, reverse=True)
    button.focus()
    page.keyboard.press("Enter")  # works without a mouse
    assert column() == sorted(before)
    assert table.locator("thead th:nth-child(5)").get_attribute("aria-sort") == "ascending"
    page.close()


def test_sorting_is_in_sight_on_a_phone_and_tables_are_still_tables(
    browser: Browser, page_path: Path
) -> None:
    page, _ = opened(browser, page_path, 375)
    table = page.locator("table.sortable").first
    button = table.locator("thead button").nth(1)
    box = button.bounding_box()
    assert button.is_visible()
    assert box is not None and box["height"] > 10 and box["x"] + box["width"] <= 375
    assert page.get_by_role("columnheader").count() and page.get_by_role("rowheader").count()
    page.close()


def test_no_id_comes_twice(browser: Browser, page_path: Path) -> None:
    page, _ = opened(browser, page_path, 1024)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((item) => item.id)")
    assert len(ids) == len(set(ids)) > 0
    page.close()


def test_printing_unfolds_everything(browser: Browser, page_path: Path) -> None:
    page, _ = opened(browser, page_path, 1024)
    folded = "document.querySelectorAll('details:not([open])').length"
    page.evaluate("document.querySelectorAll('details').forEach((part) => part.open = false)")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(folded) == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(folded) > 0
    page.close()


def test_names_from_data_are_text(browser: Browser, page_path: Path) -> None:
    page, troubles = opened(browser, page_path, 1024)
    assert page.locator("script").count() == 1
    if not os.environ.get("HEADROOM_PAGE"):
        for name in NASTY:
            assert name in page.locator("body").inner_text()
    assert troubles == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser: Browser, page_path: Path, scheme: str) -> None:
    """WCAG 2.2, success criterion 1.4.3: 4.5 to 1 for text of normal size."""
    page, _ = opened(browser, page_path, 1024, scheme)
    low = page.evaluate(
        """() => {
        const light = (colour) => {
          const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = (item) => {
          for (; item; item = item.parentElement) {
            const colour = getComputedStyle(item).backgroundColor;
            if (!colour.endsWith(', 0)')) return colour;
          }
          return 'rgb(255, 255, 255)';
        };
        const written = (item) => [...item.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        return [...document.querySelectorAll('body *')]
          .filter((item) => !item.closest('svg, script') && written(item))
          .map((item) => {
            const [a, b] = [light(getComputedStyle(item).color), light(ground(item))];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            return [ratio, item.tagName + ' ' + item.textContent.slice(0, 30)];
          })
          .filter(([ratio]) => ratio < 4.5);
        }"""
    )
    assert low == []
    page.close()
