"""1:N items: who is found, what an answer says of the search, and one that could not run."""

from __future__ import annotations

from typing import Any, cast

import pytest

from engine.errors import StorageFull
from indexes.errors import ShardLost
from serving.api.endpoints import ENDPOINTS
from serving.errors import NotReady
from tests.serving.api.matching.conftest import Service, image, template, unit_rows


def test_a_search_finds_who_is_enrolled_and_says_what_it_searched(
    service: Service, pictures: dict[str, bytes], enrolled: dict[str, Any]
) -> None:
    found, nobody = service.match(
        {"probe": image(pictures["later"]), "search": True},
        {"probe": image(pictures["stranger"]), "search": True},
        packed=True,
    )
    thresholds, calibration = service.parts.thresholds, service.parts.calibration
    assert calibration is not None
    identification = found["identification"]
    (candidate,) = identification.pop("candidates")
    assert (candidate["holder"], candidate["document_id"]) == (None, enrolled["document_id"])
    assert set(candidate) == {"holder", "document_id", "reference_id", "score"}
    assert candidate["score"] >= thresholds.review
    expected = calibration.expected_false_candidates(
        1, thresholds.review, cast(Any, "fused_to_one")
    )
    assert identification == {
        "found": 1,
        "searched": 1,
        "gallery_sequence": identification["gallery_sequence"],
        "threshold": thresholds.review,
        "expected_false_candidates": {
            "value": expected.value,
            "low": expected.low,
            "high": expected.high,
            "is_bound": expected.is_bound,
        },
    }
    assert nobody["identification"]["candidates"] == []
    assert nobody["identification"]["searched"] == 1
    assert enrolled["decision"] == "approved"


def test_a_tenants_search_names_holders_as_nobody_else_knows_them(
    service: Service, pictures: dict[str, bytes], enrolled: dict[str, Any]
) -> None:
    item = {"probe": image(pictures["later"]), "search": True}
    names = {}
    for key in ("blue", "red"):
        (first,), (again,) = (service.match(item, packed=True, key=key) for _ in range(2))
        (candidate,) = first["identification"]["candidates"]
        assert set(candidate) == {"holder", "score"}
        assert again["identification"]["candidates"] == [candidate]
        assert enrolled["document_id"] not in repr(first)
        names[key] = candidate["holder"]
    assert names["blue"] != names["red"]


def test_all_probes_of_a_call_are_searched_at_once_with_its_correlator_and_time(
    service: Service,
) -> None:
    tokens = service.tokens(unit_rows(5))
    service.match(
        {"probe": template(tokens[0]), "search": True},
        {"probe": template(tokens[1]), "reference": template(tokens[2])},
        {"probe": template(tokens[3]), "reference": template(tokens[2]), "search": True},
        {"probe": template(b"none"), "search": True},
        packed=True,
        headers={"x-correlator": "c-1", "x-timeout-ms": "2000"},
    )
    ((count, threshold, context),) = service.registrar.calls
    assert (count, threshold) == (2, service.parts.thresholds.review)
    assert context.correlator == "c-1"
    assert context.timeout_s is not None
    assert 0 < context.timeout_s <= 2


def test_an_item_may_ask_for_both_and_gets_both(
    service: Service, pictures: dict[str, bytes]
) -> None:
    (both,) = service.match(
        {
            "probe": image(pictures["later"]),
            "reference": image(pictures["stranger"]),
            "search": True,
        },
        packed=True,
    )
    assert both["verification"]["is_match"] is False
    assert both["identification"]["found"] == 1


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (ShardLost("a shard is lost"), 503),
        (NotReady("the service starts"), 503),
        (StorageFull("the audit is full"), 507),
    ],
)
def test_a_search_that_could_not_run_is_an_error_and_never_nobody(
    service: Service, fault: Exception, status: int
) -> None:
    probe, reference = (template(token) for token in service.tokens(unit_rows(2)))
    service.registrar.fault = fault
    items = [{"probe": probe, "reference": reference}, {"probe": probe, "search": True}]
    answer = service.post("/v1/match", {"items": items}, packed=True)
    assert answer.status_code == status
    [match] = [one for one in ENDPOINTS if one.path == "/v1/match"]
    assert status in match.all_errors
    assert "retry-after" in answer.headers
    assert b"candidates" not in answer.content
    (alone,) = service.match(items[0], packed=True)
    assert "verification" in alone
