"""`/v1/cases`: the queue, a case with its history, the steps of people, four eyes."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from engine.cases import steps
from engine.formatting import mask_name
from engine.matching.checks.limits import Bound
from engine.registry.database import utc_now
from serving.wire.cases import CaseFile, CasePage, EndedCases, RevealedCase
from serving.wire.fields import read
from tests.serving.conftest import NAME

QUEUE = "/v1/cases"
MSISDN = "+8613800138000"


@pytest.fixture
def dispute(faces) -> Callable[..., str]:
    """`dispute(service)`: the astronaut disputes their line; the id of the case."""

    def make(service: Any) -> str:
        document = {"type": "cn-ric", "number": "110105199003071239"}
        body = {"document": document, "probe": {"image": faces["later"]}}
        answer = service.ask("POST", f"/v1/lines/{MSISDN}/dispute", key="fraud", body=body)
        return str(service.read(answer)["case_id"])

    return make


def see(service: Any, case: str) -> str:
    """`updated_at` of a case as it is now; some moment where there is none."""
    found = service.parts.store.cases.by_id([case])
    return (found[case].updated_at if case in found else utc_now()).isoformat()


def step(service: Any, case: str, name: str, key: str = "fraud", **body: Any) -> Any:
    if name in {"propose", "close", "reopen"} and "seen_at" not in body:
        body["seen_at"] = see(service, case)
    given = body or None
    return service.ask("POST", f"{QUEUE}/{case}/{name}", key=key, body=given)


def actor(service: Any, key: str) -> str:
    return f"{key} (key:{service.keys[key].split('_')[-2]})"


def test_the_queue_is_read_page_by_page_filtered_and_audited(fresh, open_case, dispute) -> None:
    first, second = open_case(fresh), dispute(fresh)
    before = fresh.parts.store.audit_head()[0]
    pages: list[Any] = []
    for after in ({}, {"after": second}, {"after": first}):
        asked = {"limit": 1} | after
        pages.append(fresh.read(fresh.ask("GET", QUEUE, key="fraud", params=asked)))
        read(pages[-1], CasePage)
        assert (pages[-1]["waiting"] is None) == bool(after)
    seen = [case["case_id"] for page in pages for case in page["cases"]]
    assert (seen, [page["next"] for page in pages]) == ([second, first], [second, first, None])
    kept = fresh.audited(before)
    assert {one.action for one in kept} == {"cases.read"}
    assert [one.detail for one in kept] == [{"cases": [one]} for one in seen] + [{"cases": []}]
    assert step(fresh, first, "assign", assignee="me").status_code == 200

    def found(**asked: str | list[str]) -> list[str]:
        page = fresh.read(fresh.ask("GET", QUEUE, key="fraud", params=asked))
        return [case["case_id"] for case in page["cases"]]

    assert found(state="open") == [second]
    assert found(state="alive") == [second, first]
    assert found(kind="dispute") == [second]
    assert found(assignee="me") == [first]
    assert found(assignee="second") == []
    assert step(fresh, second, "propose", outcome="unfounded").status_code == 200
    assert found(to_approve="true") == []
    page = fresh.read(fresh.ask("GET", QUEUE, key="second", params={"to_approve": "true"}))
    assert [one["case_id"] for one in page["cases"]] == [second]
    assert sum(page["waiting"].pop("kinds").values()) == 2
    assert page["waiting"] == {"overdue": 0, "mine": 0, "to_approve": 1}
    assert step(fresh, second, "withdraw").status_code == 200
    assert found(state="assigned", kind="dispute") == []
    assert found(sort="risk") == found(sort="score") == [first, second]
    assert found(sort="oldest") == [first, second]
    assert found(sort="due") == [first, second]
    assert found(id_end=second[-8:]) == [second]
    assert found(overdue="true") == found(carrier="nobody") == found(outlets=["a", "b"]) == []
    assert found(carriers=["blue", "nobody"]) == found(outlets=["nobody", "b1"]) == found()
    assert found(carrier="nobody", carriers="blue") == found(carrier="blue") == found()
    assert found(carriers=["blue", "nobody"], outlet="nobody") == []
    assert found(state=["closed", "open"]) == [second]
    for wrong in ({"carriers": ["blue", "\0"]}, {"outlets": ["a"] * 51}, {"carriers": [""]}):
        refused = fresh.ask("GET", QUEUE, key="fraud", params=wrong)
        fresh.assert_refused(refused, 400, "REQUEST.MALFORMED")
    fresh.assert_refused(
        fresh.ask("GET", QUEUE, key="fraud", params={"sort": "name"}), 400, "REQUEST.MALFORMED"
    )


def test_of_several_cases_each_is_decided_by_two_people_or_refused_for_itself(
    fresh, open_case, dispute
) -> None:
    first, second, unknown = open_case(fresh), dispute(fresh), "0" * 36

    def ask(taken: str, key: str, *cases: str, **more: str) -> Any:
        asked = [{"case_id": one, "outcome": "twins", "seen_at": see(fresh, one)} for one in cases]
        body = {"step": taken, "cases": [one | more for one in asked]}
        return fresh.ask("POST", f"{QUEUE}/outcomes", key=key, body=body)

    def decide(*asked: str) -> list[str]:
        ended = read(fresh.read(ask(*asked)), EndedCases).cases
        assert [one.case_id for one in ended] == list(asked[2:])
        return [one.error.code if one.case is None else one.case.state for one in ended]

    proposed = ["proposed", "REQUEST.NOT_FOUND", "proposed", "CASE.STATE"]
    assert decide("propose", "fraud", first, unknown, second, second) == proposed
    (ahead,) = fresh.read(ask("close", "second", first, seen_at="2199-12-31T00:00:00Z"))["cases"]
    assert "after the case's last change" in ahead["error"]["message"]
    assert decide("close", "fraud", second) == ["CASE.FOUR_EYES"]
    assert decide("close", "second", second, first) == ["closed", "closed"]
    for wrong in ((), [first] * 101):
        fresh.assert_refused(ask("close", "second", *wrong), 400, "REQUEST.MALFORMED")


def test_what_tells_cases_apart_is_masked(fresh, dispute, enrolled) -> None:
    dispute(fresh)
    (case,) = fresh.read(fresh.ask("GET", QUEUE, key="fraud"))["cases"]
    assert case["people"] == [
        {
            "document_id": case["document_ids"][0],
            "name": mask_name(NAME),
            "number": "•" * (len(MSISDN) - 4) + MSISDN[-4:],
        }
    ]
    assert (case["lines"], len(case["outlets"]), len(case["carriers"])) == (1, 1, 1)
    assert (case["is_overdue"], case["due_at"] is None) == (False, False)


def test_whom_a_case_names_is_shown_in_full_with_a_reason_and_so_often_a_day(
    fresh, open_case, monkeypatch
) -> None:
    case = open_case(fresh)
    path, reason = f"{QUEUE}/{case}/reveal", {"reason": "The copy of the document is blurred."}
    for key in ("blue", "b1", "operator"):
        refused = fresh.ask("POST", path, key=key, body=reason)
        fresh.assert_refused(refused, 403, "ACCESS.FORBIDDEN")
    for wrong in ("", "x" * 201, "a\u202eb", " "):
        refused = fresh.ask("POST", path, key="fraud", body={"reason": wrong})
        assert refused.status_code in {400, 422}
    before = fresh.parts.store.audit_head()[0]
    found = fresh.read(fresh.ask("POST", path, key="fraud", body=reason))
    read(found, RevealedCase)
    numbers = {one["document_id"]: one["number"] for one in found["documents"]}
    known = fresh.parts.store.identities(list(numbers))
    assert {key: one.number for key, one in known.items()} == numbers
    assert [one["name"] for one in found["documents"]] == [known[key].name for key in numbers]
    (entry,) = fresh.audited(before)
    assert (entry.action, entry.subject) == ("case.revealed", case)
    assert entry.detail == {"documents": list(numbers)}
    shown = fresh.read(fresh.ask("GET", f"{QUEUE}/{case}", key="fraud"))
    last = shown["notes"][-1]
    assert (last["kind"], last["text"]) == ("revealed", reason["reason"])
    assert not [one for one in known.values() if one.number in json.dumps(shown)]
    monkeypatch.setattr(steps, "REVEALED", Bound(len(numbers), timedelta(days=1)))
    again = fresh.ask("POST", path, key="fraud", body=reason)
    fresh.assert_refused(again, 429, "REQUEST.TOO_MANY_FAILURES")
    assert int(again.headers["retry-after"]) > 3600
    file = fresh.ask("POST", f"{QUEUE}/{case}/report", key="fraud", body={"reveal": True})
    fresh.assert_refused(file, 429, "REQUEST.TOO_MANY_FAILURES")
    masked = fresh.ask("POST", f"{QUEUE}/{case}/report", key="fraud", body={})
    assert masked.status_code == 200
    assert fresh.ask("POST", path, key="second", body=reason).status_code == 200


def test_a_case_is_read_masked_and_audited_and_two_people_close_lines_and_open_it_again(
    fresh, dispute, enrolled
) -> None:
    case = dispute(fresh)
    before = fresh.parts.store.audit_head()[0]
    response = fresh.ask("GET", f"{QUEUE}/{case}", key="fraud")
    [document] = (shown := fresh.read(response))["documents"]
    assert (shown["kind"], shown["origin"], shown["state"]) == ("dispute", "dispute", "open")
    assert document["document_id"] == enrolled["document_id"]
    [line] = document["lines"]
    assert (line["number"], line["status"]) == ("••••••••••8000", "disputed")
    assert b"13800138000" not in response.content
    [entry] = fresh.audited(before)
    assert (entry.action, entry.subject) == ("case.read", case)
    assert entry.detail == {"documents": [enrolled["document_id"]]}
    found = {"outcome": "fraud", "close_lines": [enrolled["line_id"]]}
    alone = step(fresh, case, "close", **found)
    fresh.assert_refused(alone, 403, "CASE.FOUR_EYES")
    proposed = fresh.read(step(fresh, case, "propose", **found))
    assert proposed["state"] == "proposed"
    assert proposed["proposal"]["by"] == actor(fresh, "fraud")
    assert proposed["proposal"]["close_lines"] == found["close_lines"]
    fresh.assert_refused(step(fresh, case, "close", **found), 403, "CASE.FOUR_EYES")
    closed = fresh.read(step(fresh, case, "close", key="second", **found))
    assert (closed["state"], closed["outcome"]) == ("closed", "fraud")
    line = fresh.parts.store.lines_by_id([enrolled["line_id"]])[enrolled["line_id"]]
    assert line.status.value == "closed"
    fresh.assert_refused(step(fresh, case, "close", key="second", **found), 409, "CASE.STATE")
    history = fresh.read(fresh.ask("GET", f"{QUEUE}/{case}", key="fraud"))["notes"]
    assert [one["kind"] for one in history] == ["opened", "proposed", "closed"]
    why = {"reason": "The clerk has confessed."}
    asked = fresh.read(step(fresh, case, "reopen", **why))
    read(asked, CaseFile)
    assert (asked["state"], asked["proposal"]["reopen_by"]) == ("closed", "fraud")
    waiting = {"state": "closed", "to_approve": "true"}
    for key, found in (("fraud", []), ("second", [case])):
        page = fresh.read(fresh.ask("GET", QUEUE, key=key, params=waiting))
        assert [one["case_id"] for one in page["cases"]] == found
    fresh.assert_refused(step(fresh, case, "reopen", **why), 403, "CASE.FOUR_EYES")
    opened = fresh.read(step(fresh, case, "reopen", key="second", **why))
    assert (opened["state"], opened["outcome"], opened["proposal"]) == ("open", None, None)
    assert [one["line_id"] for one in opened["closed_lines"]] == [enrolled["line_id"]]
    assert [one["text"] for one in opened["notes"][-2:]] == [why["reason"]] * 2
    # Its carrier is told that a case closed it, and not which: others' lines may be in it.
    of_line = f"/v1/lines/{enrolled['line_id']}/events"
    for key, cause in (("fraud", f"case:{case}"), ("blue", "case")):
        events = fresh.read(fresh.ask("GET", of_line, key=key))["events"]
        told = [(one["kind"], one["cause"], one["by"]) for one in events]
        assert told == [("disputed", "holder", "person"), ("closed", cause, "person")]


def test_every_step_is_answered_with_the_case_and_audited(fresh, open_case) -> None:
    case = open_case(fresh)
    before = fresh.parts.store.audit_head()[0]
    other = "second"
    assert fresh.read(step(fresh, case, "assign", assignee=other))["assignee"] == other
    back = step(fresh, case, "assign", assignee=None)
    assert fresh.read(back)["assignee"] is None
    assert fresh.read(step(fresh, case, "propose", outcome="twins"))["state"] == "proposed"
    taken = fresh.read(step(fresh, case, "withdraw"))
    assert (taken["state"], taken["proposal"]) == ("open", None)
    step(fresh, case, "propose", key="second", outcome="unfounded")
    closed = fresh.read(step(fresh, case, "close", outcome="unfounded"))
    assert (closed["state"], closed["outcome"]) == ("closed", "unfounded")
    kept = fresh.audited(before)
    assert {one.subject for one in kept} == {case}
    assert {one.actor for one in kept} == {actor(fresh, "fraud"), actor(fresh, "second")}
    assert len(kept) == 6
    precision = fresh.read(fresh.ask("GET", "/v1/precision", key="fraud"))
    # No sweep had found the pair.
    assert (precision["judged"], precision["precision"], precision["thresholds"]) == (0, None, [])
    [kind] = precision["kinds"]
    assert (kind["name"], kind["unfounded"]) == ("duplicate_identity", 1)


def test_attempts_at_a_suspended_outlet_are_refused_recorded_and_counted_and_an_erasure_is_told(
    fresh, open_case, activation
) -> None:
    case = open_case(fresh)
    why = {"case_id": case, "reason": "One face, two documents"}
    outlet = "/v1/outlets/b1"
    assert fresh.ask("POST", f"{outlet}/suspend", key="fraud", body=why).status_code == 200
    refused = fresh.ask("POST", f"{outlet}/bar", key="fraud", body=why)
    fresh.assert_refused(refused, 403, "CASE.FOUR_EYES")
    for key in ("one", "two"):
        given = fresh.enroll(activation(), key, key="b1")
        fresh.assert_refused(given, 403, "REQUEST.OUTLET_RESTRICTED")
    barred = fresh.read(fresh.ask("POST", f"{outlet}/bar", key="second", body=why))
    assert (barred["restriction"], barred["refused_attempts"]) == ("barred", 2)
    for asked, codes in (({}, ["b1"]), ({"limit": 1, "after": "b1"}, []), ({"carrier": "red"}, [])):
        listed = fresh.read(fresh.ask("GET", "/v1/outlets", key="fraud", params=asked))
        assert [one["outlet"] for one in listed["outlets"]] == codes
        assert [one["liveness"]["results"] for one in listed["outlets"]] == [0] * len(codes)
    again = fresh.ask("POST", f"{outlet}/bar", key="fraud", body=why)
    fresh.assert_refused(again, 409, "OUTLET.STATE")
    lift = {"restriction": "suspended", "reason": "x"}
    stale = fresh.ask("POST", f"{outlet}/lift", key="fraud", body=lift)
    fresh.assert_refused(stale, 409, "OUTLET.STATE")
    past = fresh.read(fresh.ask("GET", f"{outlet}/enrollments", key="fraud"))["enrollments"]
    assert [one["decision"] for one in past] == ["rejected", "approved"]
    assert past[0]["case"]["case_id"] == case
    # The case needs the document: who asks is told so, and may ask again after a restart.
    path = f"/v1/documents/{past[1]['document_id']}"
    pending = fresh.ask("DELETE", path, key="blue")
    assert pending.status_code == 202
    told = fresh.read(pending)
    assert (told["state"], told["cases"]) == ("pending", [])
    assert fresh.read(fresh.ask("GET", f"{path}/erasure", key="operator"))["cases"] == [case]
    shown = fresh.read(fresh.ask("GET", f"{QUEUE}/{case}", key="fraud"))
    assert told["due_at"] in [one["erasure_due_at"] for one in shown["documents"]]
    [queued] = fresh.read(fresh.ask("GET", QUEUE, key="fraud"))["cases"]
    assert queued["erasure_due_at"] == told["due_at"]
    refused = fresh.ask("GET", f"{path}/erasure", key="red")
    fresh.assert_refused(refused, 404, "REQUEST.NOT_FOUND")
