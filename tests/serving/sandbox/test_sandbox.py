"""The sandbox: the interface as it is, where document numbers say how an enrollment ends."""

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schema.documents import Document
from schema.reasons import Reason
from serving.api.endpoints import ENDPOINTS
from serving.sandbox.collection import build_collection
from serving.sandbox.outcomes import (
    BROKEN,
    BY_REQUEST,
    GRANTED,
    LOST_AFTER,
    LOST_BEFORE,
    MONITORED,
    NOT_REPORTED,
    OUTCOMES,
    SILENT,
    SLOW,
    SWAPPED_BEFORE,
    TYPES,
    UNKNOWN,
    check,
    make_number,
)
from serving.sandbox.sandbox_service import WARNING, open_sandbox
from serving.settings.settings import SANDBOX_FILE
from serving.webhooks import keeper
from tests.serving.authority_service import send, serve_authority
from tests.serving.sandbox.conftest import Served, serve_sandbox
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
DECIDED = [one for one in OUTCOMES.values() if one.decision is not None and one.serial != SLOW]
REFUSED = [one for one in OUTCOMES.values() if one.decision is None and one.serial != SILENT]


def reasons(answer: dict[str, Any]) -> set[str]:
    return {one["reason"] for one in answer["reasons"]}


def lasting(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without ids, times, and counts of what the gallery has got meanwhile."""
    gone = ("_id", "_at", "_key")
    kept = {name: value for name, value in answer.items() if not name.endswith(gone)}
    for name in ("duplicate_search", "folio"):
        kept.pop(name)
    kept["cases"] = [one["kind"] for one in kept["cases"]]
    return kept


@pytest.mark.parametrize("outcome", DECIDED, ids=lambda one: f"{one.serial} {one.reason}")
def test_a_serial_says_the_decision_whenever_it_is_asked(sandbox, outcome: Any) -> None:
    first, second = (sandbox.enroll(sandbox.activation(outcome.serial)) for _ in range(2))
    assert first.status_code == second.status_code == 201, first.text
    answer = first.json()
    assert answer["decision"] == outcome.decision
    # To a tenant a reason about another holder is told as it always is.
    assert bool(reasons(answer)) == bool(outcome.reasons)
    assert reasons(answer) <= {*outcome.reasons, "WITHHELD"}
    record = sandbox.ask("GET", f"/v1/enrollments/{answer['enrollment_id']}", "operator")
    assert reasons(record.json()) == outcome.reasons
    assert lasting(answer) == lasting(second.json())


@pytest.mark.parametrize("outcome", REFUSED, ids=lambda one: str(one.serial))
def test_a_serial_says_the_error(sandbox, outcome: Any) -> None:
    refused = sandbox.enroll(sandbox.activation(outcome.serial))
    assert (refused.status_code, refused.json()["code"]) == (outcome.status, outcome.code)


def often(kind: str) -> range:
    """More lines of one person than are allowed elsewhere; of other types one is enough."""
    return range(7 if kind == "cn-ric" else 1)


@pytest.mark.parametrize("kind", TYPES)
def test_every_other_number_is_approved_again_and_again(sandbox, kind: str) -> None:
    for place in often(kind):
        changes = {"msisdn": f"+86139001380{place:02d}"}
        answer = sandbox.enroll(sandbox.activation(7, kind, **changes)).json()
        assert (answer["decision"], answer["reasons"]) == ("approved", [])


def test_every_reason_of_the_interface_has_a_serial_or_a_request_that_says_it() -> None:
    by_serial = {reason for one in OUTCOMES.values() for reason in one.reasons}
    assert by_serial | set(BY_REQUEST) == set(Reason)
    assert not by_serial & set(BY_REQUEST)
    for serial, outcome in OUTCOMES.items():
        assert outcome.serial == serial


def ask_for(sandbox: Served, reason: Reason) -> dict[str, Any]:
    """A request that says this reason itself."""
    body = sandbox.activation(11)
    document = body["document"]
    number, today = document["number"], datetime.now(UTC).date()
    match reason:
        case Reason.DOCUMENT_INVALID:
            wrong = number[:-1] + ("0" if number[-1] != "0" else "1")
            return body | {"document": document | {"number": wrong}}
        case Reason.DOCUMENT_EXPIRED:
            past = (today - timedelta(days=2)).isoformat()
            return body | {"document": document | {"expires_on": past}}
        case Reason.BIRTH_DATE_MISMATCH:
            return body | {"document": document | {"born_on": "1970-01-01"}}
        case Reason.BIRTH_DATE_MISSING:
            return sandbox.activation(960, "in-aadhaar")
        case Reason.REPLACEMENT_REFUSED:
            unknown = {"type": "pk-cnic", "number": make_number("pk-cnic", 77)}
            return body | {"replaces": unknown}
        case Reason.EXCEPTION_NOT_OFFERED:
            return body | {"exception": "injury"}
        case Reason.SAME_PHOTOGRAPH:
            return body | {"portrait": body["live"]}
    raise AssertionError(f"no request says {reason}")


@pytest.mark.parametrize("reason", BY_REQUEST)
def test_a_reason_without_a_serial_is_said_by_the_request(sandbox, reason: Reason) -> None:
    answer = sandbox.enroll(ask_for(sandbox, reason)).json()
    assert (answer["decision"], reasons(answer)) == ("rejected", {reason})


@pytest.mark.parametrize("kind", TYPES)
def test_a_minor_is_approved_with_a_guardian_again_and_again(sandbox, kind: str) -> None:
    body = sandbox.activation(960, kind, guardian=sandbox.guardian())
    body["document"]["born_on"] = str(check(Document(**body["document"])).born_on or "2019-03-07")
    for place in often(kind):
        body["msisdn"] = f"+86139002380{place:02d}"
        answer = sandbox.enroll(body).json()
        assert (answer["decision"], answer["reasons"]) == ("approved", [])
        assert answer["guardian_document_id"]
    # A guardian answers for as many lines as one may have.
    assert sandbox.ask("DELETE", f"/v1/lines/{answer['line_id']}", "carrier").is_success


def test_an_exception_is_granted_as_two_people_grant_it(sandbox) -> None:
    body = sandbox.activation(GRANTED)
    # A face is missing, which is what exceptions are for.
    del body["live"]
    for _ in range(2):
        answer = sandbox.enroll(body).json()
        assert (answer["decision"], answer["line_id"]) == ("review", None)
        (case,) = answer["cases"]
        told = sandbox.ask("GET", f"/v1/cases/{case['id']}", "fraud").json()
        assert (told["state"], told["outcome"]) == ("closed", "unfounded")
    # The newest is in one of the pages.
    found, place = set[str](), "0"
    while True:
        page = sandbox.ask("GET", f"/v1/events?type=line.opened&after={place}", "carrier").json()
        found |= {one["data"]["enrollment_id"] for one in page["events"]}
        if not page["events"]:
            break
        place = page["next"]
    assert answer["enrollment_id"] in found


def test_a_serial_holds_for_its_own_document_alone(sandbox) -> None:
    assert sandbox.enroll(sandbox.activation(940)).json()["decision"] == "rejected"
    assert sandbox.enroll(sandbox.activation(14)).json()["decision"] == "approved"
    # Rules that a serial brings decide nothing where the person is none whom they are about.
    grown_up = sandbox.activation(15)
    stem = "11010519900307960"
    found = (stem + digit for digit in "0123456789X")
    numbers = (Document("cn-ric", one, "Sandra Sand") for one in found)
    grown_up["document"]["number"] = next(
        one.number for one in numbers if check(one).is_well_formed
    )
    assert sandbox.enroll(grown_up).json()["decision"] == "approved"


def test_the_documentation_has_the_table_of_the_code() -> None:
    text = (ROOT / "docs" / "sandbox.md").read_text("utf-8")
    table, numbers = text.split("## Telephone numbers")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| 9")]
    told: dict[int, tuple[str, str]] = {}
    for serials, number, answer in rows:
        first, _, last = serials.partition(" to ")
        for serial in range(int(first), int(last or first) + 1):
            told[serial] = (number.removesuffix(" …"), answer)
        assert number.removesuffix(" …") == make_number("cn-ric", int(first))
    assert set(told) == set(OUTCOMES)
    for serial, (_, answer) in told.items():
        outcome = OUTCOMES[serial]
        begins = str(outcome.decision or outcome.status)
        assert answer.startswith(begins), serial
        assert {*outcome.reasons, outcome.code} - {""} <= set(re.findall(r"[A-Z_.]{3,}", answer))
        assert (f"`{outcome.needs}`" in answer) == bool(outcome.needs), serial
    for digits in (*SWAPPED_BEFORE, UNKNOWN, NOT_REPORTED):
        assert f"| {digits} | `" in numbers
    for reason, way in BY_REQUEST.items():
        assert f"| {reason} | {way} |" in text


def test_what_was_lost_is_asked_for_again_with_the_same_key(sandbox) -> None:
    for serial, status in ((LOST_BEFORE, 201), (LOST_AFTER, 200)):
        key, body = str(uuid.uuid4()), sandbox.activation(serial)
        assert sandbox.enroll(body, key).status_code == 503
        again = sandbox.enroll(body, key)
        assert (again.status_code, again.json()["decision"]) == (status, "approved")
        assert again.json()["is_repeated"] == (status == 200)
        assert sandbox.enroll(body, key).status_code == 200


def test_validation_idempotency_and_tenants_are_the_services_own(sandbox) -> None:
    body, key = sandbox.activation(11), str(uuid.uuid4())
    assert sandbox.enroll(body, key).status_code == 201
    other = sandbox.enroll({**body, "consent_ref": "C-2"}, key)
    assert (other.status_code, other.json()["code"]) == (422, "REQUEST.IDEMPOTENCY_MISMATCH")
    assert sandbox.enroll({**body, "shade": 1}).status_code == 400
    assert sandbox.enroll({**body, "live": "AAAA"}).json()["code"].startswith("IMAGE.")
    found = sandbox.ask("GET", f"/v1/enrollments?idempotency_key={key}", "other")
    assert found.status_code == 404


def test_a_picture_says_whom_it_shows(sandbox) -> None:
    body = sandbox.activation(12)
    assert sandbox.enroll(body).json()["decision"] == "approved"

    def verify(name: str) -> Any:
        asked = {"probe": {"image": sandbox.picture(name)}, "line": body["msisdn"]}
        return sandbox.ask("POST", "/v1/verifications", "carrier", json=asked)

    assert verify("anybody-3").json()["is_match"] is True
    assert verify("stranger").json()["is_match"] is False
    assert verify("no-face").json()["code"] == "MATCH.NO_FACE"
    known = {name: body["document"][name] for name in ("type", "number")}
    asked = {"document": known, "proof": "signed.by.anybody", "line": body["msisdn"]}
    proven = sandbox.ask("POST", "/v1/verifications", "carrier", json=asked).json()
    assert (proven["is_match"], proven["way"]) == (True, "mobile_id")
    asked["document"] = {**known, "number": make_number("cn-ric", 983)}
    stale = sandbox.ask("POST", "/v1/verifications", "carrier", json=asked).json()
    assert (stale["code"], "PROOF_STALE" in stale["message"]) == ("PROOF.REFUSED", True)
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


def ask_swap(sandbox: Served, operation: str, digits: int, **more: int) -> tuple[int, Any]:
    asked = {"phoneNumber": f"+861380013{digits:04d}", **more}
    answer = sandbox.ask("POST", f"/camara/sim-swap/v2/{operation}", "carrier", json=asked)
    return answer.status_code, answer.json()


def test_a_number_says_when_it_got_its_sim_without_any_setting(sandbox) -> None:
    for digits, before in SWAPPED_BEFORE.items():
        status, told = ask_swap(sandbox, "retrieve-date", digits)
        assert status == 200
        if before is None:
            assert told == {"latestSimChange": None, "monitoredPeriod": MONITORED.days}
            age_h = MONITORED / timedelta(hours=1)
        else:
            at = datetime.fromisoformat(told["latestSimChange"])
            assert abs(datetime.now(UTC) - at - before) < timedelta(minutes=5)
            age_h = before / timedelta(hours=1)
        for hours in (1, 240, 2400):
            answer = ask_swap(sandbox, "check", digits, maxAge=hours)
            assert answer == (200, {"swapped": age_h <= hours})
    for digits, refusal in (
        (UNKNOWN, (404, "IDENTIFIER_NOT_FOUND")),
        (NOT_REPORTED, (422, "SERVICE_NOT_APPLICABLE")),
    ):
        for operation in ("retrieve-date", "check"):
            status, told = ask_swap(sandbox, operation, digits)
            assert (status, told["code"]) == refusal


def test_another_number_got_its_sim_when_its_line_was_opened(sandbox) -> None:
    assert ask_swap(sandbox, "check", 7016)[0] == 404
    body = sandbox.activation(16, msisdn="+8613800137016")
    assert sandbox.enroll(body).json()["decision"] == "approved"
    assert ask_swap(sandbox, "check", 7016) == (200, {"swapped": True})


def test_it_and_each_of_its_answers_says_what_it_is(sandbox) -> None:
    version = sandbox.client.get("/version").json()
    assert version["version"].endswith("+sandbox")
    assert version["warnings"] == [WARNING]
    ready = sandbox.client.get("/health/ready").json()
    assert "sandbox" in ready["checks"]["models"]["detail"]
    for answer in (
        sandbox.enroll(sandbox.activation(17)),
        sandbox.enroll(sandbox.activation(BROKEN)),
        sandbox.client.get("/v1/lines/none"),
        sandbox.client.get("/health/live"),
        sandbox.client.get("/console/"),
    ):
        assert answer.headers["sosie-sandbox"] == "no face is looked at", answer.url


def test_what_the_environment_names_for_people_gets_nothing_of_it(tmp_path, monkeypatch) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setenv("SOSIE_REGISTRY__URL", f"sqlite:///{theirs}/registry.sqlite")
    monkeypatch.setenv("SOSIE_AUDIT__ANCHOR", str(theirs / "anchor"))
    monkeypatch.setenv("SOSIE_SWEEP__FOLDER", str(theirs))
    with serve_sandbox(tmp_path / "home") as served:
        assert served.enroll(served.activation()).json()["decision"] == "approved"
        asked = served.ask("POST", "/v1/sweeps", "fraud", json={}, headers={"idempotency-key": "1"})
        assert asked.is_success, asked.text
    assert list(theirs.iterdir()) == []


def test_no_home_with_people_is_opened_as_one_and_none_of_its_as_a_service(
    sandbox, full_home, sosie, assert_refused
) -> None:
    assert_refused(sosie("sandbox", full_home), "no sandbox")
    # Not even with another's mark.
    shutil.copyfile(sandbox.home / SANDBOX_FILE, full_home / SANDBOX_FILE)
    assert_refused(sosie("sandbox", full_home), "no sandbox")
    for command in (("serve",), ("webhooks", "list"), ("audit", "verify"), ("cases",)):
        assert_refused(sosie(*command, "--home", sandbox.home), "sosie sandbox")


def test_the_table_is_printed_for_every_type(sosie) -> None:
    for kind in TYPES:
        numbers = sosie("sandbox", "--numbers", kind, "--json").json["numbers"]
        assert {one["serial"] for one in numbers} == {"000", *map(str, OUTCOMES)}
        lines = sosie("sandbox", "--numbers", kind).out.splitlines()
        assert [line.split()[1] for line in lines] == [one["number"] for one in numbers]
    assert sosie("sandbox", "--numbers", "none").code == 2


def test_what_keeps_it_from_starting_is_said_in_one_line(
    sandbox, sosie, assert_refused, tmp_path, monkeypatch
) -> None:
    port = sandbox.url.rpartition(":")[2]
    assert_refused(sosie("sandbox", tmp_path / "new", "--port", port), "choose another --port")
    assert_refused(sosie("sandbox", sandbox.home, "--port", "0"), "another process")
    monkeypatch.setenv("SOSIE_WEBHOOKS__CARRIER_NETWORKS", "none")
    assert_refused(sosie("sandbox", tmp_path / "new", "--port", "0"), "SOSIE_ variable")


def test_its_settings_name_an_authority_and_since_when_changes_of_sim_are_reported(
    tmp_path, monkeypatch
) -> None:
    listed = tmp_path / "lost.csv"
    listed.write_text(f"type,number,standing\ncn-ric,{make_number('cn-ric', 8)},lost\n")
    monkeypatch.setenv("SOSIE_AUTHORITY__KIND", "listed")
    monkeypatch.setenv("SOSIE_AUTHORITY__LIST_FILE", str(listed))
    monkeypatch.setenv("SOSIE_AUTHORITY__UNKNOWN", "proceed")
    monkeypatch.setenv(
        "SOSIE_LINES__SIM_CHANGES_SINCE", f'{{"sandbox": "{datetime.now(UTC).date()}"}}'
    )
    with serve_sandbox(tmp_path / "home") as served:
        lost = served.enroll(served.activation(8)).json()
        assert (lost["decision"], reasons(lost)) == ("review", {"AUTHORITY_CONTRADICTS"})
        body = served.activation(9)
        assert served.enroll(body).json()["decision"] == "approved"
        number = int(body["msisdn"][-4:])
        assert ask_swap(served, "check", number, maxAge=240)[1]["code"] == "OUT_OF_RANGE"


def test_its_webhooks_on_this_machine_are_delivered_to_while_it_listens_on_no_other(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK_EVERY_S", 0.1)
    with serve_authority() as receiver, serve_sandbox(tmp_path / "home") as served:
        receiver.behave = send(b"", 204)
        made = served.ask("POST", "/v1/webhooks", "carrier", json={"sink": receiver.sink})
        assert made.status_code == 201, made.text
        answer = served.enroll(served.activation(7)).json()
        wait_until(lambda: bool(receiver.asked))
    event = receiver.asked[0]
    assert (event["type"], event["subject"]) == ("enrollment.decided", answer["enrollment_id"])
    with open_sandbox(tmp_path / "home", "0.0.0.0") as opened:
        assert opened.parts.deployment.settings.webhooks.networks_of("sandbox") == ()


def items(folder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one in folder["item"]:
        if "request" in one:
            yield one
        else:
            yield from items(one)


def test_it_has_every_operation_and_every_outcome(sosie) -> None:
    collection = sosie("sandbox", "--collection").json
    assert collection == build_collection("0.1.0")
    names = [one["name"] for one in items(collection)]
    assert {one.summary for one in ENDPOINTS} - {"Sign out"} <= set(names)
    assert {name[:3] for name in names} >= {str(one) for one in OUTCOMES if one != SILENT}
    for one in items(collection):
        assert any("pm.expect" in line for line in one["event"][0]["script"]["exec"])
        if "body" in one["request"]:
            json.loads(one["request"]["body"]["raw"])
        # No key is in it: they are variables.
        assert "sosie_" not in json.dumps(one)
