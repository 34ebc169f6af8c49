"""A run of a sweep: joins the gallery, then groups the pairs found.

A sweep that is stopped at any moment can be resumed from its folder: comparisons are saved tile by
tile, and the steps after them take seconds and are repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.cases.case import CaseKind
from engine.cases.decided import read_decided
from engine.reasons import Reason
from engine.registry.reader import Reader
from engine.registry.records import ALIVE, CaseRecord, CaseState
from engine.sweeps.clustering import ReadVectors
from engine.sweeps.folder import Covered, SweepFolder
from engine.sweeps.groups import (
    ChangedLine,
    FaceFacts,
    ForeignAttempt,
    group_faces,
    groups_of_documents,
    groups_of_lines,
)
from engine.sweeps.linking import Owners, mark_exceptions, number_exceptions
from engine.sweeps.risk import rank
from engine.sweeps.sweep_model import Group, Identity, PairTable, SweepTerms
from indexes.base import Ids
from indexes.joining.join import JoinedGallery, Report

_PAGE_CASES = 1000
# A merged case still says why it was opened.
_LISTED_STATES = frozenset({*ALIVE, CaseState.MERGED})


def groups_of_events(reader: Reader) -> list[Group]:
    """Groups from open cases: documents tried by foreign faces, and lines that changed face."""
    attempts, changed = _find_attempts(reader), _find_changed(reader)
    documents = {one.document_id for one in attempts} | {one.document_id for one in changed}
    identities = _identify(reader, sorted(documents))
    return [*groups_of_documents(attempts, identities), *groups_of_lines(changed, identities)]


def _find_attempts(reader: Reader) -> list[ForeignAttempt]:
    tried = {key for case in _cases(reader, CaseKind.STOLEN_DOCUMENT) for key in case.document_ids}
    return [
        ForeignAttempt(key, attempt.carrier, attempt.outlet, attempt.created_at)
        for key, attempts in reader.attempts_of(sorted(tried)).items()
        for attempt in attempts
        if Reason.DOCUMENT_HELD_BY_ANOTHER_FACE in attempt.reasons
    ]


def _find_changed(reader: Reader) -> list[ChangedLine]:
    moments = {
        case.line_id: case.opened_at
        for case in _cases(reader, CaseKind.LINE_CHANGED_FACE)
        if case.line_id is not None
    }
    return [
        ChangedLine(line.id, line.document_id, line.carrier, line.outlet, moments[line.id])
        for line in reader.lines_by_id(sorted(moments)).values()
    ]


def _identify(reader: Reader, document_ids: Sequence[str]) -> dict[str, Identity]:
    references = [
        key for one in reader.documents_by_id(document_ids).values() for key in one.reference_ids
    ]
    return {one.document_id: one for one in reader.facts.identities_of(references)}


def _cases(reader: Reader, kind: CaseKind) -> Iterator[CaseRecord]:
    after = None
    while page := reader.cases.newest(_LISTED_STATES, kind.value, limit=_PAGE_CASES, after=after):
        yield from page
        after = page[-1].id


_LOOKED_UP = 50_000
_NOTHING = PairTable(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


class Join(Protocol):
    """Finds every pair of a gallery, as `join_gallery` and `join_shards` do."""

    def __call__(
        self,
        threshold: float,
        *,
        known: Ids | None,
        checkpoint: Path | None,
        progress: Report | None,
        check: Callable[[], None],
    ) -> JoinedGallery: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SweepTask:
    """A sweep to run; `known` is what the last one covered, for a sweep of new references."""

    id: str
    terms: SweepTerms
    folder: SweepFolder
    known: Covered | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SweepResult:
    """What a sweep found, as of the gallery's `sequence`.

    `pairs` are the new ones between two documents; `is_excepted` bool[m] marks those judged to be
    two persons. `compared` counts references, `new` those that no earlier sweep had. `covered` is
    for the next sweep.
    """

    task: SweepTask
    pairs: PairTable
    is_excepted: NDArray[np.bool_]
    same_document_pairs: int
    groups: list[Group]
    sequence: int
    compared: int
    new: int
    covered: Covered


def read_facts(reader: Reader, references: Ids) -> FaceFacts:
    """The owners of these references and of judged documents, as of one moment.

    A few are looked up with all references of their documents; reading all of a large registry
    takes seconds.
    """
    judged = read_decided(reader).exceptions
    named = {key for pair in judged for key in pair}
    is_few = len(references) + len(named) <= _LOOKED_UP
    if is_few:
        named.update(reader.documents_of(references.tolist()).values())
    found = reader.documents_by_id(sorted(named))
    # The order of ids decides between equal scores, as it does when all are read.
    held = {key: found[key].reference_ids for key in sorted(found)}
    owners = (
        Owners.numbered(list(held.values()))
        if is_few
        else Owners(*reader.facts.document_owner_array())
    )
    return FaceFacts(owners, number_exceptions(judged, held, owners), reader.facts.identities_of)


def run_sweep(
    task: SweepTask,
    join: Join,
    reader: Reader,
    *,
    read_vectors: ReadVectors | None = None,
    progress: Report | None = None,
    check: Callable[[], None] = lambda: None,
) -> SweepResult:
    """Compares the gallery and groups the pairs found; writes only to the checkpoint.

    Covers the gallery as of the first start: references added meanwhile are for the next sweep, and
    those gone at the end are in no result. `read_vectors` is for `group_faces`. `progress` is
    called after each tile, `check` several times a second and between later steps; an exception
    from either stops the sweep. `CheckpointInvalid` if the folder is of another gallery,
    `SearchInvalid` if more pairs reach the threshold than can be kept.
    """
    known = task.known
    joined = join(
        task.terms.threshold,
        known=None if known is None else known.ids,
        checkpoint=task.folder.checkpoint,
        progress=progress,
        check=check,
    )
    check()
    found = _find(joined, task, reader)
    fresh = None if known is None else np.setdiff1d(joined.ids, known.ids, assume_unique=True)
    check()
    faces = group_faces(
        found.whole, task.terms.threshold, found.facts, read_vectors=read_vectors, fresh=fresh
    )
    check()
    return SweepResult(
        task=task,
        pairs=found.pairs,
        is_excepted=_find_excepted(found.pairs, found.facts),
        same_document_pairs=found.same_document_pairs,
        groups=rank([*faces, *groups_of_events(reader)]),
        sequence=joined.sequence,
        compared=len(joined.ids),
        new=len(joined.ids) if fresh is None else len(fresh),
        covered=Covered(joined.ids, found.whole),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Pairs between two existing documents: the new ones, and all with earlier ones (`whole`)."""

    facts: FaceFacts
    pairs: PairTable
    whole: PairTable
    same_document_pairs: int


def _find(joined: JoinedGallery, task: SweepTask, reader: Reader) -> _Found:
    found = PairTable(joined.pairs.left, joined.pairs.right, joined.pairs.scores)
    earlier = _NOTHING if task.known is None else task.known.pairs
    # In float64, since numpy would round the threshold to the scores' float32.
    earlier = earlier.at(earlier.scores.astype(np.float64) >= task.terms.threshold)
    ends = (found.left, found.right, earlier.left, earlier.right)
    facts = read_facts(reader, np.unique(np.concatenate(ends)))
    pairs, same_document = _part(found, facts.owners)
    whole = _join(_part(earlier, facts.owners)[0], pairs)
    return _Found(facts, pairs, whole, same_document)


def _part(pairs: PairTable, owners: Owners) -> tuple[PairTable, int]:
    """The pairs between two existing documents, and the number within one document."""
    left, right = owners.of(pairs.left), owners.of(pairs.right)
    there = (left >= 0) & (right >= 0)
    between = there & (left != right)
    return pairs.at(between), int(there.sum() - between.sum())


def _join(some: PairTable, others: PairTable) -> PairTable:
    return PairTable(
        np.concatenate([some.left, others.left]),
        np.concatenate([some.right, others.right]),
        np.concatenate([some.scores, others.scores]),
    )


def _find_excepted(pairs: PairTable, facts: FaceFacts) -> NDArray[np.bool_]:
    one, other = facts.owners.of(pairs.left), facts.owners.of(pairs.right)
    return mark_exceptions(one, other, facts.exceptions)
