"""A day at the counter: requests of synthetic people, and what each must be answered.

The answers come from brute force over float32 scores, and from the table of decisions written
down once more; nothing of the engine's search or policy is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.population import Population
from engine.errors import RequestError
from engine.matching.thresholds import Thresholds
from engine.reasons import Decision, Reason

TOLERANCE = 2e-5
"""A score so near a threshold is nobody's mistake: such a request is left out of the day."""
ROWS = 512
REVIEWED = frozenset({Reason.POSSIBLE_DUPLICATE})


class Kind(StrEnum):
    """What a visitor is, whatever the system thinks."""

    NEWCOMER = "newcomer"
    RETURNING = "returning"
    DUPLICATE = "duplicate"


MIX = {Kind.NEWCOMER: 0.90, Kind.RETURNING: 0.05, Kind.DUPLICATE: 0.05}


@dataclass(frozen=True, slots=True, eq=False)
class Day:
    """Visitors in order of arrival; `people` are rows of the references, -1 for newcomers.

    `live` and `portrait` float32[n, d], unit rows, not rotated.
    """

    kinds: tuple[Kind, ...]
    people: NDArray[np.int64]
    live: NDArray[np.float32]
    portrait: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.kinds)


@dataclass(frozen=True, slots=True)
class Expected:
    """The one right answer; `adds_reference` where it leaves a new one behind."""

    decision: Decision
    reasons: frozenset[Reason]
    adds_reference: bool


def draw_day(population: Population, references: int, visitors: int, seed: int) -> Day:
    """Visitors in the shares of `MIX`, in random order; nobody of the gallery comes twice."""
    rng = np.random.default_rng([seed, 1])
    kinds = rng.choice(list(MIX), visitors, p=list(MIX.values()))
    known = np.flatnonzero(kinds != Kind.NEWCOMER)
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
    return Day(tuple(Kind(kind) for kind in kinds), people, *sides)


def expect_answers(
    day: Day, references: NDArray[np.float32], thresholds: Thresholds
) -> list[Expected | None]:
    """For each visitor the right answer, given that all before were answered rightly.

    `None` for one whose score lies within `TOLERANCE` of a threshold: it must not be asked.
    """
    pair_scores = np.einsum("nd,nd->n", day.live, day.portrait)
    probes = np.where(
        (pair_scores >= thresholds.verify)[:, None], _fuse(day.live, day.portrait), day.live
    ).astype(np.float32)
    among = probes @ probes.T
    added: list[int] = []
    answers: list[Expected | None] = []
    for place, gallery in enumerate(_score_gallery(probes, references)):
        person = int(day.people[place])
        is_returning = day.kinds[place] is Kind.RETURNING
        others = np.append(gallery, among[place, added])
        holder = float(gallery[person]) if is_returning else None
        if is_returning:
            others[person] = -1
        answer = _decide(float(pair_scores[place]), holder, others, thresholds)
        answers.append(answer)
        if answer is not None and answer.adds_reference:
            added.append(place)
    return answers


def _decide(
    pair_score: float, holder: float | None, others: NDArray[np.float32], at: Thresholds
) -> Expected | None:
    limits = {at.review, at.certain}
    near = min((float(np.abs(others - limit).min()) for limit in limits), default=1.0)
    near = min(near, abs(pair_score - at.verify))
    if holder is not None:
        near = min(near, abs(holder - at.same_document))
    if near < TOLERANCE:
        return None
    reasons = set()
    if pair_score < at.verify:
        reasons.add(Reason.FACE_MISMATCH)
    if holder is not None and holder < at.same_document:
        reasons.add(Reason.DOCUMENT_HELD_BY_ANOTHER_FACE)
    best = float(others.max())
    if best >= at.certain:
        reasons.add(Reason.DUPLICATE_IDENTITY)
    elif best >= at.review:
        reasons.add(Reason.POSSIBLE_DUPLICATE)
    if not reasons:
        decision = Decision.APPROVED
    else:
        decision = Decision.REVIEW if reasons <= REVIEWED else Decision.REJECTED
    is_new = holder is None and decision is Decision.APPROVED
    return Expected(decision, frozenset(reasons), is_new)


def _score_gallery(
    probes: NDArray[np.float32], references: NDArray[np.float32]
) -> Iterator[NDArray[np.float32]]:
    """float32[references] for each probe in turn."""
    for start in range(0, len(probes), ROWS):
        yield from probes[start : start + ROWS] @ references.T


def _fuse(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    total = one + other
    fused: NDArray[np.float32] = total / np.linalg.norm(total, axis=1, keepdims=True)
    return fused
