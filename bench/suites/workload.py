"""A deployment with so many people enrolled, the visitors that come to it and the right answers to
them, and a load of searches and decisions."""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from engine.accuracy.pair_scores import fuse
from engine.accuracy.population import Population
from engine.errors import RequestError
from engine.matching.bulk_enrollment import admit_references
from engine.matching.calibration import OfKind, Thresholds
from engine.matching.registrar import Outcome
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.samples import Sample
from engine.registry.accounts import Carrier
from engine.registry.store import Store
from engine.registry.vault import Vault
from indexes.base import Floats, Hits, Ints
from schema import frozen
from schema.decisions import Comparison
from schema.documents import Document
from schema.reasons import Decision, Reason
from serving.demo import scenario
from serving.deployment.deployment import Deployment, create_home
from serving.settings.sections import RegistrarSettings
from serving.settings.settings import Settings

TOLERANCE = 2e-5
"""A score so near a threshold may go either way: such a request is left out."""
ROWS = 128
REVIEWED = frozenset({Reason.POSSIBLE_DUPLICATE})


class VisitKind(StrEnum):
    """What a visitor truly is, whatever the system decides."""

    NEWCOMER = "newcomer"
    RETURNING = "returning"
    DUPLICATE = "duplicate"


MIX = {VisitKind.NEWCOMER: 0.90, VisitKind.RETURNING: 0.05, VisitKind.DUPLICATE: 0.05}


@frozen(eq=False)
class Visits:
    """Visitors in order of arrival; `people` are rows of the references, -1 for newcomers.

    `live` and `portrait` float32[n, d], unit rows, not rotated.
    """

    kinds: tuple[VisitKind, ...]
    people: Ints
    live: Floats
    portrait: Floats

    def __len__(self) -> int:
        return len(self.kinds)


@frozen
class Expected:
    """The one right answer, by brute force over float32 scores and a second copy of the table of
    decisions; `adds_reference` where it leaves a new one behind."""

    decision: Decision
    reasons: frozenset[Reason]
    adds_reference: bool


def draw_visits(population: Population, references: int, visitors: int, seed: int) -> Visits:
    """Visitors in the shares of `MIX`, in random order; no enrolled person comes twice."""
    rng = np.random.default_rng([seed, 1])
    kinds = rng.choice(list(MIX), visitors, p=list(MIX.values()))
    known = np.flatnonzero(kinds != VisitKind.NEWCOMER)
    if len(known) > references:
        raise RequestError(
            f"{len(known)} visitors would be known, but {references} people are enrolled: raise --n"
        )
    people = np.full(visitors, -1)
    people[known] = rng.permutation(references)[: len(known)]
    # Strangers are of another seed; known people bring photographs that their reference lacks.
    strangers = population.people(visitors, seed + 1)
    enrolled = population.people(references, seed)
    sides = []
    for photograph in (0, 1):
        faces = population.samples(strangers, seed + 1, photograph)
        fresh = population.samples(enrolled, seed, photograph + 2)
        faces[known] = fresh[people[known]]
        sides.append(faces)
    return Visits(tuple(VisitKind(kind) for kind in kinds), people, *sides)


def expect_answers(
    visits: Visits, references: Floats, thresholds: Thresholds
) -> list[Expected | None]:
    """For each visitor the right answer, given that all before were answered rightly.

    `None` for one whose score lies within `TOLERANCE` of a threshold: it must not be asked.
    """
    means = fuse(visits.live, visits.portrait).astype(np.float32)
    faces = np.stack([means, visits.live, visits.portrait], axis=1)
    pair_scores = np.einsum("nd,nd->n", visits.live, visits.portrait)
    added: list[int] = []
    answers: list[Expected | None] = []
    for place, gallery in enumerate(_score_gallery(faces, references)):
        # The portrait of a pair that does not match is somebody else's, and so is half of the mean.
        shown = slice(None) if pair_scores[place] >= thresholds.verify else slice(1, 2)
        scores = np.hstack([gallery, faces[place] @ means[added].T])[shown]
        holder = None
        if visits.kinds[place] is VisitKind.RETURNING:
            person = int(visits.people[place])
            holder = scores[:, person].copy()
            scores[:, person] = -1
        limits = [thresholds.of(kind) for kind in _KINDS[shown]]
        answer = _decide(float(pair_scores[place]), holder, scores, limits, thresholds.verify)
        answers.append(answer)
        if answer is not None and answer.adds_reference:
            added.append(place)
    return answers


_KINDS: Sequence[Comparison] = (Comparison.FUSED, Comparison.FUSED_TO_ONE, Comparison.FUSED_TO_ONE)
"""Comparisons of mean, live face and portrait with a reference."""


def _decide(
    pair_score: float,
    holder: Floats | None,
    others: Floats,
    limits: Sequence[OfKind],
    verify: float,
) -> Expected | None:
    """By the least alike of the faces for being the holder, float32[faces], and by the most alike
    for looking like another, float32[faces, others], each at the limits of its own kind."""
    same, review, certain = np.array(limits).T
    edges = [others - review[:, None], others - certain[:, None], np.array(pair_score - verify)]
    if holder is not None:
        edges.append(holder - same)
    if min(float(np.abs(one).min()) for one in edges) < TOLERANCE:
        return None
    reasons = set()
    if pair_score < verify:
        reasons.add(Reason.FACE_MISMATCH)
    if holder is not None and (holder < same).any():
        reasons.add(Reason.DOCUMENT_HELD_BY_ANOTHER_FACE)
    best = others.max(axis=1)
    if (best >= certain).any():
        reasons.add(Reason.DUPLICATE_IDENTITY)
    elif (best >= review).any():
        reasons.add(Reason.POSSIBLE_DUPLICATE)
    if not reasons:
        decision = Decision.APPROVED
    else:
        decision = Decision.REVIEW if reasons <= REVIEWED else Decision.REJECTED
    is_new = holder is None and decision is Decision.APPROVED
    return Expected(decision, frozenset(reasons), is_new)


def _score_gallery(faces: Floats, references: Floats) -> Iterator[Floats]:
    """For each visitor of float32[visitors, faces, d] in turn, float32[faces, references]."""
    for start in range(0, len(faces), ROWS):
        yield from faces[start : start + ROWS] @ references.T


CARRIER, OUTLET = "bench", "bench-1"


def make_settings(batch_size: int, queue_size: int) -> Settings:
    """The product's defaults, but for how many are decided in one transaction."""
    return Settings(registrar=RegistrarSettings(batch_size=batch_size, queue_size=queue_size))


def make_home(home: Path, settings: Settings | None = None) -> None:
    """Makes a deployment without references, with the carrier and the outlet of all visitors."""
    settings = settings or Settings()
    create_home(home, settings)
    with Deployment(home, settings) as deployment:
        add_outlet(deployment.store)


def add_outlet(store: Store, line_limit: int = 5) -> None:
    store.add_carrier(Carrier(CARRIER, "Benchmark", line_limit), actor="bench")
    store.add_outlet(OUTLET, CARRIER, actor="bench")


def admit_holders(deployment: Deployment, faces: Floats) -> None:
    """Enters a document and a reference for each unit row float32[n, d], not rotated."""
    documents = [make_document(serial) for serial in range(len(faces))]
    admit_references(deployment.registrar, documents, deployment.vault.rotate(faces), "bench")


def write_requests(
    visits: Visits, places: Sequence[int], vault: Vault, references: int
) -> Iterator[EnrollmentRequest]:
    """The requests of these visitors; a newcomer's and a duplicate's document is a new one."""
    live, portrait = vault.rotate(visits.live), vault.rotate(visits.portrait)
    for place in places:
        fresh = references + place
        samples = (
            Sample(vector, hashlib.sha256(vector.tobytes()).digest())
            for vector in (live[place], portrait[place])
        )
        is_returning = visits.kinds[place] is VisitKind.RETURNING
        yield EnrollmentRequest(
            idempotency_key=str(uuid.UUID(int=place)),
            carrier=CARRIER,
            outlet=OUTLET,
            document=make_document(int(visits.people[place]) if is_returning else fresh),
            msisdn=make_msisdn(fresh),
            live=next(samples),
            portrait=next(samples),
        )


def make_document(serial: int) -> Document:
    """A well-formed resident identity number of its own for each serial."""
    return scenario.make_document(serial, f"Holder {serial}")


def make_msisdn(serial: int) -> str:
    """A number of its own for each serial, in E.164."""
    return f"+8613{serial:09d}"


@dataclass(slots=True)
class DecisionLog:
    """Outcomes of the visits at `places`, in order, against the expected ones; `difference`:
    references too few or too many in reopened galleries, in all."""

    visits: Visits
    expected: Sequence[Expected | None]
    places: list[int]
    outcomes: list[Outcome] = field(default_factory=list)
    difference: int = 0

    def note_gallery(self, length: int, references: int) -> None:
        """Compares a reopened gallery with what had been acknowledged by then."""
        added = sum(
            isinstance(outcome, Answer)
            and outcome.decision is Decision.APPROVED
            and self.visits.kinds[place] is not VisitKind.RETURNING
            for place, outcome in zip(self.places, self.outcomes, strict=False)
        )
        self.difference += abs(references + added - length)

    def count_wrong(self) -> int:
        # What is left over was not asked.
        return sum(
            not is_right(outcome, self.expected[place])
            for place, outcome in zip(self.places, self.outcomes, strict=False)
        )


def is_right(outcome: Outcome, expected: Expected | None) -> bool:
    """Whether decision and reasons are exactly those expected."""
    assert expected is not None, "such a visitor is not asked"
    return (
        isinstance(outcome, Answer)
        and not outcome.is_repeated
        and outcome.decision is expected.decision
        and frozenset(outcome.reasons) == expected.reasons
    )


class VisitedHome:
    """A deployment with its holders, and the visitors that come to it one after another, each of
    whom is asked about once; the right answer is known before the first one comes."""

    def __init__(
        self,
        path: Path,
        references: int,
        visitors: int,
        seed: int,
        settings: Settings | None = None,
    ) -> None:
        """Enrolls all holders: `vectors` float32[references, d], not rotated."""
        self.path, self._settings = path, settings or Settings()
        population = Population.load("sface")
        self.vectors = population.references(references, seed)
        visits = draw_visits(population, references, visitors, seed)
        make_home(path, self._settings)
        with self.open() as deployment:
            admit_holders(deployment, self.vectors)
            self.review, self.vault = deployment.thresholds.review, deployment.vault
            expected = expect_answers(visits, self.vectors, deployment.thresholds)
            places = [place for place, answer in enumerate(expected) if answer is not None]
            self.log = DecisionLog(visits, expected, places)
            self.requests = write_requests(visits, places, deployment.vault, references)

    def open(self) -> Deployment:
        return Deployment(self.path, self._settings)

    @property
    def left(self) -> int:
        """Visitors that have not come yet, where every outcome is in the log."""
        return len(self.log.places) - len(self.log.outcomes)

    def take(self, count: int) -> list[EnrollmentRequest]:
        """The next requests."""
        return list(islice(self.requests, count))


def select(hits: Hits, most_id: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Query, id and score of each hit among ids up to this one."""
    kept = hits.ids <= most_id
    return hits.query_of[kept], hits.ids[kept], hits.scores[kept]


def are_same(left: Sequence[np.ndarray[Any, Any]], right: Sequence[np.ndarray[Any, Any]]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(left, right, strict=True))
