"""Subscribers of an existing base: who is taken in, with what, and who is refused.

Nobody is compared with other documents' holders, and no line is counted against a limit: what an
existing base holds is a fact, for a sweep to find and for people to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from engine.matching.documents import CheckedDocument
from engine.matching.intake import document_look_up, name_look_up
from engine.matching.roll import Holder, Roll
from engine.reasons import Reason
from engine.registry.reader import Reader
from engine.registry.records import DocumentStatus, NewDocument, NewLine, new_id
from engine.registry.vault import Vault
from indexes.gallery import Gallery


@dataclass(frozen=True, slots=True)
class OpenedLine:
    """A line that was opened elsewhere; `msisdn` in E.164, carrier and outlet are known."""

    msisdn: str = field(repr=False)
    carrier: str
    outlet: str
    opened_at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class Subscriber:
    """Somebody of an existing base: a well-formed document, a rotated unit vector float32[d],
    perhaps a line. `consent_ref` is kept where the document was not bound to anybody before."""

    name: str = field(repr=False)
    document: CheckedDocument
    vector: NDArray[np.float32] = field(repr=False)
    line: OpenedLine | None = None
    consent_ref: str | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """What becomes of one subscriber: refused for a reason, or what of him is new.

    `document_id` is None exactly where he is refused.
    """

    document_id: str | None = None
    refusal: Reason | None = None
    adds_reference: bool = False
    adds_line: bool = False
    name_differs: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AdmissionPlan:
    """An admission for each subscriber, in order, and the rows that make them durable.

    `vectors` float32[n, d] are the new references, of the documents `referenced`.
    """

    admissions: tuple[Admission, ...]
    documents: tuple[NewDocument, ...]
    activated: tuple[NewDocument, ...]
    referenced: tuple[str, ...]
    vectors: NDArray[np.float32] = field(repr=False)
    lines: tuple[NewLine, ...]


def plan_admission(
    registry: Reader,
    gallery: Gallery,
    roll: Roll,
    subscribers: Sequence[Subscriber],
    same_document: float,
) -> AdmissionPlan:
    """Decides on each subscriber in order, and enters in the roll what is admitted.

    A document has one reference: a later row of it must show the same face, at or above
    `same_document`, and may bring another line. A number is one document's. A face that is known
    under another document is nobody's concern here: a sweep finds it.
    """
    planner = _Planner(registry.vault, roll, same_document)
    keys = [document_look_up(registry.vault, one.document) for one in subscribers]
    numbers = [
        None if one.line is None else registry.vault.look_up("msisdn", one.line.msisdn)
        for one in subscribers
    ]
    roll.learn(registry, gallery, keys, [key for key in numbers if key is not None])
    admissions = tuple(map(planner.admit, subscribers, keys, numbers))
    return planner.plan(admissions, gallery.dim)


class _Planner:
    """Gathers the rows of one plan."""

    def __init__(self, vault: Vault, roll: Roll, same_document: float) -> None:
        self._vault = vault
        self._roll = roll
        self._same_document = same_document
        self._documents: list[NewDocument] = []
        self._activated: list[NewDocument] = []
        self._referenced: list[str] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._lines: list[NewLine] = []

    def admit(self, one: Subscriber, lookup: bytes, msisdn_lookup: bytes | None) -> Admission:
        """Decides on one; what is refused leaves nothing."""
        holder = self._roll.holder(lookup)
        user = None if msisdn_lookup is None else self._roll.user(msisdn_lookup)
        refusal = self._refuse(one, holder, user)
        if refusal is not None:
            return Admission(refusal=refusal)
        name_lookup = name_look_up(self._vault, lookup, one.document.name)
        name_differs = (
            holder is not None and holder.is_bound and holder.name_lookup not in (None, name_lookup)
        )
        adds_reference = holder is None or not len(holder.vectors)
        if holder is None or not holder.is_bound:
            holder = self._bind(one, lookup, name_lookup, holder)
        if adds_reference:
            holder.vectors = one.vector[None]
            self._referenced.append(holder.document_id)
            self._vectors.append(one.vector)
        adds_line = False
        if one.line is not None and msisdn_lookup is not None and user is None:
            self._open_line(one.line, msisdn_lookup, holder.document_id)
            adds_line = True
        return Admission(
            document_id=holder.document_id,
            adds_reference=adds_reference,
            adds_line=adds_line,
            name_differs=name_differs,
        )

    def plan(self, admissions: tuple[Admission, ...], dim: int) -> AdmissionPlan:
        vectors = np.stack(self._vectors) if self._vectors else np.empty((0, dim), np.float32)
        return AdmissionPlan(
            admissions=admissions,
            documents=tuple(self._documents),
            activated=tuple(self._activated),
            referenced=tuple(self._referenced),
            vectors=vectors,
            lines=tuple(self._lines),
        )

    def _refuse(self, one: Subscriber, holder: Holder | None, user: str | None) -> Reason | None:
        if holder is not None and holder.status is DocumentStatus.BLOCKED:
            return Reason.DOCUMENT_BLOCKED
        score = None if holder is None else holder.score(one.vector)
        if score is not None and not score >= self._same_document:
            return Reason.DOCUMENT_HELD_BY_ANOTHER_FACE
        if user is not None and (holder is None or user != holder.document_id):
            return Reason.LINE_IN_USE
        return None

    def _bind(
        self, one: Subscriber, lookup: bytes, name_lookup: bytes, known: Holder | None
    ) -> Holder:
        """A document that binds its holder from now on: a new one, or one known from attempts."""
        row = NewDocument(
            id=new_id() if known is None else known.document_id,
            kind=one.document.type,
            lookup=lookup,
            name_lookup=name_lookup,
            number=one.document.number,
            name=one.name,
            expires_on=one.document.expires_on,
            consent_ref=one.consent_ref,
        )
        (self._documents if known is None else self._activated).append(row)
        vectors = one.vector[:0].reshape(0, len(one.vector)) if known is None else known.vectors
        holder = Holder(row.id, DocumentStatus.ACTIVE, name_lookup, vectors)
        self._roll.enter(lookup, holder)
        return holder

    def _open_line(self, line: OpenedLine, msisdn_lookup: bytes, document_id: str) -> None:
        self._lines.append(
            NewLine(
                id=new_id(),
                msisdn_lookup=msisdn_lookup,
                msisdn=line.msisdn,
                document_id=document_id,
                carrier=line.carrier,
                outlet=line.outlet,
                enrollment_id=None,
                opened_at=line.opened_at,
            )
        )
        self._roll.take_number(msisdn_lookup, document_id)
