"""Steps of analysts on a case, each an audited transaction on the writer's thread.

What judges people takes two of them, however many keys one has: every outcome, and every closing of
lines, but that a dispute is unfounded. One proposes the outcome and the lines, another closes with
the same. Fraud whose documents have lines in use says which are closed, or that they stay: both
people have seen them. `NotFound` for an unknown case; `CaseMoved` where it is closed or was merged
into another.

A case may grow after an analyst has read it, when another is merged into it, and an outcome would
then cover people whom nobody has seen. With `seen_at`, the `updated_at` of the case as it was read,
such a step is refused with `CaseMoved`. A moment after that is refused too: a case that grows until
then would pass.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Self

from msgspec import structs

from engine.cases.grants import decide_exception
from engine.cases.opening import date_change, state_of
from engine.cases.suspects import Suspects
from engine.errors import CaseMoved, FourEyes, RequestError, TooManyFailures
from engine.formatting import duration, is_visible, plural, require_visible
from engine.matching.checks.limits import Bound, lift_end
from engine.matching.registrar import Runner
from engine.registry.audit import AuditEntry
from engine.registry.cases import AddedNote, CaseChange, CaseRecord
from engine.registry.enrollments import Tally
from engine.registry.lines import LineChange
from engine.registry.rows import Write
from engine.registry.store import Reader, WriterCall, on_writer
from engine.registry.sweeps import JudgedPair, UndonePairs
from engine.registry.watchlist import BY_CASE, RemovedWatchEntry, WatchEntry
from engine.registry.writer import Writer, publish
from schema import frozen
from schema.actors import Actor, fold_person
from schema.cases import ALIVE, CaseKind, CaseNote, CaseState, NoteKind, Outcome, Proposal
from schema.lines import LineEventKind, LineStatus

MAX_CLOSED_LINES = 1_000


@frozen
class Effects:
    """Effects of an outcome: judged pairs, watched faces, lines closed or active again."""

    judged: Sequence[JudgedPair] = ()
    watched: Sequence[WatchEntry] = ()
    closed_lines: Sequence[str] = ()
    restored_lines: Sequence[str] = ()


def find_effects(
    registrar: Runner,
    registry: Reader,
    writer: Writer,
    case: CaseRecord,
    outcome: Outcome,
    lines: Sequence[str],
    actor: str,
    now: datetime,
) -> Effects:
    """The effects of closing a case with an outcome and with `lines` to be closed."""
    judged: Sequence[JudgedPair] = ()
    watched: Sequence[WatchEntry] = ()
    if outcome in {Outcome.FRAUD, Outcome.TWINS, Outcome.MISTAKE}:
        suspects = Suspects(registry, registrar.gallery, case)
        judged = suspects.judge(outcome, actor, now, writer.sequence, writer.model_digest)
        if outcome is Outcome.FRAUD:
            watched = suspects.watch(registrar.watchlist, writer.next_watch_id, now)
    found = registry.lines_by_id([*lines, *case.line_ids])
    # A line may have been closed since it was proposed.
    in_use = [key for key in lines if found[key].status is not LineStatus.CLOSED]
    is_dispute = outcome is Outcome.UNFOUNDED and case.kind == CaseKind.DISPUTE
    named = [one.document_id for one in found.values()] if is_dispute else []
    dead = registry.people.standing(named).deceased
    disputed = [
        key
        for key in case.line_ids
        if is_dispute
        and found[key].status is LineStatus.DISPUTED
        and key not in in_use
        # Of one who is reported dead that report says how long.
        and found[key].document_id not in dead
    ]
    return Effects(judged, watched, in_use, disputed)


def check_lines(registry: Reader, case: CaseRecord, line_ids: Sequence[str]) -> tuple[str, ...]:
    """The lines without repetition; `RequestError` unless in use under documents of the case."""
    lines = tuple(dict.fromkeys(line_ids))
    if len(lines) > MAX_CLOSED_LINES:
        raise RequestError(f"one case closes at most {MAX_CLOSED_LINES} lines: choose fewer")
    found = registry.lines_by_id(lines)
    documents = set(case.document_ids)
    for key in lines:
        line = found.get(key)
        if line is None or line.document_id not in documents or line.status is LineStatus.CLOSED:
            raise RequestError(
                "a line to be closed is not in use under a document of the case: read it again"
            )
    return lines


def require_said(
    registry: Reader, case: CaseRecord, outcome: Outcome, lines: Sequence[str], keep_lines: bool
) -> None:
    """`RequestError` for fraud that says of lines in use neither which are closed nor that they
    stay: whoever forgets them would leave all of them working."""
    if outcome is not Outcome.FRAUD or lines or keep_lines:
        return
    in_use = sum(map(len, registry.lines_in_use_of(case.document_ids).values()))
    if in_use:
        raise RequestError(
            f"{plural(in_use, 'number')} of its documents in use, and none is to be closed: "
            "name those to close, or say that they stay (keep_lines)"
        )


def require_second_person(
    case: CaseRecord, outcome: Outcome, lines: Sequence[str], keep_lines: bool, actor: Actor
) -> None:
    """`FourEyes` unless another person proposed this outcome with these lines."""
    proposal = case.proposal
    if proposal is None:
        raise FourEyes("this takes two people: propose it, and let another person close")
    if not _is_followed(proposal, outcome, lines, keep_lines):
        raise FourEyes(
            "another outcome or other lines were proposed, or that lines stay: close exactly what "
            "was proposed, or withdraw it"
        )
    if proposal.person is None:
        raise FourEyes("it is not known which person proposed this: withdraw it, propose it anew")
    if actor.is_person(proposal.person):
        raise FourEyes("you proposed this, with whichever key: another person must close the case")


def _is_followed(
    proposal: Proposal, outcome: Outcome, lines: Sequence[str], keep_lines: bool
) -> bool:
    proposed = (proposal.outcome, set(proposal.close_lines), proposal.keep_lines)
    return proposed == (outcome, set(lines), keep_lines)


MAX_NOTE_LENGTH = 4_000
MAX_ACTOR_LENGTH = 200


@on_writer
def assign(call: WriterCall, case_id: str, assignee: str | None, actor: Actor) -> CaseRecord:
    """Assign a case to a person, or with None return it to the queue; a proposal is kept."""
    if assignee is not None and (
        not assignee.strip() or len(assignee) > MAX_ACTOR_LENGTH or not is_visible(assignee)
    ):
        raise RequestError("an assignee is given as histories name people")
    case = _find_open(call.registry, case_id)
    state = case.state if case.proposal is not None else state_of(assignee)
    assigned = replace(case, assignee=assignee, state=state)
    return _keep(call, actor, assigned, NoteKind.ASSIGNED, assignee or "", {"assignee": assignee})


@on_writer
def note(call: WriterCall, case_id: str, text: str, actor: Actor) -> CaseRecord:
    """Add a note to the history of a case, even a closed one; the audit does not have its text.

    `RequestError` for a text that is blank or too long, `TextRefused` for hidden characters.
    """
    _require_text(text)
    case = _find(call.registry, case_id)
    return _keep(call, actor, case, NoteKind.NOTE, text, {"length": len(text)})


REVEALED = Bound(100, timedelta(days=1))
"""People whose names one person is shown in full, over all their keys and sessions."""


@frozen
class Revealed(Tally):
    """Counts people whom a person is about to be shown in full; `TooManyFailures`, in the
    transaction that counts them, without room for `least`."""

    least: int

    @classmethod
    def to(cls, actor: Actor, people: int, least: int = 1) -> Self:
        name = f"revealed:{fold_person(actor.person)}"[:200]
        return cls(name, people, REVEALED.each, REVEALED.most, least)

    def raised(self, level: float) -> float:
        if wait_s := REVEALED.wait(level + self.least - 1).total_seconds():
            most = f"one person is shown {REVEALED.most} people in full a day"
            raise TooManyFailures(f"{most}: ask again in {duration(wait_s)}", wait_s)
        return level + self.amount


@on_writer
def reveal(
    call: WriterCall, case_id: str, documents: Sequence[str], reason: str | None, actor: Actor
) -> None:
    """Keep that a person is about to be shown whom these documents of a case name, and count it.
    The history has the reason; in a report, which has none, the audit chain alone says it.

    `TooManyFailures` for more people than one may be shown; `RequestError` for no reason.
    """
    case = call.registry.cases.get(case_id)
    told: list[Write] = []
    if reason is not None:
        _require_text(reason)
        told = [AddedNote(case.id, CaseNote(call.now, actor.person, NoteKind.REVEALED, reason))]
    entry = AuditEntry(actor.name, "case.revealed", case.id, {"documents": list(documents)})
    # A report may show more than are left, though none that is asked for after it.
    least = len(documents) if told else 1
    call.commit(entry, *told, Revealed.to(actor, len(documents), least))


@on_writer
def reveal_subject(call: WriterCall, document_id: str, reason: str, actor: Actor) -> None:
    """The same of all that is kept about the holder of a document."""
    _require_text(reason)
    entry = AuditEntry(actor.name, "subject.read", document_id, {"reason": reason})
    call.commit(entry, Revealed.to(actor, 1))


@on_writer
def propose(
    call: WriterCall,
    case_id: str,
    outcome: Outcome,
    close_lines: Sequence[str],
    actor: Actor,
    seen_at: datetime | None = None,
    *,
    keep_lines: bool = False,
) -> CaseRecord:
    """Propose an outcome, with the lines that another person is to close; `keep_lines` says that
    the others stay in use.

    `RequestError` for a line that is not in use under a document of the case, and for fraud that
    says nothing of lines in use; `CaseMoved` where an outcome is already proposed.
    """
    case = _find_open(call.registry, case_id)
    if case.proposal is not None:
        raise CaseMoved("an outcome is proposed already: withdraw it first")
    _require_seen(case, seen_at)
    lines = check_lines(call.registry, case, close_lines)
    require_said(call.registry, case, outcome, lines, keep_lines)
    proposal = Proposal(
        outcome=outcome,
        close_lines=lines,
        keep_lines=keep_lines,
        by=actor.name,
        at=call.now,
        person=actor.person,
    )
    proposed = replace(case, state=CaseState.PROPOSED, proposal=proposal)
    detail = {"outcome": outcome.value, "close_lines": list(lines), "keep_lines": keep_lines}
    return _keep(call, actor, proposed, NoteKind.PROPOSED, outcome.value, detail)


@on_writer
def withdraw(call: WriterCall, case_id: str, actor: Actor) -> CaseRecord:
    """Withdraw a proposal, also that a closed case be opened again, by whomever it was made;
    `CaseMoved` where there is none."""
    case = _find(call.registry, case_id)
    if case.proposal is not None and case.proposal.reopen_by is not None:
        # A case that one person could close has no proposal but of `_require_reopenable`.
        was_alone = case.proposal.at == case.closed_at
        decided = None if was_alone else structs.replace(case.proposal, reopen_by=None)
        detail: dict[str, Any] = {"by": case.proposal.reopen_by}
        return _keep(call, actor, replace(case, proposal=decided), NoteKind.WITHDRAWN, "", detail)
    if _find_open(call.registry, case_id).proposal is None or case.proposal is None:
        raise CaseMoved("nothing is proposed for this case: read it again")
    outcome = case.proposal.outcome.value
    withdrawn = replace(case, state=state_of(case.assignee), proposal=None)
    detail = {"outcome": outcome, "by": case.proposal.by}
    return _keep(call, actor, withdrawn, NoteKind.WITHDRAWN, outcome, detail)


def close(
    registrar: Runner,
    registry: Reader,
    case_id: str,
    outcome: Outcome,
    close_lines: Sequence[str],
    actor: Actor,
    seen_at: datetime | None = None,
    *,
    keep_lines: bool = False,
) -> CaseRecord:
    """Close a case with an outcome and its effects.

    Fraud puts the faces of its suspects on the watch-list. Fraud, twins and mistake judge the
    pairs of its suspects; the latter two are exceptions that later sweeps respect. Unfounded
    makes a disputed line active again, grants an exception, and lets a key search again that was
    stopped. Of a dispute, without lines, one person may say so: other cases would be hidden from
    later sweeps by it, and their holds ended.
    `FourEyes` where it takes two, and no other person has proposed the same.
    """
    lines = tuple(dict.fromkeys(close_lines))

    def perform(writer: Writer, now: datetime) -> CaseRecord:
        case = _find_open(registry, case_id)
        _require_seen(case, seen_at)
        if lines or outcome is not Outcome.UNFOUNDED or case.kind != CaseKind.DISPUTE:
            require_second_person(case, outcome, lines, keep_lines, actor)
            require_said(registry, case, outcome, lines, keep_lines)
        effects = find_effects(registrar, registry, writer, case, outcome, lines, actor.name, now)
        closed = _end(case, outcome, lines, keep_lines, now)
        writes = _closing_writes(case, closed, effects, actor, now)
        if case.kind == CaseKind.EXCEPTION:
            writes += decide_exception(registrar, registry, case, outcome, actor, now, writer)
        if outcome is Outcome.UNFOUNDED:
            writes += lift_end(case)
        publish(writer, registrar.gallery, writes)
        for entry in effects.watched:
            registrar.watchlist.add(entry)
        return closed

    return registrar.run(perform)


def _end(
    case: CaseRecord, outcome: Outcome, lines: Sequence[str], keep_lines: bool, now: datetime
) -> CaseRecord:
    proposal, moment = case.proposal, date_change(case, now)
    is_followed = proposal is not None and _is_followed(proposal, outcome, lines, keep_lines)
    return replace(
        case,
        state=CaseState.CLOSED,
        outcome=outcome,
        proposal=proposal if is_followed else None,
        updated_at=moment,
        closed_at=moment,
    )


def reopen(
    registrar: Runner,
    registry: Reader,
    case_id: str,
    reason: str,
    actor: Actor,
    seen_at: datetime | None = None,
) -> CaseRecord:
    """Ask that a closed case be opened again, or open it where another person has asked.

    Its decision ends: its pairs are a question again, and its faces leave the watch-list unless
    other fraud is about their documents. Lines stay as they are: closed, or in use.
    `CaseMoved` where it is not closed, or cannot be decided anew.
    """
    _require_text(reason)

    def perform(writer: Writer, now: datetime) -> CaseRecord:
        call, case = WriterCall(writer, registry, now), _find(registry, case_id)
        _require_seen(case, seen_at)
        decided = _require_reopenable(registry, case)
        detail: dict[str, Any] = {"outcome": decided.outcome.value}
        detail["closed_lines"] = list(decided.close_lines)
        if decided.reopen_by is None:
            asked = replace(case, proposal=structs.replace(decided, reopen_by=actor.person))
            return _keep(call, actor, asked, NoteKind.REOPEN_ASKED, reason, detail)
        if actor.is_person(decided.reopen_by):
            raise FourEyes("you asked for this, with whichever key: another person must open it")
        watched = _find_watched(registry, case)
        state = state_of(case.assignee)
        opened = replace(case, state=state, outcome=None, proposal=None, closed_at=None)
        ends: list[Write] = [UndonePairs(case.id)]
        for one in watched:
            entry = AuditEntry(actor.name, "watchlist.removed", str(one), {"case": case.id})
            ends += [entry, RemovedWatchEntry(one)]
        detail |= {"asked_by": decided.reopen_by, "watched": watched}
        opened = _keep(call, actor, opened, NoteKind.REOPENED, reason, detail, *ends)
        for one in watched:
            registrar.watchlist.remove(one)
        return opened

    return registrar.run(perform)


def _require_reopenable(registry: Reader, case: CaseRecord) -> Proposal:
    """What the closed case was decided by."""
    if case.outcome is None or case.closed_at is None:
        raise CaseMoved("the case is not closed: read it again")
    if case.kind == CaseKind.EXCEPTION:
        raise CaseMoved("what an exception needs is gone once it is decided: have it asked anew")
    line = case.line_id
    if line is not None and registry.cases.open_of_line(line, case.kind) is not None:
        raise CaseMoved("another case about its line is open: go on with that one")
    if case.proposal is not None:
        return case.proposal
    # Its note may be damaged: who closed it is not known then.
    by = [one.actor for one in registry.cases.notes(case.id) if one.kind is NoteKind.CLOSED] or [""]
    return Proposal(outcome=case.outcome, close_lines=(), by=by[-1], at=case.closed_at)


def _find_watched(registry: Reader, case: CaseRecord) -> list[int]:
    """The watched faces of its suspects, where no other decided fraud is about any of them."""
    near = registry.cases.of(case.suspect_ids).values()
    suspects = {key for some in near for one in some for key in one.suspect_ids}
    about = [one for some in registry.cases.of(sorted(suspects)).values() for one in some]
    if any(one.id != case.id and one.outcome is Outcome.FRAUD for one in about):
        return []
    # One face is watched once, whichever of them found it first.
    reasons = {BY_CASE + one.id for one in about}
    return [entry.id for entry in registry.watchlist() if entry.reason in reasons]


def _closing_writes(
    case: CaseRecord, closed: CaseRecord, effects: Effects, actor: Actor, now: datetime
) -> list[Write]:
    assert closed.outcome is not None
    outcome, why = closed.outcome.value, (f"case:{case.id}", actor.name)
    detail = {
        "outcome": outcome,
        "proposed_by": None if case.proposal is None else case.proposal.by,
        "keep_lines": closed.proposal is not None and closed.proposal.keep_lines,
        "pairs": len(effects.judged),
        "watched": [one.id for one in effects.watched],
        "closed_lines": list(effects.closed_lines),
        "restored_lines": list(effects.restored_lines),
    }
    changed = {
        "line.closed": effects.closed_lines,
        "line.restored": effects.restored_lines,
        "watchlist.added": [str(one.id) for one in effects.watched],
    }
    return [
        *_change(closed, CaseNote(now, actor.person, NoteKind.CLOSED, outcome), actor, detail),
        # As if each line and each face were changed alone.
        *(
            AuditEntry(actor.name, action, subject, {"case": case.id})
            for action, subjects in changed.items()
            for subject in subjects
        ),
        *effects.judged,
        *effects.watched,
        LineChange(effects.restored_lines, LineEventKind.RESTORED, *why),
        LineChange(effects.closed_lines, LineEventKind.CLOSED, *why),
    ]


def _keep(
    call: WriterCall,
    actor: Actor,
    case: CaseRecord,
    kind: NoteKind,
    text: str,
    detail: dict[str, Any],
    *more: Write,
) -> CaseRecord:
    """Stores a case as it is from now on, and says so in its history and in the audit chain."""
    kept = replace(case, updated_at=date_change(case, call.now))
    note = CaseNote(call.now, actor.person, kind, text)
    call.commit(*_change(kept, note, actor, detail), *more)
    return kept


def _change(case: CaseRecord, entry: CaseNote, actor: Actor, detail: dict[str, Any]) -> list[Write]:
    done = "noted" if entry.kind is NoteKind.NOTE else entry.kind
    audited = AuditEntry(actor.name, f"case.{done}", case.id, detail)
    return [audited, CaseChange(case), AddedNote(case.id, entry)]


def _find_open(registry: Reader, case_id: str) -> CaseRecord:
    case = _find(registry, case_id)
    if case.state not in ALIVE:
        raise CaseMoved("the case is closed: two people open it again, if it is to be changed")
    return case


def _require_seen(case: CaseRecord, seen_at: datetime | None) -> None:
    if seen_at is None or seen_at == case.updated_at:
        return
    if seen_at > case.updated_at:
        raise RequestError("seen_at is after the case's last change: give its updated_at as read")
    raise CaseMoved("the case has changed since it was looked at: read it again, then decide")


def _find(registry: Reader, case_id: str) -> CaseRecord:
    case = registry.cases.get(case_id)
    if case.merged_into is not None:
        raise CaseMoved(f"the case was merged into {case.merged_into}: continue with that one")
    return case


def _require_text(text: str) -> None:
    if not text.strip() or len(text) > MAX_NOTE_LENGTH:
        raise RequestError(f"a note has 1 to {MAX_NOTE_LENGTH} characters: shorten it")
    # No carriage return: a terminal would write over what stands before it.
    require_visible("note", text, "\n\t", is_prose=True)
