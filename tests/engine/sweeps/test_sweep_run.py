"""A sweep finds every pair between documents, groups them, and survives whatever ends it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from engine.cases.case import Outcome
from engine.registry.keyring import KeyRing
from engine.registry.records import Carrier, new_id
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.sweeps import sweep_run
from engine.sweeps.clustering import look_into
from engine.sweeps.folder import SweepFolder
from engine.sweeps.sweep_model import GroupKind, SweepTerms
from engine.sweeps.sweep_run import SweepTask, Swept, run_sweep
from indexes.joining.join import Progress, join_gallery
from tests.engine.sweeps.synthetic_registry import OUTLETS, THRESHOLD, Town, faces, likenesses

DIM = 32
PEOPLE = 120


@pytest.fixture
def sweep(town: Town, tmp_path: Path) -> Callable[..., Swept]:
    """`sweep(after=None)`: all of the town, or what is new after an earlier sweep."""

    def run(
        after: Swept | None = None, progress: Callable[[Progress], None] | None = None
    ) -> Swept:
        sweep_id = new_id()
        task = SweepTask(
            id=sweep_id,
            terms=SweepTerms(threshold=THRESHOLD),
            folder=SweepFolder.of(tmp_path / "sweeps", sweep_id),
            known=None if after is None else after.covered,
        )
        task.folder.make()
        join = partial(join_gallery, town.gallery, tile_rows=50)
        look = look_into(town.gallery)
        return run_sweep(task, join, town.store, look=look, progress=progress)

    return run


def pairs_of(swept: Swept) -> set[tuple[int, int]]:
    return set(zip(swept.pairs.left.tolist(), swept.pairs.right.tolist(), strict=True))


def members_of(swept: Swept) -> set[frozenset[str]]:
    return {frozenset(one.document_id for one in group.identities) for group in swept.groups}


def test_people_under_several_documents_are_found_and_nobody_else(
    town: Town, sweep: Callable[..., Swept]
) -> None:
    rows = faces(PEOPLE, DIM)
    first = town.settle(rows)
    second = town.settle(likenesses(rows[:10], seed=1))
    third = town.settle(likenesses(rows[:4], seed=2))
    swept = sweep()
    expected = {frozenset({first[i], second[i]}) for i in range(4, 10)}
    expected |= {frozenset({first[i], second[i], third[i]}) for i in range(4)}
    assert members_of(swept) == expected
    assert {group.kind for group in swept.groups} == {GroupKind.ONE_FACE}
    assert len(pairs_of(swept)) == 6 + 4 * 3
    assert (swept.compared, swept.new) == (PEOPLE + 14, PEOPLE + 14)
    assert swept.sequence == town.gallery.sequence
    assert [group.risk for group in swept.groups] == sorted(
        (group.risk for group in swept.groups), reverse=True
    )


def test_pairs_of_one_document_are_no_news(town: Town, sweep: Callable[..., Swept]) -> None:
    rows = faces(10, DIM)
    documents = town.settle(rows)
    town.return_under(documents[:3], likenesses(rows[:3], seed=1))
    swept = sweep()
    assert (pairs_of(swept), swept.groups, swept.same_document_pairs) == (set(), [], 3)


def test_a_document_with_two_references_is_one_identity_of_its_group(
    town: Town, sweep: Callable[..., Swept]
) -> None:
    rows = faces(10, DIM)
    documents = town.settle(rows)
    town.return_under(documents[:1], likenesses(rows[:1], seed=1))
    (other,) = town.settle(likenesses(rows[:1], seed=2))
    (group,) = sweep().groups
    assert [len(one.reference_ids) for one in group.identities] == (
        [2, 1] if documents[0] < other else [1, 2]
    )
    assert len(group.links) == 1


@pytest.mark.parametrize("looked_up", [0, 50_000])
def test_judged_pairs_are_shown_as_such_and_make_no_group(
    town: Town, sweep: Callable[..., Swept], monkeypatch: pytest.MonkeyPatch, looked_up: int
) -> None:
    monkeypatch.setattr(sweep_run, "_LOOKED_UP", looked_up)
    rows = faces(20, DIM)
    first, second = town.settle(rows), town.settle(likenesses(rows[:3], seed=1))
    town.judge(first[0], second[0], Outcome.TWINS)
    town.judge(second[1], first[1], Outcome.MISTAKE)
    town.judge(first[2], second[2], Outcome.FRAUD)
    swept = sweep()
    assert members_of(swept) == {frozenset({first[2], second[2]})}
    assert len(swept.pairs) == 3
    excepted = {
        tuple(map(town.documents.get, (left, right)))
        for left, right in zip(
            swept.pairs.left[swept.is_excepted].tolist(),
            swept.pairs.right[swept.is_excepted].tolist(),
            strict=True,
        )
    }
    assert excepted == {(first[0], second[0]), (first[1], second[1])}


def test_an_empty_gallery_and_a_gallery_of_one_have_nothing(
    town: Town, sweep: Callable[..., Swept]
) -> None:
    seen: list[Progress] = []
    swept = sweep(progress=seen.append)
    assert (swept.groups, len(swept.pairs), swept.compared) == ([], 0, 0)
    assert seen[-1].comparisons_total == 0
    town.settle(faces(1, DIM))
    assert sweep().compared == 1


def test_a_sweep_of_what_is_new_completes_the_groups_of_earlier_ones(
    town: Town, sweep: Callable[..., Swept]
) -> None:
    rows = faces(PEOPLE, DIM)
    first, second = town.settle(rows), town.settle(likenesses(rows[:6], seed=1))
    earlier = sweep()
    third = town.settle(np.concatenate([likenesses(rows[:2], seed=2), faces(5, DIM, seed=3)]))
    compared: list[Progress] = []
    later = sweep(after=earlier, progress=compared.append)
    new, old = 7, PEOPLE + 6
    assert compared[-1].comparisons_total == new * old + new * (new - 1) // 2
    assert (later.compared, later.new) == (new + old, new)
    # Only what has a new link, but whole.
    assert members_of(later) == {frozenset({first[i], second[i], third[i]}) for i in range(2)}
    fresh = {town.reference_of(document) for document in third}
    assert all(fresh & set(pair) for pair in pairs_of(later))
    assert len(later.pairs) == 4
    # A third sweep still knows the pairs of the first.
    fourth = town.settle(likenesses(rows[4:5], seed=5))
    last = sweep(after=later)
    assert members_of(last) == {frozenset({first[4], second[4], fourth[0]})}
    assert members_of(sweep()) == {
        *(frozenset({first[i], second[i], third[i]}) for i in range(2)),
        *(frozenset({first[i], second[i]}) for i in (2, 3, 5)),
        frozenset({first[4], second[4], fourth[0]}),
    }


def test_a_gallery_that_changes_meanwhile_is_covered_as_of_the_sequence_that_is_stated(
    town: Town, sweep: Callable[..., Swept]
) -> None:
    rows = faces(PEOPLE, DIM)
    first, second = town.settle(rows), town.settle(likenesses(rows[:4], seed=1))
    sequence = town.gallery.sequence

    def change(progress: Progress) -> None:
        if progress.tiles_done == 1:
            town.settle(likenesses(rows[4:8], seed=2))
        if progress.tiles_done == progress.tiles:
            town.erase([town.reference_of(second[0])])

    swept = sweep(progress=change)
    assert swept.sequence == sequence
    assert swept.compared == PEOPLE + 4
    # Who came later is for the next one, and who is gone is in nothing.
    assert members_of(swept) == {frozenset({first[i], second[i]}) for i in range(1, 4)}
    later = sweep(after=swept)
    assert len(members_of(later)) == 4


def test_what_its_caller_raises_stops_it_and_the_next_run_goes_on_there(
    town: Town, tmp_path: Path
) -> None:
    rows = faces(200, DIM)
    town.settle(rows)
    town.settle(likenesses(rows[:20], seed=1))
    task = SweepTask(
        id=new_id(), terms=SweepTerms(threshold=THRESHOLD), folder=SweepFolder(tmp_path / "one")
    )
    task.folder.make()
    join = partial(join_gallery, town.gallery, tile_rows=50)
    made: list[int] = []

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        made.append(progress.tiles_done)
        if progress.tiles_done % 4 == 0 and made[-2:-1] not in ([], [-1]):
            raise Stop

    for _ in range(20):
        try:
            swept = run_sweep(task, join, town.store, progress=stop)
        except Stop:
            made.append(-1)
            continue
        break
    else:
        raise AssertionError("it never ends")
    whole = run_sweep(
        SweepTask(id=new_id(), terms=task.terms, folder=SweepFolder(tmp_path / "two")),
        join,
        town.store,
    )
    assert [group.key for group in swept.groups] == [group.key for group in whole.groups]
    assert pairs_of(swept) == pairs_of(whole)
    # Each run says where it begins, and makes what follows.
    tiles = [after for before, after in pairwise(made) if -1 not in (before, after)]
    assert tiles == sorted(set(tiles))
    assert -1 in made


def test_its_check_stops_it_before_a_tile_is_made(town: Town, tmp_path: Path) -> None:
    town.settle(faces(100, DIM))
    task = SweepTask(
        id=new_id(), terms=SweepTerms(threshold=THRESHOLD), folder=SweepFolder(tmp_path / "one")
    )
    seen: list[int] = []

    def refuse() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(
            task,
            partial(join_gallery, town.gallery),
            town.store,
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
from engine.sweeps.sweep_model import SweepTerms
from engine.sweeps.clustering import look_into
from engine.sweeps.sweep_run import SweepTask, run_sweep
from indexes.joining.join import join_gallery

url, ring, folder, sweep_id, dim = sys.argv[1:]
vault = Vault(KeyRing.load(Path(ring)), int(dim))
store = Store.open(url, vault, model_digest="m")
gallery = restore_gallery(store, Path(folder) / "snapshot").gallery

def tell(progress):
    print(progress.tiles_done, progress.tiles, flush=True)

task = SweepTask(
    id=sweep_id, terms=SweepTerms(threshold=0.8), folder=SweepFolder(Path(folder) / "sweep")
)
task.folder.make()
join = partial(join_gallery, gallery, tile_rows=64)
swept = run_sweep(task, join, store, look=look_into(gallery), progress=tell)
rows = zip(swept.pairs.left.tolist(), swept.pairs.right.tolist(), swept.pairs.scores.tolist())
print(json.dumps([[group.key for group in swept.groups], list(rows)]), flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_finds_the_same_and_repeats_a_tile_at_most(
    sqlite_url: str, tmp_path: Path
) -> None:
    ring = tmp_path / "keyring.json"
    vault = Vault(KeyRing.create(ring), DIM)
    rows = faces(1500, DIM)
    with Store.create(sqlite_url, vault, model_digest="m") as store, store.writer() as writer:
        town = Town.of(store, writer)
        for carrier in ("red", "blue"):
            store.add_carrier(Carrier(carrier, carrier), actor="test")
        for carrier, outlet in OUTLETS:
            store.add_outlet(outlet, carrier, actor="test")
        town.settle(rows)
        town.settle(likenesses(rows[:100], seed=1))
    arguments = (sqlite_url, str(ring), str(tmp_path), new_id(), str(DIM))
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    whole, _ = run_and_kill((*arguments[:2], str(undisturbed), *arguments[3:]), after=1 << 30)
    chance, made, kills = random.Random(3), 0, 0
    while True:
        lines, is_killed = run_and_kill(
            arguments, after=chance.randint(10, 120) if kills < 3 else 1 << 30
        )
        tiles = [int(line.split()[0]) for line in lines if line[:1].isdigit()]
        made += len(tiles) - 1 if tiles else 0
        if not is_killed:
            break
        kills += 1
    assert kills == 3
    assert json.loads(lines[-1]) == json.loads(whole[-1])
    total = int(whole[0].split()[1])
    # What was told of is never made again; one that was kept may not have been told of.
    assert total - kills <= made <= total


def run_and_kill(arguments: tuple[str, ...], after: int) -> tuple[list[str], bool]:
    """Its lines, and whether it was killed: some time after so many of them."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    lines: list[str] = []
    with child.stdout:
        for line in child.stdout:
            lines.append(line.strip())
            if len(lines) == after:
                os.kill(child.pid, signal.SIGKILL)
                lines += [rest.strip() for rest in child.stdout]
                break
    return lines, child.wait() == -signal.SIGKILL
