"""The sandbox: the interface as it is, where document numbers say how an enrollment ends."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from serving.sandbox.outcomes import (
    LOST_AFTER,
    LOST_BEFORE,
    MARK_FILE,
    OUTCOMES,
    SILENT,
    SLOW,
    make_number,
)
from serving.sandbox.sandbox_service import WARNING
from serving.wire.fields import DOCUMENT_TYPES
from tests.serving.sandbox.conftest import Served, serve_sandbox

DECIDED = [one for one in OUTCOMES.values() if one.decision is not None and one.serial != SLOW]
REFUSED = [one for one in OUTCOMES.values() if one.decision is None and one.serial != SILENT]


def reasons(answer: dict[str, Any]) -> set[str]:
    return {one["reason"] for one in answer["reasons"]}


def lasting(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without ids, times, and counts of what the gallery has got meanwhile."""
    gone = ("_id", "_at", "_key")
    kept = {name: value for name, value in answer.items() if not name.endswith(gone)}
    kept.pop("duplicate_search")
    kept["cases"] = [one["kind"] for one in kept["cases"]]
    return kept


@pytest.mark.parametrize("outcome", DECIDED, ids=lambda one: str(one.reason))
def test_a_serial_says_the_decision_whenever_it_is_asked(sandbox: Served, outcome: Any) -> None:
    first, second = (sandbox.enroll(sandbox.activation(outcome.serial)) for _ in range(2))
    assert first.status_code == second.status_code == 201, first.text
    answer = first.json()
    assert answer["decision"] == outcome.decision
    # To a tenant a reason about another holder is told as it always is.
    assert reasons(answer) in ({outcome.reason}, {"WITHHELD"})
    record = sandbox.ask("GET", f"/v1/enrollments/{answer['enrollment_id']}", "operator")
    assert {one["reason"] for one in record.json()["reasons"]} == {outcome.reason}
    assert lasting(answer) == lasting(second.json())


@pytest.mark.parametrize("outcome", REFUSED, ids=lambda one: str(one.serial))
def test_a_serial_says_the_error(sandbox: Served, outcome: Any) -> None:
    refused = sandbox.enroll(sandbox.activation(outcome.serial))
    assert (refused.status_code, refused.json()["code"]) == (outcome.status, outcome.code)


@pytest.mark.parametrize("kind", DOCUMENT_TYPES)
def test_every_other_number_is_approved_again_and_again(sandbox: Served, kind: str) -> None:
    for place in range(7):
        changes = {"msisdn": f"+86139001380{place:02d}"}
        answer = sandbox.enroll(sandbox.activation(7, kind, **changes)).json()
        assert (answer["decision"], answer["reasons"]) == ("approved", [])


def test_the_table_has_a_reason_for_each_serial_and_a_serial_for_each_reason() -> None:
    found = [one.reason for one in OUTCOMES.values() if one.reason is not None]
    assert len(set(found)) == len(found)
    for serial, outcome in OUTCOMES.items():
        assert outcome.serial == serial


def test_what_was_lost_is_asked_for_again_with_the_same_key(sandbox: Served) -> None:
    for serial, status in ((LOST_BEFORE, 201), (LOST_AFTER, 200)):
        key, body = str(uuid.uuid4()), sandbox.activation(serial)
        assert sandbox.enroll(body, key).status_code == 503
        again = sandbox.enroll(body, key)
        assert (again.status_code, again.json()["decision"]) == (status, "approved")
        assert again.json()["is_repeated"] == (status == 200)
        assert sandbox.enroll(body, key).status_code == 200


def test_validation_idempotency_and_tenants_are_the_services_own(sandbox: Served) -> None:
    body, key = sandbox.activation(11), str(uuid.uuid4())
    assert sandbox.enroll(body, key).status_code == 201
    other = sandbox.enroll({**body, "consent_ref": "C-2"}, key)
    assert (other.status_code, other.json()["code"]) == (422, "REQUEST.IDEMPOTENCY_MISMATCH")
    assert sandbox.enroll({**body, "shade": 1}).status_code == 400
    assert sandbox.enroll({**body, "live": "AAAA"}).json()["code"].startswith("IMAGE.")
    same = sandbox.enroll({**body, "portrait": body["live"]}).json()
    assert reasons(same) == {"SAME_PHOTOGRAPH"}
    number = body["document"]["number"]
    wrong = {**body["document"], "number": number[:-1] + ("0" if number[-1] != "0" else "1")}
    assert reasons(sandbox.enroll({**body, "document": wrong}).json()) == {"DOCUMENT_INVALID"}
    found = sandbox.ask("GET", f"/v1/enrollments?idempotency_key={key}", "other")
    assert found.status_code == 404


def test_a_picture_says_whom_it_shows(sandbox: Served) -> None:
    body = sandbox.activation(12)
    assert sandbox.enroll(body).json()["decision"] == "approved"

    def verify(name: str) -> Any:
        asked = {"probe": {"image": sandbox.picture(name)}, "line": body["msisdn"]}
        return sandbox.ask("POST", "/v1/verifications", "carrier", json=asked)

    assert verify("anybody-3").json()["is_match"] is True
    assert verify("stranger").json()["is_match"] is False
    assert verify("no-face").json()["code"] == "MATCH.NO_FACE"
    known = {name: body["document"][name] for name in ("type", "number")}
    asked = {"document": known, "probe": {"image": sandbox.picture("anybody-3")}}
    lines = sandbox.ask("POST", "/v1/lines/query", "carrier", json=asked).json()
    assert (lines["is_holder"], len(lines["lines"])) == (True, 1)
    line = lines["lines"][0]["line_id"]
    disputed = sandbox.ask("POST", f"/v1/lines/{line}/dispute", "carrier", json=asked)
    assert disputed.status_code == 201, disputed.text
    sought = {"probe": {"image": sandbox.picture("resident")}}
    found = sandbox.ask("POST", "/v1/identifications", "fraud", json=sought).json()
    assert len(found["candidates"]) >= 1
    sought = {"probe": {"image": sandbox.picture("stranger")}}
    assert sandbox.ask("POST", "/v1/identifications", "fraud", json=sought).json()["found"] == 0
    mixed = sandbox.activation(13, live=sandbox.picture("stranger"))
    assert reasons(sandbox.enroll(mixed).json()) == {"FACE_MISMATCH"}


def test_decisions_have_events_and_cases(sandbox: Served) -> None:
    for serial in (0, 904):
        sandbox.enroll(sandbox.activation(serial))
    events = sandbox.ask("GET", "/v1/events?limit=200", "carrier").json()["events"]
    assert {"enrollment.decided", "line.opened"} <= {one["type"] for one in events}
    cases = sandbox.ask("GET", "/v1/cases", "fraud").json()["cases"]
    assert "possible_duplicate" in {one["kind"] for one in cases}


def test_it_says_what_it_is(sandbox: Served) -> None:
    version = sandbox.client.get("/version").json()
    assert version["version"].endswith("+sandbox")
    assert version["warnings"] == [WARNING]
    ready = sandbox.client.get("/health/ready").json()
    assert "sandbox" in ready["checks"]["models"]["detail"]


def test_no_home_with_people_is_opened_as_one_and_none_of_its_as_a_service(
    sandbox: Served, full_home: Path, sosie: Any, assert_refused: Any
) -> None:
    assert_refused(sosie("sandbox", full_home), "no sandbox")
    # Not even with another's mark.
    shutil.copyfile(sandbox.home / MARK_FILE, full_home / MARK_FILE)
    assert_refused(sosie("sandbox", full_home), "no sandbox")
    assert_refused(sosie("serve", "--home", sandbox.home), "sandbox")


def test_the_table_is_printed_for_every_type(sosie: Any) -> None:
    for kind in DOCUMENT_TYPES:
        numbers = sosie("sandbox", "--numbers", kind, "--json").json["numbers"]
        assert {one["serial"] for one in numbers} == {"000", *map(str, OUTCOMES)}
    assert sosie("sandbox", "--numbers", "none").code == 2


def test_what_keeps_it_from_starting_is_said_in_one_line(
    sandbox: Served, sosie: Any, assert_refused: Any, tmp_path: Path
) -> None:
    port = sandbox.url.rpartition(":")[2]
    assert_refused(sosie("sandbox", tmp_path / "new", "--port", port), "choose another --port")
    assert_refused(sosie("sandbox", sandbox.home, "--port", "0"), "another process")


def test_its_settings_name_an_authority_and_carriers_that_report_changes_of_sim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "lost.csv"
    listed.write_text(f"type,number,standing\ncn-ric,{make_number('cn-ric', 8)},lost\n")
    monkeypatch.setenv("SOSIE_AUTHORITY__KIND", "listed")
    monkeypatch.setenv("SOSIE_AUTHORITY__LIST_FILE", str(listed))
    monkeypatch.setenv("SOSIE_AUTHORITY__UNKNOWN", "proceed")
    monkeypatch.setenv("SOSIE_LINES__SIM_CHANGES_SINCE", '{"sandbox": "2026-01-01"}')
    with serve_sandbox(tmp_path / "home") as served:
        lost = served.enroll(served.activation(8)).json()
        assert (lost["decision"], reasons(lost)) == ("review", {"AUTHORITY_CONTRADICTS"})
        body = served.activation(9)
        assert served.enroll(body).json()["decision"] == "approved"
        asked = {"json": {"phoneNumber": body["msisdn"]}}
        told = served.ask("POST", "/camara/sim-swap/v2/retrieve-date", "carrier", **asked)
        assert told.status_code == 200, told.text
        assert told.json()["latestSimChange"]
