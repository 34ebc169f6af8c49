"""Questions about a face, long after its enrollment: is it the holder's, and whose is it?

Another face than the holder's opens a case: the line or the document may have changed hands. A
search of the gallery stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.cases.opening import CaseBatch, NewCase
from engine.errors import FaceNotKept, LivenessRefused, NotFound, ProofRefused, RequestError
from engine.lifecycle.reverification import LifeBatch
from engine.lifecycle.rules import NO_RULES, LineRules
from engine.matching.checks.limits import SEARCHED, Guard, is_near
from engine.matching.checks.proofs import ProofEvidence, count_try, name_proof, record_proof
from engine.matching.checks.second_model import FILLED
from engine.matching.comparison import score_best
from engine.matching.holders import NOBODY, UNHELD, find_target, look_up, score_holder
from engine.matching.lines import LINE_UNKNOWN, find_line, normalise_line
from engine.matching.policy import Candidate
from engine.matching.registrar import CountingAudit, Runner
from engine.registry.audit import AuditEntry
from engine.registry.database import utc_now
from engine.registry.documents import DocumentRecord
from engine.registry.enrollments import Tally
from engine.registry.lines import LineRecord
from engine.registry.references import FilledReference, SecondTemplate
from engine.registry.rows import Write
from engine.registry.store import Reader
from engine.registry.writer import ChangeRunner, Writer
from indexes.base import Floats
from schema import frozen
from schema.actors import Caller
from schema.cases import CaseKind, CaseOrigin
from schema.decisions import HolderScore, RecordedProof
from schema.documents import Document, DocumentStatus, ErasureScope
from schema.lines import LineEventKind
from schema.options import NO_RULES as NO_PEOPLE
from schema.options import PeopleRules
from schema.people import ProofWay
from schema.reasons import Reason

if TYPE_CHECKING:
    from indexes.gallery import Gallery


def require_kept(
    unkept: Container[str], carrier: str | None, *, has_portrait: bool = False
) -> None:
    """`FaceNotKept` where a holder's face is asked for of a carrier of which none is kept,
    `RequestError` where a portrait comes instead of another's."""
    if carrier is None or (carrier in unkept) is has_portrait:
        return
    if has_portrait:
        raise RequestError("the holder's face is on file: leave the portrait out")
    raise FaceNotKept(
        "this carrier keeps no faces: bring the document with its portrait, for a verification, or "
        "a proof, for another line"
    )


class HolderCheck(HolderScore, frozen=True):
    """How a probe compares with a document's references; no score where it has none.

    `case_id` is the case that people will decide, where another face was found: for those who
    work on cases alone. `way` is that by which the holder came without a face; `other_ways` are
    open to a tenant whose probe is not the holder's, and `tries_left` before one must be offered.
    """

    document_id: str
    case_id: str | None = None
    way: ProofWay | None = None
    other_ways: tuple[ProofWay, ...] = ()
    tries_left: int | None = None


@frozen(kw_only=True)
class HolderProbe:
    """A face float32[d], a unit vector, and on whose behalf it is compared with a holder.

    `carrier` is the tenant that asks; None for one that may ask about all.
    """

    vector: Floats = field(repr=False)
    threshold: float
    actor: str
    carrier: str | None = None
    second: SecondTemplate | None = None
    """The same face by a second model: of the holder, it fills a reference that lacks one."""
    use_liveness: Callable[[], None] | None = field(default=None, repr=False)
    """Called once, when somebody is found and before the face is compared."""
    is_photographed: bool = False
    """Whether it was taken for this check: what was issued before shows nobody who has come."""
    own: tuple[Floats, float] | None = field(default=None, repr=False)
    """The portrait of the document that came along, and from which score it is this face: counts
    where none is on file."""
    is_alive: bool = False
    """Whether evidence of liveness is required of it, and was looked at."""
    rules: LineRules = NO_RULES
    """What follows for a line whose holder has come, or has not."""
    people: PeopleRules = NO_PEOPLE
    """The carrier's."""

    @property
    def ends_waits(self) -> bool:
        """True where it shows a holder who has come, and no two pictures that somebody has."""
        return self.is_photographed and (self.own is None or self.is_alive)

    @property
    def told_at(self) -> float:
        """The threshold that is told: to a tenant the same whichever face counted, or it would tell
        of whom others keep one."""
        return self.threshold if self.own is None or self.carrier is None else self.own[1]


@frozen
class HolderComparison:
    """Compares a probe with the holder of a line or a document; audited before it returns.

    Another face opens a case about it. That, and `NotFound`, are failures, which `guard` bounds.
    """

    registrar: Runner
    registry: Reader
    probe: HolderProbe
    audit: CountingAudit
    guard: Guard

    def check_line(self, line_text: str, presented: Document | None = None) -> HolderCheck:
        """With the holder of a line in use, by number or id; `NotFound` where there is no such
        line, or where it is another tenant's, or not under the document that is `presented`."""
        target = normalise_line(line_text)
        found: LineRecord | None = None

        def find() -> DocumentRecord:
            nonlocal found
            found, record = _find_held(self.registry, target, self.probe.carrier, presented)
            self._require_kept(found)
            return record.require_consent(found.carrier)

        record, score = self._compare(find)
        return self._finish(record, found, score)

    def check_document(self, target: Document | str) -> HolderCheck:
        """With the holder of a document, presented or by its id; `NotFound` where nobody holds it
        or, for a tenant, where it has no line in use there."""

        def find() -> DocumentRecord:
            record = find_target(self.registry, target, utc_now().date())
            carrier, counts = self.probe.carrier, self.registry.open_line_counts([record.id])
            if carrier is not None and not counts[record.id, carrier]:
                raise NotFound(NOBODY)
            return record.require_consent(carrier)

        record, score = self._compare(find)
        return self._finish(record, None, score)

    def _require_kept(self, line: LineRecord) -> None:
        """As `require_kept` says, for whoever asks. What waits for the holder is not ended by two
        pictures that somebody has, whether or not another carrier has the face on file: it is
        `LivenessRefused` unless liveness is required."""
        own = self.probe.own
        require_kept(self.registrar.unkept, line.carrier, has_portrait=own is not None)
        if own is not None and not self.probe.ends_waits and self._waits(line):
            raise LivenessRefused(
                "the line waits for its holder, whose face is not kept, and whom two photographs "
                "do not show: require evidence of liveness of verifications, and bring it"
            )

    def _waits(self, line: LineRecord) -> bool:
        is_asked = bool(self.registry.life.asked_of([line.id])[line.id])
        return line.service is not None or is_asked

    def _compare(self, find: Callable[[], DocumentRecord]) -> tuple[DocumentRecord, float | None]:
        """The document and the score, where its bounds allow to compare."""
        self.guard.require()

        def find_bounded() -> DocumentRecord:
            record = find()
            self.guard.require(record.id)
            if self.probe.use_liveness is not None:
                self.probe.use_liveness()
            return record

        try:
            return score_holder(find_bounded, self.registrar.gallery, self.probe.vector)
        except NotFound:
            entry = AuditEntry(self.probe.actor, "holder.checked", UNHELD, {"matched": False})
            self.audit(entry, self.guard.count(is_failure=True))
            self.guard.settle()
            raise

    def _finish(
        self, record: DocumentRecord, line: LineRecord | None, score: float | None
    ) -> HolderCheck:
        if score is None and self.probe.own is not None:
            return self._finish_by_portrait(record, line, *self.probe.own)
        is_match = score is not None and score >= self.probe.threshold
        detail = {"matched": is_match} | ({} if line is None else {"line": line.id})
        entry = AuditEntry(self.probe.actor, "holder.checked", record.id, detail)
        case_id, (tries, ways) = None, self._count_try(record, is_match=is_match)
        if is_match or score is None:
            # Without a face on file nothing was compared: that is no evidence.
            is_told = is_match and self.guard.tells(score, self.probe.threshold)
            told = [record.id] if is_told else []
            if is_match and self.probe.second is not None:
                self._fill(record, self.probe.second)
            if is_match:
                self._come(line)
            self.audit(entry, [*tries, *self.guard.count(*told, is_failure=False)])
            if told:
                self.guard.settle(*told)
        else:
            tallies = [*tries, *self.guard.count(record.id, is_failure=True)]
            case_id = self._open_case(record, line, score, entry, tallies)
            self.guard.settle(record.id)
        line_id = None if line is None else line.id
        threshold = self.probe.told_at
        return HolderCheck(is_match, score, threshold, record.id, line_id, case_id, **ways)

    def _finish_by_portrait(
        self, record: DocumentRecord, line: LineRecord | None, portrait: Floats, threshold: float
    ) -> HolderCheck:
        """By the document's portrait alone, of which another's face is no evidence: it opens no
        case, and is a failure of the key and about the holder. Nobody comes by a document that is
        blocked or replaced, or whose holder is dead."""
        score = score_best(self.probe.vector, portrait[None])
        is_match = score is not None and score >= threshold
        is_match = is_match and _is_in_force(self.registry, record)
        line_id = None if line is None else line.id
        if is_match:
            self._come(line)
        detail = {"matched": is_match, "by": "portrait", "line": line_id}
        entry = AuditEntry(self.probe.actor, "holder.checked", record.id, detail)
        told = [] if is_match else [record.id]
        tries, ways = self._count_try(record, is_match=is_match)
        self.audit(entry, [*tries, *self.guard.count(*told, is_failure=not is_match)])
        self.guard.settle(*told)
        return HolderCheck(is_match, score, threshold, record.id, line_id, **ways)

    def _count_try(
        self, record: DocumentRecord, *, is_match: bool
    ) -> tuple[list[Tally], dict[str, Any]]:
        """Counts a tenant's probe as a try, whether or not a face is on file, which it would tell,
        and tells what its answer says of other ways."""
        carrier, people = self.probe.carrier, self.probe.people
        if carrier is None:
            return [], {}
        given = (self.registry, utc_now(), record.lookup, carrier, people.face_tries)
        tallies, left = count_try(*given, is_shown=is_match)
        return tallies, {} if is_match else {"other_ways": people.verified_by, "tries_left": left}

    def _fill(self, record: DocumentRecord, second: SecondTemplate) -> None:
        """Gives the holder's references the template of a second model, where they lack it."""

        def find_missing() -> list[int]:
            ids = record.reference_ids
            known = self.registry.second_templates(ids, second.digest, len(second.vector))
            return [key for key in ids if key not in known]

        def perform(writer: Writer, _now: datetime) -> None:
            if missing := find_missing():
                detail = {"references": len(missing)}
                entry = AuditEntry(self.probe.actor, FILLED, second.digest, detail)
                writer.commit([entry, *(FilledReference(key, second) for key in missing)])

        if find_missing():
            self.registrar.run(perform)

    def _come(self, line: LineRecord | None) -> None:
        """Ends what waits for the line's holder, who was photographed, and its suspension."""
        if line is None or not self.probe.ends_waits:
            return

        def perform(writer: Writer, now: datetime) -> None:
            if writes := _come(self.registry, self.probe.rules, line.id, now, self.probe.actor):
                writer.commit(writes)

        if self._waits(line):
            self.registrar.run(perform)

    def _open_case(
        self,
        record: DocumentRecord,
        line: LineRecord | None,
        score: float,
        entry: AuditEntry,
        tallies: Sequence[Tally],
    ) -> str:
        def perform(writer: Writer, now: datetime) -> str:
            asked = [] if line is None else self.registry.life.asked_of([line.id])[line.id]
            kind = CaseKind.REVERIFICATION_FAILED if asked else CaseKind.LINE_CHANGED_FACE
            writes: list[Write] = [entry, *tallies]
            if asked and line is not None:
                known = self.registry.cases.open_of_line(line.id, kind)
                if known is not None:
                    # One case of a line, however often another's face is tried.
                    writer.commit(writes)
                    return known.id
            new = NewCase(
                kind=kind,
                origin=CaseOrigin.REVERIFICATION,
                document_ids=(record.id,),
                enrollment_id=None if line is None else line.enrollment_id,
                line_id=None if line is None else line.id,
                line_ids=() if line is None else (line.id,),
                score=score,
            )
            cases = CaseBatch(self.registry, now)
            case = cases.open(new, self.probe.actor)
            if asked and line is not None:
                batch = LifeBatch(self.registry, self.probe.rules, [line], now, self.probe.actor)
                batch.happen(line.id, LineEventKind.REVERIFY_FAILED, now, case.id)
                writes += batch.writes()
            writer.commit([*writes, *cases.writes()])
            return case.id

        return self.registrar.run(perform)


def _find_held(
    registry: Reader, target: str, carrier: str | None, presented: Document | None
) -> tuple[LineRecord, DocumentRecord]:
    """A line in use and its document; `NotFound` as `check_line` says it."""
    line = find_line(registry, target, carrier)
    if line is None:
        raise NotFound(LINE_UNKNOWN)
    record = registry.document(line.document_id)
    if presented is not None:
        lookup = look_up(registry, presented, utc_now().date())
        if record.lookup is None or record.lookup != lookup:
            raise NotFound(LINE_UNKNOWN)
    return line, record


def _is_in_force(registry: Reader, record: DocumentRecord) -> bool:
    standing = registry.people.standing([record.id])
    is_gone = record.id in {*standing.deceased, *standing.replaced}
    leaves = record.awaits_erasure and record.erasure_scope is not ErasureScope.FACE
    return record.status is DocumentStatus.ACTIVE and not (is_gone or leaves)


def _come(
    registry: Reader, rules: LineRules, line_id: str, now: datetime, actor: str
) -> list[Write]:
    """The changes where a line's holder has come; none where nobody waited."""
    fresh = registry.lines_by_id([line_id]).values()
    batch = LifeBatch(registry, rules, fresh, now, actor)
    return batch.writes() if batch.come(line_id) else []


@frozen(kw_only=True)
class ProofComparison:
    """A proof that stands for a face, and on whose behalf it is held against the holder of a line.
    Whoever asks, its way must be open at the line's carrier; `rules` say what follows for the line.
    """

    runner: ChangeRunner
    registry: Reader
    guard: Guard
    shown: RecordedProof
    people: PeopleRules
    rules: LineRules
    caller: Caller

    def check_line(self, line_text: str, presented: Document, threshold: float) -> HolderCheck:
        """With the holder of a line in use, by its number, under the document that is `presented`.

        `ProofRefused` before anybody is looked up, where it does not hold or its way is not open,
        and then `NotFound`: both are failures of the key.
        """
        self.guard.require()
        try:
            given = (normalise_line(line_text), presented, threshold)
            return self.runner.run(lambda writer, now: self._decide(*given, writer, now))
        finally:
            self.guard.settle()

    def _decide(
        self, target: str, presented: Document, threshold: float, writer: Writer, now: datetime
    ) -> HolderCheck:
        """The answer; one transaction keeps the proof, used from now on, and all that follows."""
        token, caller = name_proof(self.registry.vault, self.shown), self.caller
        refusal = self._weigh(token, now).refusal
        row = record_proof(self.shown, refusal, token, now, caller.carrier, caller.outlet)
        failed = self.guard.count(is_failure=True)

        def keep(subject: str, *writes: Write, matched: bool = False, **detail: str) -> None:
            told = {"matched": matched, "by": row.decision, **detail}
            writer.commit([AuditEntry(caller.actor, "holder.checked", subject, told), *writes])

        if refusal is not None:
            keep(UNHELD, row, *failed, problem=refusal.value)
            text = f"the proof does not hold ({refusal.value}): bring another one, or the face"
            raise ProofRefused(text)
        try:
            line, record = _find_held(self.registry, target, caller.carrier, presented)
        except NotFound:
            # Of a line that is not there none is used up.
            keep(UNHELD, *failed)
            raise
        guardian = self.registry.people.guardians([line.id]).get(line.id)
        # Who answers for a minor shows a face.
        is_match = guardian is None or guardian.ends_in < now.year
        people = self.people.of(line.carrier)
        is_offered = self.shown.way in people.verified_by
        is_match = is_match and is_offered and _is_in_force(self.registry, record)
        follows: list[Write] = [*failed]
        if is_match:
            given = (self.registry, now, record.lookup, line.carrier, people.face_tries)
            tries, _ = count_try(*given, is_shown=True)
            come = _come(self.registry, self.rules, line.id, now, caller.actor)
            follows = [*tries, *come]
        keep(record.id, row, *follows, matched=is_match, line=line.id)
        return HolderCheck(is_match, None, threshold, record.id, line.id, way=self.shown.way)

    def _weigh(self, token: bytes | None, now: datetime) -> ProofEvidence:
        shown, outlet = self.shown, self.caller.outlet or ""
        people = self.people.of(self.caller.carrier or "")
        taken = self.registry.people.count_proofs([outlet], now - people.window)
        is_used = token is not None and bool(self.registry.used_liveness([token]))
        ways = people.verified_by
        return ProofEvidence(
            problem=Reason.PROOF_REPLAYED if is_used else shown.problem,
            way=shown.way,
            is_offered=bool(ways) if shown.way is None else shown.way in ways,
            approved=taken.get(outlet, 0),
            limit=people.proofs_per_outlet,
        )


@frozen
class FoundHolders:
    """Candidates, best first, and what was searched.

    Where only the best were asked for, `left_out` more references reach the threshold, of
    `documents_left_out` documents that no candidate names.
    """

    candidates: tuple[Candidate, ...]
    searched: int
    gallery_sequence: int
    left_out: int = 0
    documents_left_out: int = 0

    @property
    def found(self) -> int:
        """The number of references that reach the threshold."""
        return len(self.candidates) + self.left_out

    @property
    def found_documents(self) -> int:
        """The number of documents that these references are of."""
        return len({one.document_id for one in self.candidates}) + self.documents_left_out


def identify(
    probes: Floats, gallery: Gallery, registry: Reader, *, threshold: float, most: int | None = None
) -> list[FoundHolders]:
    """All references at or above the threshold, for each probe of float32[n, d], unit rows; the
    `most` best of them, where that is given.

    Whatever the number of probes, the registry is asked once; where nobody is found too, or the
    time that an answer takes would tell of holders whom it does not name.
    """
    found = gallery.range_search(probes, threshold)
    # Most probes find nobody, and share one answer.
    answers = [FoundHolders((), found.searched, found.sequence)] * len(found.hits)
    owners = registry.documents_of(np.unique(found.hits.ids).tolist() or [0])
    for query in np.flatnonzero(np.diff(found.hits.offsets)).tolist():
        ids, scores = found.hits.of(query)
        candidates = tuple(
            Candidate(key, owners[key], float(score))
            for key, score in zip(ids.tolist(), scores, strict=True)
            if key in owners
        )
        best = candidates[:most]
        left_out = {one.document_id for one in candidates[len(best) :]}
        answers[query] = FoundHolders(
            best,
            found.searched,
            found.sequence,
            left_out=len(candidates) - len(best),
            documents_left_out=len(left_out.difference(one.document_id for one in best)),
        )
    return answers


def keep_documents(found: FoundHolders, documents: Collection[str]) -> FoundHolders:
    """What of it is about these documents alone, as if there were no others."""
    kept = tuple(one for one in found.candidates if one.document_id in documents)
    return replace(found, candidates=kept, left_out=0, documents_left_out=0)


def keep_reaching(found: FoundHolders, threshold: float) -> FoundHolders:
    """What of it is at or above a threshold."""
    kept = tuple(one for one in found.candidates if one.score >= threshold)
    return replace(found, candidates=kept)


def weigh_told(found: FoundHolders, threshold: float) -> dict[str, int]:
    """What a tenant's search counts for with each holder whom it tells of, or nearly does."""
    best: dict[str, float] = {}
    for one in found.candidates:
        best.setdefault(one.document_id, one.score)
    return {
        document: SEARCHED if score >= threshold else 1
        for document, score in best.items()
        if is_near(score, threshold)
    }


def note_identified(answers: Sequence[FoundHolders], actor: str) -> AuditEntry:
    """What the audit chain keeps of searches, whoever is found: by whom, and which documents were
    shown."""
    shown = [candidate.document_id for answer in answers for candidate in answer.candidates]
    documents = sorted(set(shown))
    detail = {"probes": len(answers), "candidates": len(shown), "documents": documents}
    return AuditEntry(actor, "faces.identified", "gallery", detail)
