"""A sweep finds every pair between documents, groups them, and can be resumed after a kill."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from engine.registry.database import new_id
from engine.sweeps import sweep_run
from engine.sweeps.folder import SweepFolder
from engine.sweeps.sweep_run import SweepResult, SweepTask, run_sweep
from indexes.joining.join import Progress, join_gallery
from schema.cases import Outcome
from schema.sweeps import GroupKind, SweepTerms
from tests.engine.sweeps.synthetic_registry import THRESHOLD, faces, other_photographs

DIM = 32
PEOPLE = 120


@pytest.fixture
def sweep(registry, tmp_path) -> Callable[..., SweepResult]:
    """`sweep(after=None)` compares the whole registry, or what is new since an earlier sweep."""

    def run(
        after: SweepResult | None = None, progress: Callable[[Progress], None] | None = None
    ) -> SweepResult:
        sweep_id = new_id()
        task = SweepTask(
            id=sweep_id,
            terms=SweepTerms(threshold=THRESHOLD),
            folder=SweepFolder.of(tmp_path / "sweeps", sweep_id),
            known=None if after is None else after.covered,
        )
        task.folder.make()
        join = partial(join_gallery, registry.gallery, tile_rows=50)
        read_vectors = registry.gallery.held
        return run_sweep(task, join, registry.store, read_vectors=read_vectors, progress=progress)

    return run


def pairs_of(result: SweepResult) -> set[tuple[int, int]]:
    return set(zip(result.pairs["left"].tolist(), result.pairs["right"].tolist(), strict=True))


def members_of(result: SweepResult) -> set[frozenset[str]]:
    return {frozenset(one.document_id for one in group.identities) for group in result.groups}


def test_people_with_several_documents_are_found_and_nobody_else(registry, sweep) -> None:
    rows = faces(PEOPLE, DIM)
    first = registry.enroll(rows)
    second = registry.enroll(other_photographs(rows[:10], seed=1))
    third = registry.enroll(other_photographs(rows[:4], seed=2))
    result = sweep()
    expected = {frozenset({first[i], second[i]}) for i in range(4, 10)}
    expected |= {frozenset({first[i], second[i], third[i]}) for i in range(4)}
    assert members_of(result) == expected
    assert {group.kind for group in result.groups} == {GroupKind.ONE_FACE}
    assert len(pairs_of(result)) == 6 + 4 * 3
    assert (result.compared, result.new) == (PEOPLE + 14, PEOPLE + 14)
    assert result.sequence == registry.gallery.sequence
    assert result.bounds == ("bytes",)
    assert [group.risk for group in result.groups] == sorted(
        (group.risk for group in result.groups), reverse=True
    )


def test_pairs_of_one_document_are_left_out(registry, sweep) -> None:
    rows = faces(10, DIM)
    documents = registry.enroll(rows)
    registry.add_references(documents[:3], other_photographs(rows[:3], seed=1))
    result = sweep()
    assert (pairs_of(result), result.groups, result.same_document_pairs) == (set(), [], 3)


def test_a_document_with_two_references_is_one_identity_of_its_group(registry, sweep) -> None:
    rows = faces(10, DIM)
    documents = registry.enroll(rows)
    registry.add_references(documents[:1], other_photographs(rows[:1], seed=1))
    (other,) = registry.enroll(other_photographs(rows[:1], seed=2))
    (group,) = sweep().groups
    assert [len(one.reference_ids) for one in group.identities] == (
        [2, 1] if documents[0] < other else [1, 2]
    )
    assert len(group.links) == 1


@pytest.mark.parametrize("looked_up", [0, 50_000])
def test_judged_pairs_are_marked_and_make_no_group(
    registry, sweep, monkeypatch, looked_up: int
) -> None:
    monkeypatch.setattr(sweep_run, "_LOOKED_UP", looked_up)
    rows = faces(20, DIM)
    first, second = registry.enroll(rows), registry.enroll(other_photographs(rows[:3], seed=1))
    registry.judge(first[0], second[0], Outcome.TWINS)
    registry.judge(second[1], first[1], Outcome.MISTAKE)
    registry.judge(first[2], second[2], Outcome.FRAUD)
    result = sweep()
    assert members_of(result) == {frozenset({first[2], second[2]})}
    assert len(result.pairs) == 3
    excepted = {
        tuple(map(registry.documents.get, (left, right)))
        for left, right in zip(
            result.pairs["left"][result.is_excepted].tolist(),
            result.pairs["right"][result.is_excepted].tolist(),
            strict=True,
        )
    }
    assert excepted == {(first[0], second[0]), (first[1], second[1])}


def test_an_empty_gallery_and_a_gallery_of_one_have_nothing(registry, sweep) -> None:
    seen: list[Progress] = []
    result = sweep(progress=seen.append)
    assert (result.groups, len(result.pairs), result.compared) == ([], 0, 0)
    assert seen[-1].comparisons_total == 0
    registry.enroll(faces(1, DIM))
    assert sweep().compared == 1


def test_a_sweep_of_what_is_new_completes_the_groups_of_earlier_ones(registry, sweep) -> None:
    rows = faces(PEOPLE, DIM)
    first, second = registry.enroll(rows), registry.enroll(other_photographs(rows[:6], seed=1))
    earlier = sweep()
    third = registry.enroll(
        np.concatenate([other_photographs(rows[:2], seed=2), faces(5, DIM, seed=3)])
    )
    compared: list[Progress] = []
    later = sweep(after=earlier, progress=compared.append)
    new, old = 7, PEOPLE + 6
    assert compared[-1].comparisons_total == new * old + new * (new - 1) // 2
    assert (later.compared, later.new) == (new + old, new)
    # Only what has a new link, but whole.
    assert members_of(later) == {frozenset({first[i], second[i], third[i]}) for i in range(2)}
    fresh = {registry.reference_of(document) for document in third}
    assert all(fresh & set(pair) for pair in pairs_of(later))
    assert len(later.pairs) == 4
    # A third sweep still knows the pairs of the first.
    fourth = registry.enroll(other_photographs(rows[4:5], seed=5))
    last = sweep(after=later)
    assert members_of(last) == {frozenset({first[4], second[4], fourth[0]})}
    assert members_of(sweep()) == {
        *(frozenset({first[i], second[i], third[i]}) for i in range(2)),
        *(frozenset({first[i], second[i]}) for i in (2, 3, 5)),
        frozenset({first[4], second[4], fourth[0]}),
    }


def test_a_gallery_that_changes_meanwhile_is_covered_as_of_the_stated_sequence(
    registry, sweep
) -> None:
    rows = faces(PEOPLE, DIM)
    first, second = registry.enroll(rows), registry.enroll(other_photographs(rows[:4], seed=1))
    sequence = registry.gallery.sequence

    def change(progress: Progress) -> None:
        if progress.tiles_done == 1:
            registry.enroll(other_photographs(rows[4:8], seed=2))
        if progress.tiles_done == progress.tiles:
            registry.erase([registry.reference_of(second[0])])

    result = sweep(progress=change)
    assert result.sequence == sequence
    assert result.compared == PEOPLE + 4
    # Who came later is for the next one, and who is gone is in nothing.
    assert members_of(result) == {frozenset({first[i], second[i]}) for i in range(1, 4)}
    later = sweep(after=result)
    assert len(members_of(later)) == 4


def test_its_check_stops_it_before_a_tile_is_made(registry, tmp_path) -> None:
    registry.enroll(faces(100, DIM))
    task = SweepTask(
        id=new_id(), terms=SweepTerms(threshold=THRESHOLD), folder=SweepFolder(tmp_path / "one")
    )
    seen: list[int] = []

    def refuse() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(
            task,
            partial(join_gallery, registry.gallery),
            registry.store,
            progress=lambda progress: seen.append(progress.tiles_done),
            check=refuse,
        )
    assert seen == [0]
