"""Shards that outlive their writer: each is brought to the store from what it holds, or alone."""

from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.matching.holders import erase_holder
from engine.matching.recovery import (
    Restored,
    fill_copy,
    finish_move,
    origin_of,
    restore_gallery,
    restore_shards,
)
from engine.registry.file_ciphers import ShardSealer
from engine.registry.keyring import Key
from indexes.errors import ShardFenced, ShardLost
from indexes.segmented.merging import SegmentsConfig
from indexes.sharding.host import ReplicatedShard, Shard, ShardHost
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardPlan
from tests.engine.matching.conftest import DIM
from tests.indexes.sharding.local_shards import LocalShard
from tests.indexes.snapshots.conftest import assert_same

SMALL = SegmentsConfig(head_rows=8, fan=4)
PLAN = ShardPlan(DIM, threads=1, config=SMALL, content="lab:")
SHARDS = 3


def open_index(epoch: int, hosts: list[ShardHost] | None = None, **terms: Any) -> ShardedIndex:
    """New shards, or those that an earlier writer has left."""
    plan = replace(PLAN, epoch=epoch, **terms)
    kept: list[Any] = hosts or [None] * SHARDS
    return ShardedIndex(plan, [LocalShard(plan, host) for host in kept])


def hosts_of(index: ShardedIndex) -> list[ShardHost]:
    return [shard.host for shard in index.shards if isinstance(shard, LocalShard)]


def enroll(lab: Any, people: int, restored: Restored | None = None) -> list[Any]:
    requests = [lab.request() for _ in range(people)]
    lab.enroll(*requests, gallery=None if restored is None else restored.gallery)
    return requests


def assert_as_the_store(lab: Any, restored: Restored) -> None:
    assert_same(restored.gallery, restore_gallery(lab.store, lab.folder).gallery)
    assert restored.gallery.sequence == lab.store.sequence()


@pytest.fixture
def left(lab) -> list[ShardHost]:
    """Shards with 20 people, whose writer is gone."""
    index = open_index(1)
    restored = restore_shards(lab.store, index)
    assert (restored.loaded, restored.replayed) == (0, 0)
    enroll(lab, 20, restored)
    hosts = hosts_of(index)
    index.release()
    assert all(host.count() for host in hosts)
    return hosts


def test_shards_that_outlived_their_writer_get_only_what_they_lack(lab, left) -> None:
    requests = enroll(lab, 5)
    with lab.registrar() as registrar:
        erase_holder(registrar, lab.store, requests[0].document, "test")
        erase_holder(registrar, lab.store, requests[1].document, "test")
    told: list[str] = []
    with open_index(2, left) as index:
        restored = restore_shards(lab.store, index, told.append)
        assert (restored.loaded, restored.replayed, told) == (20, 3, [])
        assert_as_the_store(lab, restored)
        enroll(lab, 3, restored)
        assert_as_the_store(lab, restored)
        assert len(index) == 26


class Snapshots:
    """Of each shard in a folder of its own."""

    def __init__(self, lab: Any, folder: Path) -> None:
        self._folder, self._origin = folder, origin_of(lab.store)
        self._sealer = ShardSealer(Key.generate(1), lab.vault.deployment_id.encode())

    def save(self, index: ShardedIndex) -> None:
        for number, shard in enumerate(index.shards):
            shard.save(str(self._folder / str(number)), self._origin, self._sealer).result()

    def load(self, number: int, copy: Shard) -> Future[None]:
        return copy.load(str(self._folder / str(number)), self._origin, self._sealer)


@pytest.fixture
def snapshots(lab, tmp_path) -> Snapshots:
    return Snapshots(lab, tmp_path)


def lose(hosts: list[ShardHost]) -> None:
    hosts[1].close()
    hosts[1] = ShardHost(PLAN)


def stop_in_a_change(hosts: list[ShardHost]) -> None:
    hosts[1].remove(hosts[1].ids()[:1])


def miss_a_reference(hosts: list[ShardHost]) -> None:
    """As only an error of ours could."""
    hosts[1].remove(hosts[1].ids()[:1], hosts[1].state().mark)


def hold_another(hosts: list[ShardHost]) -> None:
    """The count is right."""
    row = np.eye(1, DIM, dtype=np.float32)
    hosts[1].add(np.array([10_000]), row)
    miss_a_reference(hosts)


def be_of_another_history(hosts: list[ShardHost]) -> None:
    state = hosts[1].state()
    number, _, digest = state.mark.history.partition(":")
    history = f"{number}:{digest[::-1]}"
    hosts[1].remove(np.empty(0, np.int64), replace(state.mark, history=history))


def be_ahead(hosts: list[ShardHost]) -> None:
    state = hosts[1].state()
    assert state.mark is not None
    hosts[1].remove(np.empty(0, np.int64), replace(state.mark, sequence=10_000))


@pytest.mark.parametrize(
    "spoil",
    [lose, stop_in_a_change, miss_a_reference, hold_another, be_of_another_history, be_ahead],
)
def test_a_shard_that_cannot_go_on_is_built_again_alone(lab, left, spoil) -> None:
    own = left[1].count()
    spoil(left)
    told: list[str] = []
    with open_index(2, left) as index:
        restored = restore_shards(lab.store, index, told.append)
        assert told == ["shards 1 of 3 are built from the store: nothing is searched meanwhile"]
        assert restored.replayed == own
        assert_as_the_store(lab, restored)


def test_a_shard_that_missed_the_last_changes_gets_those_of_its_ids(lab, left) -> None:
    """As one whose writer died between the shards of a change."""
    behind = LocalShard(replace(PLAN, epoch=2), left[0])
    before = behind.state().result()
    with open_index(2, left) as index:
        restored = restore_shards(lab.store, index)
        enroll(lab, 12, restored)
        late = behind.ids().result()[before.count :]
        assert len(late)
        behind.remove(late, before.mark).result()
        index.release()
    with open_index(3, left) as index:
        restored = restore_shards(lab.store, index)
        assert restored.replayed == len(late)
        assert_as_the_store(lab, restored)


def test_of_two_writers_with_the_shards_of_a_third_only_the_later_is_obeyed(lab, left) -> None:
    second = open_index(2, left)
    of_second = restore_shards(lab.store, second)
    third = open_index(3, left)
    row = np.eye(1, DIM, dtype=np.float32)
    for call in (
        lambda: of_second.gallery.search(row, 1),
        lambda: of_second.gallery.add(np.array([99]), row, of_second.gallery.sequence + 1),
        lambda: restore_shards(lab.store, second),
    ):
        with pytest.raises(ShardFenced if call.__code__.co_names[-1] == "store" else ShardLost):
            call()
    with pytest.raises(ShardFenced, match="later writer"):
        open_index(2, left)
    with third:
        restored = restore_shards(lab.store, third)
        assert (restored.loaded, restored.replayed) == (20, 0)
        enroll(lab, 2, restored)
        assert_as_the_store(lab, restored)


def test_shards_of_a_store_that_went_back_forget_what_they_held(
    lab, make_lab, left, sqlite_url
) -> None:
    """A restored backup has other people under the same numbers, and a writer of a lower epoch."""
    other = make_lab(sqlite_url.replace("registry.db", "backup.db"), lab.vault)
    enroll(other, 25)
    with pytest.raises(ShardFenced):
        open_index(0, left)
    with open_index(0, left, by_force=True) as index:
        restored = restore_shards(other.store, index)
        assert (restored.loaded, restored.replayed) == (0, 25)
        assert_as_the_store(other, restored)
    other.store.close()


def cut(folder: Path, _old: dict[str, bytes]) -> None:
    path = max(folder.glob("segment-*"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path, _old: dict[str, bytes]) -> None:
    path = next(folder.glob("segment-*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def keep_an_older_state(folder: Path, old: dict[str, bytes]) -> None:
    """The file that the manifest names has what the last one had."""
    (older,) = [content for name, content in old.items() if name.startswith("state-")]
    next(folder.glob("state-*")).write_bytes(older)


def be_as_before(folder: Path, old: dict[str, bytes]) -> None:
    """A node comes back with an older snapshot, which is sound."""
    for path in folder.iterdir():
        path.unlink()
    for name, content in old.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("spoil", [None, cut, flip, keep_an_older_state, be_as_before])
def test_a_lost_shard_comes_from_its_snapshot_and_one_that_is_not_sound_from_the_store(
    lab, snapshots, tmp_path, spoil
) -> None:
    with open_index(1) as index:
        restored = restore_shards(lab.store, index)
        enroll(lab, 60, restored)
        first = sum(host.count() for host in hosts_of(index))
        snapshots.save(index)
        old = {path.name: path.read_bytes() for path in (tmp_path / "1").iterdir()}
        enroll(lab, 20, restored)
        snapshots.save(index)
        own, own_before = hosts_of(index)[1].count(), 0
        if spoil is be_as_before:
            owners = index.placement.shard_of(np.arange(1, first + 1))
            own_before = int((owners == 1).sum())
    if spoil is not None:
        spoil(tmp_path / "1", old)
    enroll(lab, 2)
    late = len(lab.store.live_ids()) - first - 20
    with open_index(2) as index:
        told: list[str] = []
        restored = restore_shards(lab.store, index, told.append, snapshots.load)
        assert_as_the_store(lab, restored)
        lost = {None: 0, be_as_before: own - own_before}.get(spoil, own)
        assert restored.replayed == lost + late
        assert len(told) == (spoil in (cut, flip, keep_an_older_state))


def open_pairs(epoch: int, hosts: Any = ((None, None),) * 2) -> tuple[ShardedIndex, list[Any]]:
    plan = replace(PLAN, epoch=epoch)
    pairs = [ReplicatedShard([LocalShard(plan, host) for host in each]) for each in hosts]
    return ShardedIndex(plan, pairs, copies=2), pairs


def test_with_two_copies_a_lost_one_fails_no_call_and_is_made_again_beside_decisions(lab) -> None:
    index, pairs = open_pairs(1)
    with index:
        restored = restore_shards(lab.store, index)
        requests = enroll(lab, 10, restored)
        pairs[0].copies[0].close()
        enroll(lab, 5, restored)
        assert_as_the_store(lab, restored)
        assert (index.wanting, len(pairs[0].copies)) == ([pairs[0]], 1)
        # One is begun, and is whole after what was decided meanwhile.
        copy = LocalShard(replace(PLAN, epoch=1))
        assert not index.shards[1].lost
        reached = fill_copy(lab.store, index, 0, copy, last=False)
        with lab.registrar(gallery=restored.gallery) as registrar:
            registrar.enroll([lab.request() for _ in range(5)])
            for one in requests[:6]:
                erase_holder(registrar, lab.store, one.document, "test")
        fill_copy(lab.store, index, 0, copy, reached, last=True)
        pairs[0].attach(copy)
        assert index.wanting == []
        assert copy.state().result() == pairs[0].copies[0].state().result()
        pairs[0].copies[0].close()
        pairs[1].copies[1].close()
        enroll(lab, 3, restored)
        assert_as_the_store(lab, restored)
        copy.close()
        with pytest.raises(ShardLost):
            restored.gallery.search(np.eye(1, DIM, dtype=np.float32), 1)


def test_a_copy_that_does_not_do_what_the_other_did_is_ended(lab) -> None:
    index, pairs = open_pairs(1)
    with index:
        restored = restore_shards(lab.store, index)
        enroll(lab, 10, restored)
        wrong = pairs[1].copies[1]
        wrong.add(np.arange(11, 40), np.tile(np.eye(1, DIM, dtype=np.float32), (29, 1))).result()
        enroll(lab, 5, restored)
        assert wrong not in pairs[1].copies
        assert_as_the_store(lab, restored)


def test_of_two_copies_the_one_that_can_go_on_does_and_no_search_waits_for_the_other(lab) -> None:
    index, pairs = open_pairs(1)
    enroll(lab, 10, restore_shards(lab.store, index))
    hosts = [[copy.host for copy in pair.copies] for pair in pairs]
    index.release()
    miss_a_reference([hosts[0][1], hosts[0][0]])
    stop_in_a_change([hosts[1][1], hosts[1][0]])
    index, pairs = open_pairs(2, hosts)
    with index:
        told: list[str] = []
        restored = restore_shards(lab.store, index, told.append)
        assert_as_the_store(lab, restored)
        assert index.wanting == [pairs[1]]


class Crash(BaseException):
    """The writer's process ends."""


class CrashingShard(LocalShard):
    """A shard whose writer's process ends before, or just after, its call of this operation."""

    crash: tuple[str, str] | None = None

    def _call(self, operation: str, *arguments: object) -> Future[Any]:
        when, doomed = CrashingShard.crash or ("", "")
        if (when, operation) == ("before", doomed):
            raise Crash
        future = super()._call(operation, *arguments)
        if (when, operation) == ("after", doomed):
            future.result()
            raise Crash
        return future


def move(lab: Any, restored: Restored, index: ShardedIndex, wanted: int, beside: Any) -> None:
    """Every virtual shard to where it is to be on so many shards, with calls in between."""
    gallery = restored.gallery
    while True:
        aims = index.placement.balanced(wanted).owners
        moving = np.flatnonzero(aims != index.placement.owners)
        if not len(moving):
            break
        begin = partial(index.begin_move, int(moving[0]), int(aims[moving[0]]))
        assert gallery.rearrange(begin)
        beside()
        index.copy_moving(lambda: None)
        beside()
        finish_move(lab.store, gallery, index)
    while len(index.shards) > wanted:
        gallery.rearrange(index.remove_last).close()


STEPS = [
    (when, operation)
    for operation in ("ids_in", "held", "receive", "take", "remove")
    for when in ("before", "after")
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("step", STEPS, ids="-".join)
def test_after_a_crash_at_any_step_of_a_move_every_reference_is_there_once(
    lab, step: tuple[str, str], monkeypatch
) -> None:
    plan = replace(PLAN, virtual_shards=16)

    def open_with(epoch: int, hosts: list[Any]) -> ShardedIndex:
        own = replace(plan, epoch=epoch)
        return ShardedIndex(own, [CrashingShard(own, host) for host in hosts])

    index = open_with(1, [None, None])
    restored = restore_shards(lab.store, index)
    enroll(lab, 40, restored)
    people = lab.store.sequence()
    index.append(CrashingShard(replace(plan, epoch=1)))
    monkeypatch.setattr(CrashingShard, "crash", step)
    with pytest.raises(Crash):
        move(lab, restored, index, 3, lambda: None)
    monkeypatch.setattr(CrashingShard, "crash", None)
    hosts = hosts_of(index)
    index.release()
    # What the next writer decides goes where the one before had the references.
    with open_with(2, hosts) as index:
        restored = restore_shards(lab.store, index)
        assert (restored.loaded - (step == ("after", "take"))) // 40 == 1
        assert restored.replayed == 0
        assert not any(host._received for host in hosts)
        assert_as_the_store(lab, restored)
        assert sum(host.count() for host in hosts) == 40
        requests = enroll(lab, 4, restored)
        erased = iter(requests)

        def beside() -> None:
            with lab.registrar(gallery=restored.gallery) as registrar:
                registrar.enroll([lab.request()])
                if (one := next(erased, None)) is not None:
                    erase_holder(registrar, lab.store, one.document, "test")

        move(lab, restored, index, 3, beside)
        assert lab.store.sequence() > people
        assert_as_the_store(lab, restored)
        counts = np.bincount(index.placement.owners).tolist()
        assert sorted(counts) == [5, 5, 6]
        index.append(CrashingShard(replace(plan, epoch=2)))
        move(lab, restored, index, 4, lambda: None)
        move(lab, restored, index, 2, lambda: None)
        assert_as_the_store(lab, restored)
        assert len(index.shards) == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_shard_that_was_moved_to_and_is_lost_leaves_only_its_own_to_be_read(lab) -> None:
    plan = replace(PLAN, virtual_shards=16, epoch=1)
    index = ShardedIndex(plan, [LocalShard(plan) for _ in range(2)])
    restored = restore_shards(lab.store, index)
    enroll(lab, 40, restored)
    index.append(LocalShard(plan))
    move(lab, restored, index, 3, lambda: None)
    *hosts, lost = hosts_of(index)
    own = lost.count()
    index.release()
    lost.close()
    later = replace(plan, epoch=2)
    # As by a start with another number: nobody opens the third one again.
    with ShardedIndex(later, [LocalShard(later, host) for host in hosts]) as index:
        told: list[str] = []
        restored = restore_shards(lab.store, index, told.append)
        assert_as_the_store(lab, restored)
        assert restored.replayed == own
        assert told == [
            "5 of 16 virtual shards are built from the store: nothing is searched meanwhile"
        ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_with_two_copies_a_move_outlives_the_loss_of_one_at_either_end(lab) -> None:
    index, pairs = open_pairs(1)
    with index:
        restored = restore_shards(lab.store, index)
        enroll(lab, 20, restored)
        plan = replace(PLAN, epoch=1)
        index.append(LocalShard(plan))
        (added,) = index.wanting
        other = LocalShard(plan)
        fill_copy(lab.store, index, 2, other, last=True)
        added.attach(other)
        doomed = iter([pairs[0].copies[0], added.copies[1], pairs[1].copies[1]])

        def beside() -> None:
            if (one := next(doomed, None)) is not None:
                one.close()
            enroll(lab, 1, restored)
            assert_as_the_store(lab, restored)

        aims = index.placement.balanced(3).owners
        # A few of the many are enough.
        for virtual_shard in np.flatnonzero(aims != index.placement.owners)[::240].tolist():
            begin = partial(index.begin_move, virtual_shard, int(aims[virtual_shard]))
            assert restored.gallery.rearrange(begin)
            beside()
            index.copy_moving(lambda: None)
            beside()
            finish_move(lab.store, restored.gallery, index)
        assert len(index.wanting) == 3
        assert_as_the_store(lab, restored)
        for number, pair in enumerate(index.shards):
            fill_copy(lab.store, index, number, copy := LocalShard(plan), last=True)
            found, expected = copy.state().result(), pair.copies[0].state().result()
            assert found == replace(expected, mark=found.mark)
            assert found.mark.owned == expected.mark.owned
            copy.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_copy_left_behind_in_a_move_is_ended_and_the_other_one_goes_on(lab) -> None:
    index, pairs = open_pairs(1)
    restored = restore_shards(lab.store, index)
    enroll(lab, 20, restored)
    hosts = [[copy.host for copy in pair.copies] for pair in pairs]
    # The writer ends when one copy of the shard that takes has taken.
    virtual_shard = int(index.placement.virtual_shard_of(hosts[0][0].ids()[:1])[0])
    ids = hosts[0][0].ids_in(virtual_shard)
    mark = hosts[0][0].state().mark
    assert mark is not None
    hosts[1][1].receive(ids, hosts[0][0].vectors(ids))
    hosts[1][1].take(ids, replace(mark, owned=index.placement.moved(virtual_shard, 1).owned(1)))
    index.release()
    index, pairs = open_pairs(2, hosts)
    with index:
        restored = restore_shards(lab.store, index)
        assert restored.replayed == 0
        assert_as_the_store(lab, restored)
        assert index.wanting == [pairs[1]]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_shards_snapshot_of_a_version_without_virtual_shards_is_built_anew_and_told(
    lab, snapshots, monkeypatch, caplog
) -> None:
    def write_old_mark(host: ShardHost, sequence: int) -> str:
        mark = host._marks[sequence]
        return f"{mark.sequence} {mark.history}"

    with open_index(1) as index:
        restored = restore_shards(lab.store, index)
        enroll(lab, 20, restored)
        monkeypatch.setattr(ShardHost, "_write_mark", write_old_mark)
        snapshots.save(index)
    with open_index(2) as index:
        restored = restore_shards(lab.store, index, load=snapshots.load)
        assert (restored.loaded, restored.replayed) == (0, 20)
        assert_as_the_store(lab, restored)
    assert caplog.text.count("a version that shared references by another rule") == 3
