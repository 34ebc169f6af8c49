"""Evidence of liveness over HTTP: bound to the photograph that was sent, required, taken once."""

import hashlib
import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey
from sqlalchemy import select

from engine.matching.checks.order import replay
from schema.options import LivenessRules
from schema.people import Channel
from schema.reasons import LivenessMode
from serving.settings.sections import ThresholdSettings
from serving.settings.terms import LinesSettings, LivenessIssuer, LivenessSettings
from tests.engine.matching.test_proofs import digest
from tests.liveness_models import write_judge
from tests.serving.api.conftest import Start
from tests.serving.conftest import NUMBER
from tests.tables import tables

KEY = ECKey.generate_key("P-256", parameters={"kid": "one"})
MSISDN = "+8613800138000"


@pytest.fixture
def required(start_service, tmp_path) -> Any:
    """A service that asks one carrier for evidence, and all for it with verifications."""
    keys = tmp_path / "capture.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    return start_service(
        liveness=LivenessSettings(
            verification=LivenessMode.REQUIRED,
            issuers={"capture": LivenessIssuer(keys=str(keys))},
            carriers={"blue": LivenessRules(enrollment=LivenessMode.REQUIRED)},
            at_least={Channel.ONLINE: ("cen18099:high",)},
        ),
        lines=LinesSettings(channels={"b2": Channel.ONLINE}),
        thresholds=ThresholdSettings(match_word="95 %"),
    )


def sign_claims(service: Any, issuer: str, **claims: Any) -> str:
    """A token for this service, of the issuer that has this key."""
    at, audience = int(time.time()), service.parts.vault.deployment_id
    given = {"iss": issuer, "jti": str(uuid.uuid4()), "iat": at, "exp": at + 300, "aud": audience}
    given |= claims
    return jws.serialize_compact({"alg": "ES256", "kid": "one"}, json.dumps(given), KEY, ["ES256"])


def sign(service: Any, photograph: bytes, decision: str = "live", **changes: Any) -> str:
    shown = {"live_sha256": hashlib.sha256(photograph).hexdigest(), "decision": decision}
    return sign_claims(service, "capture", **shown | changes)


def test_an_activation_brings_its_evidence_once(required, activation, faces) -> None:
    token = sign(required, faces["stranger"], level="iso30107-3:2")
    body = activation(liveness=token)
    first = required.read(required.enroll(body, "first", kind="form"))
    assert (first["decision"], first["reasons"]) == ("approved", [])
    again = required.enroll(body, "first", kind="form")
    assert (again.status_code, required.read(again)["is_repeated"]) == (200, True)
    assert first["match_word"] == required.read(again)["match_word"] == "95 %"
    used = required.enroll(
        activation(liveness=token, msisdn="+8613800138002"), "second", kind="form"
    )
    required.assert_refused(used, 409, "LIVENESS.REPLAYED")
    shown = required.read(required.ask("GET", f"/v1/enrollments/{first['enrollment_id']}"))
    told = shown["liveness"]
    assert (told["mode"], told["issuer"], told["level"]) == ("required", "capture", "iso30107-3:2")
    counted = required.parts.meter.render()[0].decode()
    assert 'sosie_liveness_results_total{issuer="capture",result="PASSED"} 1.0' in counted


def test_an_activation_without_it_is_told_that_and_of_nobody(required, activation, faces) -> None:
    # Another's document, number and face: none of it is looked at.
    changes = {"live": faces["live"], "portrait": faces["portrait"], "msisdn": MSISDN}
    weak = sign(required, faces["live"], iad="cen18099:substantial")
    for place, (token, reason) in enumerate(
        (
            (None, "LIVENESS_MISSING"),
            ("not.a.token", "LIVENESS_INVALID"),
            (sign(required, faces["stranger"]), "LIVENESS_MISBOUND"),
            (sign(required, faces["live"], "spoof"), "LIVENESS_FAILED"),
            (sign(required, faces["live"], exp=1_000_000_000), "LIVENESS_STALE"),
            (weak, "LIVENESS_WEAK"),
        )
    ):
        asked = activation(**changes, outlet="b2", liveness=token)
        answer = required.enroll(asked, f"key-{place}")
        body = required.read(answer)
        assert (answer.status_code, body["decision"]) == (201, "rejected")
        assert [one["reason"] for one in body["reasons"]] == [reason]
        assert body["duplicate_search"]["ran"] is False
        assert {*body["scores"].values(), body["match_word"]} == {None}


def test_evidence_is_about_a_picture_and_for_no_face_that_a_point_chooses_there(
    required, activation, faces
) -> None:
    """The face that lives could stand beside a printed one of somebody else."""
    live = faces["stranger"]
    token = sign(required, live)
    told = required.read(required.enroll(activation(liveness=token, live_point=[0.5, 0.5]), "key"))
    assert [one["reason"] for one in told["reasons"]] == ["LIVENESS_MISBOUND"]
    # Of a guardian in the same picture, too.
    for point, is_bound in ((None, True), ([0.5, 0.5], False)):
        guardian = {"document": activation()["document"], "live": live, "live_point": point}
        body = activation(liveness=sign(required, live), guardian=guardian)
        told = required.read(required.enroll(body, f"guardian-{is_bound}"))
        found = [one["reason"] for one in told["reasons"]]
        assert (found == ["LIVENESS_MISBOUND"]) is not is_bound
    own = faces["later"]
    probe = {"image": own, "point": [0.57, 0.22]}
    body = {"probe": probe, "line": MSISDN, "liveness": sign(required, own)}
    refused = required.ask("POST", "/v1/verifications", body=body)
    assert "LIVENESS_MISBOUND" in required.assert_refused(refused, 422, "LIVENESS.REFUSED")


def test_an_outlet_is_shown_with_how_many_results_it_brought_failed_and_lacked(
    required, activation, faces
) -> None:
    live = faces["stranger"]
    for place, token in enumerate((None, sign(required, live, "spoof"), sign(required, live))):
        required.read(required.enroll(activation(liveness=token), f"key-{place}"))
    shown = required.read(required.ask("GET", "/v1/outlets/b1", key="fraud"))
    counts = {"days": 90, "results": 2, "failed": 1, "absent": 1, "proofs": 0}
    assert shown["liveness"] == counts
    other = required.read(required.ask("GET", "/v1/outlets/r1", key="fraud"))
    assert other["liveness"] == dict.fromkeys(counts, 0) | {"days": 90}


def test_a_verification_is_refused_before_anybody_is_looked_up(required, faces) -> None:
    def verify(line: str, token: str | None, face: str = "later") -> Any:
        body: dict[str, Any] = {"probe": {"image": faces[face]}, "line": line}
        return required.ask(
            "POST", "/v1/verifications", body=body | ({"liveness": token} if token else {})
        )

    for line in (MSISDN, "+8613800139999"):
        required.assert_refused(verify(line, None), 422, "LIVENESS.REFUSED")
    token = sign(required, faces["later"])
    # A slip of the number uses nothing up.
    required.assert_refused(verify("+8613800139999", token), 404, "REQUEST.NOT_FOUND")
    verified = required.read(verify(MSISDN, token))
    assert (verified["is_match"], verified["match_word"]) == (True, "95 %")
    for one, word in (("stranger", None), ("live", "95 %")):
        body = {"probe": {"image": faces["later"]}, "reference": {"image": faces[one]}}
        told = required.read(required.ask("POST", "/v1/verifications", body=body))
        assert (told["is_match"], told["match_word"]) == (word is not None, word)
    required.assert_refused(verify(MSISDN, token), 409, "LIVENESS.REPLAYED")
    other = sign(required, faces["later"])
    message = required.assert_refused(verify(MSISDN, other, "stranger"), 422, "LIVENESS.REFUSED")
    assert "LIVENESS_MISBOUND" in message
    rows = required.parts.store.rows(select(tables.liveness.c.problem, tables.liveness.c.use))
    assert sorted((row.problem or "", row.use) for row in rows) == [
        ("", "verification"),
        ("LIVENESS_MISBOUND", "verification"),
        *[("LIVENESS_MISSING", "verification")] * 2,
        ("LIVENESS_REPLAYED", "verification"),
    ]


def test_a_result_that_was_made_for_something_else_is_taken_for_nothing(
    required, activation, faces
) -> None:
    """What an app had signed to list somebody's lines opens no line under another document."""
    body = activation()
    own = "{type}:{number}".format_map(body["document"])
    for place, (changes, decision) in enumerate(
        (
            ({"use": "verification"}, "rejected"),
            ({"document_sha256": digest(f"cn-ric:{NUMBER}")}, "rejected"),
            ({"use": "enrollment", "document_sha256": digest(own)}, "approved"),
        )
    ):
        token = sign(required, faces["stranger"], **changes)
        told = required.read(required.enroll(activation(liveness=token), f"key-{place}"))
        assert told["decision"] == decision
        reasons = [one["reason"] for one in told["reasons"]]
        assert reasons == ([] if decision == "approved" else ["LIVENESS_MISBOUND"])
    document, probe = {"type": "cn-ric", "number": NUMBER}, {"image": faces["later"]}
    lookup = required.parts.vault.look_up("msisdn", MSISDN)
    held = required.parts.store.lines_in_use([lookup])[lookup].document_id
    calls = (
        ("lines/query", {"document": document}, f"cn-ric:{NUMBER}"),
        (f"lines/{MSISDN}/dispute", {"document": document}, f"cn-ric:{NUMBER}"),
        ("verifications", {"document": document}, f"cn-ric:{NUMBER}"),
        ("verifications", {"line": MSISDN}, f"line:{MSISDN}"),
        ("verifications", {"document_id": held}, f"document_id:{held}"),
    )
    for path, asked, subject in calls:
        key = "fraud" if "document_id" in asked else "blue"
        call = {"probe": probe} | asked
        without = required.ask("POST", f"/v1/{path}", key=key, body=call)
        required.assert_refused(without, 422, "LIVENESS.REFUSED")
        for named, is_taken in ((own, False), (subject, True)):
            token = sign(
                required, faces["later"], use="verification", document_sha256=digest(named)
            )
            call["liveness"] = token
            answer = required.ask("POST", f"/v1/{path}", key=key, body=call)
            assert answer.is_success is is_taken, (path, asked, named, answer.text)
        again = required.ask("POST", f"/v1/{path}", key=key, body=call)
        required.assert_refused(again, 409, "LIVENESS.REPLAYED")


def judging(start_service: Start, folder: Path, mode: str) -> Any:
    """A service with a judge to whom every face is darker than a live one."""
    card = write_judge(folder / "card", half=1.0)
    return start_service(liveness=LivenessSettings(judge=str(card), judge_mode=mode))


def test_a_judge_that_is_observed_changes_no_answer_and_its_scores_are_on_record(
    start_service, activation, tmp_path, faces
) -> None:
    service = judging(start_service, tmp_path, "observe")
    frames = [faces["stranger"], faces["stranger"]]
    given = service.read(service.enroll(activation(live=frames), "one"))
    assert (given["decision"], given["reasons"]) == ("approved", [])
    path = f"/v1/enrollments/{given['enrollment_id']}"
    assert service.read(service.ask("GET", path))["liveness_judge"] is None
    shown = service.read(service.ask("GET", path, key="fraud"))["liveness_judge"]
    assert (shown["mode"], shown["found"]) == ("observe", "spoof")
    assert 0 < shown["score"] < shown["spoof"]
    digest = service.parts.liveness.terms.judge.digest
    assert shown["model_digest"] == digest
    rows = service.parts.store.rows(select(tables.liveness))
    assert [(one.judge, one.problem, one.outlet) for one in rows] == [
        (digest, "LIVENESS_FAILED", "b1")
    ]
    counted = service.parts.meter.render()[0].decode()
    assert 'sosie_liveness_judged_total{band="0.0",found="spoof"} 1.0' in counted
    held = {"probe": {"image": faces["later"]}, "line": MSISDN}
    assert service.read(service.ask("POST", "/v1/verifications", body=held))["is_match"] is True
    assert len(service.parts.store.rows(select(tables.liveness))) == 2


def test_a_judge_that_enforces_rejects_and_nothing_else_is_told(
    start_service, activation, tmp_path, faces
) -> None:
    service = judging(start_service, tmp_path, "enforce")
    body = activation(portrait=faces["portrait"], msisdn=MSISDN)
    given = service.read(service.enroll(body, "one"))
    assert [one["reason"] for one in given["reasons"]] == ["LIVENESS_FAILED"]
    assert given["duplicate_search"]["ran"] is False
    assert replay(service.parts.store.enrollment(given["enrollment_id"])).agrees
    held = {"probe": {"image": faces["later"]}, "line": MSISDN}
    answered = service.ask("POST", "/v1/verifications", body=held)
    assert "LIVENESS_FAILED" in service.assert_refused(answered, 422, "LIVENESS.REFUSED")
