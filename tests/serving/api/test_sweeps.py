"""`/v1/sweeps`: expected, started, watched, steered; groups page by page; what was judged."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.faces.extractor import Extractor
from serving.api.codec import JSON, MSGPACK
from serving.api.schemas.sweeps import (
    ExpectationAnswer,
    GroupAnswer,
    GroupsAnswer,
    PrecisionAnswer,
    SweepAnswer,
    SweepsAnswer,
)
from tests.serving.api.conftest import serving
from tests.serving.api.driver import Service
from tests.serving.api.planting import plant

SWEEPS = "/v1/sweeps"
UNKNOWN = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
RINGS = [4, 3, 2]
HONEST = 30


@pytest.fixture(scope="module")
def ringed(
    keyed_home: tuple[Path, dict[str, str]],
    extractor: Extractor,
    cache_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A service whose gallery has three people under several documents, and 31 others."""
    home = tmp_path_factory.mktemp("ringed") / "served"
    shutil.copytree(keyed_home[0], home)
    plant(home, cache_folder, RINGS + [1] * HONEST)
    with serving(home, keyed_home[1], extractor, cache_folder) as start:
        yield start()


def ask(service: Service, method: str, path: str = "", **options: Any) -> Any:
    return service.ask(method, f"{SWEEPS}{path}", key="fraud", **options)


def wait_until(service: Service, sweep_id: str, *states: str) -> dict[str, Any]:
    give_up_at = time.monotonic() + 30
    while True:
        shown = service.read(ask(service, "GET", f"/{sweep_id}"))
        if shown["state"] in states:
            return dict(shown)
        assert time.monotonic() < give_up_at, shown
        time.sleep(0.02)


@pytest.fixture(scope="module")
def done(ringed: Service) -> dict[str, Any]:
    """The sweep of the whole gallery, after its end."""
    response = ask(ringed, "POST", body={"threshold": 0.6, "allow_unsupported": True})
    assert response.status_code == 201, response.text
    started = ringed.read(response)
    SweepAnswer.model_validate(started)
    return wait_until(ringed, started["sweep_id"], "done", "failed")


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
def test_a_dry_run_says_what_to_expect_and_starts_nothing(ringed: Service, accept: str) -> None:
    before = len(ringed.read(ask(ringed, "GET"))["sweeps"])
    body = {"threshold": 0.55, "dry_run": True}
    response = ask(ringed, "POST", body=body, headers={"accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, accept)
    shown = ringed.read(response)
    ExpectationAnswer.model_validate(shown)
    references = sum(RINGS) + HONEST + 1
    assert shown["references"] == references
    assert shown["comparisons"] == references * (references - 1) // 2
    assert (shown["threshold"], shown["scope"]) == (0.55, "all")
    assert shown["false_pairs"]["value"] > 0
    assert len(ringed.read(ask(ringed, "GET"))["sweeps"]) == before


def test_a_sweep_finds_the_rings_and_says_how_far_it_is(
    ringed: Service, done: dict[str, Any]
) -> None:
    assert (done["state"], done["fault"]) == ("done", None)
    assert done["progress"]["share"] == 1
    assert done["progress"]["pairs"] == sum(one * (one - 1) // 2 for one in RINGS)
    assert done["summary"]
    assert done["requested_by"] == f"key:{ringed.keys['fraud'].split('_')[1]}"
    listed = ringed.read(ask(ringed, "GET"))
    SweepsAnswer.model_validate(listed)
    assert done["sweep_id"] in [one["sweep_id"] for one in listed["sweeps"]]
    assert all("summary" not in one for one in listed["sweeps"])


def test_groups_are_read_page_by_page_and_audited(ringed: Service, done: dict[str, Any]) -> None:
    path = f"/{done['sweep_id']}/groups"
    before = ringed.parts.store.audit_head()[0]
    groups, after = [], 0
    while True:
        page = ringed.read(ask(ringed, "GET", path, params={"limit": 2, "after": after}))
        GroupsAnswer.model_validate(page)
        assert page["total"] == len(RINGS)
        groups += page["groups"]
        if page["next"] is None:
            break
        after = page["next"]
    assert sorted(one["identities"] for one in groups) == sorted(RINGS)
    assert [one["risk"] for one in groups] == sorted((one["risk"] for one in groups), reverse=True)
    kept = [record.entry for record in ringed.parts.store.audit_entries(before)]
    assert {(one.action, one.subject) for one in kept} == {("groups.read", done["sweep_id"])}
    assert [key for one in kept for key in one.detail["groups"]] == [one["key"] for one in groups]


def test_a_group_is_read_with_members_and_links_and_audited(
    ringed: Service, done: dict[str, Any]
) -> None:
    path = f"/{done['sweep_id']}/groups"
    listed = ringed.read(ask(ringed, "GET", path))["groups"]
    whole = next(one for one in listed if one["identities"] == 4)
    before = ringed.parts.store.audit_head()[0]
    shown = ringed.read(ask(ringed, "GET", f"{path}/{whole['key']}"))
    GroupAnswer.model_validate(shown)
    documents = [one["document_id"] for one in shown["identities"]]
    assert len(set(documents)) == 4
    assert len(shown["links"]) == 6
    assert {one[side] for one in shown["links"] for side in ("left", "right")} == set(documents)
    assert shown["weakest"]["score"] == whole["weakest_score"]
    assert shown["left_out"] == {"identities": 0, "lines": 0, "links": 0}
    [entry] = [record.entry for record in ringed.parts.store.audit_entries(before)]
    assert (entry.action, entry.subject) == ("group.read", done["sweep_id"])
    assert entry.detail == {"group": whole["key"], "documents": documents}


def test_a_sweep_is_paused_resumed_and_cancelled(ringed: Service, done: dict[str, Any]) -> None:
    body = {"threshold": 0.6, "allow_unsupported": True}
    sweep = ringed.read(ask(ringed, "POST", body=body))["sweep_id"]
    # So small a gallery may be done before it can be paused.
    paused = ask(ringed, "POST", f"/{sweep}/pause")
    if paused.status_code == 200:
        wait_until(ringed, sweep, "paused", "done")
    state = ringed.read(ask(ringed, "GET", f"/{sweep}"))["state"]
    if state == "paused":
        second = ask(ringed, "POST", body=body)
        assert sweep in ringed.assert_refused(second, 409, "SWEEP.BUSY")
        assert ask(ringed, "POST", f"/{sweep}/resume").status_code == 200
    wait_until(ringed, sweep, "done")
    for steering in ("pause", "resume", "cancel"):
        response = ask(ringed, "POST", f"/{done['sweep_id']}/{steering}")
        ringed.assert_refused(response, 409, "SWEEP.STATE")


@pytest.mark.parametrize(
    "body",
    [
        {"threshold": 0.6, "fmr": 1e-6},
        {"threshold": 2},
        {"threshold": "0.6"},
        {"fmr": 0},
        {"fmr": 1},
        {"scope": "some"},
        {"dry_run": "yes"},
        {"treshold": 0.6},
        [],
    ],
)
def test_terms_that_are_none_are_refused(ringed: Service, body: Any) -> None:
    response = ask(ringed, "POST", body=body)
    ringed.assert_refused(response, 400, "REQUEST.MALFORMED")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_is_refused(ringed: Service, value: float) -> None:
    response = ask(ringed, "POST", body={"threshold": value}, kind=MSGPACK)
    ringed.assert_refused(response, 400, "REQUEST.MALFORMED")


def test_a_threshold_beyond_the_calibration_is_refused_unless_allowed(ringed: Service) -> None:
    response = ask(ringed, "POST", body={"threshold": 0.95})
    ringed.assert_refused(response, 422, "CALIBRATION.RATE_UNSUPPORTED")


@pytest.mark.parametrize("target", ["nothing", "%00", UNKNOWN])
def test_a_sweep_or_group_that_is_none_is_not_found(
    ringed: Service, done: dict[str, Any], target: str
) -> None:
    asked = [("GET", f"/{target}"), ("GET", f"/{target}/groups"), ("GET", f"/{target}/groups/x")]
    asked += [("POST", f"/{target}/{steering}") for steering in ("pause", "resume", "cancel")]
    asked += [("GET", f"/{done['sweep_id']}/groups/{target}")]
    for method, path in asked:
        ringed.assert_refused(ask(ringed, method, path), 404, "REQUEST.NOT_FOUND")


@pytest.mark.parametrize(
    "asked", [{"after": "-1"}, {"after": "x"}, {"limit": "0"}, {"limit": "201"}, {"kin": "x"}]
)
def test_a_page_that_is_none_is_refused(
    ringed: Service, done: dict[str, Any], asked: dict[str, str]
) -> None:
    response = ask(ringed, "GET", f"/{done['sweep_id']}/groups", params=asked)
    ringed.assert_refused(response, 400, "REQUEST.MALFORMED")


def test_the_precision_is_that_of_the_pairs_that_people_judged(
    ringed: Service, done: dict[str, Any]
) -> None:
    def read() -> dict[str, Any]:
        return dict(ringed.read(ringed.ask("GET", "/v1/precision", key="fraud")))

    assert (read()["judged"], read()["precision"]) == (0, None)
    listed = ringed.read(ringed.ask("GET", "/v1/cases", key="fraud", params={"state": "alive"}))
    cases = {len(one["document_ids"]): one["case_id"] for one in listed["cases"]}
    assert sorted(cases) == sorted(RINGS)
    for size, outcome in ((3, "fraud"), (2, "twins")):
        path = f"/v1/cases/{cases[size]}/close"
        closed = ringed.ask("POST", path, key="fraud", body={"outcome": outcome})
        assert closed.status_code == 200, closed.text
    shown = read()
    PrecisionAnswer.model_validate(shown)
    assert (shown["judged"], shown["confirmed"], shown["precision"]) == (4, 3, 0.75)
    # Wilson's interval of 3 in 4, from tables.
    assert (round(shown["low"], 3), round(shown["high"], 3)) == (0.301, 0.954)
    rising = [(one["threshold"], one["judged"]) for one in shown["thresholds"]]
    assert rising[0][1] == 4
    assert rising == sorted(rising, key=lambda one: (one[0], -one[1]))
    sweeps = ringed.read(ask(ringed, "GET"))["sweeps"]
    parts = [
        ringed.read(
            ringed.ask("GET", "/v1/precision", key="fraud", params={"sweep_id": one["sweep_id"]})
        )
        for one in sweeps
    ]
    assert sum(one["judged"] for one in parts) == 4
    other = ringed.ask("GET", "/v1/precision", key="fraud", params={"sweep_id": UNKNOWN})
    assert ringed.read(other)["judged"] == 0
