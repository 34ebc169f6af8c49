"""A deployment that is open for calls, and the calls that the registrar carries out on it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime
from functools import cached_property, partial, partialmethod
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from structlog.typing import FilteringBoundLogger

from engine.cases import deaths, outlets, steps
from engine.errors import DeadlinePassed, NotInstalled, SosieError, advise_extra
from engine.lifecycle import campaigns, reverification
from engine.matching import holders, verification
from engine.matching import lines as matching_lines
from engine.matching.checks.limits import MISSED, Guard
from engine.matching.checks.liveness import LivenessOfVerification
from engine.matching.checks.picture import FaceVector
from engine.matching.holders import ErasureState, FoundLines
from engine.matching.lines import OpenedDispute
from engine.matching.registrar import BoundedRunner, Outcome
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.verification import (
    FoundHolders,
    HolderCheck,
    HolderProbe,
    keep_documents,
    keep_reaching,
    note_identified,
    weigh_told,
)
from engine.registry.accounts import Session
from engine.registry.audit import AuditEntry
from engine.registry.campaigns import Campaign
from engine.registry.cases import CaseRecord
from engine.registry.database import utc_now
from engine.registry.enrollments import Tally
from engine.registry.lines import LineEvent
from engine.registry.people import DeathRecord
from engine.sweeps.estimate import ExpectedSweep, SweepOrder
from indexes.base import Floats
from schema.actors import Actor, Caller, person_of
from schema.decisions import RecordedProof
from schema.documents import Document, ErasureCertificate, ErasureScope
from schema.lines import LineEventKind
from schema.people import DeathSource, DeathStep
from schema.reasons import LivenessMode, LivenessUse
from schema.sweeps import SweepRecord
from serving.deployment.backups import BackupRecord
from serving.errors import Interrupted
from serving.registrar.open_registry import OpenRegistry
from serving.registrar.protocol import CallContext, HolderFace, LineTarget
from serving.sweeps.manager import SweepManager
from serving.telemetry.traces import Tracer
from serving.webhooks.keeper import WebhookChanges
from serving.wire.cases import OutcomeRequest, ReopenRequest
from serving.wire.sweeps import Group, GroupPage

if TYPE_CHECKING:
    from engine.imports.chunks import ChunkAnswer


T = TypeVar("T")
GRACE_S = 2.0
"""How much longer work may take that had begun when its time ran out."""


class Operations:
    """The calls of a `RegistrarClient` for one of them, which ends by the monotonic clock.
    Coroutines are gathered with others of their kind; each of the rest blocks, and needs a thread.
    What shows people is audited before it is answered."""

    def __init__(
        self,
        opened: OpenRegistry,
        context: CallContext,
        expires_at: float,
        log: FilteringBoundLogger,
        tracer: Tracer,
    ) -> None:
        self._opened = opened
        self._context = context
        self._expires_at = expires_at
        self._log = log
        self._tracer = tracer

    @cached_property
    def _runner(self) -> BoundedRunner:
        """Makes the changes of this call, as long as they begin in time."""
        return BoundedRunner(self._opened.registrar, self._expires_at - monotonic())

    @property
    def _caller(self) -> Caller:
        context = self._context
        return Caller(context.actor, context.outlet, context.carrier)

    @property
    def _guard(self) -> Guard:
        """Bounds what this call finds out of holders."""
        opened = self._opened
        limits, in_flight = opened.deployment.settings.limits, opened.in_flight
        return Guard(limits, opened.store, self._runner, self._caller, in_flight)

    def give_up(self) -> None:
        """Makes no change any more that has not begun."""
        self._runner.give_up()

    async def enroll(self, request: EnrollmentRequest) -> Answer:
        started = monotonic()
        request = replace(request, caller=self._caller)
        future = self._opened.registrar.submit(
            request,
            timeout_s=self._expires_at - started,
            # An ingress asks for several at once: one batch costs less than one after the first.
            asked_on=asyncio.get_running_loop(),
        )

        def log_decided(outcome: Outcome) -> None:
            if isinstance(outcome, Answer):
                self._log.info(
                    "decided",
                    enrollment_id=outcome.enrollment_id,
                    decision=outcome.decision.value,
                    reasons=[reason.value for reason in outcome.reasons],
                    is_repeated=outcome.is_repeated,
                    correlator=self._context.correlator,
                    ms=round(1000 * (monotonic() - started), 1),
                )

        outcome = await finish_by(future, self._expires_at, on_result=log_decided, grace_s=GRACE_S)
        if isinstance(outcome, SosieError):
            raise outcome
        return outcome

    async def identify(self, probes: Floats, threshold: float) -> list[FoundHolders]:
        with self._guard as guard:
            guard.hold_faces(len(probes))
            return await self._search(probes, threshold, guard)

    async def _search(self, probes: Floats, threshold: float, guard: Guard) -> list[FoundHolders]:
        carrier = self._context.carrier
        await asyncio.to_thread(guard.require_search)
        # A tenant's near misses are counted, and not shown.
        least = threshold if carrier is None else max(-1.0, threshold - MISSED)
        future = self._opened.searches.submit(probes, least, self._expires_at - monotonic())
        answers = await finish_by(future, self._expires_at)
        if carrier is None:
            each = [dict.fromkeys((it.document_id for it in one.candidates), 1) for one in answers]
        else:
            answers = await asyncio.to_thread(self._keep_own, answers, carrier)
            each = [weigh_told(one, threshold) for one in answers]
            answers = [keep_reaching(one, threshold) for one in answers]
        # Once for each probe that finds them.
        told = [*chain.from_iterable(Counter(one).elements() for one in each)]
        entry = note_identified(answers, self._context.actor)
        turn = self._opened.search_turns[carrier or person_of(self._context.actor)]
        try:
            async with asyncio.timeout(self._expires_at - monotonic()):
                await turn.acquire()
        except TimeoutError:
            raise DeadlinePassed("the time ran out while the search waited") from None
        try:
            tallies, is_met = await asyncio.to_thread(guard.weigh_search, told)
            noted = self._opened.registrar.submit_audit([entry], tallies)
            # Faces count while they are in flight: for them none waits.
            if told and tallies:
                await finish_by(noted, self._expires_at)
        finally:
            turn.release()
        with self._tracer.span("audit"):
            await finish_by(noted, self._expires_at)
        if told:
            await asyncio.to_thread(partial(guard.settle, *sorted(set(told)), is_met=is_met))
        return answers

    def _keep_own(self, answers: list[FoundHolders], carrier: str) -> list[FoundHolders]:
        """Keeps a tenant's own holders. The registry is asked whether or not anybody was found, or
        the time would tell."""
        found = {one.document_id for answer in answers for one in answer.candidates}
        counts = self._opened.store.open_line_counts(sorted(found) or [""])
        own = {key for key, with_carrier in counts if with_carrier == carrier}
        records = self._opened.store.documents_by_id(sorted(found) or [""])
        own -= {key for key, one in records.items() if one.refuses_face(carrier)}
        return [keep_documents(one, own) for one in answers]

    async def note(self, entries: Sequence[AuditEntry]) -> None:
        await finish_by(self._opened.registrar.submit_audit(entries), self._expires_at)

    def check_line(self, target: LineTarget, shown: HolderFace) -> HolderCheck:
        asked = replace(
            self._probe(shown),
            is_photographed=target.is_photographed,
            rules=self._opened.deployment.line_rules,
        )
        with self._guard as guard:
            return self._compare(asked, guard).check_line(target.text, target.document)

    def prove_line(self, target: LineTarget, shown: RecordedProof) -> HolderCheck:
        deployment = self._opened.deployment
        assert target.document is not None, "the type wants one"
        with self._guard as guard:
            return verification.ProofComparison(
                runner=self._runner,
                registry=self._opened.store,
                guard=guard,
                shown=shown,
                people=deployment.people,
                rules=deployment.line_rules,
                caller=self._caller,
            ).check_line(target.text, target.document, self._opened.thresholds.same_document)

    def check_document(self, document: Document | str, shown: HolderFace) -> HolderCheck:
        asked = self._probe(shown)
        with self._guard as guard:
            return self._compare(asked, guard).check_document(document)

    def _compare(self, probe: HolderProbe, guard: Guard) -> verification.HolderComparison:
        store = self._opened.store
        return verification.HolderComparison(self._runner, store, probe, self._audit, guard)

    def _require_alive(self, shown: HolderFace) -> Callable[[], None]:
        """Uses up the evidence of liveness of a verification, once somebody is found; raises where
        what is asked for does not hold."""
        deployment = self._opened.deployment
        evidence = LivenessOfVerification(
            runner=self._runner,
            registry=self._opened.store,
            terms=deployment.liveness.terms,
            result=shown.liveness,
            judged=shown.judged,
            caller=self._caller,
        )
        evidence.require()
        return evidence.use

    def _require_kept(self, portrait: FaceVector | None = None) -> None:
        """By the caller's own carrier, before anybody is looked up."""
        unkept, has_portrait = self._opened.registrar.unkept, portrait is not None
        verification.require_kept(unkept, self._context.carrier, has_portrait=has_portrait)

    def read_lines(self, document: Document, shown: HolderFace) -> FoundLines:
        store, gallery, given = self._opened.store, self._opened.gallery, self._ask(document, shown)
        with self._guard as guard:
            return holders.show_lines(store, gallery, *given, guard=guard, audit=self._audit)

    def dispute_line(
        self, target: LineTarget, document: Document, shown: HolderFace
    ) -> OpenedDispute:
        given = (self._runner, self._opened.store, target.text, *self._ask(document, shown))
        with self._guard as guard:
            return matching_lines.dispute_line(*given, guard)

    def _ask(self, document: Document, shown: HolderFace) -> tuple[Document, Floats, float]:
        """A document, and the face that is to be its holder's, alive as asked, with the score from
        which it is."""
        self._require_kept()
        self._require_alive(shown)()
        return document, shown.face.vector, self._threshold_of(shown.face)

    def close_line(self, target: LineTarget) -> str:
        context, store = self._context, self._opened.store
        return matching_lines.close_line(
            self._runner, store, target.text, context.actor, carrier=context.carrier
        )

    def report_event(self, target: LineTarget, kind: LineEventKind, at: datetime) -> LineEvent:
        context = self._context
        return reverification.report_event(
            self._runner,
            self._opened.store,
            self._opened.deployment.line_rules,
            line_text=target.text,
            kind=kind,
            at=at,
            actor=context.actor,
            carrier=context.carrier,
        )

    def _make_by_key(self, change: Callable[..., T], *given: Any) -> T:
        """Makes a change of the engine's, whose last argument is the actor in the audit chain."""
        return change(self._runner, self._opened.store, *given, self._context.actor)

    def _make(self, change: Callable[..., T], *given: Any) -> T:
        """The same where that is a person, and the key in use."""
        return change(self._runner, self._opened.store, *given, self._actor)

    start_campaign = partialmethod(_make_by_key, campaigns.start_campaign)
    exempt = partialmethod(_make_by_key, reverification.exempt)
    end_exemption = partialmethod(_make_by_key, reverification.end_exemption)
    assign_case = partialmethod(_make, steps.assign)
    note_case = partialmethod(_make, steps.note)
    reveal_case = partialmethod(_make, steps.reveal)
    reveal_subject = partialmethod(_make, steps.reveal_subject)
    withdraw_proposal = partialmethod(_make, steps.withdraw)
    suspend_outlet = partialmethod(_make, outlets.suspend)
    bar_outlet = partialmethod(_make, outlets.bar)
    lift_restriction = partialmethod(_make, outlets.lift)

    def add_to_campaign(self, campaign_id: str, lines: Sequence[str]) -> tuple[int, list[int]]:
        context, opened = self._context, self._opened
        given = (self._runner, opened.store, opened.deployment.line_rules, campaign_id, lines)
        return campaigns.add_lines(*given, context.actor, context.carrier)

    def end_campaign(self, campaign_id: str) -> Campaign:
        context, store = self._context, self._opened.store
        given = (campaign_id, context.actor, context.carrier)
        return campaigns.end_campaign(self._runner, store, *given)

    def _erase(self, scope: ErasureScope, document_id: str) -> ErasureCertificate | ErasureState:
        context = self._context
        erase = self._opened.deployment.erase
        return erase(document_id, context.actor, context.carrier, self._runner, scope)

    withdraw = partialmethod(_erase, ErasureScope.FACE)
    erase = partialmethod(_erase, ErasureScope.HOLDER)

    def open_session(self, session: Session, subject: str) -> bool:
        return self._opened.store.accounts.sign_in(session, subject, self._context.correlator)

    def touch_session(self, session_id: str) -> None:
        self._opened.store.accounts.touch(session_id, utc_now())

    def end_session(self, session_id: str) -> None:
        self._opened.store.accounts.sign_out(session_id, actor=self._context.actor)

    def close_case(self, case_id: str, asked: OutcomeRequest) -> CaseRecord:
        closed = self._end_case(steps.close, case_id, asked)
        self._opened.case_closed.set()
        return closed

    def _end_case(
        self, take: Callable[..., CaseRecord], case_id: str, asked: OutcomeRequest
    ) -> CaseRecord:
        given = (case_id, asked.outcome, asked.close_lines, self._actor, asked.seen_at)
        return take(self._runner, self._opened.store, *given, keep_lines=asked.keep_lines)

    propose_outcome = partialmethod(_end_case, steps.propose)

    def reopen_case(self, case_id: str, asked: ReopenRequest) -> CaseRecord:
        given = (case_id, asked.reason, self._actor, asked.seen_at)
        return steps.reopen(self._runner, self._opened.store, *given)

    def _change_webhook(self, change: Callable[..., T], *given: Any) -> T:
        context = self._context
        changes = WebhookChanges(self._opened.deployment, context.actor, context.carrier)
        return change(changes, *given)

    create_webhook = partialmethod(_change_webhook, WebhookChanges.create)
    change_webhook = partialmethod(_change_webhook, WebhookChanges.change)
    rotate_secret = partialmethod(_change_webhook, WebhookChanges.rotate)
    remove_webhook = partialmethod(_change_webhook, WebhookChanges.remove)
    replay_events = partialmethod(_change_webhook, WebhookChanges.replay)
    ask_again = partialmethod(_change_webhook, WebhookChanges.ask_again)

    def step_death(
        self, document_id: str, step: DeathStep, source: DeathSource | None
    ) -> DeathRecord:
        take: Callable[..., DeathRecord] = getattr(deaths, step)
        return self._make(take, document_id, *([] if source is None else [source]))

    @property
    def _actor(self) -> Actor:
        return Actor(self._context.actor, self._context.name)

    def expect_sweep(self, request: SweepOrder) -> ExpectedSweep:
        return self._opened.sweeps.plan(request)

    def _change_sweep(self, change: Callable[..., SweepRecord], given: Any) -> SweepRecord:
        return change(self._opened.sweeps, given, self._context.actor, self._runner)

    start_sweep = partialmethod(_change_sweep, SweepManager.start)
    pause_sweep = partialmethod(_change_sweep, SweepManager.pause)
    resume_sweep = partialmethod(_change_sweep, SweepManager.resume)
    cancel_sweep = partialmethod(_change_sweep, SweepManager.cancel)

    def read_sweep(self, sweep_id: str) -> SweepRecord:
        return self._opened.sweeps.status(sweep_id)

    def list_sweeps(self, limit: int) -> list[SweepRecord]:
        # A summary may have a row for each outlet of a country.
        return [replace(record, summary=None) for record in self._opened.sweeps.list(limit)]

    def list_groups(self, sweep_id: str, after: int, limit: int) -> GroupPage:
        page = self._opened.sweeps.views.groups(sweep_id, after, limit)
        detail = {"after": after, "groups": [group.key for group in page.groups]}
        self._audit(self._entry("groups.read", sweep_id, detail))
        return page

    def read_group(self, sweep_id: str, key: str) -> Group:
        shown = self._opened.sweeps.views.group(sweep_id, key)
        documents = [one.document_id for one in shown.identities]
        outside = {document for link in shown.severed for document in (link.left, link.right)}
        documents += sorted(outside.difference(documents))
        detail = {"group": key, "documents": documents}
        self._audit(self._entry("group.read", sweep_id, detail))
        return shown

    def start_backup(self) -> BackupRecord:
        return self._opened.backups.start(self._context.actor)

    def list_backups(self) -> list[BackupRecord]:
        return self._opened.backups.list()

    def admit_chunk(self, sealed: bytes, planned: str | None) -> ChunkAnswer:
        try:
            from engine.imports.chunks import ChunkPlanner, open_chunk  # noqa: PLC0415 - it needs an extra
        except ImportError:
            raise NotInstalled(f"the service takes in no import: {advise_extra('desk')}") from None

        opened = self._opened
        chunk = open_chunk(opened.store.vault, sealed)
        planner = ChunkPlanner(opened.deployment.judge, self._context.actor)
        if planned is None:
            return planner.answer(chunk, is_beside_writer=True)[1]
        return self._runner.run(lambda writer, _: planner.commit_planned(writer, chunk, planned))

    def _threshold_of(self, probe: FaceVector) -> float:
        """From which score it is a holder's face, by how many photographs it is made of."""
        return self._opened.thresholds.of(probe.comparison).same_document

    def _probe(self, shown: HolderFace) -> HolderProbe:
        """The face as a verification holds it against a holder's, or a portrait, where it is alive
        as asked."""
        self._require_kept(shown.portrait)
        portrait, verify = shown.portrait, self._opened.thresholds.verify_for(shown.face.length)
        terms = self._opened.deployment.liveness.terms
        mode = terms.mode(LivenessUse.VERIFICATION, self._context.carrier)
        return HolderProbe(
            is_alive=mode is LivenessMode.REQUIRED,
            vector=shown.face.vector,
            threshold=self._threshold_of(shown.face),
            actor=self._context.actor,
            carrier=self._context.carrier,
            second=shown.second if portrait is None else None,
            own=None if portrait is None else (portrait.vector, verify),
            use_liveness=self._require_alive(shown),
            people=self._opened.deployment.people.of(self._context.carrier or ""),
        )

    def _entry(self, action: str, subject: str, detail: Mapping[str, Any]) -> AuditEntry:
        return AuditEntry(self._context.actor, action, subject, detail)

    def _audit(self, entry: AuditEntry, tallies: Sequence[Tally] = ()) -> None:
        left_s = max(0.0, self._expires_at - monotonic())
        self._opened.registrar.audit(entry, left_s, tallies)


async def finish_by(
    future: Future[T],
    expires_at: float,
    *,
    give_up: Callable[[], object] | None = None,
    on_result: Callable[[T], object] | None = None,
    grace_s: float = 0.0,
) -> T:
    """The future's result by `expires_at`, of the monotonic clock. A caller that is cancelled or
    late cancels work that has not begun, and calls `give_up`: `DeadlinePassed`. What has begun is
    waited for `grace_s`, then `Interrupted`: it may take effect. `on_result` gets the result in any
    case."""
    wrapped = asyncio.wrap_future(future)

    def settle(ended: asyncio.Future[T]) -> None:
        # Asks for the error in any case, since a caller that has left does not.
        if not ended.cancelled() and ended.exception() is None and on_result is not None:
            on_result(ended.result())

    wrapped.add_done_callback(settle)
    try:
        await asyncio.wait((wrapped,), timeout=max(0.0, expires_at - monotonic()))
        if not wrapped.done():
            if future.cancel():
                raise DeadlinePassed("the time ran out while the call waited: nothing was stored")
            if give_up is not None:
                give_up()
            await asyncio.wait((wrapped,), timeout=grace_s)
    except asyncio.CancelledError:
        future.cancel()
        if give_up is not None:
            give_up()
        raise
    if not wrapped.done():
        raise Interrupted(
            "the time ran out while the call was carried out: "
            "ask again, with the same Idempotency-Key if it has one"
        )
    return wrapped.result()
