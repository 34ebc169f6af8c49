"""What happens to lines, campaigns and CAMARA's SIM swap, through HTTP."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serving.api.routes import lines
from serving.settings.terms import LinesSettings
from tests.engine.records import newest_cases
from tests.serving.api.driver import Service
from tests.waiting import wait_until

MSISDN = "+8613800138000"
SIM_SWAP = "/camara/sim-swap/v2"
CORRELATOR = "b4333c46-49c0-4f62-80d7-f0ef930f1c46"
DAY = timedelta(days=1)
LONG_AGO = (datetime.now(UTC) - timedelta(days=200)).date()


@pytest.fixture
def rich(start_service) -> Service:
    """A service where blue's lines follow Vietnam's rules, and blue reports changes of SIM."""
    settings = LinesSettings(carriers={"blue": "vietnam"}, sim_changes_since={"blue": LONG_AGO})
    service: Service = start_service(lines=settings)
    return service


def report(service: Service, kind: str, key: str = "blue", at: str | None = None) -> Any:
    body = {"kind": kind, "at": at or datetime.now(UTC).isoformat()}
    return service.ask("POST", f"/v1/lines/{MSISDN}/events", key=key, body=body)


def test_a_change_of_device_asks_for_the_holder_whose_photograph_ends_that(
    rich, enrolled, faces
) -> None:
    moment = datetime.now(UTC).isoformat()
    made = [rich.read(report(rich, "device_change", at=moment)) for _ in range(2)]
    assert made[0] == made[1]
    path = f"/v1/lines/{enrolled['line_id']}/events"
    shown = rich.read(rich.ask("GET", path))
    [waiting] = shown["waiting"]
    assert (waiting["rule"], waiting["next_state"]) == ("vn-device-change", "suspended_outgoing")
    assert [one["kind"] for one in shown["events"]] == ["device_change", "reverify_asked"]
    body: dict[str, Any] = {"items": [{"image": faces["later"]}]}
    issued = rich.read(rich.ask("POST", "/v1/templates", body=body))["items"][0]["template"]
    for probe, is_over in (({"template": issued}, False), ({"image": faces["later"]}, True)):
        asked = {"probe": probe, "line": MSISDN}
        assert rich.read(rich.ask("POST", "/v1/verifications", body=asked))["is_match"]
        assert (rich.read(rich.ask("GET", path))["waiting"] == []) is is_over
    told = rich.read(rich.ask("GET", "/v1/events", params={"type": "line.reverified"}))
    assert [one["subject"] for one in told["events"]] == [enrolled["line_id"]]
    refused = report(rich, "device_change", at="2099-01-01T00:00:00Z")
    assert "in the future" in rich.assert_refused(refused, 422, "LINE.EVENT")
    rich.assert_refused(report(rich, "unsuspended"), 400, "REQUEST.MALFORMED")


def test_a_carrier_is_told_that_its_holder_did_not_come_and_not_of_the_case(
    rich, enrolled, faces
) -> None:
    rich.read(report(rich, "device_change"))
    asked = {"probe": {"image": faces["stranger"]}, "line": MSISDN}
    assert not rich.read(rich.ask("POST", "/v1/verifications", body=asked))["is_match"]
    (case,) = newest_cases(rich.parts.store.cases)
    path, failed = f"/v1/lines/{enrolled['line_id']}/events", {"type": "line.reverify_failed"}
    for key, cause in (("blue", "case"), ("fraud", case.id)):
        (event,) = rich.read(rich.ask("GET", "/v1/events", params=failed, key=key))["events"]
        assert (event["subject"], event["data"]["cause"]) == (enrolled["line_id"], cause)
        (told,) = [
            one
            for one in rich.read(rich.ask("GET", path, key=key))["events"]
            if one["kind"] == "reverify_failed"
        ]
        assert told["cause"] == cause


def test_a_campaign_asks_for_its_lines_and_says_who_has_come(rich, enrolled, faces) -> None:
    deadline = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    terms = {"name": "all of b1", "deadline": deadline, "then": "suspended_outgoing"}
    body: dict[str, Any] = {**terms, "chosen": {"outlet": "b1"}}
    campaign = rich.read(rich.ask("POST", "/v1/campaigns", body=body))
    path = f"/v1/campaigns/{campaign['campaign_id']}"
    wait_until(lambda: rich.read(rich.ask("GET", path))["state"] == "running")
    assert rich.read(rich.ask("GET", path))["progress"] == {
        "asked": 1,
        "verified": 0,
        "overdue": 0,
        "left": 0,
    }
    lines = {"lines": [MSISDN, "no number", "+8613800138999"]}
    added = rich.read(rich.ask("POST", f"{path}/lines", body=lines))
    assert added == {"added": 0, "unknown": [1, 2]}
    probe = {"probe": {"image": faces["later"]}, "line": MSISDN}
    rich.ask("POST", "/v1/verifications", key="b1", body=probe)
    assert rich.read(rich.ask("GET", path))["progress"]["verified"] == 1
    come = rich.read(rich.ask("GET", f"{path}/lines", params={"state": "verified"}))
    assert [one["line_id"] for one in come["lines"]] == [enrolled["line_id"]]
    rich.assert_refused(rich.ask("POST", f"{path}/end", key="red"), 404, "REQUEST.NOT_FOUND")
    for key in ("blue", "operator"):
        assert rich.read(rich.ask("POST", f"{path}/end", key=key))["state"] == "ended"
    late = rich.ask("POST", f"{path}/lines", body=lines)
    assert "it was ended" in rich.assert_refused(late, 422, "LINE.EVENT")
    assert come["next"] is None
    rich.assert_refused(rich.ask("GET", path, key="red"), 404, "REQUEST.NOT_FOUND")
    soon = {**terms, "deadline": datetime.now(UTC).isoformat()}
    rich.assert_refused(rich.ask("POST", "/v1/campaigns", body=soon), 422, "LINE.EVENT")
    back = {**terms, "then": "closed", "after": "1d", "last": "suspended"}
    rich.assert_refused(rich.ask("POST", "/v1/campaigns", body=back), 400, "REQUEST.INVALID")


def ask(service: Service, operation: str, body: Any, key: str | None = "blue") -> Any:
    headers = {"x-correlator": CORRELATOR}
    return service.ask("POST", f"{SIM_SWAP}/{operation}", key=key, body=body, headers=headers)


def test_the_scenarios_of_camaras_sim_swap_hold(rich, enrolled) -> None:
    number = {"phoneNumber": MSISDN}
    for operation, fields in (("retrieve-date", {"latestSimChange"}), ("check", {"swapped"})):
        response = ask(rich, operation, number)
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-correlator"] == CORRELATOR
        # Never swapped: the activation, which is a change of SIM too.
        assert rich.read(response).keys() == fields
    opened = rich.read(rich.ask("GET", f"/v1/lines/{enrolled['line_id']}/events"))["opened_at"]
    date = rich.read(ask(rich, "retrieve-date", number))["latestSimChange"]
    assert date == opened
    swapped = datetime.now(UTC).isoformat()
    assert report(rich, "sim_swap", at=swapped).status_code == 200
    date = rich.read(ask(rich, "retrieve-date", number))["latestSimChange"]
    assert datetime.fromisoformat(date) == datetime.fromisoformat(swapped)
    assert re.fullmatch(r"[\d-]+T[\d:.]+(Z|[+-]\d\d:\d\d)", date)
    for more in ({}, *({"maxAge": hours} for hours in (1, 12, 24, 120, 260, 2400))):
        assert rich.read(ask(rich, "check", number | more)) == {"swapped": True}
    refusals: list[tuple[Any, str | None, int, str]] = [
        (number, None, 401, "UNAUTHENTICATED"),
        (number, "sosie_aaaaaaaaaaaa_" + "b" * 43, 401, "UNAUTHENTICATED"),
        (number, "b1", 403, "PERMISSION_DENIED"),
        ({}, "blue", 422, "MISSING_IDENTIFIER"),
        ({"phoneNumber": "+8613800138999"}, "blue", 404, "IDENTIFIER_NOT_FOUND"),
        ({"phoneNumber": "+12345"}, "blue", 404, "IDENTIFIER_NOT_FOUND"),
        ({"phoneNumber": "8613800138000"}, "blue", 400, "INVALID_ARGUMENT"),
        ({"phoneNumber": "+0613800138000"}, "blue", 400, "INVALID_ARGUMENT"),
        ({"phoneNumber": 12345}, "blue", 400, "INVALID_ARGUMENT"),
    ]
    for operation in ("retrieve-date", "check"):
        for body, key, status, code in refusals:
            rich.assert_refused(ask(rich, operation, body, key), status, code)
    for age, code in (
        (100_000, "OUT_OF_RANGE"),
        (0, "OUT_OF_RANGE"),
        ("240", "INVALID_ARGUMENT"),
        (2.5, "INVALID_ARGUMENT"),
    ):
        rich.assert_refused(ask(rich, "check", number | {"maxAge": age}), 400, code)
    wrong = {"x-correlator": "not*allowed"}
    response = rich.ask("POST", f"{SIM_SWAP}/check", body=number, headers=wrong)
    rich.assert_refused(response, 400, "INVALID_ARGUMENT")


def test_what_is_older_than_the_age_or_than_what_is_known_is_no_change(rich, monkeypatch) -> None:
    number = {"phoneNumber": MSISDN}
    swapped = datetime.now(UTC)
    assert report(rich, "sim_swap", at=swapped.isoformat()).status_code == 200
    for days, hours, is_swapped in ((11, None, False), (11, 270, True), (11, 260, False)):
        monkeypatch.setattr(lines, "utc_now", lambda days=days: swapped + DAY * days)
        body = number if hours is None else number | {"maxAge": hours}
        assert rich.read(ask(rich, "check", body)) == {"swapped": is_swapped}
    monkeypatch.setattr(lines, "utc_now", lambda: swapped + DAY * 800)
    found = rich.read(ask(rich, "retrieve-date", number))
    assert found == {"latestSimChange": None, "monitoredPeriod": 730}
    # So long nothing is known of it, as of a carrier that reports since yesterday.
    first = datetime.combine(LONG_AGO, datetime.min.time(), UTC)
    monkeypatch.setattr(lines, "utc_now", lambda: first + DAY)
    rich.assert_refused(ask(rich, "check", number | {"maxAge": 25}), 400, "OUT_OF_RANGE")


def test_another_carriers_number_is_as_unknown_as_none(rich) -> None:
    """Also where the other carrier reports its changes, and the asking one does not."""
    for operation in ("retrieve-date", "check"):
        said = {
            ask(rich, operation, {"phoneNumber": number}, "red").content
            for number in (MSISDN, "+8613800138999")
        }
        assert len(said) == 1
    asked = [one for one in rich.audited() if one.action == "sim_change.read"]
    assert [one.subject for one in asked] == ["unknown"] * 4
    assert not any(MSISDN in str(one) for one in asked)


def test_a_carrier_that_reports_no_changes_cannot_be_asked_for_them(service, enrolled) -> None:
    refused = ask(service, "check", {"phoneNumber": MSISDN})
    service.assert_refused(refused, 422, "SERVICE_NOT_APPLICABLE")
