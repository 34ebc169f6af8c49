"""Other ways than a face: a signed proof opens a line, once, and for what it was made alone; and a
face whose consent is withdrawn is gone, and its lines stay."""

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, KeySet
from msgspec import structs
from sqlalchemy import select, update

from engine.errors import (
    CaseMoved,
    ConsentWithdrawn,
    NotFound,
    ProofRefused,
    RequestError,
    TenantConflict,
)
from engine.lifecycle.reverification import carry_out, report_event
from engine.lifecycle.rules import LineRules, load_rules
from engine.matching.checks.limits import Guard
from engine.matching.checks.order import replay
from engine.matching.checks.proofs import ProofChecker, ProofTerms
from engine.matching.holders import block_document, erase_holder, list_pending, read_erasure
from engine.matching.lines import close_line, expire_face, withdraw_consent
from engine.matching.registrar import Registrar
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.samples import ABSENT
from engine.matching.verification import HolderComparison, HolderProbe, ProofComparison
from engine.registry.damage import find_damage
from engine.registry.database import utc_now
from engine.registry.enrollments import InFlight, LivenessCount
from engine.registry.retention import find_due
from engine.registry.rows import changing_rows
from engine.retention.job import check_certificate, find_until
from schema.actors import Caller
from schema.cases import Outcome
from schema.decisions import RecordedProof
from schema.documents import Document, ErasureScope
from schema.lines import LineEventKind
from schema.options import CarrierPeople, Limits, PeopleRules
from schema.people import RENEWED, Consent, ExceptionCause, GivenConsent, ProofLevel, ProofWay
from schema.phases import Retained
from schema.reasons import Decision, LivenessUse, Reason
from tests.engine.matching.conftest import CHILD, NOW, Lab, card, close, guard_of
from tests.engine.matching.test_bulk_enrollment import admit, number, subscriber
from tests.engine.matching.test_people import RED, UNSEEN, ask
from tests.engine.retention.conftest import only
from tests.tables import tables

US, KEY = "deployment", ECKey.generate_key("P-256", parameters={"kid": "one"})
OTHER = ECKey.generate_key("P-256", parameters={"kid": "one"})
RULES = PeopleRules(
    proofs={ProofWay.MOBILE_ID: "approved", ProofWay.CERTIFICATE: "review"},
    proofs_per_outlet=3,
    carriers={"red": CarrierPeople(proofs={})},
)
NO_FACES = PeopleRules(carriers={"blue": CarrierPeople(keep_faces="none")})
TERMS = ProofTerms(
    {
        "state": frozenset({ProofWay.MOBILE_ID, ProofWay.CERTIFICATE}),
        "wallets": frozenset({ProofWay.WALLET}),
    },
    {ProofWay.MOBILE_ID: ProofLevel.SUBSTANTIAL},
)
CHECKER = ProofChecker(TERMS, dict.fromkeys(("state", "wallets"), KeySet([KEY])), US)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def claims(request: EnrollmentRequest, **changes: Any) -> dict[str, Any]:
    at, document = int(NOW.timestamp()), request.document
    given = {
        "iss": "state",
        "jti": request.idempotency_key,
        "iat": at - 30,
        "exp": at + 60,
        "aud": US,
        "way": "mobile_id",
        "outcome": "confirmed",
        "use": "enrollment",
        "level": "substantial",
        "document_sha256": digest(f"{document.type}:{document.number}"),
        "msisdn_sha256": digest(request.msisdn),
    }
    return {name: value for name, value in (given | changes).items() if value is not None}


def sign(given: dict[str, Any], key: ECKey = KEY) -> str:
    return jws.serialize_compact({"alg": "ES256", "kid": "one"}, json.dumps(given), key, ["ES256"])


def check(request: EnrollmentRequest, token: str) -> RecordedProof:
    return CHECKER.check(token, request.document, request.msisdn, NOW)


def prove(request: EnrollmentRequest, key: ECKey = KEY, **changes: Any) -> EnrollmentRequest:
    token = sign(claims(request, **changes), key)
    return replace(request, live=ABSENT, portrait=ABSENT, proof=check(request, token))


@pytest.fixture
def prepare(lab) -> Callable[..., EnrollmentRequest]:
    return lambda serial, **more: lab.request(document=card(serial), **more)


def test_a_proof_opens_a_line_without_a_face_and_the_decision_says_whose_word_it_was(
    lab: Lab, prepare
) -> None:
    with lab.registrar(people=RULES) as registrar:
        (answer,) = ask(registrar, prove(prepare(1)))
    assert (answer.decision, answer.reasons) == (Decision.APPROVED, ())
    record = lab.store.enrollment(answer.enrollment_id)
    shown = record.evidence.proof
    assert (shown.way, shown.issuer, shown.level) == (ProofWay.MOBILE_ID, "state", "substantial")
    assert shown.jti is None
    assert len(lab.store.lines_of(record.document_id or "")) == 1
    assert lab.store.document(record.document_id or "").reference_ids == ()
    assert replay(record).agrees
    assert lab.store.people.count_proofs(["blue-1"], NOW - timedelta(days=1)) == {"blue-1": 1}
    # None of it counts as a result of a liveness check.
    counted = LivenessCount("blue", "blue-1", False, results=0, failed=0, proofs=1)
    assert lab.store.liveness_counts(NOW - timedelta(days=1), NOW) == [counted]


def test_the_holder_comes_by_face_by_proof_and_by_face_again(lab: Lab, prepare) -> None:
    person = lab.people.person()
    with lab.registrar(people=RULES) as registrar:
        by_face = ask(registrar, lab.request(person, document=card(1)))[0]
        by_proof = ask(registrar, prove(prepare(1)))[0]
        again = ask(registrar, lab.request(person, document=card(1)))[0]
        other = ask(registrar, lab.request(document=card(1)))[0]
    assert {one.decision for one in (by_face, by_proof, again)} == {Decision.APPROVED}
    assert len({one.decided.document_id for one in (by_face, by_proof, again)}) == 1
    # A line that was opened by a proof makes nobody else's face the holder's.
    assert Reason.DOCUMENT_HELD_BY_ANOTHER_FACE in other.reasons


FAULTS: list[tuple[dict[str, Any], Reason]] = [
    ({"aud": "another"}, Reason.PROOF_MISBOUND),
    ({"use": "verification"}, Reason.PROOF_MISBOUND),
    ({"document_sha256": digest("id-kitas:2C1100000077")}, Reason.PROOF_MISBOUND),
    ({"msisdn_sha256": digest("+8613800138999")}, Reason.PROOF_MISBOUND),
    ({"outcome": "refused"}, Reason.PROOF_REFUSED),
    ({"iat": NOW.timestamp() - 1_000}, Reason.PROOF_STALE),
    ({"exp": NOW.timestamp() - 61}, Reason.PROOF_STALE),
    ({"iat": NOW.timestamp() + 100}, Reason.PROOF_STALE),
    ({"level": "low"}, Reason.PROOF_WEAK),
    ({"level": None}, Reason.PROOF_WEAK),
    ({"level": "very high"}, Reason.PROOF_INVALID),
    ({"iss": "somebody"}, Reason.PROOF_INVALID),
    ({"iss": "wallets"}, Reason.PROOF_INVALID),
    ({"document_sha256": None}, Reason.PROOF_INVALID),
    ({"msisdn_sha256": None}, Reason.PROOF_INVALID),
    ({"jti": None}, Reason.PROOF_INVALID),
    ({"iss": "wallets", "way": "wallet"}, Reason.EXCEPTION_NOT_OFFERED),
]


def test_a_proof_that_does_not_hold_is_told_alone_and_counts(lab: Lab, prepare) -> None:
    caller = Caller("key:a", carrier="blue")
    with lab.registrar(people=RULES, limits=Limits()) as registrar:
        taken = lab.request(document=card(99))
        ask(registrar, taken)
        # Of a number in use nothing is told, either.
        asked = (prepare(place, msisdn=taken.msisdn, caller=caller) for place in range(len(FAULTS)))
        proven = [prove(one, **changes) for one, (changes, _) in zip(asked, FAULTS, strict=True)]
        answers = ask(registrar, *proven)
    assert [one.reasons for one in answers] == [(reason,) for _, reason in FAULTS]
    assert {one.decision for one in answers} == {Decision.REJECTED}
    counted = {row.name: row.level for row in lab.store.rows(select(tables.tallies))}
    # Decided in more than one batch, a little of the count has leaked away in between.
    assert [ceil(level) for name, level in counted.items() if "key:a" in name] == [len(FAULTS)]
    assert lab.replays(*answers)


def test_a_forged_proof_is_signed_by_nobody(prepare) -> None:
    request = prepare(1)
    for token in (sign(claims(request), OTHER), "not.a.token", "", "é", "." * 5_000):
        assert check(request, token).problem is Reason.PROOF_INVALID


def test_a_proof_is_taken_once_in_a_batch_and_ever_after(lab: Lab, prepare) -> None:
    first = prove(prepare(1), jti="one")
    with lab.registrar(people=RULES) as registrar:
        copies = [replace(first, idempotency_key=f"copy-{place}") for place in range(2)]
        answers = ask(registrar, first, copies[0])
        later = ask(registrar, copies[1], first)
    assert [one.reasons for one in answers] == [(), (Reason.PROOF_REPLAYED,)]
    assert later[0].reasons == (Reason.PROOF_REPLAYED,)
    # The same call is answered as before.
    assert later[1].is_repeated
    assert later[1].decision is Decision.APPROVED


def test_document_lines_limits_and_watch_list_are_asked_as_of_a_face(lab: Lab, prepare) -> None:
    ended = structs.replace(card(2), expires_on=(NOW - timedelta(days=9)).date())
    expired = replace(prepare(2), document=ended)
    with lab.registrar(people=RULES) as registrar:
        used = ask(registrar, prove(prepare(1)))[0]
        in_use = prove(prepare(3, msisdn=_msisdn(lab, used)))
        late, busy = ask(registrar, prove(expired), in_use)
        full = [ask(registrar, prove(prepare(serial)))[0] for serial in (4, 5, 6)]
    assert late.reasons == (Reason.DOCUMENT_EXPIRED,)
    assert busy.reasons == (Reason.LINE_IN_USE,)
    # What was taken counts for the outlet, whatever became of the line.
    assert full[-1].reasons == (Reason.EXCEPTION_LIMIT_REACHED,)


def _msisdn(lab: Lab, answer: Answer) -> str:
    (line,) = lab.store.lines_of(answer.decided.document_id)
    return lab.store.numbers([line.id])[line.id]


def test_a_way_that_brings_a_review_goes_before_two_people(lab: Lab, prepare) -> None:
    with lab.registrar(people=RULES) as registrar:
        (answer,) = ask(registrar, prove(prepare(1), way="certificate"))
        assert (answer.decision, answer.reasons) == (Decision.REVIEW, (Reason.EXCEPTION_ASKED,))
        (case,) = answer.decided.cases
        close(registrar, lab, case.id, Outcome.UNFOUNDED)
    granted = lab.store.people.exceptions([answer.enrollment_id])[answer.enrollment_id]
    assert (granted.cause, granted.state) == ("certificate", "granted")
    assert len(lab.store.lines_of(answer.decided.document_id)) == 1


def test_a_proof_before_two_people_takes_no_exception_from_the_outlet(lab: Lab, prepare) -> None:
    rules = replace(RULES, exceptions=True, exceptions_per_outlet=1)
    with lab.registrar(people=rules) as registrar:
        ask(registrar, prove(prepare(1), way="certificate"))
        answers = ask(
            registrar,
            prove(prepare(2), way="certificate"),
            prepare(3, **UNSEEN),
            prepare(4, **UNSEEN),
        )
    asked = (Reason.EXCEPTION_ASKED,)
    assert [one.reasons for one in answers] == [asked, asked, (Reason.EXCEPTION_LIMIT_REACHED,)]


@pytest.mark.parametrize("way", ["mobile_id", "certificate"])
def test_lines_that_a_proof_opened_follow_no_later_face_without_two_people(
    lab: Lab, prepare, way: str
) -> None:
    other = lab.people.person()
    with lab.registrar(people=RULES) as registrar:
        (answer,) = ask(registrar, prove(prepare(1), way=way))
        for case in answer.decided.cases:
            close(registrar, lab, case.id, Outcome.UNFOUNDED)
        (first,) = ask(registrar, lab.request(other, document=card(1)))
        assert (first.decision, first.reasons) == (Decision.REVIEW, (Reason.EXCEPTION_ASKED,))
        key = answer.decided.document_id or ""
        assert lab.store.document(key).reference_ids == ()
        close(registrar, lab, first.decided.cases[0].id, Outcome.UNFOUNDED)
        assert len(lab.store.document(key).reference_ids) == 1
        (asked,) = ask(registrar, lab.request(other, document=card(2), replaces=card(1)))
    assert asked.reasons == (Reason.REPLACEMENT_ASKED,)
    assert lab.replays(first, asked)
    assert len(lab.store.lines_of(key)) == 2


def test_the_first_face_after_a_proof_is_asked_about_in_its_batch_and_as_a_guardians(
    lab: Lab, prepare
) -> None:
    other = lab.people.person()
    rules = replace(RULES, age_of_majority=17)
    guardian = lab.guardian(other, 1)
    with lab.registrar(people=rules) as registrar:
        proven, shown, minor = ask(
            registrar,
            prove(prepare(1)),
            lab.request(other, document=card(1)),
            lab.request(document=card(2, CHILD), guardian=guardian),
        )
        later = ask(registrar, lab.request(document=card(3, CHILD), guardian=guardian))[0]
    assert proven.decision is Decision.APPROVED
    assert shown.reasons == (Reason.EXCEPTION_ASKED,)
    assert minor.reasons == later.reasons == (Reason.GUARDIAN_REFUSED,)
    # Nor where the ways are closed meanwhile.
    with lab.registrar() as registrar:
        closed = ask(registrar, lab.request(other, document=card(1)))[0]
    assert closed.reasons == (Reason.EXCEPTION_ASKED,)
    assert lab.store.document(proven.decided.document_id or "").reference_ids == ()


def test_who_shows_no_fit_face_is_told_of_the_ways_that_the_carrier_takes(lab: Lab) -> None:
    unfit = replace(lab.people.sample(lab.people.person()), problems=(Reason.BLURRED,))
    with lab.registrar(people=RULES) as registrar:
        blue, red = ask(registrar, lab.request(live=unfit), lab.request(live=unfit, **RED))
    assert blue.decided.other_ways == (ProofWay.MOBILE_ID, ProofWay.CERTIFICATE)
    assert red.decided.other_ways == ()


def test_a_carrier_that_opens_no_way_takes_none(lab: Lab, prepare) -> None:
    asked = prove(prepare(1, **RED))
    with lab.registrar(people=RULES) as registrar:
        assert ask(registrar, asked)[0].reasons == (Reason.EXCEPTION_NOT_OFFERED,)
    with lab.registrar() as registrar:
        asked = replace(asked, idempotency_key="another")
        assert ask(registrar, asked)[0].reasons == (Reason.EXCEPTION_NOT_OFFERED,)


def test_a_proof_stands_in_place_of_the_photographs_and_not_beside_them(lab: Lab, prepare) -> None:
    proven = prove(prepare(1))
    with lab.registrar(people=RULES) as registrar:
        both = replace(proven, live=lab.people.sample(lab.people.person()))
        replacing = replace(proven, replaces=card(2), idempotency_key="another")
        refused = registrar.enroll([both, replacing])
    assert [type(one) for one in refused] == [RequestError, RequestError]


def test_the_name_of_a_proof_leaves_with_the_holder(lab: Lab, prepare) -> None:
    with lab.registrar(people=RULES) as registrar:
        (answer,) = ask(registrar, prove(prepare(1), jti="one"))
        erase_holder(registrar, lab.store, answer.decided.document_id or "", "test")
        kept = lab.store.rows(select(tables.liveness.c.jti, tables.liveness.c.use))
        assert [(row.jti, row.use) for row in kept] == [(None, "proof")]
        again = replace(prove(prepare(2), jti="one"), idempotency_key="again")
        assert ask(registrar, again)[0].reasons == (Reason.PROOF_REPLAYED,)


@pytest.mark.parametrize("law", [None, "Act 7, 12"])
def test_whom_a_face_that_is_not_kept_meets_depends_on_no_batch(
    lab: Lab, prepare, busy, law: str | None
) -> None:
    rules = PeopleRules(carriers={"blue": CarrierPeople(keep_faces="none", search_law=law)})

    def make(first: int) -> list[EnrollmentRequest]:
        one, other = lab.people.person(), lab.people.person()
        asked = [prepare(first, person=one, **RED), prepare(first + 1, person=one)]
        return [*asked, prepare(first + 2, person=other), prepare(first + 3, person=other, **RED)]

    with lab.registrar(people=rules) as registrar:
        with busy(registrar):
            waiting = [registrar.submit(one) for one in make(1)]
        at_once = [one.result(60).reasons for one in waiting]
        in_turn = [ask(registrar, one)[0].reasons for one in make(5)]
    own = () if law else (Reason.NOT_SEARCHED,)
    missed = (Reason.DUPLICATE_IDENTITY,) if law else own
    assert at_once == in_turn == [(), missed, own, ()]


def test_lines_opened_by_a_face_that_is_not_kept_follow_no_later_face_without_two_people(
    lab: Lab, prepare
) -> None:
    person, other = lab.people.person(), lab.people.person()
    asking = {**RED, "caller": Caller("key:a", carrier="red")}
    with lab.registrar(people=NO_FACES, limits=Limits()) as registrar:
        (opened,) = ask(registrar, prepare(1, person=person))
        later, own = ask(registrar, prepare(1, person=person, **asking), prepare(1, person=person))
        # It has told how others open lines.
        counted = {row.name: row.level for row in lab.store.rows(select(tables.tallies))}
        assert [level for name, level in counted.items() if "key:a" in name] == [1]
        assert (later.reasons, own.reasons) == ((Reason.EXCEPTION_ASKED,), opened.reasons)
        assert lab.store.document(opened.decided.document_id or "").reference_ids == ()
        close(registrar, lab, later.decided.cases[0].id, Outcome.UNFOUNDED)
        mine, theirs = ask(registrar, prepare(1, person=person), prepare(1, person=other))
    assert mine.reasons == (Reason.NOT_SEARCHED,)
    assert Reason.DOCUMENT_HELD_BY_ANOTHER_FACE in theirs.reasons


def turn_away(registrar: Registrar, lab: Lab, serial: int) -> list[int | None]:
    """Three faces that are not the portrait's, and how many tries each left."""
    faces = [lab.people.sample(lab.people.person()) for _ in range(6)]
    pairs = zip(faces[::2], faces[1::2], strict=True)
    first, *others = [lab.request(document=card(serial), live=a, portrait=b) for a, b in pairs]
    # Two of one batch count as if they came one after the other.
    answers = [*ask(registrar, first), *ask(registrar, *others)]
    return [one.decided.tries_left for one in answers]


def verify(registrar: Registrar, lab: Lab, people: PeopleRules, **given: Any) -> Callable[..., Any]:
    """Verifies the holder of a line by a proof, as the carrier `blue` asks."""
    caller = Caller(**{"actor": "key:a", "carrier": "blue", "outlet": "blue-1", **given})

    def prove(request: EnrollmentRequest, key: ECKey = KEY, **changes: Any) -> Any:
        changes = {"use": "verification", "jti": str(uuid.uuid4()), **changes}
        shown = claims(request, **changes)
        document, number = request.document, request.msisdn
        proof = CHECKER.check(sign(shown, key), document, number, NOW, LivenessUse.VERIFICATION)
        compared = ProofComparison(
            runner=registrar,
            registry=lab.store,
            guard=Guard(Limits(key_h=2_000), lab.store, registrar, caller, InFlight()),
            shown=proof,
            people=people,
            rules=LineRules(load_rules("korea")),
            caller=caller,
        )
        return compared.check_line(number, document, 0.4)

    return prove


@pytest.mark.parametrize("name", ["korea", "mexico"])
def test_after_three_tries_of_the_face_a_line_is_opened_and_verified_by_another_way(
    lab: Lab, prepare, name: str
) -> None:
    # Korea's set opens its ways where somebody signs for them; Mexico's has none of its own.
    own = {ProofWay.MOBILE_ID: "approved"} if name == "mexico" else {}
    given = PeopleRules(proofs=own, verified_by=tuple(own))  # type: ignore[arg-type]
    rules = LineRules(load_rules(name)).complete(given, {ProofWay.MOBILE_ID})
    assert rules.of("blue").proofs == {ProofWay.MOBILE_ID: "approved"}
    request = prepare(1)
    with lab.registrar(people=rules, clock=utc_now) as registrar:
        assert turn_away(registrar, lab, 1) == [2, 1, 0]
        opened = ask(registrar, prove(request))[0].decided
        line = opened.line_id or ""
        # Who came begins anew.
        assert (opened.tries_left, turn_away(registrar, lab, 1)[0]) == (None, 2)
        ask(registrar, prove(prepare(1)))
        lines = LineRules(load_rules("korea"))
        told = {"line_text": line, "kind": LineEventKind.PORT_IN, "at": utc_now(), "actor": "k"}
        report_event(registrar, lab.store, lines, **told)  # type: ignore[arg-type]
        carry_out(registrar, lab.store, lines, now=utc_now() + timedelta(days=8))
        assert lab.store.lines_by_id([line])[line].service is not None
        guard = Guard(Limits(), lab.store, registrar, Caller("key:a", carrier="blue"), InFlight())
        faces = [lab.people.sample(lab.people.person()).vector for _ in range(4)]
        probe = HolderProbe(
            vector=faces[0], threshold=0.4, actor="key:a", carrier="blue", people=rules
        )
        compared = HolderComparison(
            registrar, lab.store, probe, lambda *one: registrar.audit(one[0], 9, one[1]), guard
        )
        alive: dict[str, Any] = {"is_alive": True, "is_photographed": True}
        tries = [
            replace(compared, probe=replace(probe, own=(one, 0.3), **alive)).check_line(line)
            for one in faces[1:]
        ]
        assert [(one.is_match, one.tries_left) for one in tries] == [(False, n) for n in (2, 1, 0)]
        assert {one.other_ways for one in tries} == {(ProofWay.MOBILE_ID,)}
        done = verify(registrar, lab, rules)(request)
    assert (done.is_match, done.way, done.line_id, done.score) == (True, "mobile_id", line, None)
    assert lab.store.lines_by_id([line])[line].service is None
    kept = {one.kind.value for one in lab.store.events_of_line(line)}
    assert {"suspended_outgoing", "reverified", "unsuspended"} <= kept
    assert lab.store.people.count_proofs(["blue-1"], NOW - timedelta(days=1)) == {"blue-1": 3}
    assert find_damage(lab.store) == []


def test_a_verification_is_refused_by_a_proof_that_does_not_hold_before_anybody_is_looked_up(
    lab: Lab, prepare
) -> None:
    rules = replace(RULES, verified_by=(ProofWay.MOBILE_ID,), proofs_per_outlet=2)
    faults = [({"use": "enrollment"}, Reason.PROOF_MISBOUND), *FAULTS[:1], *FAULTS[2:]]
    faults.append(({"way": "certificate"}, Reason.EXCEPTION_NOT_OFFERED))
    with lab.registrar(clock=utc_now) as registrar:
        request = prepare(1)
        ask(registrar, request)
        prove = verify(registrar, lab, rules)
        # Of a line that is not there the same is told.
        for one in (request, prepare(2)):
            for changes, reason in faults:
                with pytest.raises(ProofRefused, match=reason):
                    prove(one, **changes)
            with pytest.raises(ProofRefused, match="PROOF_INVALID"):
                prove(one, OTHER)
        # One of a line that is another document's is not used up.
        other = replace(request, document=card(9))
        with pytest.raises(NotFound):
            prove(other, jti="one")
        assert prove(request, jti="one").is_match
        with pytest.raises(ProofRefused, match="PROOF_REPLAYED"):
            prove(request, jti="one")
        block_document(registrar, lab.store, request.document, "test")
        assert not prove(request).is_match
        with pytest.raises(ProofRefused, match="EXCEPTION_LIMIT_REACHED"):
            prove(request)
        with pytest.raises(ProofRefused, match="EXCEPTION_NOT_OFFERED"):
            verify(registrar, lab, RULES)(request)
        with pytest.raises(NotFound):
            verify(registrar, lab, rules, carrier="red", outlet="red-1")(request)
        # Nor does a fraud team's key go by what the line's carrier has closed.
        (open_to_all,) = ask(registrar, other := prepare(3))
        closed = replace(rules, carriers={"blue": CarrierPeople(verified_by=())})
        analyst = {"carrier": None, "outlet": None}
        assert open_to_all.decided.line_id
        assert not verify(registrar, lab, closed, **analyst)(other).is_match
        assert verify(registrar, lab, rules, **analyst)(other).is_match
    kept = lab.store.rows(select(tables.liveness).where(tables.liveness.c.enrollment_id.is_(None)))
    # What no erasure would find is not kept.
    assert {row.jti for row in kept} == {None}
    counted = {row.name: row.level for row in lab.store.rows(select(tables.tallies))}
    # Every one of these, but for that which held.
    failed = counted["carrier:blue"]
    assert 2 * (len(faults) + 1) + 5 == pytest.approx(failed, abs=0.1)
    assert find_damage(lab.store) == []


def test_sets_of_rules_open_ways_that_somebody_signs_for_and_settings_come_first() -> None:
    sets = LineRules(load_rules("korea"), {"red": load_rules("mexico")})
    usual = sets.complete(PeopleRules(), {ProofWay.REGISTER_EXTRACT})
    assert (usual.proofs, usual.verified_by) == (
        {"register_extract": "approved"},
        ("register_extract",),
    )
    assert (usual.of("red").proofs, usual.of("red").verified_by) == ({}, ())
    assert sets.complete(PeopleRules()).proofs == {}
    given = PeopleRules(
        proofs={ProofWay.MOBILE_ID: "review"},
        face_tries=1,
        carriers={"red": CarrierPeople(face_tries=2)},
    )
    kept = sets.complete(given, set(ProofWay))
    assert (kept.proofs, kept.face_tries, kept.of("red").face_tries) == (given.proofs, 1, 2)
    # Whoever says which ways two people decide has not said that one verifies alone.
    assert kept.verified_by == ()


def given(at: datetime | None = None, **more: Any) -> Consent:
    terms = {"purpose": "identity", "text_version": "3", "language": "en", "channel": "outlet"}
    return Consent("C-9", GivenConsent(given_at=at or utc_now(), **terms | more))


def withdraw(registrar: Registrar, lab: Lab, key: str, carrier: str = "blue", **more: Any) -> Any:
    asked = withdraw_consent(registrar, lab.store, key, "test", carrier, **more)
    given = (registrar, lab.store, asked.document_id, "test")
    return asked if asked.is_shared else erase_holder(*given, scope=asked.scope, **more)


@pytest.fixture
def held(lab) -> Any:
    rules = replace(RULES, age_of_majority=17, exceptions=True)
    with lab.registrar(people=rules, clock=utc_now) as registrar:
        person = lab.people.person()
        yield registrar, person, ask(registrar, lab.request(person, document=card(1)))[0]


def decide(registrar: Registrar, request: EnrollmentRequest) -> Any:
    (answer,) = ask(registrar, request)
    return answer.decision, *answer.reasons


REFUSED = (Decision.REJECTED, Reason.CONSENT_WITHDRAWN)
APPROVED, ASKED = (Decision.APPROVED,), (Decision.REVIEW, Reason.EXCEPTION_ASKED)


def test_a_withdrawn_face_goes_its_lines_stay_and_nothing_looks_at_it(lab: Lab, held) -> None:
    registrar, person, answer = held
    key, line = answer.decided.document_id, answer.decided.line_id
    request, judge = lab.request(person, document=card(1)), registrar._judge
    scanned = judge.scan([request])
    made = withdraw(registrar, lab, key)
    assert (made.references, made.lines, made.scope) == (1, 0, ErasureScope.FACE)
    assert read_erasure(lab.store, key).certificate == made
    assert check_certificate(lab.store, made) is None
    # What was searched for before is decided by what holds now.
    judged = registrar.run(lambda to, now: judge.judge([request], to, now=now, scanned=scanned))
    assert judged.outcomes[0].reasons == (Reason.CONSENT_WITHDRAWN,)
    (refused,) = ask(registrar, request)
    assert (refused.decision, *refused.reasons) == REFUSED
    assert refused.decided.other_ways == (ProofWay.MOBILE_ID, ProofWay.CERTIFICATE)
    record = lab.store.enrollment(refused.enrollment_id)
    assert record.evidence.inputs["searched"] is None
    assert replay(record).agrees
    assert lab.store.rows(select(tables.attempt_templates)) == []
    assert decide(registrar, prove(lab.request(document=card(1)))) == APPROVED
    audited: list[Any] = []
    guard = guard_of(lab.store, registrar, Caller("key:a", carrier="blue"), Limits())
    probe = HolderProbe(vector=person, threshold=0.4, actor="test", carrier="blue")
    holder = HolderComparison(registrar, lab.store, probe, lambda *one: audited.append(one), guard)
    with pytest.raises(ConsentWithdrawn):
        holder.check_line(line)
    # It counts, so that documents cannot be tried out.
    assert [bool(tallies) for _, tallies in audited] == [True]
    guardian = lab.guardian(person, 1, portrait=False)
    minor = lab.request(document=card(2, CHILD), guardian=guardian)
    assert decide(registrar, minor) == (Decision.REJECTED, Reason.GUARDIAN_REFUSED)
    renewing = lab.request(person, document=card(3), replaces=card(1))
    assert decide(registrar, renewing) == REFUSED
    assert find_damage(lab.store) == []
    # A mark that is taken away with its row's code is missed by the audit chain.
    documents = tables.documents
    with (
        lab.store._engine.begin() as connection,
        changing_rows(connection, lab.vault, documents, [key]),
    ):
        connection.execute(update(documents).where(documents.c.id == key).values(withdrawn=None))
    assert "is not as consent.withdrawn in the audit chain says" in find_damage(lab.store)[0]


def test_a_consent_given_since_opens_the_way_and_with_lines_two_people_look(lab, held) -> None:
    registrar, person, answer = held
    key, before = answer.decided.document_id, utc_now()
    withdraw(registrar, lab, key)
    # A carrier that nobody has withdrawn from is told nothing of others.
    assert decide(registrar, lab.request(person, document=card(1), **RED)) == ASKED
    for old in (Consent("C-9"), given(before)):
        assert decide(registrar, lab.request(person, document=card(1), consent=old)) == REFUSED
    (ahead,) = registrar.enroll([lab.request(consent=given(utc_now() + timedelta(hours=1)))])
    assert isinstance(ahead, RequestError)
    # Whoever brings a new consent may be anybody: the lines are not theirs yet.
    renewing = {"document": card(1), "consent": given(taken_by="r1")}
    (asked,) = ask(registrar, lab.request(person, **renewing))
    assert (asked.decision, *asked.reasons) == ASKED
    assert lab.store.people.exceptions([asked.enrollment_id])[asked.enrollment_id].cause == RENEWED
    assert lab.store.enrollment(asked.enrollment_id).consent == renewing["consent"].given
    assert decide(registrar, lab.request(person, document=card(1))) == REFUSED
    close(registrar, lab, asked.decided.cases[0].id, Outcome.UNFOUNDED)
    assert decide(registrar, lab.request(person, document=card(1))) == APPROVED
    # Without lines it is enough; what came in the same moment waits for the next.
    for one in lab.store.lines_in_use_of([key])[key]:
        close_line(registrar, lab.store, one.id, "test")
    withdraw(registrar, lab, key)
    both = [lab.request(person, document=card(1), consent=one) for one in (given(), Consent())]
    renewed, beside = ask(registrar, *both)
    assert (renewed.decision, beside.reasons) == (APPROVED[0], REFUSED[1:])
    assert lab.store.document(key).withdrawn is None
    assert find_damage(lab.store) == []


def test_consent_is_to_a_carrier_and_what_is_shared_goes_with_the_last(lab: Lab, held) -> None:
    registrar, person, answer = held
    key = answer.decided.document_id
    red = RED | {"document": card(1)}
    with pytest.raises(NotFound):
        withdraw(registrar, lab, key, "red")
    ask(registrar, lab.request(person, **red))
    assert withdraw(registrar, lab, key, "red").state == "shared"
    told = read_erasure(lab.store, key, "red")
    assert (told.state, told.scope, told.certificate) == ("shared", ErasureScope.FACE, None)
    with pytest.raises(TenantConflict):
        read_erasure(lab.store, key, "blue")
    assert decide(registrar, lab.request(person, **red)) == REFUSED
    assert decide(registrar, lab.request(person, document=card(1))) == APPROVED
    assert (made := withdraw(registrar, lab, key)).references == 1
    assert {read_erasure(lab.store, key, one).certificate for one in ("red", "blue")} == {made}
    assert len(registrar.gallery) == 0


def test_a_withdrawn_face_does_not_stay_for_a_line_that_showed_none(lab: Lab, held) -> None:
    registrar, _, answer = held
    (asked,) = ask(registrar, lab.request(document=card(1), **UNSEEN, **RED))
    close(registrar, lab, asked.decided.cases[0].id, Outcome.UNFOUNDED)
    assert withdraw(registrar, lab, answer.decided.document_id).references == 1


def test_consent_is_withdrawn_from_the_document_that_has_taken_the_place(lab: Lab, held) -> None:
    registrar, person, answer = held
    (moved,) = ask(registrar, lab.request(person, document=card(2), replaces=card(1)))
    made = withdraw(registrar, lab, answer.decided.document_id)
    assert made.document_id == moved.decided.document_id
    assert decide(registrar, lab.request(person, document=card(2))) == REFUSED


def test_an_exception_is_granted_by_the_consent_that_holds_then(lab: Lab, held) -> None:
    registrar, person, answer = held
    key, red = answer.decided.document_id, {"document": card(1), **RED}
    ask(registrar, lab.request(person, **red))

    def ask_two(**more: Any) -> str:
        asked = lab.request(person, document=card(1), exception=ExceptionCause.INJURY, **more)
        return ask(registrar, asked)[0].decided.cases[0].id

    assert withdraw(registrar, lab, key).is_shared
    close(registrar, lab, ask_two(portrait=ABSENT, consent=given()), Outcome.UNFOUNDED)
    assert lab.store.document(key).withdrawn is None
    outdated = ask_two(portrait=ABSENT, consent=given())
    assert withdraw(registrar, lab, key).is_shared
    with pytest.raises(CaseMoved, match="consent"):
        close(registrar, lab, outdated, Outcome.UNFOUNDED)
    faceless = ask_two(live=ABSENT, portrait=ABSENT)
    assert withdraw(registrar, lab, key, "red", hold=timedelta(days=1)).state == "pending"
    close(registrar, lab, faceless, Outcome.UNFOUNDED)
    assert sum(one.carrier == "blue" for one in lab.store.lines_of(key)) == 3


@pytest.mark.both_databases
def test_a_face_leaves_once_its_holders_last_line_anywhere_was_closed_for_its_time(
    lab: Lab, held
) -> None:
    registrar, person, answer = held
    key, schedule = answer.decided.document_id, only(faces_days=30, case_hold_days=30)

    def find_due_in(days: int) -> list[str]:
        until = find_until(schedule, utc_now() + timedelta(days=days))
        return find_due(lab.store, Retained.FACES, until, schedule.hold)

    def expire(document_id: str) -> Any:
        until = find_until(schedule, utc_now() + timedelta(days=31))
        given = (registrar, lab.store, document_id, "test", until, schedule.hold)
        return expire_face(*given)

    def open_line(number: int, **more: Any) -> Any:
        (made,) = ask(registrar, lab.request(person, document=card(number), **more))
        return made.decided

    def close_last(decided: Any) -> list[str]:
        close_line(registrar, lab.store, decided.line_id, "test")
        return find_due_in(31)

    red, guardian = open_line(1, **RED), lab.guardian(person, 1, portrait=False)
    (minors,) = ask(registrar, lab.request(document=card(8, CHILD), guardian=guardian))
    assert [close_last(one) for one in (answer.decided, red)] == [[], []]
    assert close_last(minors.decided) == sorted([key, minors.decided.document_id])
    assert find_due_in(29) == []
    expire(minors.decided.document_id)
    # A case holds it for so long; a line that has come since, for good.
    (beside,) = ask(registrar, lab.request(document=card(1)))
    assert (find_due_in(31), expire(key), find_due_in(61)) == ([], None, [key])
    close(registrar, lab, beside.decided.cases[0].id, Outcome.UNFOUNDED)
    moved = open_line(2, replaces=card(1))
    assert (find_due_in(61), expire(key)) == ([], None)
    # Of one person's documents the newest is the first.
    for one in (close_last(moved), [key]):
        made = expire(*one)
        assert (made.references, made.scope) == (1, ErasureScope.FACE)
        assert read_erasure(lab.store, made.document_id).certificate == made
        assert check_certificate(lab.store, made) is None
    assert (made.document_id, find_due_in(99), len(registrar.gallery)) == (key, [], 0)
    assert decide(registrar, lab.request(person, document=card(2))) == APPROVED
    # One without a face stands between, and lets none go that its holder's line still needs.
    third, _ = [open_line(number, replaces=card(number - 1)) for number in (3, 4)]
    erase_holder(registrar, lab.store, third.document_id, "test", scope=ErasureScope.FACE)
    assert (len(registrar.gallery), find_due_in(99)) == (2, [])
    assert find_damage(lab.store) == []


def test_an_open_case_holds_the_face_and_nothing_new_comes_to_it(lab: Lab, held) -> None:
    registrar, person, answer = held
    key = answer.decided.document_id
    # Somebody else's face with the document opens it.
    ask(registrar, lab.request(document=card(1)))
    waits = withdraw(registrar, lab, key, hold=timedelta(days=1))
    assert [one.scope for one in list_pending(lab.store)] == [ErasureScope.FACE]
    again = lab.request(person, document=card(1), consent=given())
    assert decide(registrar, again) == (Decision.REJECTED, Reason.ERASURE_PENDING)
    assert decide(registrar, prove(lab.request(document=card(1)))) == APPROVED
    # An erasure of the holder takes its place, and its time.
    whole = erase_holder(registrar, lab.store, key, "test", hold=timedelta(days=9))
    assert whole.due_at == waits.due_at
    assert [one.scope for one in list_pending(lab.store)] == [ErasureScope.HOLDER]
    assert find_damage(lab.store) == []


def test_no_import_takes_the_face_again_without_a_consent_given_since(lab: Lab) -> None:
    rules = PeopleRules(exceptions=True)
    with lab.registrar(clock=utc_now, people=rules) as opened:

        def take(one: Any) -> Any:
            return opened.run(lambda to, _: admit(lab.store, opened.gallery, to, [one])[0])

        withdraw(opened, lab, take(subscriber(1, 1, 1)).document_id)
        for again in (subscriber(1, 1, 2), subscriber(1, 1)):
            assert take(again).refusal == Reason.CONSENT_WITHDRAWN
        # A row without a line is of a carrier's base, too.
        renewed = take(replace(subscriber(1, 1), consent=given(), carrier="blue"))
        assert renewed.adds_reference
        kept = lab.store.identity(renewed.document_id).consent
        assert kept["consent"]["text_version"] == "3"
        assert take(subscriber(1, 1, 3)).refusal is None
        # Nor is it forgotten of a document that nobody held before.
        document = Document("cn-ric", number(2), "Holder 2")
        asked = lab.request(document=document, live=ABSENT, exception=ExceptionCause.AGE)
        key = ask(opened, asked)[0].decided.document_id
        withdraw(opened, lab, key, None)
        assert take(subscriber(2, 2)).refusal == Reason.CONSENT_WITHDRAWN
        both = [replace(subscriber(2, 2), consent=one) for one in (given(), Consent())]
        plan = opened.run(lambda to, _: admit(lab.store, opened.gallery, to, both))
        assert [one.refusal for one in plan] == [None, None]
        assert lab.store.document(key).withdrawn is None
    assert find_damage(lab.store) == []


def test_an_acknowledged_withdrawal_outlives_the_first_approval_under_its_document(
    lab: Lab, prepare
) -> None:
    person, rules = lab.people.person(), replace(RULES, exceptions=True)
    with lab.registrar(people=rules, clock=utc_now) as registrar:
        asked = prepare(1, person=person, exception=ExceptionCause.INJURY)
        key = ask(registrar, asked)[0].decided.document_id
        withdraw(registrar, lab, key, None, hold=timedelta(days=1))
        # In its batch, and after it.
        shown = [prove(prepare(1)), *(prepare(1, person=person) for _ in range(2))]
        proven, beside = ask(registrar, *shown[:2])
        (later,) = ask(registrar, shown[2])
    assert proven.decision is Decision.APPROVED
    assert all(Reason.ERASURE_PENDING in one.reasons for one in (beside, later))
