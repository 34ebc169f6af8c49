"""A person works a queue of planted cases, one after the other, and a second one approves."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import numpy as np
import pytest
from playwright.sync_api import expect

from engine.matching.bulk_enrollment import Subscriber
from engine.registry.vault import Vault
from schema.cases import CaseState
from serving.demo.scenario import make_document
from tests.engine.records import newest_cases
from tests.serving.console.conftest import (
    Site,
    import_subscribers,
    keep_faces,
    make_subscriber,
    open_site,
)
from tests.serving.console.driving import Visitor, visiting

OUTCOMES = ("fraud", "mistake", "twins")
"""The truth of each two documents: of those whose lines end in 8001 and 8002, and so on."""
HEIGHTS = "rows => rows.map((row) => row.clientHeight)"


@pytest.fixture(scope="module")
def site(keyed_home, extractor, tmp_path_factory) -> Iterator[Site]:
    """A site where two documents each are of faces alike."""
    home = keep_faces(keyed_home[0], tmp_path_factory.mktemp("planted") / "home")

    def make(vault: Vault, dim: int, now: datetime) -> list[Subscriber]:
        rows = np.random.default_rng(3).standard_normal((2 * len(OUTCOMES), dim))
        rows[1::2] = rows[::2] + 0.3 * rows[1::2]
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return [make_subscriber(vault, place, row, now) for place, row in enumerate(rows, 1)]

    import_subscribers(home, make)
    with open_site(home, keyed_home[1], extractor) as opened:
        yield opened


def test_a_newcomer_decides_a_whole_queue_and_a_second_person_approves(browser, site) -> None:
    with visiting(browser, site) as analyst:
        analyst.sign_in("fraud")
        analyst.open("Sweeps")
        analyst.press("What to expect")
        analyst.press("Start the sweep")
        expect(analyst.page.locator(".status-line")).to_contain_text("Done", timeout=30_000)
        analyst.open("Cases")
        analyst.page.get_by_label("Show faces").check()
        expect(analyst.page.locator(".row-faces img")).to_have_count(2 * len(OUTCOMES))
        # Ten fit the list of a laptop, which has 544 px with its head.
        heights_px = analyst.page.locator("tr[data-case]").evaluate_all(HEIGHTS)
        assert max(heights_px) <= 50
        see_nothing_unmasked(analyst)
        decide_alike(analyst)
        analyst.page.locator("tr[data-case] a").first.click()
        for left in reversed(range(len(OUTCOMES))):
            propose(analyst)
            if left:
                analyst.press("Next case →")
                expect(analyst.page.locator(".proposal")).to_have_count(0)
        assert analyst.faults == []
    with visiting(browser, site) as second:
        second.sign_in("second")
        second.page.get_by_label("State").select_option("proposed")
        expect(second.page.locator("tr[data-case]")).to_have_count(len(OUTCOMES))
        second.press("Choose all or none")
        second.page.locator("summary", has_text="Decide the chosen alike").click()
        second.press("Approve what is proposed for the chosen")
        expect(second.page.locator(".state-closed")).to_have_count(len(OUTCOMES))
        assert second.faults == []
    cases = newest_cases(site.service.parts.store.cases, CaseState.CLOSED)
    assert Counter(str(case.outcome) for case in cases) == Counter(OUTCOMES)


def decide_alike(analyst: Visitor) -> None:
    """All cases are proposed at once; nobody approves their own, and each row says so."""
    rows = analyst.page.locator("tr[data-case]")
    analyst.press("Choose all or none")
    analyst.page.locator("summary", has_text="Decide the chosen alike").click()
    analyst.page.get_by_label("Twins", exact=True).check()
    analyst.press("Propose for the chosen")
    expect(rows.filter(has_text="Proposed").filter(has_text="Twins")).to_have_count(len(OUTCOMES))
    expect(analyst.page.locator("tr[data-case] input:checked")).to_have_count(0)
    analyst.press("Choose all or none")
    analyst.press("Approve what is proposed for the chosen")
    expect(rows.filter(has_text="This takes two people")).to_have_count(len(OUTCOMES))
    expect(analyst.page.locator("tr[data-case] input:checked")).to_have_count(len(OUTCOMES))
    analyst.check("many")
    analyst.check_languages("many")
    for case in newest_cases(analyst.site.service.parts.store.cases, CaseState.PROPOSED):
        path = f"/v1/cases/{case.id}/withdraw"
        assert analyst.site.service.ask("POST", path, key="fraud").status_code == 200


def propose(analyst: Visitor) -> None:
    """One action after the queue both faces are there; who they are, the planted truth says."""
    analyst.expect_heading("One face, many documents")
    expect(analyst.page.locator(".face-frame > img:visible")).to_have_count(2)
    ends = re.findall(r"••••(800\d)", analyst.page.get_by_role("main").inner_text())
    truth = OUTCOMES[(min(map(int, ends)) - 8001) // 2]
    see_nothing_unmasked(analyst)
    analyst.page.get_by_label(truth.capitalize(), exact=True).check()
    stay = analyst.page.get_by_label("The other numbers stay in use.")
    if stay.is_visible():
        stay.check()
    analyst.press("Propose")
    expect(analyst.page.locator(".proposal")).to_contain_text("another person has to approve")


def see_nothing_unmasked(visitor: Visitor) -> None:
    shown = visitor.page.locator("body").inner_text()
    numbers = [make_document(place + 1, "").number for place in range(2 * len(OUTCOMES))]
    assert [one for one in (*numbers, "Ring Member", "13900138") if one in shown] == []
