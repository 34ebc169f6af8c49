"""Steps on outlets: suspended by one person at once, barred by a second, and lifted again.

A restricted outlet enrolls nobody. Each step has a reason and is an audited transaction on the
writer's thread; the history of the case that says why has it in words. What is between two people
is kept as in `steps`: a suspension is one person's, and a bar takes another who has seen it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.errors import FourEyes, NotFound, OutletMoved, RequestError
from engine.formatting import require_visible
from engine.matching.holders import tell_cases
from engine.registry.accounts import Outlet, OutletChange
from engine.registry.audit import AuditEntry
from engine.registry.store import Reader, WriterCall, on_writer
from schema.actors import Actor, Restriction
from schema.cases import CaseNote, NoteKind

MAX_REASON_LENGTH = 200
LIFTED = "lifted"


@on_writer
def suspend(call: WriterCall, code: str, case_id: str, reason: str, actor: Actor) -> Outlet:
    """Lets an outlet enroll nobody from now on, until it is lifted or barred.

    `NotFound` for an unknown outlet or case, `OutletMoved` where it is restricted or closed.
    """
    outlet = find_outlet(call.registry, code)
    if not outlet.is_open:
        raise OutletMoved("the outlet is closed: it enrolls nobody")
    if outlet.restriction is not None:
        raise OutletMoved(f"the outlet is {outlet.restriction} already: read it again")
    return _restrict(call, code, Restriction.SUSPENDED, case_id, reason, actor, {})


@on_writer
def bar(call: WriterCall, code: str, case_id: str, reason: str, actor: Actor) -> Outlet:
    """Bars an outlet that another person has suspended.

    `FourEyes` where nobody else has; `OutletMoved` where it is barred already.
    """
    outlet = find_outlet(call.registry, code)
    if outlet.restriction == Restriction.BARRED:
        raise OutletMoved("the outlet is barred already: read it again")
    if outlet.restriction is None:
        raise FourEyes("this takes two people: suspend it, and let another person bar it")
    if outlet.restricted_person is None or actor.is_person(outlet.restricted_person):
        raise FourEyes("you suspended it, with whichever key: another person must bar it")
    detail = {"suspended_by": outlet.restricted_by}
    return _restrict(call, code, Restriction.BARRED, case_id, reason, actor, detail)


@on_writer
def lift(
    call: WriterCall, code: str, restriction: Restriction, reason: str, actor: Actor
) -> Outlet:
    """Lets an outlet enroll again; `restriction` is what its caller has seen, and no other is
    lifted: `OutletMoved`."""
    outlet = find_outlet(call.registry, code)
    if outlet.restriction != restriction:
        stands = outlet.restriction or "not restricted"
        raise OutletMoved(f"the outlet is {stands} now: read it again, then decide")
    assert outlet.restriction_case is not None, "whoever restricts an outlet names a case"
    refused = outlet.refused_attempts or 0
    detail = {"restriction": str(restriction), "refused_attempts": refused}
    return _restrict(call, code, None, outlet.restriction_case, reason, actor, detail)


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
    call: WriterCall,
    code: str,
    restriction: Restriction | None,
    case_id: str,
    reason: str,
    actor: Actor,
    detail: Mapping[str, Any],
) -> Outlet:
    """Restricts an outlet, or with None lifts it; the history of the case has the reason."""
    if not reason.strip() or len(reason) > MAX_REASON_LENGTH:
        raise RequestError(f"a reason has 1 to {MAX_REASON_LENGTH} characters: give one")
    require_visible("reason", reason, is_prose=True)
    case = call.registry.cases.get(case_id)
    if case.merged_into is not None:
        case = call.registry.cases.get(case.merged_into)
    done = str(restriction or LIFTED)
    entry = AuditEntry(actor.name, f"outlet.{done}", code, {"case": case.id, **detail})
    by = {"by": actor.name, "person": actor.person, "case_id": case.id} if restriction else {}
    change = OutletChange(code=code, restriction=restriction, **by)
    note = CaseNote(call.now, actor.person, NoteKind.RESTRICTED, f"{done} {code}\n{reason}")
    call.commit(entry, change, *tell_cases([case], note))
    return find_outlet(call.registry, code)
