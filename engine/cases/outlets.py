"""Steps on outlets: suspended by one person at once, barred by a second, and lifted again.

A restricted outlet enrolls nobody. Each step has a reason and is an audited transaction on the
writer's thread; the history of the case that says why has it in words. What is between two people
is kept as in `steps`: a suspension is one person's, and a bar takes another who has seen it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from engine.cases.opening import date_change
from engine.errors import FourEyes, NotFound, OutletMoved, RequestError
from engine.formatting import require_visible
from engine.matching.registrar import Runner
from engine.registry.accounts import Outlet, OutletChange
from engine.registry.audit import AuditEntry
from engine.registry.cases import AddedNote, CaseChange, CaseRecord
from engine.registry.store import Reader
from engine.registry.writer import Writer
from schema.actors import Actor, Restriction
from schema.cases import CaseNote, NoteKind

MAX_REASON_LENGTH = 200
LIFTED = "lifted"


def suspend(
    registrar: Runner, registry: Reader, code: str, case_id: str, reason: str, actor: Actor
) -> Outlet:
    """Lets an outlet enroll nobody from now on, until it is lifted or barred.

    `NotFound` for an unknown outlet or case, `OutletMoved` where it is restricted or closed.
    """

    def perform(writer: Writer, now: datetime) -> None:
        outlet = find_outlet(registry, code)
        if not outlet.is_open:
            raise OutletMoved("the outlet is closed: it enrolls nobody")
        if outlet.restriction is not None:
            raise OutletMoved(f"the outlet is {outlet.restriction} already: read it again")
        change = _restrict(code, Restriction.SUSPENDED, actor, case_id, reason)
        _commit(writer, registry, change, now, actor, {})

    return _run(registrar, registry, code, reason, perform)


def bar(
    registrar: Runner, registry: Reader, code: str, case_id: str, reason: str, actor: Actor
) -> Outlet:
    """Bars an outlet that another person has suspended.

    `FourEyes` where nobody else has; `OutletMoved` where it is barred already.
    """

    def perform(writer: Writer, now: datetime) -> None:
        outlet = find_outlet(registry, code)
        if outlet.restriction == Restriction.BARRED:
            raise OutletMoved("the outlet is barred already: read it again")
        if outlet.restriction is None:
            raise FourEyes("this takes two people: suspend it, and let another person bar it")
        if outlet.restricted_person is None or actor.is_person(outlet.restricted_person):
            raise FourEyes("you suspended it, with whichever key: another person must bar it")
        change = _restrict(code, Restriction.BARRED, actor, case_id, reason)
        _commit(writer, registry, change, now, actor, {"suspended_by": outlet.restricted_by})

    return _run(registrar, registry, code, reason, perform)


def lift(
    registrar: Runner,
    registry: Reader,
    code: str,
    restriction: Restriction,
    reason: str,
    actor: Actor,
) -> Outlet:
    """Lets an outlet enroll again; `restriction` is what its caller has seen, and no other is
    lifted: `OutletMoved`."""

    def perform(writer: Writer, now: datetime) -> None:
        outlet = find_outlet(registry, code)
        if outlet.restriction != restriction:
            stands = outlet.restriction or "not restricted"
            raise OutletMoved(f"the outlet is {stands} now: read it again, then decide")
        change = OutletChange(code=code, case_id=outlet.restriction_case, reason=reason)
        refused = outlet.refused_attempts or 0
        detail = {"restriction": str(restriction), "refused_attempts": refused}
        _commit(writer, registry, change, now, actor, detail)

    return _run(registrar, registry, code, reason, perform)


def find_outlet(registry: Reader, code: str) -> Outlet:
    """The outlet with this code, and why; `NotFound` if there is none."""
    outlet = registry.outlets([code]).get(code)
    if outlet is None:
        raise NotFound("no outlet has this code: see `sosie outlet list`")
    return with_reasons(registry, [outlet])[0]


def with_reasons(registry: Reader, outlets: Sequence[Outlet]) -> list[Outlet]:
    """The outlets with why each is restricted, from the history of the case that says it; None
    where that was erased."""
    cases = [one.restriction_case for one in outlets if one.restriction_case is not None]
    told = registry.cases.restrictions(cases)
    return [
        replace(one, restriction_reason=_find_reason(one, told.get(one.restriction_case or "", ())))
        for one in outlets
    ]


def _find_reason(outlet: Outlet, notes: Sequence[str]) -> str | None:
    said = f"{outlet.restriction} {outlet.code}\n"
    return next((text[len(said) :] for text in reversed(notes) if text.startswith(said)), None)


def _restrict(
    code: str, restriction: Restriction, actor: Actor, case_id: str, reason: str
) -> OutletChange:
    return OutletChange(
        code=code,
        restriction=restriction,
        by=actor.name,
        person=actor.person,
        case_id=case_id,
        reason=reason,
    )


def _run(registrar: Runner, registry: Reader, code: str, reason: str, perform: Any) -> Outlet:
    if not reason.strip() or len(reason) > MAX_REASON_LENGTH:
        raise RequestError(f"a reason has 1 to {MAX_REASON_LENGTH} characters: give one")
    require_visible("reason", reason, is_prose=True)
    registrar.run(perform)
    return find_outlet(registry, code)


def _commit(
    writer: Writer,
    registry: Reader,
    change: OutletChange,
    now: datetime,
    actor: Actor,
    detail: Mapping[str, Any],
) -> None:
    assert change.case_id is not None, "whoever restricts an outlet names a case"
    case = _find_case(registry, change.case_id)
    done = str(change.restriction or LIFTED)
    entry = AuditEntry(actor.name, f"outlet.{done}", change.code, {"case": case.id, **detail})
    text = f"{done} {change.code}\n{change.reason}"
    note = CaseNote(now, actor.person, NoteKind.RESTRICTED, text)
    stored = replace(change, case_id=case.id)
    if change.restriction is None:
        stored = OutletChange(code=change.code)
    noted = CaseChange(replace(case, updated_at=date_change(case, now)))
    writer.commit([entry, stored, noted, AddedNote(case.id, note)])


def _find_case(registry: Reader, case_id: str) -> CaseRecord:
    """The case, or the one that it went into; a closed one too."""
    case = registry.cases.get(case_id)
    return case if case.merged_into is None else registry.cases.get(case.merged_into)
