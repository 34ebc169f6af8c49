"""Every action for every role, and every object for its own tenant and another's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from engine.errors import NotFound
from engine.registry.records import EnrollmentRecord
from serving.access.authorization import (
    PERMISSIONS,
    Action,
    Principal,
    Role,
    authorize,
    outlet_of,
    scope_of,
    see_enrollment,
    template_tenant,
)
from serving.errors import Forbidden, Malformed

OUTLET = Principal("k1", Role.OUTLET, "red", "r1")
CARRIER = Principal("k2", Role.CARRIER, "red")
FRAUD = Principal("k3", Role.FRAUD)
OPERATOR = Principal("k4", Role.OPERATOR)
EVERYBODY = (OUTLET, CARRIER, FRAUD, OPERATOR)

#                       outlet carrier fraud operator
ALLOWED = {
    "enroll":          ("yes", "yes", "no", "no"),
    "read_enrollment": ("yes", "yes", "yes", "yes"),
    "find_enrollment": ("yes", "yes", "no", "no"),
    "match":           ("yes", "yes", "yes", "no"),
    "issue_templates": ("yes", "yes", "yes", "no"),
    "search":          ("no", "yes", "yes", "no"),
    "verify_images":   ("yes", "yes", "yes", "no"),
    "verify_holder":   ("yes", "yes", "yes", "no"),
    "identify":        ("no", "no", "yes", "no"),
    "read_lines":      ("yes", "yes", "yes", "no"),
    "dispute_line":    ("yes", "yes", "yes", "no"),
    "close_line":      ("no", "yes", "no", "yes"),
    "erase_document":  ("no", "yes", "no", "yes"),
    "search_people":   ("no", "no", "yes", "no"),
    "read_crops":      ("no", "no", "yes", "no"),
    "sweep":           ("no", "no", "yes", "no"),
    "work_on_cases":   ("no", "no", "yes", "no"),
    "read_thresholds": ("yes", "yes", "yes", "yes"),
    "read_the_audit_chain": ("no", "no", "no", "yes"),
    "read_metrics":    ("no", "no", "no", "yes"),
}  # fmt: skip


def test_the_table_speaks_of_every_action_and_role() -> None:
    assert {action.value for action in Action} == set(ALLOWED) == set(PERMISSIONS)
    assert {principal.role for principal in EVERYBODY} == set(Role)


@pytest.mark.parametrize("action", ALLOWED)
@pytest.mark.parametrize("place", range(4))
def test_every_action_of_every_role_is_allowed_or_forbidden_as_written(
    action: str, place: int
) -> None:
    if ALLOWED[action][place] == "yes":
        authorize(EVERYBODY[place], Action(action))
    else:
        with pytest.raises(Forbidden) as caught:
            authorize(EVERYBODY[place], Action(action))
        assert EVERYBODY[place].role in str(caught.value)


#  who       asked outlet    the answer
ENROLLING: list[tuple[Principal, str | None, Any]] = [
    (OUTLET, None, ("red", "r1")),
    (OUTLET, "r1", ("red", "r1")),
    (OUTLET, "r2", Forbidden),
    (OUTLET, "b1", Forbidden),
    (OUTLET, "", Forbidden),
    (CARRIER, "r1", ("red", "r1")),
    (CARRIER, "r2", ("red", "r2")),
    (CARRIER, None, Malformed),
    (FRAUD, "r1", Forbidden),
    (FRAUD, None, Forbidden),
    (OPERATOR, "r1", Forbidden),
    (OPERATOR, None, Forbidden),
]


@pytest.mark.parametrize(("who", "outlet", "expected"), ENROLLING)
def test_a_key_enrolls_for_its_own_tenant_alone(
    who: Principal, outlet: str | None, expected: Any
) -> None:
    if isinstance(expected, tuple):
        assert outlet_of(who, outlet) == expected
    else:
        with pytest.raises(expected):
            outlet_of(who, outlet)


#   enrolled by     outlet carrier fraud operator
SEEN = {
    ("red", "r1"):  ("yes", "yes", "yes", "yes"),
    ("red", "r2"):  ("no", "yes", "yes", "yes"),
    ("blue", "b1"): ("no", "no", "yes", "yes"),
    ("blue", "r1"): ("no", "no", "yes", "yes"),
}  # fmt: skip


@pytest.mark.parametrize("tenant", SEEN)
@pytest.mark.parametrize("place", range(4))
def test_an_enrollment_of_another_tenant_is_not_there(tenant: tuple[str, str], place: int) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    record = EnrollmentRecord(
        "e1", 0, *tenant, None, "approved", (), {}, None, None, moment
    )  # fmt: skip
    if SEEN[tenant][place] == "yes":
        see_enrollment(EVERYBODY[place], record)
    else:
        with pytest.raises(NotFound) as caught:
            see_enrollment(EVERYBODY[place], record)
        assert str(caught.value) == "no enrollment has this id: check it"


def test_a_tenants_key_is_confined_to_its_carrier_and_the_others_to_none() -> None:
    assert [scope_of(principal) for principal in EVERYBODY] == ["red", "red", None, None]


def test_a_template_belongs_to_the_carrier_or_to_the_role() -> None:
    tenants = [template_tenant(principal) for principal in EVERYBODY]
    assert tenants == ["carrier:red", "carrier:red", "role:fraud", "role:operator"]
    named_alike = Principal("k5", Role.CARRIER, "role:fraud")
    assert template_tenant(named_alike) not in tenants


@pytest.mark.parametrize("role", [Role.OUTLET, Role.CARRIER])
def test_a_tenants_key_without_a_tenant_may_do_nothing(role: Role) -> None:
    unbound = Principal("k6", role)
    with pytest.raises(Forbidden):
        scope_of(unbound)
    with pytest.raises(Forbidden):
        outlet_of(unbound, "r1")
    with pytest.raises(Forbidden):
        template_tenant(unbound)
    half = Principal("k7", Role.OUTLET, "red")
    with pytest.raises(Forbidden):
        outlet_of(half, None)
