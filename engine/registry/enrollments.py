"""Enrollments, and what comes with them: stored answers, liveness results, counts, crops."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import field, fields
from datetime import datetime, timedelta
from typing import Annotated, Any, Self

from msgspec import convert, json, structs
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Connection,
    Index,
    String,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    update,
)

from engine.errors import NotFound
from engine.registry.audit import AUDIT
from engine.registry.columns import (
    INDEXED,
    KEY,
    SEALED,
    UNIQUE,
    CarrierCode,
    Code,
    DocumentId,
    EnrollmentId,
    Id,
    OutletCode,
    one_of,
    partial_index,
    table_of,
)
from engine.registry.database import (
    AHEAD,
    KEYS,
    UNREADABLE,
    Condition,
    Progress,
    Source,
    is_id,
    utc_now,
)
from engine.registry.deployment import DEPLOYMENT
from engine.registry.lines import IN_USE_UNDER, tell_of_line
from engine.registry.references import TEMPLATES_PER_CHUNK
from engine.registry.rows import (
    NewEvent,
    RecordSource,
    RowValues,
    Transaction,
    Write,
    pages_of,
    read_as,
    rows_of,
    select_by,
    sound_rows,
    update_one,
)
from schema import frozen
from schema.decisions import DecidedEnrollment, RecordedEvidence
from schema.decoding import prepare
from schema.events import EventType
from schema.people import GivenConsent
from schema.reasons import Decision, Reason

_CONSENT = "enrollments.consent"
_REJECTED = "decision = 'rejected' AND expired_at IS NULL"
_REVIEW = "decision = 'review' AND expired_at IS NULL"

PROOF = "proof"
"""The use of a result that came in place of a face."""


@frozen
class EnrollmentRecord(Write):
    """One attempt and its decision; `sequence` is the gallery's that was searched.

    Once it has expired, evidence, consent and capture time are gone; `reasons` stay.
    """

    id: Annotated[Id, KEY]
    sequence: Annotated[int, BigInteger()]
    carrier: CarrierCode
    outlet: OutletCode
    document_id: Annotated[DocumentId | None, INDEXED]
    decision: Annotated[str, String(16)]
    reasons: tuple[str, ...]
    evidence: RecordedEvidence
    consent_ref: Annotated[str | None, String(200)]
    captured_at: datetime | None
    created_at: datetime
    expired_at: datetime | None = None
    consent: Annotated[GivenConsent | None, SEALED] = field(default=None, repr=False)
    """Read by `enrollment` alone."""

    def row(self, to: Transaction) -> RowValues:
        given = None if self.consent is None else json.encode(self.consent.plain())
        return self.columns(consent=given and to.vault.seal(_CONSENT, self.id, given))

    def follow(self, to: Transaction) -> None:
        place = {"outlet": self.outlet}
        decided = {"decision": str(self.decision), **place, "line_id": None}
        self.tell(to, EventType.ENROLLMENT_DECIDED, self.carrier, decided)
        if Reason.WATCHLISTED in self.reasons:
            self.tell(to, EventType.WATCHLIST_HIT, None, {"carrier": self.carrier, **place})
        if Reason.REPLACEMENT_ASKED in self.reasons and self.decision == Decision.REVIEW:
            # People are to decide whether lines may move: their holder may object in time.
            old = self.evidence.inputs["people"]["replacement"]["document_id"]
            for line in to.connection.execute(IN_USE_UNDER, {"key": old}):
                tell_of_line(to, EventType.LINE_MOVE_ASKED, line, {})

    def tell(
        self, to: Transaction, kind: EventType, carrier: str | None, data: dict[str, Any]
    ) -> None:
        to.events.append(NewEvent(kind, self.id, carrier, data, self.document_id))


ENROLLMENTS = table_of(
    "enrollments", EnrollmentRecord, CheckConstraint(one_of("decision", Decision), name="decision")
)
Index("ix_enrollments_outlet", *ENROLLMENTS.c["outlet", "created_at", "id"])
partial_index(
    "ix_enrollments_rejected", ENROLLMENTS.c.created_at, ENROLLMENTS.c.id, where=_REJECTED
)
partial_index("ix_enrollments_review", ENROLLMENTS.c.created_at, ENROLLMENTS.c.id, where=_REVIEW)

EXPIRE_ATTEMPT = update_one(ENROLLMENTS).values(
    evidence=bindparam("stays"),
    consent_ref=None,
    consent=None,
    captured_at=None,
    expired_at=bindparam("at"),
)


@frozen
class AttemptRecord:
    """One enrollment in short; `Reader.enrollment` has its evidence."""

    id: str
    document_id: str | None
    carrier: str
    outlet: str
    decision: str
    reasons: tuple[str, ...]
    created_at: datetime


@frozen(kw_only=True)
class LivenessRecord(Write):
    """What became of the evidence of liveness that a request brought, or should have brought.

    `token` is the keyed name of a result that has been used; `issued_at` when the capture system
    says that it judged. Without an `enrollment_id` it came with a verification. `judge` is the
    digest of the model that looked at the picture itself, None of what a capture system signed.
    """

    id: Annotated[Id, KEY]
    use: Annotated[str, String(16)]
    received_at: Annotated[datetime, INDEXED]
    token: Annotated[bytes | None, UNIQUE] = field(default=None, repr=False)
    problem: Annotated[str | None, String(32)] = None
    issuer: Annotated[str | None, String(200)] = None
    jti: Annotated[str | None, String(200)] = None
    decision: Annotated[str | None, String(16)] = None
    level: Annotated[str | None, Code] = None
    issued_at: datetime | None = None
    carrier: CarrierCode | None = None
    outlet: OutletCode | None = None
    enrollment_id: Annotated[EnrollmentId | None, INDEXED] = None
    judge: Annotated[str | None, Code] = None


LIVENESS = table_of("liveness", LivenessRecord)
Index("ix_liveness_outlet", LIVENESS.c.outlet, LIVENESS.c.received_at)
TAKEN_PROOFS = f"use = '{PROOF}' AND problem IS NULL"
partial_index("ix_liveness_proofs", LIVENESS.c.outlet, LIVENESS.c.received_at, where=TAKEN_PROOFS)


@frozen
class StoredAnswer(Write):
    """The answer to an idempotent request; `scope` names the carrier and its key."""

    scope: Annotated[bytes, KEY]
    payload_digest: bytes
    enrollment_id: Annotated[EnrollmentId | None, INDEXED]
    response: DecidedEnrollment
    created_at: Annotated[datetime, INDEXED]


IDEMPOTENCY = table_of("idempotency", StoredAnswer)


@frozen
class LivenessCount:
    """Counts of liveness results that an outlet's requests brought: all, failed and absent, of
    those that a capture system signs, or those of a judge of the picture (`is_judged`); and of
    proofs that were taken in place of a face."""

    carrier: str
    outlet: str
    is_judged: bool
    results: int
    failed: int
    absent: int = 0
    proofs: int = 0


@frozen
class TallyRecord:
    """The level of a count of failed comparisons as it was at a moment; `name` is that which
    `checks/limits.py` bounds it by."""

    name: Annotated[str, String(200), KEY]
    level: float
    at: datetime

    def level_at(self, now: datetime, each: timedelta) -> float:
        """The level at a later moment, where one is forgotten in each `each`."""
        return max(0.0, self.level - max(now - self.at, timedelta()) / each)


TALLIES = table_of("tallies", TallyRecord)


@frozen
class Tally(Write):
    """Adds `amount` to the count `name`, of which one is forgotten in each `each`; it never falls
    below zero, and stays below `most`, so that no single call blocks for longer than others. A
    count that is damaged begins anew."""

    table = TALLIES

    name: str
    amount: float
    each: timedelta
    most: float

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        names = {one.name for one in written}
        sound = sound_rows(to.vault, TALLIES, rows_of(to.connection, TALLIES, names))
        known = {row.name: read_as(TallyRecord, row) for row in sound}
        levels = dict.fromkeys(names, 0.0)
        for one in written:
            if (before := known.pop(one.name, None)) is not None:
                levels[one.name] = before.level_at(to.at, one.each)
            levels[one.name] = min(one.most, max(0.0, one.raised(levels[one.name])))
        to.delete(TALLIES.c.name, list(names))
        rows = [
            {"name": one, "level": level, "at": to.at} for one, level in levels.items() if level
        ]
        if rows:
            to.insert(TALLIES, rows)

    def raised(self, level: float) -> float:
        """The level that comes of this one."""
        return level + self.amount


class InFlight:
    """Comparisons with each holder that are under way and not counted yet, by all calls of a
    process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: Counter[str] = Counter()

    def add(self, names: Sequence[str]) -> None:
        with self._lock:
            self._names.update(names)

    def remove(self, names: Sequence[str]) -> None:
        with self._lock:
            self._names.subtract(names)
            self._names = +self._names

    def others(self, name: str) -> int:
        """The number beside the one that asks."""
        with self._lock:
            return max(0, self._names[name] - 1)


class BoundTallies(Write):
    """Has counts that were added to while the clock was ahead forgotten from now on."""

    table = TALLIES

    @classmethod
    def store(cls, to: Transaction, _written: Sequence[Self]) -> None:
        is_ahead = TALLIES.c.at > to.at + AHEAD
        names = set(to.connection.scalars(select(TALLIES.c.name).where(is_ahead))) - {UNREADABLE}
        with to.changing(TALLIES, names):
            to.connection.execute(update(TALLIES).where(is_ahead).values(at=to.at))


HOLDER_TALLY, SHOWN_TALLY, TRIES_TALLY = "holder", "shown", "tries"
"""How the name of a count about a document begins; its id follows, or its look-up."""


def tally_of(document_id: str, lookup: bytes | None) -> Condition:
    """Which counts are about a document, whoever's."""
    keys = [document_id, *([] if lookup is None else [lookup.hex()])]
    name = TALLIES.c.name
    exact = [f"{SHOWN_TALLY}:{key}" for key in keys]
    # Those of earlier versions have no carrier.
    exact += [f"{HOLDER_TALLY}:{key}" for key in keys]
    starts = [f"{kind}:{key}:" for kind in (HOLDER_TALLY, TRIES_TALLY) for key in keys]
    return or_(name.in_(exact), *map(name.startswith, starts))


TALLIES_STAY = timedelta(days=90)
"""A count that nothing was added to for so long leaves at the next start."""


def forget_tallies(connection: Connection) -> None:
    """Deletes counts that nothing was added to for long, by the newest audit entry: every count
    came with one, and a wrong clock forgets none."""
    head = select(DEPLOYMENT.c.audit_number).scalar_subquery()
    newest = connection.scalar(select(AUDIT.c.at).where(AUDIT.c.number == head))
    if isinstance(newest, datetime):
        stale = TALLIES.c.at < min(newest, utc_now()) - TALLIES_STAY
        connection.execute(delete(TALLIES).where(stale))


_USED_LIVENESS = select(LIVENESS.c.token).where(LIVENESS.c.token.in_(KEYS))
_results = LIVENESS.c
_IS_ABSENT = func.coalesce(_results.problem, "") == Reason.LIVENESS_MISSING.value
_LIVENESS_COUNTS = (
    select(
        _results.carrier,
        _results.outlet,
        _results.judge.is_not(None).label("is_judged"),
        # Where nothing was sent or judged, nothing was found either.
        func.count().filter(_results.use != PROOF, ~_IS_ABSENT).label("results"),
        func.count().filter(_results.problem == Reason.LIVENESS_FAILED.value).label("failed"),
        func.count().filter(_IS_ABSENT).label("absent"),
        func.count().filter(text(TAKEN_PROOFS)).label("proofs"),
    )
    .where(
        _results.received_at > bindparam("after"),
        _results.received_at <= bindparam("until"),
        _results.outlet.is_not(None),
    )
    .group_by(_results.carrier, _results.outlet, _results.judge.is_not(None))
    .order_by(_results.carrier, _results.outlet)
)
_RANKED = select(
    *(ENROLLMENTS.c[one.name] for one in fields(AttemptRecord)),
    func.row_number()
    .over(
        partition_by=ENROLLMENTS.c.document_id,
        order_by=(ENROLLMENTS.c.created_at.desc(), ENROLLMENTS.c.id.desc()),
    )
    .label("place"),
).where(ENROLLMENTS.c.document_id.in_(KEYS))
_newest = _RANKED.subquery()
_NEWEST_OF = (
    select(_newest)
    .where(_newest.c.place <= bindparam("most"))
    .order_by(_newest.c.document_id, _newest.c.place)
)


class EnrollmentReader(RecordSource):
    """Reader of enrollments, their stored answers and their liveness results."""

    def answers(self, scopes: Sequence[bytes]) -> dict[bytes, StoredAnswer]:
        """The earlier answers under these idempotency scopes."""
        return self._by(IDEMPOTENCY.c.scope, StoredAnswer, scopes)

    def enrollment(self, enrollment_id: str) -> EnrollmentRecord:
        """One enrollment; `NotFound` if there is none.

        Its evidence of liveness has `jti` while the row that keeps it does.
        """
        # No database is asked for what is no id: PostgreSQL fails on some texts.
        asked = [enrollment_id] if is_id(enrollment_id) else []
        row = next(self._found(ENROLLMENTS.c.id, asked), None)
        if row is None:
            raise NotFound("no enrollment has this id: check it")
        sealed = row.consent and self.vault.open(_CONSENT, row.id, row.consent)
        given = None if sealed is None else json.decode(sealed, type=prepare(GivenConsent))
        found = read_as(EnrollmentRecord, row, consent=given)
        liveness = found.evidence.liveness
        if liveness is not None:
            kept = next(self._found(LIVENESS.c.enrollment_id, asked), None)
            if kept is not None and kept.jti is not None:
                found.evidence.liveness = structs.replace(liveness, jti=kept.jti)
        return found

    def enrollments(self, enrollment_ids: Sequence[str]) -> list[EnrollmentRecord]:
        """The known ones of these enrollments."""
        found = self._by(ENROLLMENTS.c.id, EnrollmentRecord, enrollment_ids, consent=None)
        return list(found.values())

    def attempts_of(
        self, document_ids: Sequence[str], most: int = 20
    ) -> dict[str, list[AttemptRecord]]:
        """The `most` newest attempts under each document, newest first; none is left out."""
        found: dict[str, list[AttemptRecord]] = {key: [] for key in document_ids}
        for row in self._rows_of(_NEWEST_OF, document_ids, most=most):
            found[row.document_id].append(read_as(AttemptRecord, row))
        return found

    def tries(self, since: datetime, until: datetime, tell: Progress) -> Iterator[AttemptRecord]:
        """Every attempt from one moment to before another that names a document, those of one
        document together."""
        tried, page = ENROLLMENTS.c, TEMPLATES_PER_CHUNK // 10
        is_within = tried.created_at >= since, tried.created_at < until
        done, ((total,),) = 0, self.rows(select(func.count()).where(*is_within))
        meant = *is_within, tried.document_id.is_not(None)
        by = tried.document_id, tried.id
        for rows in pages_of(self.rows, ENROLLMENTS, *meant, page=page, by=by):
            for row in sound_rows(self.vault, ENROLLMENTS, rows):
                yield read_as(AttemptRecord, row)
            tell(done := done + len(rows), total)

    def decisions(self) -> Iterator[tuple[str, RecordedEvidence]]:
        """Decision and evidence of every enrollment that has not expired, in their order."""
        for rows in pages_of(self.rows, ENROLLMENTS, ENROLLMENTS.c.expired_at.is_(None)):
            for row in sound_rows(self.vault, ENROLLMENTS, rows):
                yield row.decision, convert(row.evidence, prepare(RecordedEvidence))

    def used_liveness(self, tokens: Sequence[bytes]) -> set[bytes]:
        """The results among these of liveness checks that have been used."""
        return {row.token for row in self._rows_of(_USED_LIVENESS, tokens)}

    def liveness_counts(
        self, after: datetime, until: datetime, outlets: Sequence[str] | None = None
    ) -> list[LivenessCount]:
        """Counts the results of liveness checks after one moment and until another: at each outlet,
        or at each of these."""
        query = _LIVENESS_COUNTS
        if outlets is not None:
            query = query.where(_results.outlet.in_(outlets))
        return [
            read_as(LivenessCount, row, is_judged=bool(row.is_judged))
            for row in self.rows(query, after=after, until=until)
        ]


class TallyReader(Source):
    """Reader of counts."""

    def tallies(self, names: Sequence[str]) -> dict[str, TallyRecord]:
        """The known ones of these counts. A damaged one is set aside and begins anew: to refuse all
        that it bounds would stop a carrier, and whoever can alter a row can delete it."""
        rows = sound_rows(self.vault, TALLIES, self._rows_of(select_by(TALLIES.c.name), names))
        return {row.name: read_as(TallyRecord, row) for row in rows}

    def tally_names(self, document_id: str) -> list[str]:
        """The names of the counts about a document, whoever's."""
        query = select(TALLIES.c.name).where(tally_of(document_id, None))
        return [row.name for row in self.rows(query)]
