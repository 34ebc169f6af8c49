"""Whom templates and holders' names are for, and what of a decision a tenant is shown.

`tests/serving/api/test_access_matrix.py` has every route for every role and tenant.
"""

import pytest
from msgspec.structs import replace

from engine.matching.policy import Candidate
from engine.matching.requests import Answer
from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from schema.actors import Role
from schema.cases import CaseKind
from schema.decisions import DecidedEnrollment, Finding, FoundReferences, OpenedCase, Scores
from schema.reasons import About, Decision, Reason, Row
from serving.access.authorization import (
    Action,
    Principal,
    name_holder,
    outlet_of,
    scope_of,
    tenant_of,
)
from serving.api.serializers import enrollment
from serving.errors import Forbidden
from serving.wire.enrollments import Enrollment
from tests.engine.registry.conftest import ANSWER

OUTLET = Principal("k1", Role.OUTLET, "red", "r1")
CARRIER = Principal("k2", Role.CARRIER, "red")
FRAUD = Principal("k3", Role.FRAUD)
OPERATOR = Principal("k4", Role.OPERATOR)
METRICS = Principal("k8", Role.METRICS)
EVERYBODY = (OUTLET, CARRIER, FRAUD, OPERATOR)


def test_a_template_belongs_to_the_carrier_or_to_the_role() -> None:
    tenants = [tenant_of(principal) for principal in EVERYBODY]
    assert tenants == ["carrier:red", "carrier:red", "role:fraud", "role:operator"]
    named_alike = Principal("k5", Role.CARRIER, "role:fraud")
    assert tenant_of(named_alike) not in tenants


def test_a_key_for_metrics_reads_them_and_touches_nobodys_rows() -> None:
    assert {one for one in Action if METRICS.role in one.roles} == {Action.READ_METRICS}
    with pytest.raises(Forbidden):
        scope_of(METRICS)
    assert METRICS.holder == ("role:metrics", "k8")


@pytest.mark.parametrize("role", [Role.OUTLET, Role.CARRIER])
def test_a_tenants_key_without_a_tenant_may_do_nothing(role: Role) -> None:
    unbound = Principal("k6", role)
    with pytest.raises(Forbidden):
        scope_of(unbound)
    with pytest.raises(Forbidden):
        outlet_of(unbound, "r1")
    with pytest.raises(Forbidden):
        tenant_of(unbound)
    half = Principal("k7", Role.OUTLET, "red")
    with pytest.raises(Forbidden):
        outlet_of(half, None)


STORED = replace(
    ANSWER,
    decision=Decision.REVIEW,
    reasons=(Finding.of(Reason.POSSIBLE_DUPLICATE),),
    scores=Scores(0.8, 0.5, 0.6),
    document_id="d0",
    duplicate_search=FoundReferences(ran=True, candidates=(Candidate(7, "d1", 0.6),)),
)


def show(principal: Principal, decided: DecidedEnrollment) -> Enrollment:
    return enrollment(principal, Answer(decided), "k", "")


def test_no_case_tells_a_tenant_what_is_withheld_of_anothers_child() -> None:
    case, told = OpenedCase("c1", "stolen_document"), Reason.GUARDIAN_CHANGED
    reasons = (Finding(told, Decision.REVIEW),)
    stored = replace(STORED, reasons=reasons, cases=[case], is_face_waived=True)
    shown = show(CARRIER, stored)
    assert "GUARDIAN_CHANGED" not in str(shown)
    assert shown.cases == ()
    assert show(FRAUD, stored).cases == (case,)


def test_a_reason_without_an_audience_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        Row("NEW", About.GUARDIAN)  # type: ignore[call-arg]
    with pytest.raises(AssertionError):
        Reason._new_member_(Reason, "NEW")  # type: ignore[attr-defined]


def test_a_kind_of_case_that_nobody_gave_an_audience_is_told_to_no_tenant() -> None:
    cases = [OpenedCase(one, one) for one in [*CaseKind, "x"]]
    stored = replace(STORED, reasons=(), cases=cases)
    assert {one.kind for one in show(CARRIER, stored).cases} == {"stolen_document", "exception"}
    assert show(FRAUD, stored).cases == tuple(cases)


def test_a_holder_has_one_name_for_each_carrier_and_deployment(vault) -> None:
    others = Vault(KeyRing.generate(), 8)
    names = [
        name_holder(keys, carrier, document)
        for keys in (vault, others)
        for carrier in ("red", "blue")
        for document in ("d1", "d2")
    ]
    assert len(set(names)) == 8
    assert {len(bytes.fromhex(name)) for name in names} == {16}
    assert names[0] == name_holder(vault, "red", "d1")


@pytest.mark.parametrize(
    ("decision", "document_id"), [("approved", "d0"), ("review", "d0"), ("rejected", None)]
)
def test_a_rejected_enrollment_names_no_document_to_a_tenant(
    decision: str, document_id: str | None
) -> None:
    stored = replace(STORED, decision=Decision(decision))
    assert show(CARRIER, stored).document_id == document_id
    assert show(OPERATOR, stored).document_id == "d0"


def test_how_like_anybody_a_face_is_stays_hidden_from_tenants() -> None:
    held = (Finding.of(Reason.DOCUMENT_HELD_BY_ANOTHER_FACE),)
    refused = replace(STORED, decision=Decision.REJECTED, reasons=held)
    for principal in (OUTLET, CARRIER):
        for stored in (refused, STORED):
            shown = show(principal, stored)
            assert shown.scores == Scores(0.8, None, None)
            assert shown.duplicate_search.candidates is None
    for principal in (FRAUD, OPERATOR):
        assert show(principal, refused).scores.holder == 0.5


@pytest.mark.parametrize(
    ("reasons", "is_own", "told"),
    [
        (("BLURRED", "NAME_MISMATCH", "LINE_IN_USE"), True, ("BLURRED",)),
        (("NAME_MISMATCH", "FACE_MISMATCH", "POSSIBLE_DUPLICATE"), True, ("FACE_MISMATCH",)),
        (("DOCUMENT_INVALID", "LINE_IN_USE"), False, ("DOCUMENT_INVALID",)),
        (("DOCUMENT_HELD_BY_ANOTHER_FACE", "NAME_MISMATCH"), False, ("WITHHELD",)),
        (
            ("NAME_MISMATCH", "DOCUMENT_HELD_BY_ANOTHER_FACE", "WATCHLISTED"),
            True,
            ("NAME_MISMATCH", "DOCUMENT_HELD_BY_ANOTHER_FACE"),
        ),
        (("DUPLICATE_IDENTITY", "LINE_IN_USE"), False, ("LINE_IN_USE",)),
        (("DUPLICATE_IDENTITY", "NAME_MISMATCH"), False, ("DUPLICATE_IDENTITY",)),
        (("GUARDIAN_DUPLICATE", "LINE_LIMIT_REACHED"), True, ("LINE_LIMIT_REACHED",)),
        (("NAME_MISMATCH", "LINE_IN_USE"), False, ("NAME_MISMATCH", "LINE_IN_USE")),
        (("NAME_MISMATCH", "GUARDIAN_DUPLICATE", "WATCHLISTED"), True, ("GUARDIAN_DUPLICATE",)),
        (("GUARDIAN_MISSING", "LINE_IN_USE"), True, ("GUARDIAN_MISSING", "LINE_IN_USE")),
    ],
)
def test_a_tenant_is_told_of_a_holder_where_face_and_document_agree(
    reasons: tuple[str, ...], is_own: bool, told: tuple[str, ...]
) -> None:
    # Each guardian is known under another identity beyond doubt.
    found = tuple(
        Finding(reason, Decision.REJECTED) if "GUARDIAN" in reason else Finding.of(reason)
        for reason in map(Reason, reasons)
    )
    stored = replace(STORED, decision=Decision.REJECTED, reasons=found, is_own_holder=is_own)
    assert tuple(one.reason for one in show(CARRIER, stored).reasons) == told
    assert tuple(one.reason for one in show(FRAUD, stored).reasons) == reasons


@pytest.mark.parametrize(
    "beside",
    ["LINE_IN_USE", "DOCUMENT_HELD_BY_ANOTHER_FACE", "NAME_MISMATCH", "WATCHLISTED", "BLURRED"],
)
@pytest.mark.parametrize("found", ["DUPLICATE_IDENTITY", "POSSIBLE_DUPLICATE"])
def test_an_attempt_that_fails_anyway_is_shown_as_if_nobody_looked_alike(
    beside: str, found: str
) -> None:
    brings, case = Reason(beside).row.brings, OpenedCase("c1", found.lower())
    finding, alike = (Finding(Reason(one), brings) for one in (beside, found))
    nobody = FoundReferences(ran=True, candidates=())
    missed = replace(STORED, decision=brings, reasons=(finding,), duplicate_search=nobody)
    hit = replace(STORED, decision=brings, reasons=(finding, alike), cases=[case])
    assert show(CARRIER, hit) == show(CARRIER, missed)
    assert [one.reason for one in show(FRAUD, hit).reasons] == [beside, found]
    assert show(FRAUD, hit).cases == (case,)
