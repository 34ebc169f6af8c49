"""The minutes of a batch: for each verdict its answer, and every row that it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from engine.cases.case import CaseKind, CaseOrigin
from engine.cases.opening import CaseBatch, NewCase
from engine.matching.batch_state import Docket, FreshReference
from engine.matching.comparison import Comparisons
from engine.matching.policy import POLICY_VERSION, Evidence, Verdict, write_evidence, write_findings
from engine.matching.prechecks import Attempt
from engine.matching.requests import Answer
from engine.matching.sampling import CropPolicy
from engine.reasons import Decision
from engine.registry.records import (
    AuditEntry,
    Changes,
    DocumentRecord,
    DocumentStatus,
    EnrollmentRecord,
    NewCrop,
    NewDocument,
    NewLine,
    NewReference,
    StoredAnswer,
    new_id,
)
from engine.registry.vault import Vault

# What an answer tells of the comparisons behind a decision.


def tell_scores(evidence: Evidence) -> dict[str, float | None]:
    """The score of each comparison; None for one that was not made."""
    return {
        "live_portrait": evidence.live_portrait_score,
        "holder": evidence.holder_score,
        "best_candidate": max((item.score for item in evidence.candidates), default=None),
    }


def tell_search(
    evidence: Evidence, comparisons: Comparisons, false_candidates: Mapping[str, Any]
) -> dict[str, Any]:
    """Never a silent "no match": where no search ran, the answer says that none did."""
    if evidence.searched is None:
        return {"ran": False}
    return {
        "ran": True,
        "searched": evidence.searched,
        "gallery_sequence": comparisons.sequence,
        "candidates": [asdict(candidate) for candidate in evidence.candidates],
        "expected_false_candidates": dict(false_candidates),
    }


# What a verdict gives people to look into.


def describe_case(
    kind: CaseKind,
    verdict: Verdict,
    evidence: Evidence,
    enrollment_id: str,
    document_id: str | None,
) -> NewCase:
    """One of the verdict's cases, about the document presented and those of the candidates.

    A stolen document's is about that alone. Its holder is wronged, and has another face than
    whoever presented it: so the holder is a suspect in none of them.
    """
    is_theft = kind is CaseKind.STOLEN_DOCUMENT
    others = () if is_theft else tuple(item.document_id for item in evidence.candidates)
    own = () if document_id is None else (document_id,)
    best = max((item.score for item in evidence.candidates), default=None)
    is_suspect = CaseKind.STOLEN_DOCUMENT not in verdict.cases
    return NewCase(
        kind=kind,
        origin=CaseOrigin.DECISION,
        enrollment_id=enrollment_id,
        document_ids=own + others,
        suspect_ids=(own if is_suspect else ()) + others,
        score=evidence.holder_score if is_theft else best,
    )


class Minutes:
    """Collects the changes of one batch; an approval is entered in the docket at once."""

    def __init__(
        self,
        *,
        vault: Vault,
        model_digest: str,
        sequence: int,
        next_reference_id: Callable[[], int],
        now: datetime,
        crops: CropPolicy,
        cases: CaseBatch,
    ) -> None:
        self._vault = vault
        self._model_digest = model_digest
        self._next_sequence = sequence + 1
        self._next_reference_id = next_reference_id
        self._now = now
        self._crop_policy = crops
        self._cases = cases
        self._documents: list[NewDocument] = []
        self._activated: list[NewDocument] = []
        self._enrollments: list[EnrollmentRecord] = []
        self._references: list[NewReference] = []
        self._lines: list[NewLine] = []
        self._answers: list[StoredAnswer] = []
        self._crops: list[NewCrop] = []
        self._audit: list[AuditEntry] = []

    def changes(self) -> Changes:
        """Everything written so far, for one transaction."""
        own = Changes(
            documents=tuple(self._documents),
            activated_documents=tuple(self._activated),
            enrollments=tuple(self._enrollments),
            references=tuple(self._references),
            lines=tuple(self._lines),
            answers=tuple(self._answers),
            crops=tuple(self._crops),
            audit=tuple(self._audit),
            sequence=self._next_sequence if self._references else self._next_sequence - 1,
        )
        return self._cases.add_to(own)

    def write(
        self,
        *,
        place: int,
        attempt: Attempt,
        evidence: Evidence,
        verdict: Verdict,
        comparisons: Comparisons,
        docket: Docket,
        false_candidates: Mapping[str, Any],
    ) -> Answer:
        """Enters one verdict: the rows it leaves, the docket's new state, and the answer."""
        enrollment_id = new_id()
        document_id = self._settle_document(attempt, verdict, docket)
        line_id = None
        if verdict.decision is Decision.APPROVED:
            assert document_id is not None
            self._admit_reference(place, attempt, enrollment_id, document_id, comparisons, docket)
            line_id = self._open_line(attempt, enrollment_id, document_id, docket)
        cases = [
            self._open_case(
                attempt, describe_case(kind, verdict, evidence, enrollment_id, document_id)
            )
            for kind in verdict.cases
        ]
        body = {
            "enrollment_id": enrollment_id,
            "decision": verdict.decision.value,
            "reasons": write_findings(verdict),
            "scores": tell_scores(evidence),
            "thresholds": asdict(evidence.thresholds),
            "duplicate_search": tell_search(evidence, comparisons, false_candidates),
            "cases": cases,
            "document_id": document_id,
            "line_id": line_id,
            "quality": {
                "live": dict(attempt.request.live.quality),
                "portrait": dict(attempt.request.portrait.quality),
            },
            "model_digest": self._model_digest,
            "policy_version": POLICY_VERSION,
            "decided_at": self._now.isoformat(),
        }
        self._record(attempt, body, evidence, comparisons.sequence)
        return Answer(body)

    def _settle_document(self, attempt: Attempt, verdict: Verdict, docket: Docket) -> str | None:
        """The document's id; a new row only where an approval or a person's look needs it.

        A document known only from attempts is no evidence against anybody: whoever is approved
        first under it becomes its holder, with the name given then.
        """
        lookup, name_lookup = attempt.document_lookup, attempt.name_lookup
        if lookup is None or name_lookup is None:
            return None
        record = docket.document(lookup)
        is_approved = verdict.decision is Decision.APPROVED
        is_for_people = verdict.decision is Decision.REVIEW or bool(verdict.cases)
        if record is None and not (is_approved or is_for_people):
            return None
        if record is not None and not (is_approved and record.status is DocumentStatus.ATTEMPTED):
            return record.id
        status = DocumentStatus.ACTIVE if is_approved else DocumentStatus.ATTEMPTED
        document_id = record.id if record is not None else new_id()
        row = NewDocument(
            id=document_id,
            kind=attempt.document.type,
            lookup=lookup,
            name_lookup=name_lookup,
            number=attempt.document.number,
            name=attempt.request.document.name,
            expires_on=attempt.document.expires_on,
            status=status,
        )
        (self._documents if record is None else self._activated).append(row)
        docket.add_document(
            lookup,
            DocumentRecord(
                id=document_id,
                kind=row.kind,
                lookup=lookup,
                name_lookup=name_lookup,
                status=status,
                expires_on=row.expires_on,
                reference_ids=record.reference_ids if record is not None else (),
            ),
        )
        return document_id

    def _admit_reference(
        self,
        place: int,
        attempt: Attempt,
        enrollment_id: str,
        document_id: str,
        comparisons: Comparisons,
        docket: Docket,
    ) -> None:
        """One document, one reference: a returning subscriber's probe is not added.

        Adding it would let a face drift, visit by visit, towards somebody else's.
        """
        lookup = attempt.document_lookup
        assert lookup is not None
        record = docket.document(lookup)
        assert record is not None
        if record.reference_ids:
            return
        reference = FreshReference(
            place=place,
            reference_id=self._next_reference_id(),
            document_id=document_id,
            vector=comparisons.probe(place),
        )
        self._references.append(
            NewReference(
                id=reference.reference_id,
                document_id=document_id,
                enrollment_id=enrollment_id,
                template=reference.vector,
                sequence=self._next_sequence,
            )
        )
        docket.add_reference(lookup, reference)

    def _open_line(
        self, attempt: Attempt, enrollment_id: str, document_id: str, docket: Docket
    ) -> str:
        line_id = new_id()
        self._lines.append(
            NewLine(
                id=line_id,
                msisdn_lookup=attempt.msisdn_lookup,
                msisdn=attempt.msisdn,
                document_id=document_id,
                carrier=attempt.outlet.carrier,
                outlet=attempt.outlet.code,
                enrollment_id=enrollment_id,
                opened_at=self._now,
            )
        )
        docket.add_line(attempt.msisdn_lookup, document_id, attempt.outlet.carrier)
        return line_id

    def _open_case(self, attempt: Attempt, case: NewCase) -> dict[str, str]:
        """The case that people will decide: another one, where that shares a face with this."""
        opened = self._cases.open(case, _actor_of(attempt))
        return {"id": opened.id, "kind": case.kind.value}

    def _record(
        self, attempt: Attempt, body: dict[str, Any], evidence: Evidence, searched_sequence: int
    ) -> None:
        request = attempt.request
        enrollment_id = body["enrollment_id"]
        self._enrollments.append(
            EnrollmentRecord(
                id=enrollment_id,
                sequence=searched_sequence,
                carrier=attempt.outlet.carrier,
                outlet=attempt.outlet.code,
                document_id=body["document_id"],
                decision=body["decision"],
                reasons=tuple(finding["reason"] for finding in body["reasons"]),
                evidence={
                    "inputs": write_evidence(evidence),
                    "findings": body["reasons"],
                    "quality": body["quality"],
                    "model_digest": self._model_digest,
                    "policy_version": POLICY_VERSION,
                },
                consent_ref=request.consent_ref,
                captured_at=request.captured_at,
                created_at=self._now,
            )
        )
        self._crops += self._crop_policy.choose(
            self._vault, request, enrollment_id, bool(body["cases"]), self._now
        )
        self._answers.append(
            StoredAnswer(
                scope=attempt.scope,
                payload_digest=attempt.payload_digest,
                enrollment_id=enrollment_id,
                response=body,
                created_at=self._now,
            )
        )
        self._audit.append(
            AuditEntry(
                actor=_actor_of(attempt),
                action="enrollment.decided",
                subject=enrollment_id,
                detail={
                    "decision": body["decision"],
                    "reasons": [finding["reason"] for finding in body["reasons"]],
                },
            )
        )


def _actor_of(attempt: Attempt) -> str:
    return f"outlet:{attempt.outlet.code}"
