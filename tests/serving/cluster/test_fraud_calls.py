"""Sweeps and cases through the proxy and over the hop to the registrar's process."""

import base64
from typing import Any

import pytest

from serving.sweeps.sweep_views import ITSELF
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def test_a_sweep_is_expected_started_and_found_by_another_request(served) -> None:
    def ask(method: str, path: str = "", **options: Any) -> Any:
        return served.ask(method, f"/v1/sweeps{path}", key="fraud", **options)

    expected = ask("POST", json={"threshold": 0.47, "dry_run": True})
    assert expected.status_code == 200, expected.text
    assert expected.json()["threshold"] == 0.47
    started = ask("POST", json={"threshold": 0.47})
    assert started.status_code == 201, started.text
    sweep_id = started.json()["sweep_id"]
    assert started.json()["requested_by"] != ITSELF
    wait_until(lambda: ask("GET", f"/{sweep_id}").json()["state"] == "done")
    groups = ask("GET", f"/{sweep_id}/groups")
    assert groups.status_code == 200, groups.text
    over = ask("POST", f"/{sweep_id}/pause")
    assert (over.status_code, over.json()["code"]) == (409, "SWEEP.STATE")
    assert "retry-after" not in over.headers


def test_a_case_of_a_duplicate_is_worked(served, activation, pictures) -> None:
    # A face of its own: other tests enroll the one of `activation` as new.
    live, portrait = (
        base64.b64encode(pictures[name]).decode() for name in ("stranger", "stranger_again")
    )
    for number in (701, 702):
        enrolled = served.ask(
            "POST",
            "/v1/enrollments",
            json=activation(number) | {"live": live, "portrait": portrait},
            headers={"idempotency-key": f"fraud desk {number}"},
        )
        assert enrolled.status_code == 201, enrolled.text
    [case] = served.ask("GET", "/v1/cases", key="fraud").json()["cases"]

    def step(name: str, key: str = "fraud", **body: Any) -> Any:
        if "outcome" in body:
            seen = served.ask("GET", f"/v1/cases/{case['case_id']}", key=key).json()
            body["seen_at"] = seen["updated_at"]
        return served.ask("POST", f"/v1/cases/{case['case_id']}/{name}", key=key, json=body)

    assert step("assign", assignee="me").json()["state"] == "assigned"
    assert step("notes", text="один и тот же").status_code == 200
    assert step("propose", outcome="twins").json()["state"] == "proposed"
    assert step("close", "second", outcome="twins").json()["outcome"] == "twins"
    moved = step("assign", assignee=None)
    assert (moved.status_code, moved.json()["code"]) == (409, "CASE.STATE")
    history = served.ask("GET", f"/v1/cases/{case['case_id']}", key="fraud").json()["notes"]
    assert [one["kind"] for one in history][-4:] == ["assigned", "note", "proposed", "closed"]
