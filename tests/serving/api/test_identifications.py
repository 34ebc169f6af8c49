"""`/v1/identifications`: candidates for fraud teams, with what stands in their names, masked."""

from dataclasses import replace
from typing import Any

import pytest

from engine.matching.verification import FoundHolders
from schema.decisions import Comparison
from serving.registrar.protocol import RegistrarCalls
from serving.wire import people
from serving.wire.fields import read
from tests.serving.api.conftest import case_of
from tests.serving.api.driver import TYPES

PATH = "/v1/identifications"


@pytest.mark.parametrize(("kind", "accept"), TYPES)
def test_a_face_is_identified_in_every_type(
    service, faces, enrolled, kind: str, accept: str
) -> None:
    body = {"probe": {"image": faces["later"]}}
    response = service.ask("POST", PATH, key="fraud", body=body, kind=kind, accept=accept)
    assert (response.status_code, response.headers["content-type"]) == (200, accept)
    answer = service.read(response)
    read(answer, people.Identification)
    assert (answer["found"], answer["searched"]) == (1, 1)
    assert answer["threshold"] == service.parts.thresholds.review
    # The probe is one photograph, the references are fused of two: as in /v1/match.
    expected = service.parts.calibration.expected_false_candidates(
        1, service.parts.thresholds.review, Comparison.FUSED_TO_ONE
    )
    assert answer["expected_false_candidates"]["value"] == expected.value > 0
    [holder] = answer["candidates"]
    assert holder["document_id"] == enrolled["document_id"]
    assert holder["document_status"] == "active"
    [line] = holder["lines"]
    assert line["line_id"] == enrolled["line_id"]
    assert (line["number"], line["carrier"]) == ("••••••••••8000", "blue")
    assert "8613800138000" not in response.text


def test_a_threshold_that_follows_the_gallery_is_one_for_all_searches(
    start_service, faces, enrolled, monkeypatch
) -> None:
    monkeypatch.setenv("SOSIE_THRESHOLDS__REVIEW_FALSE_CANDIDATES", "0.00005")
    service = start_service()
    # In a gallery of one.
    expected = service.parts.calibration.threshold_at(5e-5, Comparison.FUSED)
    probe = {"image": faces["later"]}
    found = service.read(service.ask("POST", PATH, key="fraud", body={"probe": probe}))
    body = {"items": [{"id": "a", "probe": probe, "search": True}]}
    (matched,) = service.read(service.ask("POST", "/v1/match", key="fraud", body=body))["items"]
    shown = service.read(service.ask("GET", "/v1/thresholds", key="fraud"))
    assert found["threshold"] == matched["identification"]["threshold"] == expected
    assert shown["thresholds"]["review"] == expected < enrolled["thresholds"]["review"]
    lower = {"probe": probe, "threshold": expected - 0.01}
    assert service.ask("POST", PATH, key="fraud", body=lower).status_code == 400


def test_documents_that_the_registrar_left_out_are_counted(service, faces, monkeypatch) -> None:
    async def cut(calls: RegistrarCalls, *given: Any) -> list[FoundHolders]:
        found = await calls.__getattr__("identify")(*given)
        return [replace(one, left_out=9, documents_left_out=5) for one in found]

    monkeypatch.setattr(RegistrarCalls, "identify", cut, raising=False)
    body = {"probe": {"image": faces["later"]}}
    answer = service.read(service.ask("POST", PATH, key="fraud", body=body))
    assert (len(answer["candidates"]), answer["found"]) == (1, 6)
    items = [{"probe": {"image": faces["later"]}, "search": True}]
    matched = service.read(service.ask("POST", "/v1/match", key="fraud", body={"items": items}))
    found = matched["items"][0]["identification"]
    assert (len(found["candidates"]), found["found"]) == (1, 10)


def test_the_open_cases_of_a_candidate_are_shown(fresh, faces, activation) -> None:
    duplicate = activation(live=faces["live"], portrait=faces["portrait"])
    enrolled = fresh.read(fresh.enroll(duplicate, "k"))
    body = {"probe": {"image": faces["later"]}}
    before = fresh.parts.store.audit_head()[0]
    answer = fresh.read(fresh.ask("POST", PATH, key="fraud", body=body))
    [holder] = answer["candidates"]
    assert [case["id"] for case in holder["cases"]] == [case_of(fresh, enrolled)]
    entries = fresh.audited(before)
    assert [entry.action for entry in entries] == ["faces.identified", "documents.read"]
    documents = [holder["document_id"]]
    assert entries[0].detail == {"probes": 1, "candidates": 1, "documents": documents}
    assert entries[1].detail == {"documents": documents}


def test_a_threshold_above_review_is_taken(service, faces) -> None:
    body = {"probe": {"image": faces["stranger"]}, "threshold": 1}
    answer = service.read(service.ask("POST", PATH, key="fraud", body=body))
    assert (answer["threshold"], answer["found"]) == (1.0, 0)
