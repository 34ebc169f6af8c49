"""Sign-in by OpenID Connect in a real browser, at a real provider."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.serving.console.conftest import Site, open_site
from tests.serving.console.driving import STORED, visiting
from tests.serving.identity_provider import free_port, providing, write_sign_in


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    with providing() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def site(provider, keyed_home, extractor, tmp_path_factory) -> Iterator[Site]:
    """A site that people sign in to."""
    home = tmp_path_factory.mktemp("sign-in") / "home"
    shutil.copytree(keyed_home[0], home)
    port = free_port()
    write_sign_in(home, provider, f"http://127.0.0.1:{port}")
    with open_site(home, keyed_home[1], extractor, port) as opened:
        yield opened


def consent(page: Page, subject: str) -> None:
    page.get_by_role("link", name="Sign in with Example ID").click()
    consent_there(page, subject)


def consent_there(page: Page, subject: str) -> None:
    page.get_by_placeholder("sub").fill(subject)
    page.get_by_role("button", name="Authorize").click()


def test_a_person_signs_in_to_the_view_they_asked_for_and_out_again(browser, site) -> None:
    with visiting(browser, site) as visitor:
        page = visitor.page
        page.goto(f"{site.url}/console#/sweeps")
        visitor.expect_heading("Sign in")
        visitor.check("signin-provider")
        consent(page, "u1")
        visitor.expect_heading("Sweeps")
        visitor.faults.clear()  # of the provider's own page
        assert page.url == f"{site.url}/console#/sweeps"
        expect(page.locator(".owner")).to_contain_text("anna")
        session, _, cookie = page.evaluate(STORED)
        assert (session, cookie) == ([], "")
        [kept] = page.context.cookies(site.url)
        assert (kept["name"], kept["httpOnly"], kept["sameSite"], kept["expires"]) == (
            "sosie_session",
            True,
            "Strict",
            -1,
        )
        page.reload()
        visitor.expect_heading("Sweeps")
        visitor.press("Sign out")
        visitor.expect_heading("Sign in")
        assert page.context.cookies(site.url) == []
        assert visitor.faults == []


def test_whoever_may_do_nothing_is_told_so_and_a_key_still_works(browser, site) -> None:
    with visiting(browser, site) as visitor:
        visitor.page.goto(f"{site.url}/console")
        consent(visitor.page, "u4")
        expect(visitor.page.get_by_role("alert")).to_contain_text("may do nothing here yet")
        visitor.page.get_by_label("API key").fill(site.keys["operator"])
        visitor.page.get_by_role("button", name="Sign in").click()
        visitor.expect_heading("Audit")


def test_a_session_that_ends_in_the_middle_of_a_note_loses_nothing_of_it(
    browser, site, photographs
) -> None:
    store: Any = site.service.parts.store
    case_id = open_case(site, photographs)
    text = "the scar over the left eye"
    with visiting(browser, site) as visitor:
        page = visitor.page
        page.goto(f"{site.url}/console#/case/{case_id}")
        consent(page, "u1")
        note = page.get_by_label("Note")
        note.fill(text)
        store.accounts.sign_out_person("anna", actor="test")
        visitor.press("Add the note")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("What you typed stays here")
        visitor.faults.clear()  # the 401, and the provider's own page
        visitor.check("signin-again")
        again_in_another_tab(page, dialog, "u2")
        expect(dialog.get_by_role("alert")).to_contain_text("somebody else")
        again_in_another_tab(page, dialog, "u1")
        expect(dialog).to_have_count(0)
        expect(note).to_have_value(text)
        visitor.press("Add the note")
        expect(page.locator(".history-note")).to_contain_text([text])
        expect(page.locator(".history-note strong")).to_contain_text(["Note", "You"])


def test_a_tab_goes_on_for_the_same_person_and_does_nothing_in_anothers_name(
    browser, site, photographs
) -> None:
    case_id = open_case(site, photographs)
    with visiting(browser, site) as visitor:
        page = visitor.page
        page.goto(f"{site.url}/console#/case/{case_id}")
        consent(page, "u2")
        page.get_by_label("Note").fill("typed before")
        with_other_tab(page, "u2")
        visitor.press("Add the note")
        expect(page.get_by_role("status").get_by_text("signed in again")).to_be_visible()
        visitor.press("Add the note")
        expect(page.locator(".history-note").last).to_contain_text("typed before")
        page.get_by_label("Note").fill("not bo's")
        with_other_tab(page, "u1")
        visitor.press("Add the note")
        expect(page.get_by_role("dialog")).to_contain_text("bo")
        visitor.press("Leave this page")
        visitor.expect_heading("Sign in")


def with_other_tab(page: Page, subject: str) -> None:
    """Somebody signs out and in beside it."""
    other = page.context.new_page()
    other.goto(page.url.partition("#")[0])
    other.get_by_role("button", name="Sign out").click()
    consent(other, subject)
    expect(other.get_by_role("navigation")).to_be_visible()
    other.close()


def again_in_another_tab(page: Page, dialog: Any, subject: str) -> None:
    with page.context.expect_page() as opened:
        dialog.get_by_role("link", name="Sign in with Example ID").click()
    other = opened.value
    consent_there(other, subject)
    expect(other.get_by_role("navigation")).to_be_visible()
    other.close()


def open_case(site: Site, photographs: Any) -> str:
    """A dispute of the person that the home begins with."""
    document = {"type": "cn-ric", "number": "110105199003071239"}
    body = {"document": document, "probe": {"image": photographs.later.read_bytes()}}
    path = "/v1/lines/+8613800138000/dispute"
    answer = site.service.ask("POST", path, key="fraud", body=body)
    return str(site.service.read(answer)["case_id"])
