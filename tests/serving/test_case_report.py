"""The report of a case: who may see what, what is missing or left out, how it is verified."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from engine.cases import steps
from engine.cases.opening import CaseBatch, NewCase
from engine.errors import NotFound, RequestError
from engine.matching.bulk_enrollment import OpenedLine, Subscriber
from engine.matching.documents import check_document
from engine.matching.samples import Sample, seal_crop
from engine.registry import audit
from engine.registry.cases import CaseRecord
from engine.registry.store import Reader
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from engine.statutory import lists
from schema.actors import Actor
from schema.cases import CaseKind, CaseOrigin, Outcome
from serving.api.people import find_held
from serving.api.serializers import case_file
from serving.case_report import (
    MOST_DOCUMENTS,
    ReportTerms,
    describe_strangers,
    gather_case,
    write_case,
)
from serving.demo.scenario import make_document
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings
from serving.wire.people import StrangersAlike
from tests.serving.console.conftest import import_subscribers, keep_faces

PEOPLE = MOST_DOCUMENTS + 5
RIGHT_TO_LEFT = "\u202eمحمد\u202c <img src=x onerror=alert(1)>"
NOTE = "<script>alert(1)</script> same scar"
ANNA, BOB = Actor("cli:anna", "anna"), Actor("cli:bob", "bob")


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page that loads nothing."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[str] = []
        self.words: list[str] = []
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        assert "onerror" not in values
        assert not {"href", "action"} & values.keys()
        if tag == "img":
            self.images.append(values["src"] or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def desk(empty_home, tmp_path_factory) -> Iterator[Deployment]:
    """105 documents of faces alike, one with lines of two carriers; of the first a face is kept."""
    home = tmp_path_factory.mktemp("reported") / "home"
    import_subscribers(keep_faces(empty_home, home), list_members)
    with Deployment(home, load_settings(home)) as deployment:
        yield deployment


def list_members(vault: Vault, dim: int, now: datetime) -> list[Subscriber]:
    generator = np.random.default_rng(3)
    centre = generator.standard_normal(dim)
    rows = centre + 0.5 * generator.standard_normal((PEOPLE, dim))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    crop = seal_crop(vault, bytes(32), np.full((112, 112, 3), 80, np.uint8))
    kept = {"live": Sample(None, bytes(32), quality={"sharpness": 201.0}, crop=crop)}

    def member(place: int, msisdn: str, outlet: tuple[str, str], **more: Any) -> Subscriber:
        name = RIGHT_TO_LEFT if place == 0 else f"Member {place}"
        checked = check_document(make_document(place, name), now.date())
        return Subscriber(name, checked, rows[place], OpenedLine(msisdn, *outlet, now), **more)

    blue, red = ("blue", "b1"), ("red", "r1")
    others = [
        member(place, f"+86139001{30000 + place}", blue if place % 2 else red)
        for place in range(1, PEOPLE)
    ]
    first = member(0, "+8613900130000", red, samples=kept)
    return [first, *others, member(0, "+8613900139999", blue)]


def open_case(
    desk: Deployment, kind: CaseKind, origin: CaseOrigin, documents: Sequence[str], **more: Any
) -> CaseRecord:
    def perform(writer: Writer, now: datetime) -> CaseRecord:
        batch = CaseBatch(desk.store, now)
        new = NewCase(kind=kind, origin=origin, document_ids=documents, **more)
        opened = batch.open(new, "sosie")
        writer.commit(batch.writes())
        return opened

    return desk.registrar.run(perform)


@pytest.fixture(scope="module")
def case(desk) -> CaseRecord:
    """A case of all of them, noted, proposed by Anna and closed by Bob."""
    references, _ = desk.store.facts.document_owner_array()
    owners = desk.store.documents_of(references.tolist())
    documents = [owners[key] for key in sorted(owners)]

    opened = open_case(
        desk, CaseKind.ONE_FACE, CaseOrigin.SWEEP, documents, suspect_ids=documents[:3], score=0.8
    )
    context = (desk.registrar, desk.store, opened.id)
    steps.note(*context, NOTE, ANNA)
    steps.propose(*context, Outcome.FRAUD, (), ANNA, keep_lines=True)
    return steps.close(*context, Outcome.FRAUD, (), BOB, keep_lines=True)


def report(desk: Deployment, case: CaseRecord, **terms: Any) -> tuple[Page, Any]:
    found = gather_case(desk.store, desk.calibration, case.id, ReportTerms(**terms))
    desk.store.note(audit.AuditEntry("cli:anna", "case.reported", case.id, found.describe()))
    made = write_case(found, desk.store)
    return Page(made.html), made


def test_it_says_who_what_when_and_what_a_score_means(desk, case) -> None:
    page, made = report(desk, case, has_faces=True)
    text = page.text
    assert "One face, many documents" in text
    assert "Fraud" in text
    assert re.search(r"Proposed by anna .* Decided by bob ", text)
    assert "pairs of strangers scores as high" in text
    assert "3 document" not in text
    assert text.count("cli:bob") >= 2
    # Text of people and names is text, whatever its script and whatever it holds.
    assert NOTE in text
    assert "script" not in page.tags
    assert page.images == [page.images[0]] * len(page.images)
    assert page.images[0].startswith("data:image/")
    assert "No face is kept of this person" in text
    assert made.faces == len(page.images) > 0
    assert "names and numbers are masked" in text.lower()
    for whole in ("محمد", "Member 1", "+8613900130001", "onerror"):
        assert whole not in text


def test_a_later_case_of_them_says_what_was_decided_before(desk, case) -> None:
    first, second, _, fourth, *_ = case.document_ids

    ids = (first, second, fourth)
    later = open_case(desk, CaseKind.DISPUTE, CaseOrigin.DISPUTE, ids)
    [decided] = case_file(desk.store, later.id).decided
    assert {decided.left, decided.right} == {first, second}
    assert (decided.outcome, decided.case_id) == ("fraud", case.id)
    page, _ = report(desk, later)
    assert f"case {case.id}" in page.text
    assert case_file(desk.store, case.id).decided == ()


def test_a_large_case_says_what_it_leaves_out(desk, case) -> None:
    page, made = report(desk, case)
    assert (made.documents, made.left_out, made.faces) == (MOST_DOCUMENTS, 5, 0)
    assert "5 further documents of this case are left out" in page.text
    assert "Faces were not asked for" in page.text
    assert page.images == []


def test_numbers_and_names_are_whole_where_they_are_asked_for(desk, case) -> None:
    page, _ = report(desk, case, is_revealed=True)
    assert RIGHT_TO_LEFT in page.text
    assert "img" not in page.tags
    assert "+8613900130001" in page.text
    entries = [one.entry for one in desk.store.audit_entries()]
    told = [one.detail for one in entries if one.action == "case.reported"][-1]
    assert (told["revealed"], told["faces"]) == (True, 0)


def test_what_a_carrier_may_not_see_is_counted_and_not_shown(desk, case) -> None:
    page, made = report(desk, case, carrier="blue", is_revealed=True, has_faces=True)
    # The first document has a line of each; every second of the others is red's alone.
    assert made.documents == 1 + PEOPLE // 2
    assert f"{PEOPLE - made.documents} further documents of this case are of other" in page.text
    assert "1 further line of other carriers is not shown" in page.text
    assert "+8613900139999" in page.text
    for hidden in ("+8613900130000", "Member 2 ", NOTE):
        assert hidden not in page.text
    held = find_held(desk.store, case.document_ids)
    assert held[2].id not in page.text
    with pytest.raises(RequestError, match="no carrier"):
        report(desk, case, carrier="green")
    with pytest.raises(NotFound):
        gather_case(desk.store, desk.calibration, "none", ReportTerms())


def test_what_a_carrier_may_see_is_looked_up_once_for_all_documents(
    desk, case, monkeypatch
) -> None:
    asked: list[int] = []
    read = Reader.lines_of_each

    def count(reader: Reader, ids: Sequence[str]) -> Any:
        asked.append(len(ids))
        return read(reader, ids)

    monkeypatch.setattr(Reader, "lines_of_each", count)
    gather_case(desk.store, desk.calibration, case.id, ReportTerms(carrier="blue"))
    assert len(asked) == 2


def test_its_entries_stand_in_the_audit_chain_and_are_compared_with_it(
    desk, case, sosie, tmp_path
) -> None:
    page, made = report(desk, case)
    for action in ("case.opened", "case.noted", "case.proposed", "case.closed", "case.reported"):
        assert action in page.text
    file = tmp_path / "case.html"
    file.write_bytes(made.html)
    verify = ("audit", "verify", "--home", desk.home, "--json", "--anchor")
    found = sosie(*verify, file)
    assert (found.code, found.json["anchors"]) == (0, made.audit_entries)
    head = desk.store.audit_hash_at(desk.store.audit_head()[0])
    file.write_bytes(made.html.replace(head.hex().encode(), bytes(32).hex().encode()))
    assert sosie(*verify, file).code == 1


def test_a_score_is_said_as_one_of_so_many_strangers() -> None:
    assert describe_strangers(StrangersAlike(1e-4, 5e-5, 2e-4, is_bound=False)) == (
        "One of 10,000 pairs of strangers scores as high. "
        "With 95 % confidence one of 5,000 to 20,000."
    )
    assert describe_strangers(StrangersAlike(1e-6, 0.0, 1e-6, is_bound=True)).startswith(
        "At most one of 1 million pairs"
    )
    assert "says nothing" in describe_strangers(StrangersAlike(0.3, 0.2, 0.4, is_bound=False))


def test_a_list_of_people_is_masked_unless_revealed_and_audited(
    desk, case, sosie, tmp_path, assert_refused
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        'lists = "people"\ntitle = "Own"\nmost_lines = 1\n'
        '[columns]\nName = "name"\nNumber = "number"\n'
    )
    file = tmp_path / "people.csv"
    made = ("statutory", "people", file, "--home", desk.home, "--layout", own)
    # The three suspects of the case are one person of four lines; nobody else has two.
    assert sosie(*made, "--json").json["rows"] == 4
    assert "Member 1" not in file.read_text("utf-8")
    assert sosie(*made, "--reveal").code == 0
    assert "Member 1" in file.read_text("utf-8")
    entry = [one.entry for one in desk.store.audit_entries()][-1]
    told = entry.action, entry.detail["people"], entry.detail["revealed"]
    assert told == ("list.made", 1, True)
    assert len(entry.detail["documents"]) == 3
    assert "asked" not in entry.detail
    outlets = sosie("statutory", "outlets", tmp_path / "o.parquet", "--home", desk.home, "--json")
    assert outlets.json["rows"] == 2
    wrong = ("statutory", "people", tmp_path / "x.xlsx", "--home", desk.home, "--layout", "india")
    assert_refused(sosie(*wrong), "neither .csv nor .parquet")


def test_many_people_are_revealed_by_two(
    desk, case, sosie, tmp_path, assert_refused, monkeypatch, become
) -> None:
    own = tmp_path / "own.toml"
    text = 'lists = "people"\ntitle = "Own"\nmost_lines = %d\n[columns]\nName = "name"\n'
    own.write_text(text % 1)
    file = tmp_path / "people.csv"
    monkeypatch.setattr(lists, "REVEALED_ALONE", 0)
    masked = ("statutory", "people", file, "--home", desk.home, "--layout", own)
    made = (*masked, "--reveal")
    become("anna")
    assert sosie(*masked).code == 0
    file.unlink()
    for _ in range(2):
        assert_refused(sosie(*made), "take two: you have asked for it")
        assert not file.exists()
    # Another list is not the one that was asked for.
    become("bob")
    own.write_text(text % 0)
    assert_refused(sosie(*made), "take two")
    own.write_text(text % 1)
    assert sosie(*made).code == 0
    assert "Member 1" in file.read_text("utf-8")
    digest = [one.entry for one in desk.store.audit_entries()][-1].detail["asked"]
    both = [one.entry for one in audit.read_audit(desk.store, None, 9, subject=digest)]
    assert [(one.actor, one.action) for one in both] == [
        ("cli:anna", "list.asked"),
        ("cli:bob", "list.made"),
    ]
    # What was asked for once is made once.
    assert_refused(sosie(*made), "take two: you have asked for it")
    # Nor is it made after its days.
    monkeypatch.setattr(lists, "ASKED_FOR", timedelta(0))
    become("anna")
    assert_refused(sosie(*made), "take two")
