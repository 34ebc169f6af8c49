"""Other ways than a face over HTTP: what was signed elsewhere opens a line, and is on record."""

import json
from typing import Any

import pytest

from engine.errors import RequestError
from schema.options import CarrierPeople, PeopleRules
from schema.people import ProofLevel, ProofWay
from serving.api.body import JSON
from serving.settings.terms import ProofIssuer, ProofSettings
from tests.engine.matching.test_proofs import digest
from tests.serving.api.test_liveness import KEY, sign_claims
from tests.serving.api.test_people_apart import card

OPEN = CarrierPeople(proofs={ProofWay.MOBILE_ID: "approved"}, verified_by=(ProofWay.MOBILE_ID,))
RULES = PeopleRules(carriers={"blue": OPEN}, face_tries=3)


@pytest.fixture
def service(start_service, tmp_path) -> Any:
    keys = tmp_path / "state.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    issuer = ProofIssuer(keys=str(keys), ways=[ProofWay.MOBILE_ID])
    return start_service(
        people=RULES,
        proofs=ProofSettings(
            at_least={ProofWay.MOBILE_ID: ProofLevel.SUBSTANTIAL}, issuers={"state": issuer}
        ),
    )


def sign(service: Any, body: dict[str, Any], **changes: Any) -> str:
    document = body["document"]
    given = {
        "way": "mobile_id",
        "outcome": "confirmed",
        "use": "enrollment",
        "level": "high",
        "document_sha256": digest(f"{document['type']}:{document['number']}"),
        "msisdn_sha256": digest(body["msisdn"]),
    }
    return sign_claims(service, "state", **given | changes)


@pytest.mark.parametrize("kind", [JSON, "form"])
def test_an_activation_by_another_way_says_which_and_who_signed(
    service, activation, kind: str
) -> None:
    body = activation(document=card(1), live=None, portrait=None)
    answer = service.enroll(body | {"proof": sign(service, body)}, "first", kind=kind)
    told = service.read(answer)
    assert (answer.status_code, told["decision"], told["reasons"]) == (201, "approved", [])
    shown = service.read(service.ask("GET", f"/v1/enrollments/{told['enrollment_id']}"))["proof"]
    assert shown | {"issued_at": ""} == {
        "way": "mobile_id",
        "issuer": "state",
        "level": "high",
        "issued_at": "",
    }
    outlet = service.read(service.ask("GET", "/v1/outlets/b1", key="fraud"))
    assert (outlet["liveness"]["proofs"], outlet["liveness"]["results"]) == (1, 0)


def test_who_shows_another_face_is_told_of_the_way_and_goes_it(service, activation, faces) -> None:
    body = activation(document=card(1), live=faces["stranger"], portrait=faces["portrait"])
    refused = service.read(service.enroll(body, "by-face"))
    assert [one["reason"] for one in refused["reasons"]] == ["FACE_MISMATCH"]
    assert (refused["other_ways"], refused["tries_left"]) == (["mobile_id"], 2)
    del body["live"], body["portrait"]
    told = service.read(service.enroll(body | {"proof": sign(service, body)}, "by-proof"))
    assert (told["decision"], told["other_ways"]) == ("approved", [])


def test_a_proof_that_is_not_taken_tells_of_nobody(service, activation) -> None:
    body = activation(document=card(1), live=None, portrait=None)
    for place, changes in enumerate(({"use": "verification"}, {"level": "low"})):
        token = sign(service, body, **changes)
        told = service.read(service.enroll(body | {"proof": token}, f"key-{place}"))
        assert (told["decision"], len(told["reasons"])) == ("rejected", 1)
        assert told["reasons"][0]["advice"]
        assert told["document_id"] is None
    metrics = service.parts.meter.render()[0].decode()
    assert 'sosie_exceptions_total{cause="mobile_id",decision="rejected"} 2.0' in metrics


def test_the_holder_of_a_line_is_verified_by_a_face_or_by_a_proof(
    service, activation, faces
) -> None:
    body = activation(document=card(1))
    line = service.read(service.enroll(body, "first"))["line_id"]
    named = {name: card(1)[name] for name in ("type", "number")}
    target = {"line": body["msisdn"], "document": named}

    def verify(**shown: Any) -> Any:
        return service.ask("POST", "/v1/verifications", key="b1", body=shown)

    another = {"image": faces["live"]}
    told = service.read(verify(probe=another, line=body["msisdn"]))
    assert (told["is_match"], told["way"]) == (False, None)
    assert (told["other_ways"], told["tries_left"]) == (["mobile_id"], 2)
    token = sign(service, body, use="verification")
    told = service.read(verify(proof=token, **target))
    assert (told["is_match"], told["way"], told["line_id"]) == (True, "mobile_id", line)
    assert (told["other_ways"], told["tries_left"], told["score"]) == ([], None, None)
    message = service.assert_refused(verify(proof=token, **target), 422, "PROOF.REFUSED")
    assert "PROOF_REPLAYED" in message
    beside: list[dict[str, Any]] = [
        {"probe": another},
        {"line": None},
        {"document": None},
        {"document_id": line},
    ]
    for changes in beside:
        service.assert_refused(verify(proof=token, **target | changes), 400, "REQUEST.MALFORMED")
    service.assert_refused(verify(line=body["msisdn"]), 400, "REQUEST.MALFORMED")
    outlet = service.read(service.ask("GET", "/v1/outlets/b1", key="fraud"))
    assert outlet["liveness"]["proofs"] == 1
    metrics = service.parts.meter.render()[0].decode()
    for decision in ("verified", "refused"):
        assert f'sosie_exceptions_total{{cause="mobile_id",decision="{decision}"}} 1.0' in metrics


def test_a_way_for_which_nobody_signs_or_a_law_without_use_opens_no_service(start_service) -> None:
    with pytest.raises(RequestError, match=r"mobile_id, for which nobody signs"):
        start_service(people=RULES)
    with pytest.raises(RequestError, match=r"\[people\] names a search_law"):
        start_service(people=PeopleRules(search_law="Act 7"))


def test_no_proof_is_taken_for_longer_than_its_row_may_stay() -> None:
    with pytest.raises(ValueError, match="max_age_s"):
        ProofSettings(max_age_s=86_400)
