"""`/v1/cases`: the queue of the fraud team, a case with its history, and the steps people take; and
`/v1/outlets`: suspended, barred and lifted, and what was enrolled at one before."""

import asyncio
from datetime import timedelta

from engine.cases.outlets import find_outlet, with_reasons
from engine.errors import NotFound, SosieError
from engine.registry.database import utc_now
from engine.registry.queues import AttemptFilter, CaseFilter
from serving.access.authorization import Action, Principal, authorize, scope_of
from serving.api import people, serializers
from serving.api.request import Request, next_page, note
from serving.case_report import ReportTerms, gather_case, write_case
from serving.errors import Malformed, ServiceRefusal, describe
from serving.ingress.parts import Parts
from serving.wire import cases as wire
from serving.wire.fields import of_record
from serving.wire.matching import ItemError


async def list_cases(parts: Parts, request: Request, query: wire.CaseQuery) -> wire.CasePage:
    """A page of the queue: what tells cases apart, with names and numbers masked; who reads them is
    audited.
    """
    page = await asyncio.to_thread(_find, parts, query, request.caller)
    await note(request, "cases.read", "queue", cases=[one.case_id for one in page.cases])
    return page


async def read_case(parts: Parts, request: Request, case_id: str) -> wire.CaseFile:
    """A case with its history and its documents; audited."""
    shown = await asyncio.to_thread(serializers.case_file, parts.store, case_id)
    documents = [one.document_id for one in shown.documents]
    await note(request, "case.read", case_id, documents=documents)
    return shown


async def assign_case(
    _: Parts, request: Request, body: wire.AssignRequest, case_id: str
) -> wire.Case:
    """Gives the case to a person, or back to the queue."""
    assignee = request.caller.name if body.assignee == wire.ME else body.assignee
    return people.case(await request.registrar.assign_case(case_id, assignee))


async def note_case(_: Parts, request: Request, body: wire.NoteRequest, case_id: str) -> wire.Case:
    """Adds a remark to the history; sealed in the registry."""
    return people.case(await request.registrar.note_case(case_id, body.text))


async def reveal_case(
    parts: Parts, request: Request, body: wire.RevealRequest, case_id: str
) -> wire.RevealedCase:
    """Shows whom the case is about, names and numbers in full, with the reason in its history. One
    person is shown so many people a day (429 beyond, `REQUEST.TOO_MANY_FAILURES`); audited.
    """
    shown = await asyncio.to_thread(serializers.revealed_case, parts.store, case_id)
    ids = [one.document_id for one in shown.documents]
    await request.registrar.reveal_case(case_id, ids, body.reason)
    return shown


async def propose_outcome(
    _: Parts, request: Request, body: wire.OutcomeRequest, case_id: str
) -> wire.Case:
    """Proposes an outcome, and the lines to be closed by it, for another person to decide. Fraud
    whose documents have lines in use names those to close, or says that they stay: 400 else.
    """
    return people.case(await request.registrar.propose_outcome(case_id, body))


async def withdraw_proposal(_: Parts, request: Request, case_id: str) -> wire.Case:
    """Takes the proposal back, also that a closed case be opened again."""
    return people.case(await request.registrar.withdraw_proposal(case_id))


async def close_case(
    _: Parts, request: Request, body: wire.OutcomeRequest, case_id: str
) -> wire.Case:
    """Closes the case. It takes two people: another person must have proposed the same outcome and
    the same lines, whichever keys they have. One may say that a dispute is unfounded. Fraud
    puts the faces on the watch-list; twins and mistakes are exceptions for later sweeps; an
    unfounded dispute leaves its lines active.
    """
    return people.case(await request.registrar.close_case(case_id, body))


async def end_cases(parts: Parts, request: Request, body: wire.EndingsRequest) -> wire.EndedCases:
    """Proposes an outcome for each of up to 100 cases that are alike, or closes each by what
    another person has proposed, one after the other, as if each were sent alone: the answer says of
    each what it is then, or why it was refused. Every case counts into the key's rate.
    """
    parts.authenticator.charge(request.caller, len(body.cases) - 1)
    registrar = request.registrar
    take = registrar.propose_outcome if body.step == "propose" else registrar.close_case
    ended = []
    for one in body.cases:
        try:
            case, error = people.case(await take(one.case_id, one)), None
        except (SosieError, ServiceRefusal) as refusal:
            fault = describe(refusal)
            case, error = None, ItemError(fault.code, fault.message)
        ended.append(wire.EndedCase(one.case_id, case, error))
    return wire.EndedCases(tuple(ended))


async def reopen_case(
    parts: Parts, request: Request, body: wire.ReopenRequest, case_id: str
) -> wire.CaseFile:
    """Asks that a closed case be opened again; by another person than who has asked, opens it.
    Exceptions of its decision end, and so do watched faces. `closed_lines` stay closed: who needs
    one enrolls again. 409 for an exception, which is asked for anew. Audited as read, too.
    """
    await request.registrar.reopen_case(case_id, body)
    return await read_case(parts, request, case_id)


async def report_case(
    parts: Parts, request: Request, body: wire.CaseReportRequest, case_id: str
) -> wire.CaseReport:
    """Makes one file of a case: who, what, when, what each score means, both faces where they are
    kept and asked for, the history, and where all of it stands in the audit chain. Names and
    numbers in full only where asked; audited.
    """
    if body.faces:
        authorize(request.caller, Action.READ_CROPS)
    if body.reveal:
        authorize(request.caller, Action.REVEAL)
    terms = ReportTerms(
        has_faces=body.faces,
        is_revealed=body.reveal,
        carrier=scope_of(request.caller) or body.carrier,
    )
    store = parts.store
    report = await asyncio.to_thread(gather_case, store, parts.calibration, case_id, terms)
    told = report.describe()
    if body.reveal:
        await request.registrar.reveal_case(case_id, told["documents"], None)
    await note(request, "case.reported", case_id, **told)
    return await asyncio.to_thread(write_case, report, store)


def _find(parts: Parts, query: wire.CaseQuery, caller: Principal) -> wire.CasePage:
    wanted = CaseFilter(
        **serializers.read_state(query.state),
        kind=query.kind,
        assignees=name_assignees(query.assignee, caller),
        to_approve_by=name_assignees(wire.ME if query.to_approve else None, caller),
        carriers=(*query.carriers, *filter(None, [query.carrier])),
        outlets=(*query.outlets, *filter(None, [query.outlet])),
        id_end=query.id_end,
        overdue_at=utc_now() if query.overdue else None,
    )
    terms = (wanted, query.sort, parts.deployment.settings.cases, query.limit, query.after)
    try:
        return serializers.queue_page(parts.store, *terms, name_assignees(wire.ME, caller))
    except NotFound:
        raise Malformed("after: no case, so no `next` of a page") from None


def name_assignees(person: str | None, caller: Principal) -> tuple[str, ...]:
    """Whom a filter of the queue asks for, by every name that they had."""
    if person == wire.ME:
        # Cases that were assigned before keys were people's name the key.
        return caller.name, caller.credential
    return () if person is None else (person,)


def list_outlets(parts: Parts, _: Request, query: wire.OutletsQuery) -> wire.OutletList:
    """The outlets that may enroll nobody, those with most refused attempts first."""
    store = parts.store
    found = [
        one
        for one in store.restricted_outlets()
        if query.carrier in (None, one.carrier) and query.restriction in (None, one.restriction)
    ]
    found.sort(key=lambda one: (-(one.refused_attempts or 0), one.code))
    # One that was lifted since the page before is in no list: then from the first again.
    places = [place for place, one in enumerate(found) if one.code == query.after]
    start = places[0] + 1 if places else 0
    page = with_reasons(store, found[start : start + query.limit])
    shown = serializers.outlets(store, page, wire.OutletState)
    return wire.OutletList(shown, next_page(shown, query.limit, lambda one: one.outlet))


def count_exceptions(parts: Parts, _: Request, query: wire.ExceptionsQuery) -> wire.ExceptionCounts:
    """The outlets that have asked for exceptions of late, those with most first."""
    found = parts.store.people.count_by_outlet(utc_now() - timedelta(days=query.days))
    wanted = [one for one in found if query.carrier in (None, one.carrier)]
    return wire.ExceptionCounts(tuple(of_record(wire.OutletExceptions, one) for one in wanted))


def read_outlet(parts: Parts, _: Request, outlet: str) -> wire.OutletState:
    """Whether an outlet may enroll, why not, and what liveness checks brought there."""
    return serializers.outlet(parts.store, find_outlet(parts.store, outlet))


async def suspend_outlet(
    parts: Parts, request: Request, body: wire.RestrictRequest, outlet: str
) -> wire.OutletState:
    """Lets the outlet enroll nobody, at once; one person may. Attempts are refused (403
    `REQUEST.OUTLET_RESTRICTED`), audited and counted.
    """
    found = await request.registrar.suspend_outlet(outlet, body.case_id, body.reason)
    return await asyncio.to_thread(serializers.outlet, parts.store, found)


async def bar_outlet(
    parts: Parts, request: Request, body: wire.RestrictRequest, outlet: str
) -> wire.OutletState:
    """Bars an outlet that another person has suspended."""
    found = await request.registrar.bar_outlet(outlet, body.case_id, body.reason)
    return await asyncio.to_thread(serializers.outlet, parts.store, found)


async def lift_restriction(
    parts: Parts, request: Request, body: wire.LiftRequest, outlet: str
) -> wire.OutletState:
    """Lets the outlet enroll again. Its case keeps the history."""
    found = await request.registrar.lift_restriction(outlet, body.restriction, body.reason)
    return await asyncio.to_thread(serializers.outlet, parts.store, found)


async def list_past_enrollments(
    parts: Parts, request: Request, query: wire.PastQuery, outlet: str
) -> wire.PastEnrollments:
    """What was attempted at an outlet, for a look; names and numbers masked, audited."""
    shown = await asyncio.to_thread(_find_attempts, parts, request, query, outlet)
    ids = [one.enrollment_id for one in shown]
    await note(request, "enrollments.read", outlet, enrollments=ids)
    following = next_page(shown, query.limit, lambda one: one.enrollment_id)
    return wire.PastEnrollments(enrollments=shown, next=following)


def _find_attempts(
    parts: Parts, request: Request, query: wire.PastQuery, outlet: str
) -> tuple[wire.PastEnrollment, ...]:
    find_outlet(parts.store, outlet)
    wanted = AttemptFilter(
        outlet=outlet,
        decision=query.decision,
        id_end=query.id_end,
        oldest_first=query.sort == "oldest",
        case=CaseFilter(
            **serializers.read_state(query.state),
            kind=query.kind,
            assignees=name_assignees(query.assignee, request.caller),
            overdue_at=utc_now() if query.overdue else None,
        ),
    )
    read, due = parts.store.cases.attempts, parts.deployment.settings.cases
    try:
        found = read(wanted, due=due, limit=query.limit, after=query.after)
    except NotFound:
        raise Malformed("after: no enrollment, so no `next` of a page") from None
    return serializers.past_enrollments(parts.store, found)
