"""A sweep finds every pair between documents, groups them, and can be resumed after a kill."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from engine.registry.accounts import Carrier
from engine.registry.database import new_id
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.sweeps import sweep_run
from engine.sweeps.folder import SweepFolder
from engine.sweeps.sweep_run import SweepResult, SweepTask, run_sweep
from indexes.joining.join import Progress, join_gallery
from schema.cases import Outcome
from schema.sweeps import GroupKind, SweepTerms
from tests.engine.sweeps.synthetic_registry import (
    OUTLETS,
    THRESHOLD,
    SyntheticRegistry,
    faces,
    other_photographs,
)

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


CHILD = """
import json, sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from engine.matching.recovery import restore_gallery
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.sweeps.folder import SweepFolder
from schema.sweeps import SweepTerms
from engine.sweeps.sweep_run import SweepTask, run_sweep
from indexes.joining.join import join_gallery

url, ring, folder, sweep_id, dim = sys.argv[1:]
vault = Vault(KeyRing.load(Path(ring)), int(dim))
store = Store.open(url, vault, model_digest="m")
gallery = restore_gallery(store, Path(folder) / "snapshot").gallery

def report(progress):
    print(progress.tiles_done, progress.tiles, flush=True)

task = SweepTask(
    id=sweep_id, terms=SweepTerms(threshold=0.8), folder=SweepFolder(Path(folder) / "sweep")
)
task.folder.make()
join = partial(join_gallery, gallery, tile_rows=64)
result = run_sweep(task, join, store, read_vectors=gallery.held, progress=report)
keys = [group.key for group in result.groups]
print(json.dumps([keys, result.pairs.tolist()]), flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_finds_the_same_and_repeats_a_tile_at_most(
    sqlite_url, tmp_path
) -> None:
    ring = tmp_path / "keyring.json"
    vault = Vault(KeyRing.create(ring), DIM)
    rows = faces(1500, DIM)
    with Store.create(sqlite_url, vault, model_digest="m") as store, store.writer() as writer:
        registry = SyntheticRegistry.of(store, writer)
        for carrier in ("red", "blue"):
            store.add_carrier(Carrier(carrier, carrier), actor="test")
        for carrier, outlet in OUTLETS:
            store.add_outlet(outlet, carrier, actor="test")
        registry.enroll(rows)
        registry.enroll(other_photographs(rows[:100], seed=1))
    arguments = (sqlite_url, str(ring), str(tmp_path), new_id(), str(DIM))
    uninterrupted = tmp_path / "uninterrupted"
    uninterrupted.mkdir()
    whole, _ = run_and_kill((*arguments[:2], str(uninterrupted), *arguments[3:]), after=1 << 30)
    rng, made, kills = random.Random(3), 0, 0
    while True:
        lines, is_killed = run_and_kill(
            arguments, after=rng.randint(10, 120) if kills < 2 else 1 << 30
        )
        tiles = [int(line.split()[0]) for line in lines if line[:1].isdigit()]
        made += len(tiles) - 1 if tiles else 0
        if not is_killed:
            break
        kills += 1
    assert kills == 2
    assert json.loads(lines[-1]) == json.loads(whole[-1])
    total = int(whole[0].split()[1])
    # A reported tile is never made again; a saved one may not have been reported.
    assert total - kills <= made <= total


def run_and_kill(arguments: tuple[str, ...], after: int) -> tuple[list[str], bool]:
    """Output lines of a run, and whether it was killed after `after` of them."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True
    )
    lines: list[str] = []
    with child.stdout:
        for line in child.stdout:
            lines.append(line.strip())
            if len(lines) == after:
                os.kill(child.pid, signal.SIGKILL)
                lines += [rest.strip() for rest in child.stdout]
                break
    return lines, child.wait() == -signal.SIGKILL
