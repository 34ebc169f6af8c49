"""A run of a sweep: joins the gallery, then groups the pairs found.

A sweep that is stopped at any moment can be resumed from its folder: comparisons are saved tile by
tile, and the steps after them take seconds and are repeated.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engine.cases.decided import read_decided
from engine.matching.calibration import CalibrationCurve
from engine.matching.documents import normalise_name, read_birth, read_serial
from engine.registry.cases import CaseRecord
from engine.registry.queues import CaseFilter
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from engine.sweeps.budget import BudgetTerms, Ranking, expect_true, rank_within_budget
from engine.sweeps.clustering import Documents, Owners, ReadVectors, mark_exceptions
from engine.sweeps.folder import Covered, SweepFolder
from engine.sweeps.groups import (
    FaceFacts,
    ForeignFace,
    group_faces,
    groups_of_documents,
    groups_of_lines,
)
from engine.sweeps.likelihood import Openings, Particulars, ReadParticulars, ScoreRatio
from engine.sweeps.risk import rank
from indexes.base import Flags, Ids
from indexes.joining import NO_PAIRS, Records
from indexes.joining.join import JoinedGallery, Report
from schema import frozen
from schema.cases import ALIVE, CaseKind, CaseState, Outcome
from schema.reasons import Reason
from schema.sweeps import Group, SweepTerms

# A merged case still says why it was opened.
_LISTED_STATES = frozenset({*ALIVE, CaseState.MERGED})


def groups_of_events(reader: Reader) -> list[Group]:
    """Groups from open cases: documents tried by foreign faces, and lines that changed face."""
    attempts, changed = _find_attempts(reader), _find_changed(reader)
    documents = {one.document_id for one in attempts} | {one.document_id for one in changed}
    document_ids = sorted(documents)
    found = read_apart(document_ids, reader.documents_by_id)
    references = [key for one in found.values() for key in one.reference_ids]
    identities = {one.document_id: one for one in reader.facts.identities_of(references)}
    return [*groups_of_documents(attempts, identities), *groups_of_lines(changed, identities)]


def _find_attempts(reader: Reader) -> list[ForeignFace]:
    tried = {key for case in _cases(reader, CaseKind.STOLEN_DOCUMENT) for key in case.document_ids}
    return [
        ForeignFace(key, attempt.carrier, attempt.outlet, attempt.created_at)
        for key, attempts in reader.attempts_of(sorted(tried)).items()
        for attempt in attempts
        if Reason.DOCUMENT_HELD_BY_ANOTHER_FACE in attempt.reasons
    ]


def _find_changed(reader: Reader) -> list[ForeignFace]:
    moments = {
        case.line_id: case.opened_at
        for kind in (CaseKind.LINE_CHANGED_FACE, CaseKind.REVERIFICATION_FAILED)
        for case in _cases(reader, kind)
        if case.line_id is not None
    }
    return [
        ForeignFace(line.document_id, line.carrier, line.outlet, moments[line.id], line.id)
        for line in read_apart(sorted(moments), reader.lines_by_id).values()
    ]


def _cases(reader: Reader, kind: CaseKind) -> Iterator[CaseRecord]:
    return reader.cases.whole_queue(CaseFilter(state=_LISTED_STATES, kind=kind.value))


_LOOKED_UP = 50_000


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


@frozen(kw_only=True, eq=False)
class SweepTask:
    """A sweep to run; `known` is what the last one covered, for a sweep of new references."""

    id: str
    terms: SweepTerms
    folder: SweepFolder
    known: Covered | None = None


@frozen(kw_only=True, eq=False)
class SweepResult:
    """The findings of a sweep, as of the gallery's `sequence`.

    `pairs` are the new ones between two documents; `is_excepted` bool[m] marks those judged to be
    two persons. `compared` counts references, `new` those that no earlier sweep had. `bounds`: by
    what all other pairs were dropped, see `Pairs`. `covered` is for the next sweep. With a budget,
    `ranking` says how the groups were chosen, and `pairs` are those between members of one group.
    """

    task: SweepTask
    pairs: Records
    is_excepted: Flags
    same_document_pairs: int
    groups: list[Group]
    sequence: int
    compared: int
    new: int
    bounds: tuple[str, ...]
    covered: Covered
    ranking: Ranking | None = None
    expected_true: Mapping[str, Any] | None = None


def read_facts(reader: Reader, references: Ids | None) -> FaceFacts:
    """The owners of these references (None: of all) and of judged documents, as of one moment.

    A few are looked up with all references of their documents; reading all of a large registry
    takes seconds.
    """
    judged = read_decided(reader).exceptions
    named = {key for pair in judged for key in pair}
    is_few = references is not None and len(references) + len(named) <= _LOOKED_UP
    if references is not None and is_few:
        named.update(read_apart(references.tolist(), reader.documents_of).values())
    found = read_apart(sorted(named), reader.documents_by_id)
    # The order of ids decides between equal scores, as it does when all are read.
    held = {key: found[key].reference_ids for key in sorted(found)}
    owners = (
        Owners.numbered(list(held.values()))
        if is_few
        else Owners(*reader.facts.document_owner_array())
    )
    return FaceFacts(owners, number_exceptions(judged, held, owners), reader.facts.identities_of)


def number_exceptions(
    exceptions: Iterable[tuple[str, str]], references: Mapping[str, Sequence[int]], owners: Owners
) -> Documents:
    """int64[k, 2]: judged pairs of document ids as documents of `owners`.

    `references` are the live references of each document; a pair with a document that has none is
    left out.
    """
    known = [pair for pair in sorted(exceptions) if all(references.get(key) for key in pair)]
    documents = owners.of_any([references[key] for pair in known for key in pair]).reshape(-1, 2)
    return documents[(documents >= 0).all(axis=1)]


def run_sweep(
    task: SweepTask,
    join: Join,
    reader: Reader,
    *,
    read_vectors: ReadVectors | None = None,
    curve: CalibrationCurve | None = None,
    progress: Report | None = None,
    check: Callable[[], None] = lambda: None,
) -> SweepResult:
    """Compares the gallery as of the first start and groups the pairs found; writes only to the
    checkpoint.

    References gone at the end are in no result. `read_vectors` is for `group_faces`; a budget needs
    it, and the `curve` of fused references. `progress` is called after each tile, `check` several
    times a second and between later steps; an exception from either stops the sweep.
    `CheckpointInvalid` if the folder is of another gallery, `SearchInvalid` for too many pairs.
    """
    joined = join(
        task.terms.threshold,
        known=None if task.known is None else task.known.ids,
        checkpoint=task.folder.checkpoint,
        progress=progress,
        check=check,
    )
    check()
    fresh = _list_fresh(joined, task)
    if task.terms.budget is not None:
        assert read_vectors is not None, "a budget looks for what it left out"
        assert curve is not None, "a budget ranks by a calibration"
        return _rank(joined, task, reader, read_vectors, curve, fresh)
    found = _find(joined, task, reader)
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
        bounds=joined.pairs.bounds,
        covered=Covered(joined.ids, found.whole),
    )


def _list_fresh(joined: JoinedGallery, task: SweepTask) -> Ids | None:
    """The references that no earlier sweep has compared; None where there was none."""
    if task.known is None:
        return None
    return np.setdiff1d(joined.ids, task.known.ids, assume_unique=True)


def _rank(
    joined: JoinedGallery,
    task: SweepTask,
    reader: Reader,
    read_vectors: ReadVectors,
    curve: CalibrationCurve,
    fresh: Ids | None,
) -> SweepResult:
    """The result of a sweep with a budget: pairs are read in pieces."""
    assert task.terms.budget is not None
    facts = read_facts(reader, None)
    decisions = read_decisions(reader, facts.owners)
    terms = BudgetTerms(
        budget=task.terms.budget,
        threshold=task.terms.threshold,
        references=len(joined.ids),
        ratio=ScoreRatio.of(curve),
        openings=_read_openings(reader, facts.owners),
        read_particulars=particulars_reader(reader, facts.owners),
        judged=decisions.judged,
    )
    ranking = rank_within_budget(
        joined.pairs.pieces,
        terms,
        facts,
        earlier=_keep_earlier(task),
        read_vectors=read_vectors,
        fresh=fresh,
        decided=set(read_decided(reader).standing),
    )
    chosen = ranking.candidates.pairs
    pairs = _keep_within(chosen, ranking.groups)
    return SweepResult(
        task=task,
        pairs=pairs,
        is_excepted=np.zeros(len(pairs), np.bool_),
        same_document_pairs=ranking.candidates.same_document,
        groups=rank([*ranking.groups, *groups_of_events(reader)]),
        sequence=joined.sequence,
        compared=len(joined.ids),
        new=len(joined.ids) if fresh is None else len(fresh),
        bounds=joined.pairs.bounds,
        covered=Covered(joined.ids, np.concatenate([_keep_earlier(task), chosen])),
        ranking=ranking,
        expected_true=expect_true((group.risk for group in ranking.groups), decisions.decided),
    )


def _keep_within(pairs: Records, groups: Sequence[Group]) -> Records:
    """The pairs whose both ends are of one group."""
    group_of = {
        key: number
        for number, group in enumerate(groups)
        for one in group.identities
        for key in one.reference_ids
    }
    left, right = (
        np.array([group_of.get(key, -1) for key in side.tolist()], np.int64)
        for side in (pairs["left"], pairs["right"])
    )
    within: Records = pairs[(left == right) & (left >= 0)]
    return within


def _keep_earlier(task: SweepTask) -> Records:
    earlier = NO_PAIRS if task.known is None else task.known.pairs
    # In float64, since numpy would round the threshold to the scores' float32.
    return earlier[earlier["score"].astype(np.float64) >= task.terms.threshold]


@frozen(eq=False)
class PastDecisions:
    """Earlier decisions of people that a budget learns from.

    `judged` int64[k, 2]: documents of fraud that no sweep with a budget had found. `decided`: the
    risk of each group that one had, and whether it was fraud.
    """

    judged: Documents
    decided: list[tuple[float, bool]]


def read_decisions(reader: Reader, owners: Owners) -> PastDecisions:
    """The decisions on record."""
    pairs = reader.judged_pairs()
    sweeps = {one.sweep_id for one in pairs if one.sweep_id is not None}
    budgeted = {one for one in sweeps if reader.sweeps.get(one).terms.budget is not None}
    frauds = [x for x in pairs if x.outcome is Outcome.FRAUD and x.sweep_id not in budgeted]
    sides = sorted({key for one in frauds for key in (one.left_document, one.right_document)})
    found = read_apart(sides, reader.documents_by_id)
    held = {key: one.reference_ids for key, one in found.items()}
    named = sorted({x.case_id for x in pairs if x.sweep_id in budgeted})
    cases = read_apart(named, reader.cases.by_id)
    return PastDecisions(
        number_exceptions([(x.left_document, x.right_document) for x in frauds], held, owners),
        [
            (case.risk, case.outcome is Outcome.FRAUD)
            for case in cases.values()
            if case.risk is not None and case.outcome is not None
        ],
    )


def _read_openings(reader: Reader, owners: Owners) -> Openings:
    references, outlets, minutes, is_disputed = reader.facts.opening_arrays()
    documents = owners.of(references)
    order = np.argsort(documents, kind="stable")
    order = order[documents[order] >= 0]
    return Openings(documents[order], outlets[order], minutes[order], is_disputed[order])


def particulars_reader(reader: Reader, owners: Owners) -> ReadParticulars:
    """Opens what documents say, for comparison alone."""
    order = np.argsort(owners.documents, kind="stable")
    by_document = owners.documents[order]

    def read_particulars(documents: Documents) -> dict[int, Particulars]:
        places = order[np.searchsorted(by_document, documents)]
        numbers = dict(zip(owners.references[places].tolist(), documents.tolist(), strict=True))
        ids = read_apart(list(numbers), reader.documents_of)
        known = read_apart(list(ids.values()), reader.documents_by_id)
        kinds = {key: one.kind for key, one in known.items()}
        sealed = reader.identities(list(ids.values()))
        return {
            numbers[reference]: Particulars(
                normalise_name(sealed[key].name),
                read_birth(kinds[key], sealed[key].number),
                read_serial(kinds[key], sealed[key].number),
            )
            for reference, key in ids.items()
            if key in sealed and key in kinds
        }

    return read_particulars


@frozen(eq=False)
class _Found:
    """Pairs between two existing documents: the new ones, and all with earlier ones (`whole`)."""

    facts: FaceFacts
    pairs: Records
    whole: Records
    same_document_pairs: int


def _find(joined: JoinedGallery, task: SweepTask, reader: Reader) -> _Found:
    found = joined.pairs.records
    earlier = _keep_earlier(task)
    ends = (found["left"], found["right"], earlier["left"], earlier["right"])
    facts = read_facts(reader, np.unique(np.concatenate(ends)))
    pairs, same_document = _part(found, facts.owners)
    whole = np.concatenate([_part(earlier, facts.owners)[0], pairs])
    return _Found(facts, pairs, whole, same_document)


def _part(pairs: Records, owners: Owners) -> tuple[Records, int]:
    """The pairs between two existing documents, and the number within one document."""
    left, right = owners.of(pairs["left"]), owners.of(pairs["right"])
    there = (left >= 0) & (right >= 0)
    between = there & (left != right)
    return pairs[between], int(there.sum() - between.sum())


def _find_excepted(pairs: Records, facts: FaceFacts) -> Flags:
    one, other = facts.owners.of(pairs["left"]), facts.owners.of(pairs["right"])
    return mark_exceptions(one, other, facts.exceptions)
