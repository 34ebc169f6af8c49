"""The page of the API at `/docs`: every operation and type, from our own files alone."""

import json
import os
import re
import sys
from subprocess import check_output
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from serving.api.endpoints import ENDPOINTS
from tests.serving.console.conftest import Site
from tests.serving.console.driving import visiting
from tests.serving.sandbox.conftest import serve_sandbox


@pytest.fixture
def page(site, browser) -> Any:
    with visiting(browser, site) as visitor:
        visitor.page.goto(f"{site.url}/docs")
        expect(visitor.page.locator("main > section").first).to_be_visible()
        yield visitor.page
    assert visitor.faults == []


def test_every_operation_and_every_type_is_on_the_page(page: Page, site) -> None:
    document = site.service.ask("GET", "/openapi.json", key=None).json()
    shown = {one.get_attribute("id") for one in page.locator("main details").all()}
    assert shown == {one.operation_id for one in ENDPOINTS} | {
        f"type-{name}" for name in document["components"]["schemas"]
    }


def test_the_markdown_of_descriptions_is_rendered_and_is_code_alone(page: Page, site) -> None:
    document = site.service.ask("GET", "/openapi.json", key=None).text
    texts = re.findall(r'"description": ?"((?:[^"\\]|\\.)*)"', document)
    assert [one for one in texts if re.search(r"\*\*|\]\(|(?:\\n|^) *[-*#] ", one)] == []
    assert [one for one in texts if one.count("`") % 2] == []
    shown = page.locator("p, td, .what").all_text_contents()
    assert not [text for text in shown if "`" in text]
    expect(page.locator("#createEnrollment ~ details code").first).to_be_attached()


def test_a_filter_leaves_what_is_looked_for_and_a_link_opens_it(page: Page) -> None:
    page.get_by_label("Filter").fill("post enrollment")
    expect(page.locator("main details:not([hidden])")).to_have_count(1)
    expect(page.get_by_role("status")).to_contain_text("1 of")
    page.locator("#createEnrollment > summary").click()
    page.locator("#createEnrollment").get_by_role("link", name="EnrollmentRequest").click()
    expect(page.locator("#type-EnrollmentRequest table")).to_contain_text("consent_ref")


def test_axe_finds_no_serious_fault(page: Page) -> None:
    # All are drawn alike; with every one open it looks for a minute.
    page.evaluate(
        "document.querySelectorAll('main details').forEach((it, at) => { it.open = at % 6 == 0; })"
    )
    found = Axe().run(page).response["violations"]
    serious = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


def test_a_call_is_tried_in_a_sandbox_alone_and_its_lines_run_as_shown(
    browser, site, page: Page, tmp_path
) -> None:
    expect(page.get_by_text("tried in the sandbox only")).to_be_visible()
    assert page.get_by_role("button", name="Try it", include_hidden=True).count() == 0
    with serve_sandbox(tmp_path) as served:
        sandbox, key = Site(served.url, served.keys, site.service), served.keys["fraud"]
        with visiting(browser, sandbox) as visitor:
            visitor.page.goto(f"{served.url}/docs#searchPeople")
            operation = visitor.page.locator("#searchPeople")
            operation.get_by_label("Body").fill('{"document_ids": []')
            assert operation.locator("textarea:invalid").count() == 1
            operation.get_by_label("Body").fill('{"msisdn": "+8613800138000"}')
            for given, told in (("sosie_live_1_2", "with sosie_sandbox_"), (key, "Answer: 200")):
                visitor.page.get_by_label("Key for trying").fill(given)
                operation.get_by_role("button", name="Try it").click()
                expect(operation.get_by_role("status")).to_contain_text(told)
            tried = json.loads(operation.get_by_role("status").locator("pre").inner_text())
            for name, run in (("curl", "bash"), ("Python", sys.executable)):
                lines = operation.get_by_role("group", name=name).inner_text()
                shown = check_output([run, "-c", lines], env={**os.environ, "SOSIE_KEY": key})
                assert json.loads(shown.removeprefix(b"200 ")) == tried
            assert visitor.faults == []
