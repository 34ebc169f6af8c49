"""A person who has never seen Sosie works a queue of planted cases of real faces."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.faces.extractor import Extractor
from engine.matching.bulk_enrollment import OpenedLine, Subscriber
from engine.matching.documents import check_document
from engine.matching.samples import take_samples
from engine.registry.vault import Vault
from schema.cases import CaseState
from serving.demo.scenario import make_document
from tests.engine.records import newest_cases
from tests.serving.console.conftest import Site, import_subscribers, keep_faces, open_site
from tests.serving.console.driving import Visitor, visiting

LFW = Path(__file__).resolve().parents[4] / "shared" / "lfw" / "images"
pytestmark = [
    pytest.mark.lfw,
    pytest.mark.skipif(not LFW.is_dir(), reason="no ../shared/lfw: real faces are not here"),
]
# Of LFW, people whose first two photographs score 0.6 and more; of first photographs, those of
# strangers that the model finds most alike, label errors left out, and of brothers and sisters, two
# of them twins.
PEOPLE = (
    *("Abdoulaye_Wade", "Abdullah", "Abdullah_al-Attiyah", "Abel_Pacheco", "Adel_Al-Jubeir"),
    *("Ahmed_Chalabi", "Al_Sharpton", "Alan_Greenspan", "Alex_Sink", "Alexander_Downer"),
    *("Alexander_Losyukov", "Alexandra_Stevenson", "Ali_Naimi", "Ana_Palacio"),
    "Anders_Fogh_Rasmussen",
)
ALIKE = (
    ("Marie_Haghal", "Rosalie_Perkov"),
    ("Lana_Clarkson", "Natasha_Henstridge"),
    ("Elena_Tihomirova", "Yekaterina_Guseva"),
    ("LeAnn_Rimes", "Rita_Wilson"),
    ("Ann_Veneman", "Lynne_Slepian"),
    ("Mario_Austin", "Yoelbi_Quesada"),
    ("David_Howard", "Peter_Care"),
    ("Abdel_Aziz_Al-Hakim", "Hassan_Nasrallah"),
    ("Janet_Napolitano", "Leslie_Caldwell"),
    ("Colin_Prescot", "Jan_Bjoerklund"),
)
SIBLINGS = (
    ("Johnny_Htu", "Luther_Htu"),
    ("Claire_Hentzen", "Morgan_Hentzen"),
    ("Ahmed_Ibrahim_Bilal", "Muhammad_Ibrahim_Bilal"),
    ("Angelica_Romero", "Jenny_Romero"),
    ("George_W_Bush", "Jeb_Bush"),
)
TAKEN = {"George_W_Bush": 20, "Jeb_Bush": 8}
"""The number of the photograph, where it is not the first."""


@dataclass(frozen=True)
class Planted:
    """What is the truth of the two documents whose lines end in these four digits."""

    outcome: str
    ends: tuple[str, str]
    secrets: tuple[str, ...]
    """Names and numbers as they stand on the documents."""


@pytest.fixture(scope="module")
def queue(keyed_home, extractor, tmp_path_factory) -> Iterator[tuple[Site, list[Planted]]]:
    home = keep_faces(keyed_home[0], tmp_path_factory.mktemp("planted") / "home")
    planted = plant(home, extractor)
    with open_site(home, keyed_home[1], extractor) as site:
        yield site, planted


def test_a_newcomer_decides_a_queue_of_real_faces_and_a_second_person_approves(
    browser, queue
) -> None:
    site, planted = queue
    with visiting(browser, site) as analyst:
        analyst.sign_in("fraud")
        analyst.open("Sweeps")
        analyst.press("What to expect")
        analyst.press("Start the sweep")
        expect(analyst.page.locator(".status-line")).to_contain_text("Done", timeout=30_000)
        analyst.open("Cases")
        expect(analyst.page.locator("tr[data-case]")).to_have_count(len(planted))
        analyst.page.get_by_label("Show faces").check()
        expect(analyst.page.locator(".row-faces img")).to_have_count(2 * len(planted))
        see_nothing_unmasked(analyst, planted)
        analyst.page.locator("tr[data-case] a").first.click()
        for left in reversed(range(len(planted))):
            propose(analyst, planted)
            if left:
                analyst.press("Next case →")
                expect(analyst.page.locator(".proposal")).to_have_count(0)
        assert analyst.faults == []
    with visiting(browser, site) as second:
        second.sign_in("second")
        second.page.get_by_label("State").select_option("proposed")
        expect(second.page.locator("tr[data-case]")).to_have_count(len(planted))
        second.page.locator("tr[data-case] a").first.click()
        heading = second.page.get_by_role("heading", level=1)
        for left in reversed(range(len(planted))):
            second.expect_heading("One face, many documents")
            second.press("Approve and close")
            expect(heading).to_contain_text("Closed")
            if left:
                second.press("Next case →")
                expect(heading).not_to_contain_text("Closed")
        assert second.faults == []
    cases = newest_cases(site.service.parts.store.cases, CaseState.CLOSED)
    decided = Counter(str(case.outcome) for case in cases)
    assert decided == Counter(one.outcome for one in planted)


def propose(analyst: Visitor, planted: Sequence[Planted]) -> None:
    """One action after the queue both faces are there; who they are, the planted truth says."""
    analyst.expect_heading("One face, many documents")
    faces = analyst.page.locator(".face-frame > img:visible")
    expect(faces).to_have_count(2)
    ends = set(re.findall(r"••••(\d{4})", analyst.page.get_by_role("main").inner_text()))
    truth = next(one for one in planted if set(one.ends) <= ends)
    see_nothing_unmasked(analyst, planted)
    analyst.page.get_by_label(truth.outcome.capitalize(), exact=True).check()
    stay = analyst.page.get_by_label("The other numbers stay in use.")
    if stay.is_visible():
        stay.check()
    analyst.press("Propose")
    expect(analyst.page.locator(".proposal")).to_contain_text("another person has to approve")


def see_nothing_unmasked(visitor: Visitor, planted: Sequence[Planted]) -> None:
    shown = visitor.page.locator("body").inner_text()
    assert [secret for one in planted for secret in one.secrets if secret in shown] == []


def plant(home: Path, extractor: Extractor) -> list[Planted]:
    """Fifteen people under two documents each, ten pairs of strangers, five of siblings."""
    pairs = [("fraud", (name, 1), (name, 2)) for name in PEOPLE]
    pairs += [("mistake", first(one), first(other)) for one, other in ALIKE]
    pairs += [("twins", first(one), first(other)) for one, other in SIBLINGS]
    faces = [
        (LFW / name / f"{name}_{number:04}.jpg").read_bytes()
        for _, *both in pairs
        for name, number in both
    ]
    documents = [
        make_document(place, f"Given{place // 2} Surname{place % 2}") for place in range(len(faces))
    ]
    numbers = [f"+86139001{30000 + place}" for place in range(len(faces))]

    def make(vault: Vault, _dim: int, now: datetime) -> Iterator[Subscriber]:
        samples = take_samples(faces, extractor, vault, with_crops=True)
        for document, number, sample in zip(documents, numbers, samples, strict=True):
            checked = check_document(document, now.date())
            line = OpenedLine(number, "blue", "b1", now - timedelta(days=1))
            kept = {"live": sample}
            yield Subscriber(document.name, checked, sample.vector, line, samples=kept)

    import_subscribers(home, lambda *given: list(make(*given)))
    planted = []
    for place, (outcome, *_) in enumerate(pairs):
        both = slice(2 * place, 2 * place + 2)
        secrets = [text for one in documents[both] for text in (one.name, one.number)]
        one, other = numbers[both]
        planted.append(Planted(outcome, (one[-4:], other[-4:]), (*secrets, one, other)))
    return planted


def first(name: str) -> tuple[str, int]:
    return name, TAKEN.get(name, 1)
