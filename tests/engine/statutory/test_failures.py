"""Who fails to enroll: of whom, by which groups, and what is withheld so that nobody is told."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.accuracy.pair_scores import wilson_interval
from engine.errors import RequestError
from engine.registry import enrollments
from engine.registry.database import new_id
from engine.registry.enrollments import EnrollmentRecord
from engine.statutory.failures import FailureReport, Labels, read_labels, report_failures
from schema.decisions import RecordedEvidence
from tests.engine.records import ENTRY, NOW, make_document

DAY = timedelta(days=1)
SPAN = (NOW - DAY, NOW + DAY)
BLURRED, OPENED, WAITS, CAUGHT = (
    ("rejected", "BLURRED"),
    ("approved",),
    ("review", "EXCEPTION_ASKED"),
    ("rejected", "DUPLICATE_IDENTITY"),
)
Try = Callable[..., str]


@pytest.fixture
def attempt(store, writer) -> Try:
    """`attempt(tries, outlet)`: somebody tries so, a minute apart; the document's id."""
    serial = iter(range(10_000))

    def build(tries: list[tuple[str, ...]], outlet: str = "r1") -> str:
        document = make_document(store.vault, f"PASS{next(serial):08d}")
        made = [
            EnrollmentRecord(
                id=new_id(),
                sequence=0,
                carrier="blue" if outlet == "b1" else "red",
                outlet=outlet,
                document_id=document.id,
                decision=decision,
                reasons=tuple(reasons),
                evidence=RecordedEvidence(),
                consent_ref=None,
                captured_at=None,
                created_at=NOW + place * timedelta(minutes=1),
            )
            for place, (decision, *reasons) in enumerate(tries)
        ]
        writer.commit([ENTRY, document, *made])
        return document.id

    return build


def report(store: Any, least: int = 5, labels: Labels | None = None) -> FailureReport:
    return report_failures(store, SPAN, "Asia/Tokyo", least, labels)


def rows_of(found: FailureReport, by: str) -> dict[str, Any]:
    return {one.group: one for one in found.groups if one.by == by}


def test_who_is_never_approved_for_the_face_failed_and_further_tries_are_timed(
    store, attempt, monkeypatch
) -> None:
    monkeypatch.setattr(enrollments, "TEMPLATES_PER_CHUNK", 30)
    for _ in range(6):
        attempt([BLURRED, BLURRED])
        attempt([BLURRED, BLURRED, OPENED])
        # What comes after the approval is another line.
        attempt([OPENED, BLURRED])
        attempt([BLURRED, WAITS])
        attempt([CAUGHT])
    [whole] = rows_of(report(store), "all").values()
    assert whole.people == 30
    assert (whole.failed.value, whole.tried_again.value) == (6 / 30, 18 / 30)
    assert (whole.failed.low, whole.failed.high) == wilson_interval(6, 30)
    assert whole.seconds == 120
    # The hour of the outlet's time zone.
    assert NOW.utcoffset() == timedelta(0)
    assert list(rows_of(report(store), "hour")) == [f"{(NOW.hour + 9) % 24:02d}"]
    later, heard = (NOW + DAY, NOW + 2 * DAY), []
    assert report_failures(store, later, "UTC", 5) == FailureReport(5, [], 0)
    report_failures(store, SPAN, "UTC", 5, None, lambda *told: heard.append(told))
    assert heard == [(done, 60) for done in range(3, 61, 3)]


def test_no_count_is_told_that_is_small_or_is_what_the_others_leave(store, attempt) -> None:
    for outlet, failing, others in (("r1", 6, 20), ("r2", 2, 20), ("b1", 2, 1)):
        for _ in range(failing):
            attempt([BLURRED], outlet)
        for _ in range(others):
            attempt([OPENED], outlet)
    found = report(store)
    [whole] = rows_of(found, "all").values()
    assert (whole.people, whole.failed.value, whole.tried_again.value) == (51, 10 / 51, 0)
    # Of b1's three the others would tell, so the next smallest is withheld with them; and all of
    # those who failed elsewhere are fewer than five.
    outlets = rows_of(found, "outlet")
    assert {name: one.people for name, one in outlets.items()} == {"r1": 26}
    assert outlets["r1"].failed is None
    assert rows_of(found, "carrier") == {}
    assert found.withheld == 2 + 2
    assert report(store, least=60).groups == []


def test_groups_are_an_operators_own_by_document_or_enrollment(store, attempt, tmp_path) -> None:
    young = [attempt([BLURRED]) for _ in range(7)]
    old = [attempt([OPENED]) for _ in range(8)]
    for _ in range(5):
        attempt([OPENED])
    first = store.attempts_of(old)
    file = tmp_path / "people.csv"
    lines = [f"{one},12-17\n" for one in young] + [f"{one}, 60+ \n" for one in old]
    file.write_text("document_id,age_band\n" + "".join(lines), "utf-8-sig")
    bands = rows_of(report(store, labels=read_labels(file)), "age_band")
    assert {name: one.people for name, one in bands.items()} == {"12-17": 7, "60+": 8, "unknown": 5}
    assert bands["12-17"].failed.value == 1
    tried = "".join(f"{one.id},phone\n" for [one] in first.values())
    file.write_text("enrollment_id,device\n" + tried, "utf-8")
    devices = rows_of(report(store, labels=read_labels(file)), "device")
    assert {name: one.people for name, one in devices.items()} == {"phone": 8, "unknown": 12}


def test_a_file_of_groups_without_its_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    for text in (b"person,sex\n", b"", b"document_id,sex\n\xff\n"):
        file.write_bytes(text)
        with pytest.raises(RequestError, match=r"people\.csv"):
            read_labels(file)
    with pytest.raises(RequestError, match="can't be read"):
        read_labels(tmp_path)
