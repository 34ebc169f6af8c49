"""`/v1/verifications`: 1:1 between faces, and against whoever holds a line or a document."""

import struct
from typing import Any

import pytest

from serving.api.body import JSON, MSGPACK
from serving.wire.fields import read
from serving.wire.matching import Verification
from tests.serving.api.driver import TYPES

PATH = "/v1/verifications"
DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}
MSISDN = "+8613800138000"


def image(data: bytes) -> dict[str, bytes]:
    return {"image": data}


@pytest.mark.parametrize(("kind", "accept"), TYPES)
def test_two_photographs_are_compared_in_every_type(service, faces, kind: str, accept: str) -> None:
    body = {"probe": image(faces["live"]), "reference": image(faces["portrait"])}
    response = service.ask("POST", PATH, body=body, kind=kind, accept=accept)
    assert (response.status_code, response.headers["content-type"]) == (200, accept)
    answer = service.read(response)
    assert read(answer, Verification).is_match is True
    assert answer.keys() == set(Verification.__struct_fields__)
    assert answer["score"] >= answer["threshold"] == service.parts.thresholds.verify


def test_frames_are_one_face_held_to_a_threshold_of_its_own(service, faces) -> None:
    probe = {"image": [faces["live"], faces["later"]]}
    body = {"probe": probe, "reference": image(faces["portrait"])}
    for kind in (JSON, MSGPACK, "form"):
        answer = service.read(service.ask("POST", PATH, body=body, kind=kind))
        assert answer["is_match"] is True
        thresholds = service.parts.thresholds
        assert thresholds.verify < answer["threshold"] <= thresholds.verify_fused
    held = service.read(service.ask("POST", PATH, body={"probe": probe, "line": MSISDN}))
    assert held["is_match"] is True
    mixed = {"image": [faces["live"], faces["stranger"]]}
    refused = service.ask("POST", PATH, body={"probe": mixed, "line": MSISDN})
    service.assert_refused(refused, 422, "MATCH.LIVE_FRAMES_DIFFER")
    swapped = service.ask("POST", PATH, body={"probe": body["reference"], "reference": probe})
    message = service.assert_refused(swapped, 400, "REQUEST.MALFORMED")
    assert "a reference is one photograph" in message


def test_frames_of_too_many_pixels_are_refused_before_any_is_decoded(service) -> None:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 4000, 3000)
    body = {"probe": {"image": [head] * 8}, "line": MSISDN}
    refused = service.ask("POST", PATH, body=body, kind=MSGPACK)
    message = service.assert_refused(refused, 413, "IMAGE.TOO_COSTLY")
    assert message.startswith("probe: ")


@pytest.mark.parametrize(("photograph", "is_match"), [("later", True), ("stranger", False)])
def test_a_holder_is_verified(service, faces, enrolled, photograph: str, is_match: bool) -> None:
    targets: list[tuple[str, dict[str, Any]]] = [
        ("b2", {"line": MSISDN}),
        ("blue", {"line": enrolled["line_id"]}),
        ("fraud", {"document": DOCUMENT}),
        ("b2", {"document_id": enrolled["document_id"]}),
    ]
    for key, target in targets:
        body = {"probe": image(faces[photograph]), **target}
        answer = service.read(service.ask("POST", PATH, key=key, body=body))
        assert answer["is_match"] is is_match
        assert answer["document_id"] == enrolled["document_id"]
        assert answer["line_id"] in (None, enrolled["line_id"])
        assert answer["threshold"] == service.parts.thresholds.same_document_single
