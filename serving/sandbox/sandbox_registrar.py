"""The registrar of a sandbox: the real one, asked about the faces that a serial stands for, over a
registry brought to where the outcome follows, with the rules that the serial asks for."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from msgspec import structs

from engine.cases import deaths, steps
from engine.cases.opening import CaseBatch, NewCase
from engine.errors import NotFound, NotReported, RequestError
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
from engine.matching.holders import (
    ask_erasure,
    block_document,
    find_document,
    find_target,
    watch_face,
)
from engine.matching.judge import DecisionCheck, Judge, JudgedBatch
from engine.matching.lines import LINE_UNKNOWN, close_line, find_line, read_line
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
from serving.errors import NotReady
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
    DEPARTED,
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

T = TypeVar("T", EnrollmentRequest, GuardianShown)

ACTOR = "sandbox"
CARRIER, OUTLET, CLOSED_OUTLET = "sandbox", "sandbox-1", "sandbox-closed"
OTHER_CARRIER, OTHER_OUTLET = "other", "other-1"
OUTLETS = {CARRIER: OUTLET, OTHER_CARRIER: OTHER_OUTLET}
REPORTED_SINCE = date(2025, 1, 1)
LINE_LIMIT = Carrier("", "").line_limit
READY_S = 120.0
_DELAYS_S = {outcomes.SLOW: 3.0, outcomes.SILENT: READY_S}
MOST_KEYS = 10_000
_PEOPLE = Actor(ACTOR, "sandbox one"), Actor(ACTOR, "sandbox two")
_RESIDENT = Document("cn-ric", make_number("cn-ric", 899), "Sandbox Resident")
_DEPARTED = Document("cn-ric", make_number("cn-ric", 898), "Sandbox Departed")
_HELD_FOR = timedelta(days=3650)
"""An erasure waits for its case as long as anybody tests with it."""

_SAID = {
    Reason.AUTHORITY_UNAVAILABLE: (AuthorityCode.TIMEOUT, ()),
    Reason.AUTHORITY_UNKNOWN_DOCUMENT: (AuthorityCode.UNKNOWN_DOCUMENT, ()),
    Reason.AUTHORITY_CONTRADICTS: (AuthorityCode.NOT_VALID, (Standing.LOST,)),
}
"""What the authority said, where a serial stands for a reason of it."""
_LIVENESS_REASONS = frozenset(one for one in Reason if one.row.about is About.LIVENESS)
_ALIVE = LivenessTerms({None: LivenessRules(enrollment=LivenessMode.REQUIRED)})
_TERMS: Mapping[Reason | None, Any] = {
    **dict.fromkeys(_LIVENESS_REASONS, _ALIVE),
    **dict.fromkeys(_SAID, AuthorityTerms()),
    **dict.fromkeys(outcomes.GUARDIAN_REASONS, PeopleRules(age_of_majority=18)),
    # Nobody is old enough to answer for others.
    Reason.GUARDIAN_REFUSED: PeopleRules(age_of_majority=200),
    Reason.GUARDIAN_CHANGED: PeopleRules(age_of_majority=18, minor_face="guardian"),
    Reason.EXCEPTION_ASKED: PeopleRules(exceptions=True, exceptions_per_outlet=10**9),
    Reason.EXCEPTION_LIMIT_REACHED: PeopleRules(exceptions=True, exceptions_per_outlet=0),
    Reason.PERSON_LIMIT_REACHED: LineLimits(LINE_LIMIT),
    Reason.CHANNEL_LIMIT_REACHED: LineLimits(outlets=dict.fromkeys(OUTLETS.values(), 1)),
    Reason.DAY_LIMIT_REACHED: LineLimits(day_limit=1),
    Reason.APPROVAL_MISSING: LineLimits(approval_h=1),
}
"""The terms of a check that a serial stands for."""
_PROVEN = PeopleRules(proofs=dict.fromkeys(ProofWay, "approved"))
_CHECKS: Mapping[type, type[DecisionCheck]] = {
    LivenessTerms: LivenessCheck,
    AuthorityTerms: AuthorityCheck,
    PeopleRules: PeopleCheck,
    LineLimits: LineCheck,
}
"""The check of each kind of terms."""
_LOOK_ALIKES = {
    Reason.DUPLICATE_IDENTITY: RESIDENT,
    Reason.POSSIBLE_DUPLICATE: RESIDENT,
    Reason.WATCHLISTED: WATCHED,
    Reason.DECEASED_LOOK_ALIKE: DEPARTED,
}
_AS_GUARDIAN = {
    Reason.GUARDIAN_UNUSABLE: Reason.BLURRED,
    Reason.GUARDIAN_MISMATCH: Reason.FACE_MISMATCH,
    Reason.GUARDIAN_DUPLICATE: Reason.POSSIBLE_DUPLICATE,
}
"""For which reason the guardian's photographs would be refused, were the guardian enrolled."""


@frozen(kw_only=True, eq=False)
class SandboxJudge(Judge):
    """The judge, by the rules that the serial of an enrollment asks for."""

    def judge(
        self, requests: Sequence[EnrollmentRequest], writer: Writer, **given: Any
    ) -> JudgedBatch:
        """One at a time, since each has rules of its own."""
        (request,) = requests
        reason = find_outcome(outcomes.check(request.document)).reason
        terms = _PROVEN if request.proof is not None else _TERMS.get(reason)
        adapted = self
        if terms is not None:
            adapted = replace(self, checks={**self.checks, _CHECKS[type(terms)]: terms})
        if reason is Reason.NOT_SEARCHED:
            adapted = replace(adapted, unkept=OUTLETS, unsearched=OUTLETS)
        return Judge.judge(adapted, requests, writer, **given)


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
    judge_class = SandboxJudge

    @cached_property
    def people(self) -> PeopleRules:
        return replace(super().people, verified_by=tuple(ProofWay))

    @property
    def sim_changes(self) -> SimChangeTerms:
        """Both carriers report every change, unless the settings say since when."""
        usual = super().sim_changes
        since = dict.fromkeys(OUTLETS, REPORTED_SINCE)
        return SandboxSimChanges({**since, **usual.since}, usual.kept)


class SandboxRegistrar(RegistrarClient):
    """The registrar in this process, which is asked about the faces that a serial stands for."""

    def __init__(self, service: RegistrarService) -> None:
        self._service = service
        self._asked = deque[str](maxlen=MOST_KEYS)
        """Idempotency-Keys that came before."""

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
        for place, one in enumerate(arguments):
            if isinstance(one, HolderFace):
                shown = await asyncio.to_thread(self._show, arguments[place - 1], one)
                arguments = (*arguments[:place], shown, *arguments[place + 1 :])
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
        _report_dead(opened, _admit(opened, _DEPARTED, _find_face(opened, DEPARTED)))
        if not len(opened.registrar.watchlist):
            watched = _find_face(opened, WATCHED)
            watch_face(opened.registrar, watched, "the sandbox's own entry", ACTOR)

    async def _enroll(self, request: EnrollmentRequest, context: CallContext) -> Reply:
        outcome = find_outcome(outcomes.check(request.document))
        scope = f"{request.carrier}\0{request.idempotency_key}"
        error = None
        if outcome.error is not None and not (outcome.is_once and scope in self._asked):
            error = outcome.error(f"{outcome.what}, as this serial says")
        self._asked.append(scope)
        await asyncio.sleep(_DELAYS_S.get(outcome.serial, 0.0))
        if error is not None and outcome.serial != outcomes.LOST_AFTER:
            raise error
        known = await asyncio.to_thread(self._prepare, outcome, request)
        reply = await self._service.perform("enroll", (known,), context)
        if error is not None:
            raise error
        if outcome.serial == outcomes.GRANTED and isinstance(reply.value, Answer):
            await asyncio.to_thread(_grant, self._service.require(), reply.value)
        return reply

    def _prepare(self, outcome: Outcome, request: EnrollmentRequest) -> EnrollmentRequest:
        """The request with the faces that lead to the outcome, in a registry where they do."""
        opened, reason = self._service.require(), outcome.reason
        checked = outcomes.check(request.document)
        scope = idempotency_scope(opened.store.vault, request.carrier, request.idempotency_key)
        # A stored answer asks for nothing to be prepared.
        if not checked.is_well_formed or opened.store.answers([scope]):
            return request
        own = make_face(f"{checked.type} {checked.number}", opened.gallery.dim)
        preparation = Preparation(opened, request, own)
        preparation.free(1 if outcome.is_of_minor else LINE_LIMIT)
        if (prepare := _PREPARATIONS.get(reason)) is not None:
            prepare(preparation)
        changes: dict[str, Any] = {}
        if request.guardian is not None:
            seen = None if reason is None else _AS_GUARDIAN.get(reason)
            changes["guardian"] = _show_pair(opened, request.guardian, seen)
        if reason in _LIVENESS_REASONS:
            changes["liveness"] = RecordedLiveness("required", reason)
        if reason in _SAID:
            code, standings = _SAID[reason]
            said = AuthorityResult(ACTOR, code, utc_now(), standings)
            changes["authority"] = {DocumentRole.OWN: said}
        if request.proof is not None:
            changes["proof"] = _tell_proof(outcome)
        if reason is Reason.GUARDIAN_CHANGED and request.guardian is not None:
            # Of a minor whose face is on file the guardian comes alone.
            return replace(request, live=ABSENT, portrait=ABSENT, **changes)
        return replace(_show_pair(opened, request, reason), **changes)

    def _show(self, target: Document | LineTarget | str, shown: HolderFace) -> HolderFace:
        """The holder's own face in place of anybody's."""
        opened = self._service.require()
        with suppress(RequestError):
            if isinstance(target, LineTarget):
                target = read_line(opened.store, target.text).document_id
            record = find_target(opened.store, target, utc_now().date())
            if record.reference_ids and _is_anybody(opened, shown.face.vector):
                ids = np.array(record.reference_ids[:1], np.int64)
                (reference,) = opened.gallery.vectors(ids)
                face = FaceVector(make_near(reference, "probe", outcomes.ALIKE))
                return replace(shown, face=face)
        return shown


def _find_face(opened: OpenRegistry, name: str) -> Vector:
    """A face as photographs of it are known here: rotated."""
    (face,) = opened.store.vault.rotate(make_face(name, opened.gallery.dim)[None])
    return np.asarray(face, np.float32)


def _is_anybody(opened: OpenRegistry, vector: Vector) -> bool:
    return bool(vector @ _find_face(opened, ANYBODY) > 0.5)


def _show_pair(opened: OpenRegistry, shown: T, reason: Reason | None) -> T:
    """An applicant or a guardian with a face of the document's own, or with what is wrong."""
    checked, bounds = outcomes.check(shown.document), opened.thresholds
    name = f"{checked.type} {checked.number}"
    face = make_face(name, opened.gallery.dim)
    if reason in _LOOK_ALIKES:
        least = 1 if reason is Reason.DUPLICATE_IDENTITY else bounds.review
        other = _find_face(opened, _LOOK_ALIKES[reason])
        face = make_near(other, name, (bounds.certain + least) / 2)
    live, portrait = make_pair(face, name)
    if reason is Reason.FACE_MISMATCH:
        portrait = make_near(live, f"{name} portrait", 0.05)
    return replace(
        shown,
        live=_show_face(opened, shown.live, live, reason),
        portrait=shown.portrait and _show_face(opened, shown.portrait, portrait),
    )


def _tell_proof(outcome: Outcome) -> RecordedProof:
    """Every proof holds, unless the serial says what is wrong with it."""
    problem = outcome.reason if outcome.reason in outcomes.PROOF_REASONS else None
    return RecordedProof(problem, ProofWay.MOBILE_ID, ACTOR, new_id(), issued_at=utc_now())


def _show_face(
    opened: OpenRegistry, sample: Sample, vector: Vector, reason: Reason | None = None
) -> Sample:
    """A sample of anybody with another face, and with what is wrong with it."""
    if sample.vector is None or not _is_anybody(opened, sample.vector):
        return sample
    if reason is None or reason.row.about is not About.PHOTOGRAPH:
        return replace(sample, vector=vector)
    return replace(sample, vector=None if reason is Reason.NO_FACE else vector, problems=(reason,))


@frozen
class Preparation:
    """Brings the registry to where the outcome of an enrollment follows; `own` is the face of the
    document's holder."""

    opened: OpenRegistry
    request: EnrollmentRequest
    own: Vector

    def free(self, most: int) -> None:
        """Closes the line on the number, and the holder's lines where there are so many, so that a
        test may be repeated. A guardian answers for a minor, whose lines close from one on."""
        registrar, store = self.opened.registrar, self.opened.store
        number = normalise_msisdn(self.request.msisdn)
        if find_line(store, number) is not None:
            close_line(registrar, store, number, ACTOR)
        with suppress(NotFound):
            record = find_document(store, self.request.document, utc_now().date())
            held = store.lines_in_use_of([record.id]).get(record.id, [])
            for line in held if len(held) >= most else ():
                close_line(registrar, store, line.id, ACTOR)

    def rename(self, document: Document | None) -> None:
        """Holds a document under another name."""
        if document is not None and outcomes.check(document).is_well_formed:
            _admit(self.opened, structs.replace(document, name="Sandbox Namesake"), self.own)

    def use_number(self) -> None:
        line = self._open_line(OTHER_CARRIER, normalise_msisdn(self.request.msisdn))
        _admit(self.opened, _RESIDENT, _find_face(self.opened, RESIDENT), [line])

    def fill(self, carrier: str) -> None:
        """Holds all lines with a carrier."""
        self.hold([self._open_line(carrier, self._make_msisdn(n)) for n in range(LINE_LIMIT)])

    def fill_elsewhere(self) -> None:
        self.fill(CARRIER if self.request.carrier == OTHER_CARRIER else OTHER_CARRIER)

    def await_erasure(self) -> None:
        opened, record = self.opened, self.hold()
        if record.awaits_erasure:
            return
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
        carrier = self.request.carrier
        record = self.hold([self._open_line(carrier, self._make_msisdn(LINE_LIMIT))])
        if not record.refuses_face(carrier):
            self.opened.deployment.erase(record.id, ACTOR, carrier, scope=ErasureScope.FACE)

    def replace(self) -> None:
        """By an enrollment with another carrier, whose feed says so and not the caller's."""
        record = self.hold()
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
        if self.hold().blocked_at is None:
            registrar, store = self.opened.registrar, self.opened.store
            block_document(registrar, store, self.request.document, ACTOR)

    def hold(self, lines: Sequence[OpenedLine] = ()) -> DocumentRecord:
        return _admit(self.opened, self.request.document, self.own, lines)

    def _make_msisdn(self, place: int) -> str:
        """A number that nobody asks for."""
        number = outcomes.check(self.request.document).number
        return f"+8619{int.from_bytes(number.encode()) % 10**7:07d}{place:02d}"

    def _open_line(self, carrier: str, number: str) -> OpenedLine:
        return OpenedLine(number, carrier, OUTLETS[carrier], utc_now())


_PREPARATIONS: Mapping[Reason | None, Callable[[Preparation], object]] = {
    Reason.NAME_MISMATCH: lambda it: it.rename(it.request.document),
    Reason.REPLACEMENT_ASKED: lambda it: it.rename(it.request.replaces),
    Reason.DOCUMENT_HELD_BY_ANOTHER_FACE: lambda it: _admit(
        it.opened, it.request.document, make_near(it.own, "another holder", 0.05)
    ),
    Reason.LINE_IN_USE: Preparation.use_number,
    Reason.LINE_LIMIT_REACHED: lambda it: it.fill(it.request.carrier),
    Reason.DOCUMENT_BLOCKED: Preparation.block,
    Reason.ERASURE_PENDING: Preparation.await_erasure,
    Reason.CONSENT_WITHDRAWN: Preparation.withdraw,
    Reason.HOLDER_DECEASED: lambda it: _report_dead(it.opened, it.hold()),
    Reason.DOCUMENT_REPLACED: Preparation.replace,
    **{
        reason: Preparation.fill_elsewhere
        for reason, terms in _TERMS.items()
        if isinstance(terms, LineLimits)
    },
    Reason.GUARDIAN_CHANGED: Preparation.hold,
}


def _report_dead(opened: OpenRegistry, record: DocumentRecord) -> None:
    if record.id not in opened.store.people.standing([record.id]).deceased:
        source = DeathSource.OTHER
        deaths.report(opened.registrar, opened.store, record.id, source, _PEOPLE[0])


def _admit(
    opened: OpenRegistry, document: Document, face: Vector, lines: Sequence[OpenedLine] = ()
) -> DocumentRecord:
    """Enters a holder, as an import does; what is there already stays. Returns its record."""
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
    return find_document(opened.store, document, utc_now().date())


def _grant(opened: OpenRegistry, answer: Answer) -> None:
    """Grants an exception as two people do; one that was granted before stays."""
    for case in answer.decided.cases:
        if case.kind == CaseKind.EXCEPTION and not answer.is_repeated:
            given = (opened.registrar, opened.store, case.id, CaseOutcome.UNFOUNDED, ())
            steps.propose(*given, _PEOPLE[0])
            steps.close(*given, _PEOPLE[1])
