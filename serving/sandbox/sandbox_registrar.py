"""The registrar of a sandbox: the real one, asked about the faces that a serial stands for, over a
registry brought to where the outcome follows, with the rules that the serial asks for."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
from msgspec import structs

from engine.cases import deaths, steps
from engine.cases.opening import CaseBatch, NewCase
from engine.errors import (
    DeadlinePassed,
    LivenessReplayed,
    NotFound,
    NotReported,
    RequestError,
    StorageFull,
    TooManyFailures,
)
from engine.lifecycle.reverification import SimChange, SimChangeTerms
from engine.matching.bulk_enrollment import (
    HolderCache,
    OpenedLine,
    Subscriber,
    admit_planned,
    plan_admission,
)
from engine.matching.checks.document import AuthorityCheck, AuthorityTerms
from engine.matching.checks.lines import LineCheck
from engine.matching.checks.liveness import LivenessCheck, LivenessTerms
from engine.matching.checks.people import PeopleCheck
from engine.matching.checks.picture import FaceVector
from engine.matching.documents import CheckedDocument
from engine.matching.holders import ask_erasure, block_document, find_document, watch_face
from engine.matching.judge import DecisionCheck, Judge, JudgedBatch
from engine.matching.lines import LINE_UNKNOWN, close_line, find_line, normalise_line
from engine.matching.requests import (
    Answer,
    EnrollmentRequest,
    GuardianShown,
    idempotency_scope,
    normalise_msisdn,
)
from engine.matching.samples import ABSENT, Sample
from engine.registry.accounts import Carrier
from engine.registry.database import new_id, utc_now
from engine.registry.documents import DocumentRecord
from engine.registry.store import Reader
from engine.registry.writer import Writer
from schema import frozen
from schema.actors import Actor
from schema.cases import CaseKind, CaseOrigin
from schema.cases import Outcome as CaseOutcome
from schema.decisions import RecordedLiveness, RecordedProof
from schema.documents import (
    AuthorityCode,
    AuthorityResult,
    Document,
    DocumentRole,
    ErasureScope,
    Standing,
)
from schema.options import LineLimits, LivenessRules, PeopleRules
from schema.people import DeathSource, ProofWay
from schema.reasons import About, LivenessMode, Reason
from serving.deployment.deployment import Deployment
from serving.errors import Busy, Interrupted, NotReady
from serving.registrar.open_registry import OpenRegistry
from serving.registrar.protocol import (
    CallContext,
    HolderFace,
    LineTarget,
    RegistrarClient,
    Reply,
    Status,
)
from serving.registrar.service import RegistrarService
from serving.sandbox import outcomes
from serving.sandbox.outcomes import (
    ANYBODY,
    AUTHORITY_REASONS,
    RESIDENT,
    WATCHED,
    Outcome,
    Vector,
    find_outcome,
    make_face,
    make_near,
    make_number,
    make_pair,
)

ACTOR = "sandbox"
CARRIER, OUTLET, CLOSED_OUTLET = "sandbox", "sandbox-1", "sandbox-closed"
OTHER_CARRIER, OTHER_OUTLET = "other", "other-1"
REPORTED_SINCE = date(2025, 1, 1)
LINE_LIMIT = Carrier("", "").line_limit
_LINE_LIMITS = {
    Reason.PERSON_LIMIT_REACHED: LineLimits(LINE_LIMIT),
    Reason.CHANNEL_LIMIT_REACHED: LineLimits(outlets={OUTLET: 1, OTHER_OUTLET: 1}),
    Reason.DAY_LIMIT_REACHED: LineLimits(day_limit=1),
    Reason.APPROVAL_MISSING: LineLimits(approval_h=1),
}
_CARRIERS = frozenset({CARRIER, OTHER_CARRIER})
SLOW_S, READY_S = 3.0, 120.0
MOST_KEYS = 10_000
_PEOPLE = Actor(ACTOR, "sandbox one"), Actor(ACTOR, "sandbox two")
_RESIDENT = Document("cn-ric", make_number("cn-ric", 899), "Sandbox Resident")
_DEPARTED = Document("cn-ric", make_number("cn-ric", 898), "Sandbox Departed")
_HELD_FOR = timedelta(days=3650)
"""An erasure waits for its case as long as anybody tests with it."""

_ALIVE = LivenessTerms({None: LivenessRules(enrollment=LivenessMode.REQUIRED)})
_WITH_GUARDIANS = PeopleRules(age_of_majority=18)
_PEOPLE_RULES = {
    **dict.fromkeys(outcomes.GUARDIAN_REASONS, _WITH_GUARDIANS),
    # Nobody is old enough to answer for others.
    Reason.GUARDIAN_REFUSED: replace(_WITH_GUARDIANS, age_of_majority=200),
    Reason.GUARDIAN_CHANGED: replace(_WITH_GUARDIANS, minor_face="guardian"),
    Reason.EXCEPTION_ASKED: PeopleRules(exceptions=True, exceptions_per_outlet=10**9),
    Reason.EXCEPTION_LIMIT_REACHED: PeopleRules(exceptions=True, exceptions_per_outlet=0),
}
_SAID = {
    Reason.AUTHORITY_UNAVAILABLE: (AuthorityCode.TIMEOUT, ()),
    Reason.AUTHORITY_UNKNOWN_DOCUMENT: (AuthorityCode.UNKNOWN_DOCUMENT, ()),
    Reason.AUTHORITY_CONTRADICTS: (AuthorityCode.NOT_VALID, (Standing.LOST,)),
}
"""What the authority said, where a serial stands for a reason of it."""


@frozen(kw_only=True, eq=False)
class SandboxJudge(Judge):
    """The judge, by the rules that the serial of an enrollment asks for."""

    def judge(
        self, requests: Sequence[EnrollmentRequest], writer: Writer, **given: Any
    ) -> JudgedBatch:
        """One at a time, since each has rules of its own."""
        (request,) = requests
        outcome = find_outcome(outcomes.check(request.document))
        proven = PeopleRules(proofs=dict.fromkeys(ProofWay, "approved"))
        is_proven = request.proof is not None
        rules = self._with(PeopleCheck, proven) if is_proven else self._follow(outcome.reason)
        return Judge.judge(rules, requests, writer, **given)

    def _follow(self, reason: Reason | None) -> Judge:
        if reason is not None and reason.row.about is About.LIVENESS:
            return self._with(LivenessCheck, _ALIVE)
        if reason in AUTHORITY_REASONS:
            return self._with(AuthorityCheck, AuthorityTerms())
        if reason in _PEOPLE_RULES:
            return self._with(PeopleCheck, _PEOPLE_RULES[reason])
        if reason is Reason.NOT_SEARCHED:
            return replace(self, unkept=_CARRIERS, unsearched=_CARRIERS)
        if reason in _LINE_LIMITS:
            return self._with(LineCheck, _LINE_LIMITS[reason])
        return self

    def _with(self, check: type[DecisionCheck], terms: Any) -> Judge:
        return replace(self, checks={**self.checks, check: terms})


@frozen
class SandboxSimChanges(SimChangeTerms):
    """Changes of SIM as the last digits of a number say, and else those of its line."""

    def find(self, registry: Reader, number: str, carrier: str | None, now: datetime) -> SimChange:
        """The change of a number that has a meaning, or the usual one."""
        meaning = int(number[-3:])
        if meaning == outcomes.UNKNOWN:
            raise NotFound(LINE_UNKNOWN)
        if meaning == outcomes.NOT_REPORTED:
            raise NotReported("the carrier of this number does not report changes of SIM here")
        if meaning not in outcomes.SWAPPED_BEFORE:
            return SimChangeTerms.find(self, registry, number, carrier, now)
        before = outcomes.SWAPPED_BEFORE[meaning]
        return SimChange(ACTOR, None if before is None else now - before, outcomes.MONITORED)


class SandboxDeployment(Deployment):
    """A deployment whose judge goes by serials, and changes of SIM by the numbers asked about."""

    is_of_sandbox = True

    @cached_property
    def judge(self) -> Judge:
        usual = super().judge
        fields = {name: getattr(usual, name) for name in Judge.__dataclass_fields__}
        return SandboxJudge(**fields)

    @cached_property
    def people(self) -> PeopleRules:
        return replace(super().people, verified_by=tuple(ProofWay))

    @property
    def sim_changes(self) -> SimChangeTerms:
        """Both carriers report every change, unless the settings say since when."""
        usual = super().sim_changes
        since = dict.fromkeys((CARRIER, OTHER_CARRIER), REPORTED_SINCE)
        return SandboxSimChanges({**since, **usual.since}, usual.kept)


class SandboxRegistrar(RegistrarClient):
    """The registrar in this process, which is asked about the faces that a serial stands for."""

    def __init__(self, service: RegistrarService) -> None:
        self._service = service
        self._asked: dict[str, None] = {}
        """Idempotency-Keys that were answered with an error once."""

    async def status(self) -> Status:
        return await self._service.status()

    async def carry(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        if method == "enroll":
            return await self._enroll(arguments[0], context)
        if method == "prove_line":
            target: LineTarget = arguments[0]
            assert target.document is not None, "the type wants one"
            outcome = find_outcome(outcomes.check(target.document))
            arguments = (target, _tell_proof(outcome))
        if method in _SHOWN:
            arguments = await asyncio.to_thread(self._show, method, arguments)
        return await self._service.perform(method, arguments, context)

    async def settle(self) -> None:
        """Has the resident and the watched face known; waits until the registry is open."""
        give_up_at = time.monotonic() + READY_S
        while not (await self._service.status()).is_ready:
            if time.monotonic() > give_up_at:
                raise NotReady(f"not ready after {READY_S:g} s: see the log in its folder")
            await asyncio.sleep(0.02)
        await asyncio.to_thread(self._settle)

    def _settle(self) -> None:
        opened = self._service.require()
        _admit(opened, _RESIDENT, _find_face(opened, RESIDENT))
        _report_dead(opened, _DEPARTED, _find_face(opened, outcomes.DEPARTED))
        if not len(opened.registrar.watchlist):
            watched = _find_face(opened, WATCHED)
            watch_face(opened.registrar, watched, "the sandbox's own entry", ACTOR)

    async def _enroll(self, request: EnrollmentRequest, context: CallContext) -> Reply:
        outcome = find_outcome(outcomes.check(request.document))
        scope = f"{request.carrier}\0{request.idempotency_key}"
        is_first = scope not in self._asked
        self._asked[scope] = None
        while len(self._asked) > MOST_KEYS:
            del self._asked[next(iter(self._asked))]
        await _interrupt(outcome, is_first=is_first)
        known = await asyncio.to_thread(self._prepare, outcome, request)
        reply = await self._service.perform("enroll", (known,), context)
        if outcome.serial == outcomes.LOST_AFTER and is_first:
            raise Interrupted("lost after it was stored, as this serial says: ask again")
        if outcome.serial == outcomes.GRANTED and isinstance(reply.value, Answer):
            await asyncio.to_thread(_grant, self._service.require(), reply.value)
        return reply

    def _prepare(self, outcome: Outcome, request: EnrollmentRequest) -> EnrollmentRequest:
        """The request with the faces that lead to the outcome, in a registry where they do."""
        opened = self._service.require()
        checked = outcomes.check(request.document)
        if not checked.is_well_formed or not _is_new(opened, request):
            return request
        name = _name(checked)
        own = make_face(name, opened.gallery.dim)
        _PREPARATIONS.get(outcome.reason, Preparation.free)(Preparation(opened, request, own))
        live, portrait = make_pair(_choose_face(opened, outcome, own, name), name)
        if outcome.reason is Reason.FACE_MISMATCH:
            portrait = make_near(live, f"{name} portrait", 0.05)
        # Of a minor whose face is on file the guardian comes alone.
        is_absent = outcome.reason is Reason.GUARDIAN_CHANGED and request.guardian is not None
        return replace(
            request,
            live=ABSENT if is_absent else _show_face(opened, request.live, live, outcome.reason),
            portrait=ABSENT if is_absent else _show_face(opened, request.portrait, portrait),
            guardian=_show_guardian(opened, request.guardian, outcome),
            liveness=_tell_liveness(request, outcome),
            authority=_tell_authority(request, outcome),
            proof=None if request.proof is None else _tell_proof(outcome),
        )

    def _show(self, method: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The call with the holder's own face in place of anybody's."""
        opened = self._service.require()
        place = _SHOWN[method]
        given: HolderFace = arguments[place]
        record = _find_holder(opened, method, arguments)
        is_anybody = _is_anybody(opened, given.face.vector)
        if record is None or not record.reference_ids or not is_anybody:
            return arguments
        reference = opened.gallery.vectors(np.array(record.reference_ids[:1], np.int64))[0]
        face = FaceVector(make_near(reference, "probe", outcomes.ALIKE))
        return (*arguments[:place], replace(given, face=face), *arguments[place + 1 :])


_SHOWN = {"check_line": 1, "check_document": 1, "read_lines": 1, "dispute_line": 2}
"""Calls that hold a face against a holder, and the place of the face among their arguments."""


async def _interrupt(outcome: Outcome, *, is_first: bool) -> None:
    """Waits or raises what the serial asks for."""
    said = "as this serial says"
    match outcome.serial:
        case outcomes.SLOW:
            await asyncio.sleep(SLOW_S)
        case outcomes.SILENT:
            await asyncio.sleep(READY_S)
            raise DeadlinePassed(f"no time left, {said}: nothing was stored")
        case outcomes.NOT_READY:
            raise NotReady(f"not ready, {said}")
        case outcomes.BUSY:
            raise Busy(f"too busy, {said}: try again later")
        case outcomes.BUSY_ONCE if is_first:
            raise Busy(f"too busy for the first request, {said}: try again later")
        case outcomes.LOST_BEFORE if is_first:
            raise Interrupted(f"lost before it was stored, {said}: ask again")
        case outcomes.FULL:
            raise StorageFull(f"the storage is full, {said}: nothing was stored")
        case outcomes.BROKEN:
            raise RuntimeError(f"a fault, {said}")
        case outcomes.BOUNDED:
            raise TooManyFailures(f"too many failed checks, {said}")
        case outcomes.REPLAYED:
            raise LivenessReplayed(f"this evidence of liveness was used before, {said}")


def _is_new(opened: OpenRegistry, request: EnrollmentRequest) -> bool:
    """True where it is to be judged: a stored answer asks for nothing to be prepared."""
    scope = idempotency_scope(opened.store.vault, request.carrier, request.idempotency_key)
    return scope not in opened.store.answers([scope])


def _find_face(opened: OpenRegistry, name: str) -> Vector:
    """A face as photographs of it are known here: rotated."""
    (face,) = opened.store.vault.rotate(make_face(name, opened.gallery.dim)[None])
    return np.asarray(face, np.float32)


def _name(checked: CheckedDocument) -> str:
    """The name of the face that a document's holder has."""
    return f"{checked.type} {checked.number}"


def _is_anybody(opened: OpenRegistry, vector: Vector) -> bool:
    return bool(vector @ _find_face(opened, ANYBODY) > 0.5)


def _choose_face(opened: OpenRegistry, outcome: Outcome, own: Vector, name: str) -> Vector:
    thresholds = opened.thresholds
    match outcome.reason:
        case Reason.DUPLICATE_IDENTITY:
            return make_near(_find_face(opened, RESIDENT), name, (thresholds.certain + 1) / 2)
        case Reason.POSSIBLE_DUPLICATE:
            between = (thresholds.review + thresholds.certain) / 2
            return make_near(_find_face(opened, RESIDENT), name, between)
        case Reason.WATCHLISTED:
            return make_near(_find_face(opened, WATCHED), name, outcomes.ALIKE)
        case Reason.DECEASED_LOOK_ALIKE:
            between = (thresholds.review + thresholds.certain) / 2
            return make_near(_find_face(opened, outcomes.DEPARTED), name, between)
    return own


def _show_guardian(
    opened: OpenRegistry, guardian: GuardianShown | None, outcome: Outcome
) -> GuardianShown | None:
    """The guardian with a face of the document's own, or with what the minor's serial says."""
    if guardian is None:
        return None
    name = _name(outcomes.check(guardian.document))
    own, thresholds = make_face(name, opened.gallery.dim), opened.thresholds
    if outcome.reason is Reason.GUARDIAN_DUPLICATE:
        between = (thresholds.review + thresholds.certain) / 2
        own = make_near(_find_face(opened, RESIDENT), name, between)
    live, portrait = make_pair(own, name)
    if outcome.reason is Reason.GUARDIAN_MISMATCH:
        live = make_near(portrait, f"{name} live", 0.05)
    problem = Reason.BLURRED if outcome.reason is Reason.GUARDIAN_UNUSABLE else None
    return replace(
        guardian,
        live=_show_face(opened, guardian.live, live, problem),
        portrait=guardian.portrait and _show_face(opened, guardian.portrait, portrait),
    )


def _tell_liveness(request: EnrollmentRequest, outcome: Outcome) -> RecordedLiveness | None:
    if outcome.reason is None or outcome.reason.row.about is not About.LIVENESS:
        return request.liveness
    return RecordedLiveness("required", outcome.reason)


def _tell_proof(outcome: Outcome) -> RecordedProof:
    """Every proof holds, unless the serial says what is wrong with it."""
    problem = outcome.reason if outcome.reason in outcomes.PROOF_REASONS else None
    return RecordedProof(problem, ProofWay.MOBILE_ID, ACTOR, new_id(), issued_at=utc_now())


def _tell_authority(
    request: EnrollmentRequest, outcome: Outcome
) -> Mapping[DocumentRole, AuthorityResult]:
    if outcome.reason not in _SAID:
        return request.authority
    assert outcome.reason is not None
    code, standings = _SAID[outcome.reason]
    return {DocumentRole.OWN: AuthorityResult(ACTOR, code, utc_now(), standings)}


def _show_face(
    opened: OpenRegistry, sample: Sample, vector: Vector, reason: Reason | None = None
) -> Sample:
    """A sample of anybody with another face, and with what is wrong with it."""
    if sample.vector is None or not _is_anybody(opened, sample.vector):
        return sample
    if reason is None or reason.row.about is not About.PHOTOGRAPH:
        return replace(sample, vector=vector)
    return replace(sample, vector=None if reason is Reason.NO_FACE else vector, problems=(reason,))


def _find_document(opened: OpenRegistry, document: Document) -> DocumentRecord | None:
    try:
        return find_document(opened.store, document, utc_now().date())
    except (NotFound, RequestError):
        return None


def _find_holder(
    opened: OpenRegistry, method: str, arguments: tuple[Any, ...]
) -> DocumentRecord | None:
    """Whom the call is about; None for nobody."""
    target = arguments[1] if method == "dispute_line" else arguments[0]
    if isinstance(target, Document):
        return _find_document(opened, target)
    if isinstance(target, LineTarget):
        line = find_line(opened.store, normalise_line(target.text))
        target = "" if line is None else line.document_id
    return opened.store.documents_by_id([target]).get(target)


@frozen
class Preparation:
    """Brings the registry to where the outcome of an enrollment follows; `own` is the face of the
    document's holder."""

    opened: OpenRegistry
    request: EnrollmentRequest
    own: Vector

    def free(self) -> None:
        """A number that is in use, and a holder with all lines, are free again: tests repeat."""
        number = normalise_msisdn(self.request.msisdn)
        if find_line(self.opened.store, number) is not None:
            close_line(self.opened.registrar, self.opened.store, number, ACTOR)
        self._close_from(LINE_LIMIT)

    def free_all(self) -> None:
        """A guardian answers for as many lines as one may have: what a minor had ends."""
        self.free()
        self._close_from(1)

    def _close_from(self, least: int) -> None:
        """Closes the lines under the document, where there are so many at least."""
        store, record = self.opened.store, self._record()
        lines = [] if record is None else store.lines_in_use_of([record.id]).get(record.id, [])
        for line in lines if len(lines) >= least else ():
            close_line(self.opened.registrar, store, line.id, ACTOR)

    def hold_by_another_name(self) -> None:
        self.free()
        _admit(
            self.opened, structs.replace(self.request.document, name="Sandbox Namesake"), self.own
        )

    def hold_replaced(self) -> None:
        self.free()
        if self.request.replaces is not None:
            replaced = structs.replace(self.request.replaces, name="Sandbox Namesake")
            _admit(self.opened, replaced, self.own)

    def hold_minor(self) -> None:
        self.free_all()
        self._admit_own()

    def hold_by_another(self) -> None:
        self.free()
        _admit(self.opened, self.request.document, make_near(self.own, "another holder", 0.05))

    def use_number(self) -> None:
        number = normalise_msisdn(self.request.msisdn)
        line = OpenedLine(number, OTHER_CARRIER, OTHER_OUTLET, utc_now())
        _admit(self.opened, _RESIDENT, _find_face(self.opened, RESIDENT), [line])

    def fill_lines(self) -> None:
        self._fill(self.request.carrier, self.request.outlet)

    def fill_elsewhere(self) -> None:
        is_other = self.request.carrier == OTHER_CARRIER
        self._fill(*((CARRIER, OUTLET) if is_other else (OTHER_CARRIER, OTHER_OUTLET)))

    def _fill(self, carrier: str, outlet: str) -> None:
        self.free()
        at = (carrier, outlet, utc_now())
        lines = [OpenedLine(self._make_msisdn(place), *at) for place in range(LINE_LIMIT)]
        _admit(self.opened, self.request.document, self.own, lines)

    def _make_msisdn(self, place: int) -> str:
        """A number that nobody asks for."""
        number = outcomes.check(self.request.document).number
        return f"+8619{int.from_bytes(number.encode()) % 10**7:07d}{place:02d}"

    def await_erasure(self) -> None:
        self.free()
        record = self._record()
        if record is not None and record.awaits_erasure:
            return
        opened, record = self.opened, self._admit_own()
        case = NewCase(
            kind=CaseKind.STOLEN_DOCUMENT, origin=CaseOrigin.DECISION, document_ids=(record.id,)
        )

        def perform(writer: Writer, now: datetime) -> None:
            cases = CaseBatch(opened.store, now)
            cases.open(case, ACTOR)
            writer.commit(cases.writes())

        opened.registrar.run(perform)
        ask_erasure(opened.registrar, opened.store, record.id, ACTOR, hold=_HELD_FOR)

    def withdraw(self) -> None:
        """From the carrier that asks, which had the holder."""
        self.free()
        record = self._record()
        if record is None or not record.refuses_face(self.request.carrier):
            given = (self.request.carrier, self.request.outlet, utc_now())
            line = OpenedLine(self._make_msisdn(LINE_LIMIT), *given)
            _admit(self.opened, self.request.document, self.own, [line])
            deployment, document = self.opened.deployment, self.request.document
            deployment.erase(document, ACTOR, self.request.carrier, scope=ErasureScope.FACE)

    def bury(self) -> None:
        self.free()
        _report_dead(self.opened, self.request.document, self.own)

    def replace(self) -> None:
        """By an enrollment with another carrier, whose feed says so and not the caller's."""
        self.free()
        record = self._admit_own()
        if record.id in self.opened.store.people.standing([record.id]).replaced:
            return
        msisdn, name = self._make_msisdn(LINE_LIMIT), self.request.document.name
        live, portrait = make_pair(self.own, record.id)
        successor = EnrollmentRequest(
            idempotency_key=uuid.uuid4().hex,
            carrier=OTHER_CARRIER,
            outlet=OTHER_OUTLET,
            document=Document("id-kitas", f"SBX{msisdn[5:10]}000{msisdn[10:]}", name),
            msisdn=msisdn,
            live=Sample(live, b"live"),
            portrait=Sample(portrait, b"portrait"),
            replaces=self.request.document,
        )
        self.opened.registrar.enroll([successor])

    def block(self) -> None:
        record = self._record()
        if record is None or record.blocked_at is None:
            self._admit_own()
            registrar, store = self.opened.registrar, self.opened.store
            block_document(registrar, store, self.request.document, ACTOR)

    def _record(self) -> DocumentRecord | None:
        return _find_document(self.opened, self.request.document)

    def _admit_own(self) -> DocumentRecord:
        return _admit_record(self.opened, self.request.document, self.own)


_PREPARATIONS: Mapping[Reason | None, Callable[[Preparation], None]] = {
    Reason.NAME_MISMATCH: Preparation.hold_by_another_name,
    Reason.DOCUMENT_HELD_BY_ANOTHER_FACE: Preparation.hold_by_another,
    Reason.LINE_IN_USE: Preparation.use_number,
    Reason.LINE_LIMIT_REACHED: Preparation.fill_lines,
    Reason.DOCUMENT_BLOCKED: Preparation.block,
    Reason.ERASURE_PENDING: Preparation.await_erasure,
    Reason.CONSENT_WITHDRAWN: Preparation.withdraw,
    Reason.HOLDER_DECEASED: Preparation.bury,
    Reason.DOCUMENT_REPLACED: Preparation.replace,
    **dict.fromkeys(_LINE_LIMITS, Preparation.fill_elsewhere),
    Reason.REPLACEMENT_ASKED: Preparation.hold_replaced,
    **dict.fromkeys(outcomes.GUARDIAN_REASONS, Preparation.free_all),
    Reason.GUARDIAN_CHANGED: Preparation.hold_minor,
}


def _report_dead(opened: OpenRegistry, document: Document, face: Vector) -> None:
    record = _admit_record(opened, document, face)
    if record.id not in opened.store.people.standing([record.id]).deceased:
        source = DeathSource.OTHER
        deaths.report(opened.registrar, opened.store, record.id, source, _PEOPLE[0])


def _admit(
    opened: OpenRegistry, document: Document, face: Vector, lines: Sequence[OpenedLine] = ()
) -> None:
    """Enters a holder, as an import does; what is there already stays."""
    checked = outcomes.check(document)
    subscribers = [
        Subscriber(name=document.name, document=checked, vector=face, line=line)
        for line in (lines or (None,))
    ]

    def perform(writer: Writer, _: datetime) -> None:
        store, gallery = opened.store, opened.gallery
        given = (store, gallery, HolderCache(), subscribers, opened.thresholds.same_document)
        plan = plan_admission(*given)
        if plan.referenced or plan.lines:
            admit_planned(writer, gallery, plan, actor=ACTOR, subject=ACTOR, detail={})

    opened.registrar.run(perform)


def _admit_record(opened: OpenRegistry, document: Document, face: Vector) -> DocumentRecord:
    """The same, and its record."""
    _admit(opened, document, face)
    record = _find_document(opened, document)
    assert record is not None, "it was admitted"
    return record


def _grant(opened: OpenRegistry, answer: Answer) -> None:
    """Grants an exception as two people do; one that was granted before stays."""
    for case in answer.decided.cases:
        if case.kind == CaseKind.EXCEPTION and not answer.is_repeated:
            given = (opened.registrar, opened.store, case.id, CaseOutcome.UNFOUNDED, ())
            steps.propose(*given, _PEOPLE[0])
            steps.close(*given, _PEOPLE[1])
