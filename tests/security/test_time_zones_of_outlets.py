"""A document expires with its last day at the outlet: by the UTC date it was refused at 20:00 of
its last valid day in Mexico, and accepted the next morning in Shanghai."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from msgspec import structs

from engine.imports.row_parser import RawRow, ReadingTerms, RowReader
from engine.matching.checks.order import replay
from engine.matching.registrar import Registrar
from engine.registry.accounts import Outlet
from schema.documents import Document
from schema.reasons import Decision, Reason
from tests.engine.imports.test_row_parser import SOUND
from tests.engine.matching.conftest import Lab, resident_number

LAST_DAY = date(2026, 11, 26)
EVENING_IN_MEXICO = datetime(2026, 11, 27, 2, 0, tzinfo=UTC)  # 20:00 of the 26th there
MORNING_IN_SHANGHAI = datetime(2026, 11, 26, 23, 0, tzinfo=UTC)  # 07:00 of the 27th there
MEXICO, SHANGHAI = "America/Mexico_City", "Asia/Shanghai"


def decide(lab: Lab, now: datetime, default: str = "UTC") -> Any:
    """The answer to a sound request with a document whose last day is the 26th."""
    request = lab.request()
    document = structs.replace(request.document, expires_on=LAST_DAY)
    with lab.registrar() as idle:
        judge = replace(idle._judge, time_zone=default)
    with Registrar(lab.store.writer(), judge, clock=lambda: now) as registrar:
        (answer,) = registrar.enroll([replace(request, document=document)])
    return answer


def test_the_last_valid_evening_is_valid_and_the_next_morning_is_not(lab) -> None:
    lab.store.set_outlet_time_zone("blue-1", MEXICO, actor="test")
    assert decide(lab, EVENING_IN_MEXICO).decision is Decision.APPROVED
    lab.store.set_outlet_time_zone("blue-1", SHANGHAI, actor="test")
    assert decide(lab, MORNING_IN_SHANGHAI).reasons == (Reason.DOCUMENT_EXPIRED,)


def test_an_outlet_without_a_zone_has_its_carriers_and_else_the_deployments(lab) -> None:
    assert decide(lab, EVENING_IN_MEXICO).reasons == (Reason.DOCUMENT_EXPIRED,)
    assert decide(lab, EVENING_IN_MEXICO, MEXICO).decision is Decision.APPROVED
    lab.store.set_carrier_time_zone("blue", SHANGHAI, actor="test")
    assert decide(lab, MORNING_IN_SHANGHAI, MEXICO).reasons == (Reason.DOCUMENT_EXPIRED,)
    lab.store.set_outlet_time_zone("blue-1", MEXICO, actor="test")
    assert decide(lab, EVENING_IN_MEXICO, SHANGHAI).decision is Decision.APPROVED
    lab.store.set_outlet_time_zone("blue-1", None, actor="test")
    assert decide(lab, EVENING_IN_MEXICO, MEXICO).reasons == (Reason.DOCUMENT_EXPIRED,)


def test_a_decision_replays_when_the_zone_has_changed_since(lab) -> None:
    lab.store.set_outlet_time_zone("blue-1", MEXICO, actor="test")
    answer = decide(lab, EVENING_IN_MEXICO)
    lab.store.set_outlet_time_zone("blue-1", SHANGHAI, actor="test")
    record = lab.store.enrollment(answer.enrollment_id)
    inputs = record.evidence.inputs
    assert (inputs["judged_on"], inputs["time_zone"]) == ("2026-11-26", MEXICO)
    assert replay(record).agrees


def test_two_outlets_of_one_batch_have_their_own_dates(lab) -> None:
    lab.store.set_outlet_time_zone("blue-1", MEXICO, actor="test")
    lab.store.set_outlet_time_zone("red-1", SHANGHAI, actor="test")
    documents = [Document("cn-ric", resident_number(n), f"Holder {n}", LAST_DAY) for n in (91, 92)]
    requests = [
        lab.request(document=documents[0]),
        lab.request(document=documents[1], carrier="red", outlet="red-1"),
    ]
    with lab.registrar() as idle:
        judge = idle._judge
    with Registrar(lab.store.writer(), judge, clock=lambda: EVENING_IN_MEXICO) as registrar:
        here, there = registrar.enroll(requests)
    assert here.decision is Decision.APPROVED
    assert there.reasons == (Reason.DOCUMENT_EXPIRED,)


def test_the_zone_that_was_set_is_audited_and_read_again(lab) -> None:
    lab.store.set_outlet_time_zone("blue-1", MEXICO, actor="test")
    assert lab.store.outlets(["blue-1"])["blue-1"].time_zone == MEXICO
    *_, entry = lab.store.audit_entries()
    assert (entry.entry.action, dict(entry.entry.detail)) == (
        "outlet.time_zone_set", {"time_zone": MEXICO},
    )  # fmt: skip


def test_an_import_judges_by_the_date_of_the_rows_outlet() -> None:
    zones = {"mexico": MEXICO, "shanghai": SHANGHAI, "none": None}
    outlets = {code: Outlet(code, "red", True, 5, time_zone=zone) for code, zone in zones.items()}
    reader = RowReader(
        ReadingTerms(outlets=outlets, now=EVENING_IN_MEXICO, time_zone="Pacific/Honolulu")
    )
    raws = [
        RawRow(number, SOUND | {"expires_on": "2026-11-26", "outlet": code})
        for number, code in enumerate(zones)
    ]
    expired = [Reason.DOCUMENT_EXPIRED in row.checked.findings for row in reader.read(raws)]
    assert expired == [False, True, False]
