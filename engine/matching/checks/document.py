"""The document that is presented: its faults, whether it is the holder's by name, and what
an authority says of it, as a national registry does.

The look-up is made before the registrar is asked; its result travels with the request, is weighed
by the decision table and recorded, so that a decision replays without asking again.
"""

from __future__ import annotations

import asyncio
import csv
from collections import defaultdict
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

from msgspec import structs

from engine.errors import RequestError
from engine.matching.checks.liveness import LivenessTerms, find_brought
from engine.matching.documents import CheckedDocument, check_document, find_minor
from engine.matching.judge import AttemptBatch, DecidedAttempt, DecisionCheck
from engine.matching.policy import Evidence, EvidencePart, Verdict
from engine.matching.requests import Attempt, find_unconsented
from engine.registry.database import new_untimed_id, utc_now
from engine.registry.documents import ActivatedDocument, DocumentRecord, Identity
from engine.registry.store import Reader
from engine.registry.vault import Vault
from schema import frozen
from schema.decisions import Finding
from schema.documents import (
    AuthorityCode,
    AuthorityResult,
    Difference,
    Document,
    DocumentRole,
    DocumentStatus,
    ErasureScope,
    Standing,
)
from schema.options import PeopleRules
from schema.reasons import Decision, Reason


@frozen(kw_only=True)
class DocumentPart(EvidencePart):
    """The document was checked on the date `judged_on`, in the outlet's `time_zone`; decisions from
    before there were time zones have neither."""

    document_findings: tuple[Reason, ...] = ()
    judged_on: str | None = None
    time_zone: str | None = None
    name_differs: bool = False

    def find(self, _evidence: Evidence, _version: str) -> Iterator[Finding]:
        for reason in self.document_findings:
            yield Finding.of(reason)
        if self.name_differs:
            yield Finding.of(Reason.NAME_MISMATCH)


class DocumentCheck(DecisionCheck):
    """Weighs the documents of a batch, and adds them."""

    part = DocumentPart

    def weigh(self, place: int, attempt: Attempt, _evidence: Evidence) -> Sequence[EvidencePart]:
        record = self._batch.document(attempt.document_lookup)
        held = self._batch.held(attempt.document_lookup)
        findings = attempt.document.findings
        if record is not None and record.status is DocumentStatus.BLOCKED:
            findings = (*findings, Reason.DOCUMENT_BLOCKED)
        if place in self._batch.unconsented:
            findings = (*findings, Reason.CONSENT_WITHDRAWN)
        leaves = record is not None and record.awaits_erasure
        if record is not None and record.erasure_scope is ErasureScope.FACE:
            leaves = not attempt.request.is_faceless
        if leaves:
            # What is acknowledged happens: nothing comes to the document that would go with it.
            findings = (*findings, Reason.ERASURE_PENDING)
        return [
            DocumentPart(
                document_findings=findings,
                judged_on=None if attempt.judged_on is None else attempt.judged_on.isoformat(),
                time_zone=attempt.time_zone,
                name_differs=held is not None
                and held.name_lookup not in (None, attempt.name_lookup),
            )
        ]

    def write(self, made: DecidedAttempt) -> None:
        made.decided.document_id = settle_document(self._batch, made.attempt, made.verdict)


def settle_document(batch: AttemptBatch, attempt: Attempt, verdict: Verdict) -> str | None:
    """The document's id; adds a row only where an approval or a case needs it.

    A document known only from attempts binds nobody: the first to be approved under it becomes
    its holder, with the name given then.
    """
    lookup, name_lookup = attempt.document_lookup, attempt.name_lookup
    if lookup is None or name_lookup is None:
        return None
    record = batch.document(lookup)
    is_approved = verdict.decision is Decision.APPROVED
    is_for_people = verdict.decision is Decision.REVIEW or bool(verdict.cases)
    if record is None and not (is_approved or is_for_people):
        return None
    if record is not None and not (is_approved and record.status is DocumentStatus.ATTEMPTED):
        return record.id
    known = record or DocumentRecord(
        id=new_untimed_id(), kind=attempt.document.type, lookup=lookup, name_lookup=name_lookup
    )
    row = replace(
        # A withdrawal or an erasure that is under way goes on.
        known,
        name_lookup=name_lookup,
        status=DocumentStatus.ACTIVE if is_approved else DocumentStatus.ATTEMPTED,
        expires_on=attempt.document.expires_on,
        identity=Identity(attempt.document.number, attempt.request.document.name),
    )
    batch.writes.append(row if record is None else ActivatedDocument(row))
    batch.add_document(lookup, row)
    return row.id


T = TypeVar("T")
K = TypeVar("K")
MAX_REFERENCE_LENGTH = 64


_PUT_AWAY = frozenset({Standing.EXPIRED, Standing.REVOKED, Standing.LOST, Standing.STOLEN})
"""Why somebody has a new document; whoever comes with the old one shows its holder's face."""


def find_problem(code: AuthorityCode) -> Reason | None:
    """The reason that stands for a code; None where the document is confirmed."""
    if code is AuthorityCode.CONFIRMED:
        return None
    if code is AuthorityCode.UNKNOWN_DOCUMENT:
        return Reason.AUTHORITY_UNKNOWN_DOCUMENT
    if code.is_contradiction:
        return Reason.AUTHORITY_CONTRADICTS
    return Reason.AUTHORITY_UNAVAILABLE


@frozen
class AuthorityRecord:
    """A record that a registry has under a document: what it is, and what is otherwise there."""

    standings: frozenset[Standing]
    differs: frozenset[Difference] = frozenset()
    reference: str | None = None
    face_score: float | None = None


def judge_records(kind: str, records: Sequence[AuthorityRecord], at: datetime) -> AuthorityResult:
    """What the records of one document say together; none of them is an unknown document."""
    if not records:
        return AuthorityResult(kind, AuthorityCode.UNKNOWN_DOCUMENT, at)
    standings = frozenset[Standing]().union(*(one.standings for one in records))
    differs = frozenset[Difference]().union(*(one.differs for one in records))
    first, *others = records
    if any(one != first for one in others) or (len(standings) > 1 and Standing.VALID in standings):
        code = AuthorityCode.AMBIGUOUS
    elif standings != {Standing.VALID}:
        code = AuthorityCode.NOT_VALID
    elif differs:
        code = AuthorityCode.DIFFERS
    else:
        code = AuthorityCode.CONFIRMED
    return AuthorityResult(
        kind,
        code,
        at,
        standings=tuple(sorted(standings)),
        differs=tuple(sorted(differs)),
        reference=first.reference if not others else None,
        face_score=first.face_score if not others else None,
    )


@frozen
class AuthorityTerms:
    """What an operator makes of results; None proceeds. With `min_face_score` a confirmed document
    needs the authority's score of the live face, too."""

    unavailable: Decision | None = Reason.AUTHORITY_UNAVAILABLE.row.brings
    unknown: Decision | None = Reason.AUTHORITY_UNKNOWN_DOCUMENT.row.brings
    contradicts: Decision = Reason.AUTHORITY_CONTRADICTS.row.brings
    min_face_score: float | None = None

    def weigh(
        self, result: AuthorityResult | None, role: DocumentRole = DocumentRole.OWN
    ) -> WeighedAuthority:
        """A request without a result was not looked up, which is as if nothing had answered.

        Of a document that another takes the place of it is no contradiction that it is valid no
        more, was given in another name, or has left the registry.
        """
        given = result or AuthorityResult("none", AuthorityCode.NOT_ASKED, utc_now())
        least = self.min_face_score
        if least is not None and given.code is AuthorityCode.CONFIRMED:
            if given.face_score is None:
                given = structs.replace(given, code=AuthorityCode.NO_FACE_SCORE)
            elif not given.face_score >= least:
                differs = (*given.differs, Difference.FACE)
                given = structs.replace(given, code=AuthorityCode.DIFFERS, differs=differs)
        is_replaced = role is DocumentRole.REPLACED and _is_put_away(given)
        problem = None if is_replaced else find_problem(given.code)
        brings = None
        if problem is not None:
            brings = {
                Reason.AUTHORITY_UNAVAILABLE: self.unavailable,
                Reason.AUTHORITY_UNKNOWN_DOCUMENT: self.unknown,
                Reason.AUTHORITY_CONTRADICTS: self.contradicts,
            }[problem]
        if given.face_score is not None:
            given = structs.replace(given, min_face_score=least)
        return WeighedAuthority(given, problem, brings)


def _is_put_away(result: AuthorityResult) -> bool:
    if result.code is AuthorityCode.UNKNOWN_DOCUMENT:
        return True
    if not set(result.differs) <= {Difference.NAME}:
        return False
    is_over = result.code is AuthorityCode.NOT_VALID and set(result.standings) <= _PUT_AWAY
    return is_over or result.code is AuthorityCode.DIFFERS


@frozen
class WeighedAuthority:
    """A result beside what it brings; `brings` is None where it has no say."""

    result: AuthorityResult
    problem: Reason | None
    brings: Decision | None


@frozen
class AuthorityQuestion:
    """A well-formed document to be looked up: as it was checked, and the name as it was written.

    `live` is the live photograph's file, for an authority that compares it. An answer is kept for
    the `carrier` that asked alone: what another has asked is nobody's to see, or to contradict.
    """

    document: CheckedDocument
    name: str = field(repr=False)
    on: date
    live: bytes | None = field(default=None, repr=False)
    carrier: str = ""


class Authority(Protocol):
    """Knows documents beyond their form."""

    kind: str

    async def look_up(self, question: AuthorityQuestion) -> AuthorityResult:
        """Its result, in a bounded time; whatever goes wrong is the result's code."""
        ...

    async def close(self) -> None:
        """Lets go of what it holds; it may be used no more."""
        ...


_Listed = Mapping[bytes, tuple[AuthorityRecord, ...]]


class ListedAuthority:
    """Documents of a CSV file with the columns `type`, `number` and `standing`; others are unknown.

    It is read again when the file has changed. In memory a document is known by its keyed look-up
    alone.
    """

    kind = "listed"

    def __init__(self, path: Path, vault: Vault) -> None:
        self._path = path
        self._vault = vault
        self._lock = Lock()
        self._stamp: tuple[int, int] | None = None
        self._kept: _Listed | str | None = None
        """The list, or why the file is none; None before it was read first."""

    async def look_up(self, question: AuthorityQuestion) -> AuthorityResult:
        """Asks nobody: a stat of the file, and a look-up in memory."""
        now = utc_now()
        try:
            # A file that has changed may be long.
            listed = await asyncio.to_thread(self.read)
        except RequestError:
            return AuthorityResult(self.kind, AuthorityCode.UNREADABLE, now)
        document = question.document
        key = self._vault.look_up(f"document:{document.type}", document.number)
        return judge_records(self.kind, listed.get(key, ()), now)

    async def close(self) -> None:
        """Holds nothing open."""

    def read(self) -> _Listed:
        """The list as the file has it now; `RequestError` where it is none."""
        # What was found before stands, a fault too, while another thread reads a long file anew.
        if self._lock.acquire(blocking=self._kept is None):
            try:
                self._refresh()
            finally:
                self._lock.release()
        kept = self._kept
        assert kept is not None, "it was read"
        if isinstance(kept, str):
            raise RequestError(kept)
        return kept

    def _refresh(self) -> None:
        """Reads the file where it is another one than before: one with a fault is not read again
        until it changes."""
        stamp = None
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return
            kept: _Listed | str = self._parse()
        except RequestError as error:
            kept = str(error)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            kind = type(error).__name__
            kept = f"{self._path}: {kind}: give a CSV file of type, number and standing"
            # It may be readable later without a change of its own.
            stamp = None if isinstance(error, OSError) else stamp
        self._stamp, self._kept = stamp, kept

    def _parse(self) -> dict[bytes, tuple[AuthorityRecord, ...]]:
        found: dict[bytes, tuple[AuthorityRecord, ...]] = {}
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"type", "number", "standing"} <= set(rows.fieldnames or ()):
                raise RequestError(f"{self._path}: name its columns type, number and standing")
            for line, row in enumerate(rows, start=2):
                key, record = self._read_row(row, line)
                held = found.get(key, ())
                found[key] = held if record in held else (*held, record)
        return found

    def _read_row(self, row: Mapping[str, str | None], line: int) -> tuple[bytes, AuthorityRecord]:
        # Any date: whether it has expired is for the row to say.
        given = Document(row["type"] or "", row["number"] or "", "listed")
        try:
            checked = check_document(given, datetime.now(UTC).date())
            if not checked.is_well_formed:
                raise ValueError
            standing = Standing((row["standing"] or "").strip().lower())
        except (ValueError, KeyError):
            standings = ", ".join(Standing)
            raise RequestError(
                f"{self._path}: line {line} has no well-formed document of a known type, or no "
                f"standing of {standings}: mend it"
            ) from None
        key = self._vault.look_up(f"document:{checked.type}", checked.number)
        return key, AuthorityRecord(frozenset({standing}))


async def look_up_beside(
    authority: Authority, questions: Mapping[K, AuthorityQuestion], work: Awaitable[T]
) -> tuple[T, dict[K, AuthorityResult]]:
    """What `work` gives, and what was looked up meanwhile, all at once; the look-ups end with the
    work's failure."""
    looking = {key: asyncio.ensure_future(authority.look_up(one)) for key, one in questions.items()}
    try:
        done = await work
        return done, {key: await one for key, one in looking.items()}
    finally:
        # Of a work that failed, or that nobody waits for: its documents are of no interest any
        # more.
        left = [one for one in looking.values() if not one.done()]
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@frozen(kw_only=True)
class AuthorityPart(EvidencePart):
    """The outcome of the document's look-up, where an authority is asked."""

    authority_problem: Reason | None = None
    authority_brings: Decision | None = None

    def find(self, _evidence: Evidence, _version: str) -> Iterator[Finding]:
        yield from find_told(self.authority_problem, self.authority_brings)


def find_told(problem: Reason | None, brings: Decision | None) -> list[Finding]:
    """The finding on a problem that has a say."""
    return [] if problem is None or brings is None else [Finding(problem, brings)]


class AuthorityCheck(DecisionCheck):
    """Weighs what an authority said of the documents of an attempt."""

    part = AuthorityPart

    def __init__(self, batch: AttemptBatch, terms: AuthorityTerms) -> None:
        super().__init__(batch, terms)
        self._said: defaultdict[int, dict[DocumentRole, AuthorityResult]] = defaultdict(dict)

    def weigh_document(self, place: int, attempt: Attempt, role: DocumentRole) -> dict[str, Any]:
        """What it said of one of them, as evidence keeps it."""
        said = self._terms.weigh(attempt.request.authority.get(role), role)
        self._said[place][role] = said.result
        return {"authority_problem": said.problem, "authority_brings": said.brings}

    def weigh(self, place: int, attempt: Attempt, _evidence: Evidence) -> Sequence[EvidencePart]:
        if not attempt.document.is_well_formed:
            return []
        return [AuthorityPart(**self.weigh_document(place, attempt, DocumentRole.OWN))]

    def describe(self, made: DecidedAttempt) -> None:
        for role, said in self._said[made.place].items():
            setattr(made.recorded, role.value, said)


def find_looked_up(attempt: Attempt, terms: PeopleRules) -> dict[DocumentRole, CheckedDocument]:
    """The documents of an attempt that an authority is asked about: a guardian's where one is
    needed, and what is replaced, of the same person."""
    own, guardian = attempt.document, attempt.guardian
    if not own.is_well_formed:
        return {}
    found = {DocumentRole.OWN: own}
    majority = terms.of(attempt.outlet.carrier).age_of_majority
    if guardian is not None and find_minor(own.born_on, attempt.judged_on, majority):
        found[DocumentRole.GUARDIAN] = guardian.document
    if attempt.replaced is not None:
        born_on = attempt.replaced.born_on or own.born_on
        found[DocumentRole.REPLACED] = structs.replace(attempt.replaced, born_on=born_on)
    named = {(one.type, one.number) for one in found.values()}
    # Which names one document twice is refused.
    return found if len(named) == len(found) else {DocumentRole.OWN: own}


def ask_of(
    registry: Reader,
    attempt: Attempt,
    live: bytes | None,
    guardian_live: bytes | None,
    liveness: LivenessTerms,
    terms: PeopleRules,
) -> dict[DocumentRole, AuthorityQuestion]:
    """The look-ups of an attempt, with the live faces' files; none where nothing is told of it:
    it is not well-formed, will be rejected for what it shows, or shows a face that it may not."""
    request, carrier, guardian = attempt.request, attempt.outlet.carrier, attempt.guardian
    on, brings = attempt.judged_on or utc_now().date(), find_brought(request, liveness)
    if attempt.is_same_photograph or brings is Decision.REJECTED:
        return {}
    questions = {}
    for role, document in find_looked_up(attempt, terms).items():
        shown, file = attempt, live
        if role is DocumentRole.GUARDIAN and guardian is not None:
            shown, file = guardian, guardian_live
        if document.is_well_formed and not shown.is_same_photograph:
            name = shown.request.document.name
            questions[role] = AuthorityQuestion(document, name, on, file, carrier)
    if questions and find_unconsented([attempt], registry.documents(attempt.lookups)):
        return {}
    return questions
