"""`/v1/sweeps`: expected, started, watched, steered; groups page by page; what was judged."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.registry.audit import AuditEntry
from engine.registry.database import utc_now
from engine.registry.sweeps import SweepChange
from schema.sweeps import SweepState, SweepTerms
from serving.api.body import JSON, MSGPACK
from serving.deployment.deployment import Deployment
from serving.deployment.models import model_digest
from serving.settings.settings import Settings, load_settings
from serving.wire.fields import read
from serving.wire.sweeps import Expectation, Group, GroupPage, Precision, SweepReport, Sweeps
from tests.engine.records import make_line, make_sweep
from tests.serving.api.conftest import serving
from tests.serving.api.driver import Service
from tests.serving.api.planting import plant
from tests.serving.sweeps.synthetic_people import PausedJoin
from tests.waiting import wait_until

SWEEPS = "/v1/sweeps"
UNKNOWN = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
LEFT = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f11"
BODY = {"threshold": 0.6, "allow_unsupported": True}
RINGS = [4, 3, 2]
HONEST = 30


@pytest.fixture(scope="module")
def ringed(keyed_home, extractor, tmp_path_factory) -> Iterator[Service]:
    """A service whose gallery has three people under several documents, and 31 others; it was
    stopped with a sweep that somebody had paused."""
    home = tmp_path_factory.mktemp("ringed") / "served"
    shutil.copytree(keyed_home[0], home)
    plant(home, RINGS + [1] * HONEST)
    leave_paused(home, f"key:{keyed_home[1]['fraud'].split('_')[-2]}")
    with serving(home, keyed_home[1], extractor) as start:
        yield start()


def ask(service: Service, method: str, path: str = "", **options: Any) -> Any:
    return service.ask(method, f"{SWEEPS}{path}", key="fraud", **options)


def wait_for(service: Service, sweep_id: str, *states: str) -> dict[str, Any]:
    def show() -> dict[str, Any] | None:
        shown: dict[str, Any] = service.read(ask(service, "GET", f"/{sweep_id}"))
        return shown if shown["state"] in states else None

    return wait_until(show) or {}


def leave_paused(home: Path, actor: str) -> None:
    terms = SweepTerms(threshold=0.6, model_digest=model_digest(Settings()))
    given = {"state": SweepState.PAUSED, "terms": terms, "started_at": utc_now()}
    record = make_sweep(id=LEFT, requested_by=actor, **given)
    entry = AuditEntry(actor, "sweep.paused", LEFT)
    with Deployment(home, load_settings(home)) as deployment:
        deployment.registrar.run(lambda writer, _: writer.commit([entry, SweepChange(record)]))


@pytest.fixture(scope="module")
def second(ringed) -> httpx.Response:
    """The answer to a sweep that is asked for while another is alive."""
    response: httpx.Response = ask(ringed, "POST", body=BODY)
    return response


@pytest.fixture(scope="module")
def done(ringed, second) -> dict[str, Any]:
    """The sweep of the whole gallery, after it went on to its end."""
    assert ringed.read(ask(ringed, "GET", f"/{LEFT}"))["state"] == "paused"
    resumed = ringed.read(ask(ringed, "POST", f"/{LEFT}/resume"))
    read(resumed, SweepReport)
    return wait_for(ringed, LEFT, "done", "failed")


@pytest.fixture
def paused(ringed, monkeypatch) -> Iterator[PausedJoin]:
    """Holds a sweep at work until it is opened."""
    deployment = ringed.match._lifecycle.require().deployment
    made = PausedJoin()
    monkeypatch.setattr(deployment.snapshots, "joiner", made.joiner)
    yield made
    made.opened.set()


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
def test_a_dry_run_says_what_to_expect_and_starts_nothing(ringed, accept: str) -> None:
    before = len(ringed.read(ask(ringed, "GET"))["sweeps"])
    body = {"threshold": 0.47, "dry_run": True}
    response = ask(ringed, "POST", body=body, accept=accept)
    assert (response.status_code, response.headers["content-type"]) == (200, accept)
    shown = ringed.read(response)
    read(shown, Expectation)
    references = sum(RINGS) + HONEST + 1
    assert shown["references"] == references
    assert shown["comparisons"] == references * (references - 1) // 2
    assert (shown["threshold"], shown["scope"]) == (0.47, "all")
    assert shown["false_pairs"]["value"] > 0
    ranked = ask(ringed, "POST", body={"budget": 5, "dry_run": True}, accept=accept)
    assert ringed.read(ranked)["budget"] == 5
    assert len(ringed.read(ask(ringed, "GET"))["sweeps"]) == before


def test_a_sweep_finds_the_rings_and_says_how_far_it_is(ringed, done) -> None:
    assert (done["state"], done["fault"]) == ("done", None)
    assert done["progress"]["share"] == 1
    assert done["progress"]["pairs"] == sum(one * (one - 1) // 2 for one in RINGS)
    assert done["summary"]
    assert done["requested_by"] == f"key:{ringed.keys['fraud'].split('_')[-2]}"
    listed = ringed.read(ask(ringed, "GET"))
    read(listed, Sweeps)
    assert done["sweep_id"] in [one["sweep_id"] for one in listed["sweeps"]]
    assert all("summary" not in one for one in listed["sweeps"])


def test_metrics_tell_of_the_newest_sweep_and_of_nobody_in_it(ringed, done) -> None:

    def read_done() -> str:
        text = ringed.ask("GET", "/metrics", key="operator").text
        return text if 'sosie_sweep_state{state="done"} 1.0' in text else ""

    text = wait_until(read_done)
    told = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("sosie_sweep_")
    )
    assert float(told["sosie_sweep_pairs"]) == done["progress"]["pairs"]
    assert float(told["sosie_sweep_progress_ratio"]) == 1
    expected = done["summary"]["expected_false_pairs"]["value"]
    assert float(told["sosie_sweep_false_pairs_expected"]) == pytest.approx(expected)
    assert {name.partition("{")[0] for name in told} == {
        "sosie_sweep_state",
        "sosie_sweep_pairs",
        "sosie_sweep_progress_ratio",
        "sosie_sweep_false_pairs_expected",
    }


def test_groups_are_read_page_by_page_and_audited(ringed, done) -> None:
    path = f"/{done['sweep_id']}/groups"
    before = ringed.parts.store.audit_head()[0]
    groups, after = [], 0
    while after is not None:
        page = ringed.read(ask(ringed, "GET", path, params={"limit": 2, "after": after}))
        read(page, GroupPage)
        assert page["total"] == len(RINGS)
        groups += page["groups"]
        after = page["next"]
    assert sorted(one["identities"] for one in groups) == sorted(RINGS)
    assert [one["risk"] for one in groups] == sorted((one["risk"] for one in groups), reverse=True)
    kept = ringed.audited(before)
    assert {(one.action, one.subject) for one in kept} == {("groups.read", done["sweep_id"])}
    assert [key for one in kept for key in one.detail["groups"]] == [one["key"] for one in groups]


def test_a_group_is_read_with_members_and_links_and_audited(ringed, done) -> None:
    path = f"/{done['sweep_id']}/groups"
    listed = ringed.read(ask(ringed, "GET", path))["groups"]
    whole = next(one for one in listed if one["identities"] == 4)
    before = ringed.parts.store.audit_head()[0]
    shown = ringed.read(ask(ringed, "GET", f"{path}/{whole['key']}"))
    read(shown, Group)
    documents = [one["document_id"] for one in shown["identities"]]
    assert len(set(documents)) == 4
    assert len(shown["links"]) == 6
    assert (shown["severed"], whole["severed_links"]) == ([], 0)
    assert {one[side] for one in shown["links"] for side in ("left", "right")} == set(documents)
    assert shown["weakest"]["score"] == whole["weakest_score"]
    assert shown["left_out"] == {"identities": 0, "lines": 0, "links": 0}
    [entry] = ringed.audited(before)
    assert (entry.action, entry.subject) == ("group.read", done["sweep_id"])
    assert entry.detail == {"group": whole["key"], "documents": documents}


def test_a_second_sweep_is_refused_and_the_first_is_named(ringed, second) -> None:
    assert LEFT in ringed.assert_refused(second, 409, "SWEEP.BUSY")


def test_a_sweep_is_paused_and_resumed(ringed, done, paused) -> None:
    sweep = ringed.read(ask(ringed, "POST", body=BODY))["sweep_id"]
    assert paused.reached.wait(120)
    assert ringed.read(ask(ringed, "POST", f"/{sweep}/pause"))["state"] == "paused"
    assert sweep in ringed.assert_refused(ask(ringed, "POST", body=BODY), 409, "SWEEP.BUSY")
    paused.opened.set()
    assert ringed.read(ask(ringed, "POST", f"/{sweep}/resume"))["state"] == "running"
    wait_for(ringed, sweep, "done")
    for steering in ("pause", "resume", "cancel"):
        response = ask(ringed, "POST", f"/{done['sweep_id']}/{steering}")
        ringed.assert_refused(response, 409, "SWEEP.STATE")


def test_a_cancelled_sweep_is_over(ringed, done, paused) -> None:
    sweep = ringed.read(ask(ringed, "POST", body=BODY))["sweep_id"]
    assert paused.reached.wait(120)
    assert ringed.read(ask(ringed, "POST", f"/{sweep}/cancel"))["state"] == "cancelled"
    paused.opened.set()
    ringed.assert_refused(ask(ringed, "POST", f"/{sweep}/resume"), 409, "SWEEP.STATE")
    ringed.assert_refused(ask(ringed, "GET", f"/{sweep}/groups"), 409, "SWEEP.STATE")
    assert ringed.read(ask(ringed, "GET", f"/{done['sweep_id']}"))["state"] == "done"


def test_the_precision_is_that_of_the_pairs_that_people_judged(ringed, done) -> None:
    def measure() -> dict[str, Any]:
        return dict(ringed.read(ringed.ask("GET", "/v1/precision", key="fraud")))

    assert (measure()["judged"], measure()["precision"]) == (0, None)
    listed = ringed.read(ringed.ask("GET", "/v1/cases", key="fraud", params={"state": "alive"}))
    cases = {len(one["document_ids"]): one["case_id"] for one in listed["cases"]}
    assert sorted(cases) == sorted(RINGS)
    for size, outcome in ((3, "fraud"), (2, "twins")):
        for name, key in (("propose", "fraud"), ("close", "second")):
            path = f"/v1/cases/{cases[size]}"
            seen = ringed.read(ringed.ask("GET", path, key="fraud"))["updated_at"]
            body = {"outcome": outcome, "keep_lines": True, "seen_at": seen}
            taken = ringed.ask("POST", f"{path}/{name}", key=key, body=body)
            assert taken.status_code == 200, taken.text
    shown = measure()
    read(shown, Precision)
    assert (shown["judged"], shown["confirmed"], shown["precision"]) == (4, 3, 0.75)
    # Wilson's interval, of two cases with three pairs and one: 16 / 10 by Kish.
    assert (round(shown["low"], 3), round(shown["high"], 3)) == (0.169, 0.978)
    assert (shown["cases"], shown["proposal"]["ground"]) == (2, "too_few")
    [kind] = shown["kinds"]
    [month] = shown["months"]
    assert kind == {**month, "name": "one_face_many_documents"}
    assert (kind["cases"], kind["fraud"], kind["twins"], kind["precision"]) == (2, 1, 1, 0.5)
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
    show_what_is_in_use(ringed, cases[3])


def show_what_is_in_use(ringed: Service, case_id: str) -> None:
    """A line of what was decided to be fraud is in use: the queue shows it, and each sweep, though
    none asks about it again."""
    deployment = ringed.match._lifecycle.require().deployment
    document = deployment.store.cases.get(case_id).document_ids[0]
    place = {"carrier": "blue", "outlet": "b1", "opened_at": utc_now()}
    new = make_line(deployment.vault, "+8613900100200", document, **place)
    entry = AuditEntry("test", "line.opened", new.id)
    deployment.registrar.run(lambda writer, _: writer.commit([entry, new]))

    def queue(state: str) -> Any:
        return ringed.read(ringed.ask("GET", "/v1/cases", key="fraud", params={"state": state}))

    [left] = queue("fraud_in_use")["cases"]
    assert (left["case_id"], left["fraud_lines"], left["lines"]) == (case_id, 1, 1)
    assert left["proposal"]["keep_lines"] is True
    alive = queue("alive")
    assert alive["fraud_in_use"] == queue("fraud_in_use")["fraud_in_use"] == 1
    assert {one["fraud_lines"] for one in alive["cases"]} == {0}
    began = ringed.read(ask(ringed, "POST", body=BODY))
    later = wait_for(ringed, began["sweep_id"], "done", "failed")
    assert later["summary"]["fraud_in_use"] == 1
    for sweep in (LEFT, later["sweep_id"]):
        groups = ringed.read(ask(ringed, "GET", f"/{sweep}/groups"))["groups"]
        counts = {one["identities"]: one["fraud_lines"] for one in groups}
        assert counts[3] == 1 == sum(counts.values())
        [key] = [one["key"] for one in groups if one["fraud_lines"]]
        assert ringed.read(ask(ringed, "GET", f"/{sweep}/groups/{key}"))["fraud_lines"] == [new.id]
    assert {one["case_id"] for one in queue("alive")["cases"]} == {
        one["case_id"] for one in alive["cases"]
    }
