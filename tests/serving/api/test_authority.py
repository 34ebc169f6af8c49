"""Documents looked up at an authority over HTTP, beside the photographs and before the decision."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.matching.checks.order import replay
from engine.matching.documents import find_date
from engine.registry.database import utc_now
from schema.options import PeopleRules
from serving.settings.sections import RegistrarSettings
from serving.settings.terms import AuthoritySettings
from tests.serving.authority_service import Handler, Question, Service, answer, serve_authority
from tests.serving.conftest import NAME as HOLDER

NUMBER, NAME = "110105198503071257", "Stan Stranger"
ELSEWHERE = "Pacific/Kiritimati" if datetime.now(UTC).hour >= 10 else "Etc/GMT+12"
"""A zone where it is another day than in UTC."""


@pytest.fixture
def authority() -> Iterator[Service]:
    with serve_authority() as made:
        yield made


@pytest.fixture
def asking(start_service, authority) -> Any:
    settings = AuthoritySettings(kind="http", url=authority.url, timeout_s=10, breaker_failures=2)
    return start_service(authority=settings, registrar=RegistrarSettings(time_zone=ELSEWHERE))


def enroll(service: Any, body: dict[str, Any], key: str) -> Any:
    answered = service.enroll(body, key)
    return service.read(answered)


def test_an_activation_is_looked_up_once_and_its_evidence_shown(
    asking, authority, activation
) -> None:
    authority.behave = answer({"standing": "valid", "reference": "R-1", "face_score": 0.5})
    body = activation()
    first = enroll(asking, body, "one")
    assert (first["decision"], first["reasons"]) == ("approved", [])
    assert enroll(asking, body, "one")["is_repeated"] is True
    assert len(authority.asked) == 1
    assert authority.asked[0]["document"]["name"] == NAME
    assert authority.asked[0]["on"] == str(find_date(utc_now(), ELSEWHERE))
    path = f"/v1/enrollments/{first['enrollment_id']}"
    shown = asking.read(asking.ask("GET", path))["authority"]
    assert (shown["code"], shown["reference"]) == ("CONFIRMED", "R-1")
    assert "face_score" not in shown, "a tenant learns no score"
    assert asking.read(asking.ask("GET", path, key="operator"))["authority"]["face_score"] == 0.5
    counted = asking.parts.meter.render()[0].decode()
    assert 'sosie_authority_results_total{code="CONFIRMED",source="asked"} 1.0' in counted


def test_all_documents_of_an_activation_are_looked_up_at_once(
    start_service, authority, activation, faces
) -> None:
    settings = AuthoritySettings(kind="http", url=authority.url, timeout_s=10)
    people = PeopleRules(age_of_majority=17)
    service = start_service(authority=settings, people=people)
    child = {"type": "id-kitas", "number": "2C1100000001", "name": "A", "born_on": "2015-01-01"}
    # Enrolled before by this face; the authority knows of a death.
    holder = {"type": "cn-ric", "number": "110105199003071239", "name": HOLDER}
    old = {"type": "id-kitas", "number": "2C1100000002"}
    body = activation(
        document=child, replaces=old, guardian={"document": holder, "live": faces["later"]}
    )
    together = threading.Barrier(3)

    def behave(handler: Handler, question: Question) -> None:
        # Nobody is answered before all are asked.
        together.wait(60)
        is_guardian = question["document"]["number"] == holder["number"]
        answer({"standing": "deceased" if is_guardian else "valid"})(handler, question)

    authority.behave = behave
    told = enroll(service, body, "one")
    assert len(authority.asked) == 3
    codes = [one["reason"] for one in told["reasons"]]
    assert codes == ["REPLACEMENT_REFUSED", "AUTHORITY_CONTRADICTS"]
    path = f"/v1/enrollments/{told['enrollment_id']}"
    own = service.read(service.ask("GET", path))
    assert (own["authority"], own["guardian_authority"]) == (None, None)
    whole = service.read(service.ask("GET", path, key="fraud"))
    assert whole["guardian_authority"]["standings"] == ["deceased"]
    assert whole["replaced_authority"]["code"] == "CONFIRMED"


def test_while_the_authority_is_silent_decisions_of_others_go_on_and_its_own_waits(
    asking, authority, activation
) -> None:
    entered = []

    def wait_for_another(handler: Handler, question: Question) -> None:
        # The one that came first gets its answer when the registrar has decided the second.
        entered.append(question)
        if len(entered) == 1:
            other = activation(msisdn="+8613800138002", document=PASSED)
            seen.append(enroll(asking, other, "two")["decision"])
        answer({"standing": "valid"})(handler, question)

    seen: list[str] = []
    authority.behave = wait_for_another
    assert enroll(asking, activation(), "one")["decision"] in {"review", "rejected"}
    assert seen == ["approved"], "decided while the first waited, whose face is then known"


PASSED = {"type": "cn-ric", "number": "11010519491231002X", "name": "Passed Stranger"}


def test_an_authority_that_is_down_brings_reviews_and_leaves_readiness_alone(
    asking, authority, activation
) -> None:
    authority.behave = lambda handler, _: handler.send(b"", 500)
    ids = []
    for key in ("one", "two", "three"):
        given = enroll(asking, activation(), key)
        assert given["decision"] == "review"
        assert [one["reason"] for one in given["reasons"]] == ["AUTHORITY_UNAVAILABLE"]
        ids.append(given["enrollment_id"])
    assert len(authority.asked) == 2, "the breaker spares it"
    codes = []
    for one in ids:
        record = asking.parts.store.enrollment(one)
        assert replay(record).agrees
        codes.append(record.evidence.authority.code)
    assert codes == ["FAILED", "FAILED", "BREAKER_OPEN"]
    assert asking.ask("GET", "/health/ready").status_code == 200


def test_a_tenant_learns_nothing_of_documents_without_their_face(
    asking, authority, activation, faces
) -> None:
    authority.behave = answer({"standing": "deceased"})
    told = enroll(asking, activation(portrait=faces["portrait"]), "one")
    assert "FACE_MISMATCH" in [one["reason"] for one in told["reasons"]]
    assert "AUTHORITY_CONTRADICTS" not in json.dumps(told)
    path = f"/v1/enrollments/{told['enrollment_id']}"
    assert asking.read(asking.ask("GET", path))["authority"] is None
    whole = asking.read(asking.ask("GET", path, key="fraud"))
    assert whole["authority"]["standings"] == ["deceased"]


def test_number_and_name_are_in_no_log_metric_or_path(asking, authority, activation) -> None:
    authority.behave = answer({"standing": ["valid", "revoked"]})
    given = enroll(asking, activation(), "one")
    assert [one["reason"] for one in given["reasons"]] == ["AUTHORITY_CONTRADICTS"]
    log, counted = asking.log_text, asking.parts.meter.render()[0].decode()
    assert '"code":"AMBIGUOUS"' in log.replace(" ", "")
    kept = str(asking.parts.store.enrollment(given["enrollment_id"]).evidence)
    for text in (log, counted, kept, *authority.paths):
        assert NUMBER not in text
        assert NAME not in text


def test_a_caller_in_a_hurry_is_not_spared_the_look_up(
    authority, start_service, activation
) -> None:
    settings = AuthoritySettings(kind="http", url=authority.url, timeout_s=60)
    service = start_service(authority=settings.model_copy(update={"unavailable": "proceed"}))
    authority.behave = lambda handler, _: handler.service.ending.wait()
    hurried = {"idempotency-key": "one", "x-timeout-ms": "1500"}
    answered = service.ask("POST", "/v1/enrollments", body=activation(), headers=hurried)
    service.assert_refused(answered, 503, "REQUEST.DEADLINE_PASSED")
    assert service.parts.store.counts()["enrollments"] == 1, "the one that was there before"
