"""No answer to a tenant has an id of another carrier's holder, whatever is asked."""

from collections.abc import Iterator
from typing import Any

import pytest

from serving.api.body import JSON, MSGPACK

ENROLLMENTS = "/v1/enrollments"
MSISDN = "+8613800138000"
DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}


def enrollments(
    service: Any, key: str, activations: list[dict[str, Any]], kind: str
) -> Iterator[Any]:
    """Decided, asked again, found by key and read by id: each activation."""
    for number, body in enumerate(activations):
        name = f"{key}-{kind}-{number}"
        options = {"body": body | {"outlet": "r1"}, "headers": {"idempotency-key": name}}
        first = service.ask("POST", ENROLLMENTS, key=key, kind=kind, **options)
        yield first
        yield service.ask("POST", ENROLLMENTS, key=key, kind=kind, **options)
        yield service.ask("GET", ENROLLMENTS, key=key, params={"idempotency_key": name})
        enrollment_id = service.read(first)["enrollment_id"]
        yield service.ask("GET", f"{ENROLLMENTS}/{enrollment_id}", key=key)


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
@pytest.mark.parametrize("key", ["r1", "red"])
def test_a_tenant_is_told_no_id_of_another_carriers_holder(
    own_service, faces, activation, enrolled, key: str, kind: str
) -> None:
    # The astronaut is blue's.
    holders_face = {"live": faces["live"], "portrait": faces["portrait"]}
    theirs = activation()["document"] | DOCUMENT | {"name": "Aileen Probe"}
    activations = [
        activation(**holders_face),
        activation(document=theirs),
        activation(document=theirs, msisdn=MSISDN, **holders_face),
    ]
    answers = list(enrollments(own_service, key, activations, kind))
    decisions = [own_service.read(one) for one in answers]
    assert {one["decision"] for one in decisions} == {"rejected"}
    for one in decisions:
        assert (one["duplicate_search"].get("candidates"), one.get("cases", [])) == (None, [])
    # Nor how like the holder another face is, nor that it is another's.
    for one in decisions[4:8]:
        assert [found["reason"] for found in one["reasons"]] == ["WITHHELD"]
        assert one["scores"]["holder"] is None

    probe = {"image": faces["later"]}
    stranger = {"image": faces["stranger"]}
    asked: list[tuple[str, Any]] = [
        ("/v1/match", {"items": [{"probe": probe, "search": True}]}),
        ("/v1/verifications", {"probe": probe, "line": MSISDN}),
        ("/v1/verifications", {"probe": probe, "line": enrolled["line_id"]}),
        ("/v1/verifications", {"probe": probe, "document": DOCUMENT}),
        ("/v1/identifications", {"probe": probe}),
        ("/v1/lines/query", {"document": DOCUMENT, "probe": stranger}),
        (f"/v1/lines/{MSISDN}/dispute", {"document": DOCUMENT, "probe": stranger}),
    ]
    answers += [
        own_service.ask("POST", path, key=key, body=body, kind=kind) for path, body in asked
    ]
    if key == "red":  # an outlet's key may not search
        (matched,) = own_service.read(answers[len(decisions)])["items"]
        assert matched["identification"]["candidates"] == []
        assert matched["identification"]["found"] == 0
    for answer in answers:
        assert b"reference_id" not in answer.content
        for name in ("document_id", "line_id", "enrollment_id"):
            assert enrolled[name].encode() not in answer.content


def test_fraud_teams_are_told_the_ids(own_service, faces, activation, enrolled) -> None:
    body = activation(live=faces["live"], portrait=faces["portrait"], outlet="r1")
    made = own_service.enroll(body, "for-fraud", key="red")
    path = f"{ENROLLMENTS}/{own_service.read(made)['enrollment_id']}"
    for key in ("fraud", "operator"):
        record = own_service.read(own_service.ask("GET", path, key=key))
        (candidate,) = record["duplicate_search"]["candidates"]
        assert candidate["document_id"] == enrolled["document_id"]
        assert candidate["holder"] is None
        assert isinstance(candidate["reference_id"], int)
