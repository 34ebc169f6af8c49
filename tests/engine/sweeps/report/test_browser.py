"""The page in a real browser, from a file: accessible, and nothing on the console."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from engine.sweeps.report.contents import ReportInput
from engine.sweeps.report.page import write_report
from schema.sweeps import Group

Made = Callable[..., ReportInput]
MadeGroup = Callable[..., Group]
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as CI is.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def report(tmp_path: Path, make_contents: Made, make_group: MadeGroup) -> str:
    groups = [
        make_group(f"group {number}", size, f"outlet {number}", risk)
        for number, (size, risk) in enumerate([(3, 40.0), (12, 30.0), (2, 20.0)])
    ]
    path = tmp_path / "report.html"
    write_report(path, make_contents(*groups, fraud_in_use=2))
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser: Browser, report: str, scheme: str) -> None:
    # The page's policy would refuse what axe adds to it.
    page = browser.new_page(color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page.goto(report)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()


def test_nothing_is_logged_on_the_console_or_requested_from_the_network(
    browser: Browser, report: str
) -> None:
    page = browser.new_page()
    logged: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(report)
    sort_by(page, "Identities")
    assert logged == []
    assert requested == [report]
    page.close()


def test_groups_are_sorted_by_a_click_and_by_the_keyboard(browser: Browser, report: str) -> None:
    page = browser.new_page()
    page.goto(report)
    assert identities(page) == ["3", "12", "2"]
    sort_by(page, "Identities")
    assert identities(page) == ["12", "3", "2"]
    page.keyboard.press("Enter")
    assert identities(page) == ["2", "3", "12"]
    assert (
        page.locator("table.groups th[aria-sort=ascending]").inner_text().startswith("Identities")
    )
    page.close()


def test_what_is_folded_opens_for_a_link_and_for_print(browser: Browser, report: str) -> None:
    page = browser.new_page()
    page.goto(report)
    folds = "[...document.querySelectorAll('details.fold')]"
    page.evaluate(f"{folds}.forEach(one => one.open = false)")
    page.evaluate("location.hash = 'group-2'")
    page.wait_for_function("document.querySelector('#group-2 details').open")
    assert page.locator("#group-2").is_visible()
    assert page.evaluate(f"{folds}.filter(one => one.open).length") == 2
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(f"{folds}.every(one => one.open)")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(f"{folds}.filter(one => one.open).length") == 2
    page.close()


def test_without_script_the_groups_are_in_order_of_rank(browser: Browser, report: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    assert identities(page) == ["3", "12", "2"]
    assert page.locator("table.groups button").count() == 0
    context.close()


def test_it_fits_a_small_screen(browser: Browser, report: str) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.goto(report)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def sort_by(page: Page, column: str) -> None:
    page.locator("table.groups th button", has_text=column).click()


def identities(page: Page) -> list[str]:
    return page.locator("table.groups tbody tr td:nth-child(5)").all_inner_texts()
