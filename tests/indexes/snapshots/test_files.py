"""Mapped vectors equal those in memory bit for bit; segment files are verified."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from indexes.errors import SnapshotForeign
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.snapshots.files import map_rows, read_segment, write_segment
from indexes.snapshots.manifest import Sealer, SegmentEntry
from tests.indexes.conftest import ask
from tests.indexes.snapshots.unsealed import Unsealed

SEALERS = [Unsealed(), Vault(KeyRing.generate(), 16).sealer()]


@pytest.fixture(params=SEALERS, ids=["unsealed", "vault"])
def sealer(request) -> Sealer:
    return request.param


@pytest.fixture(scope="session")
def scanner() -> Scanner:
    return Scanner()


@pytest.mark.parametrize("store", ["float32", "float16"])
@pytest.mark.parametrize("dim", [1, 13, 16, 100])
def test_a_mapped_segment_answers_as_the_one_in_memory(
    store: str, dim: int, tmp_path, sealer, unit_rows, scanner
) -> None:
    index = Exact8Segment(np.arange(700), unit_rows(700, dim).astype(store), scanner=scanner)
    entry = write_segment(tmp_path, index, sealer)
    queries = unit_rows(20, dim, seed=1)
    for mapped in (False, True):
        loaded = read_segment(tmp_path, entry, dim, sealer, scanner=scanner, mapped=mapped)
        assert loaded.name == index.name
        assert loaded.rows.memory_bytes == (0 if mapped else index.rows.memory_bytes)
        for one, other in (
            (ask(index).search(queries, 10), ask(loaded).search(queries, 10)),
            (ask(index).range_search(queries, 0.2), ask(loaded).range_search(queries, 0.2)),
        ):
            assert np.array_equal(one.ids, other.ids)
            assert np.array_equal(one.scores, other.scores)
        assert np.array_equal(index.rows.take(np.arange(700)), loaded.rows.take(np.arange(700)))


@pytest.fixture(scope="module", params=SEALERS, ids=["unsealed", "vault"])
def mapped_rows(request, tmp_path_factory, unit_rows, scanner):
    """A segment of 300 rows of 13 numbers in memory, and the same in its file."""
    folder = tmp_path_factory.mktemp("mapped")
    index = Exact8Segment(np.arange(300), unit_rows(300, 13), scanner=scanner)
    entry = write_segment(folder, index, request.param)
    return index.rows, map_rows(folder, entry, 13, request.param)


RUNS = st.builds(range, st.integers(0, 299), st.integers(0, 300)).map(list)


@given(rows=st.lists(st.integers(0, 299), max_size=50) | RUNS)
def test_any_rows_in_any_order_come_as_from_memory(mapped_rows, rows: list[int]) -> None:
    memory, mapped = mapped_rows
    wanted = np.array(rows, np.int64)
    assert np.array_equal(memory.take(wanted), mapped.take(wanted))
    matrix, places = mapped.select(wanted)
    assert np.array_equal(matrix[places], memory.take(wanted))


def test_a_wiped_row_is_zeros_however_it_is_read_and_the_others_stay(mapped_rows) -> None:
    memory, mapped = mapped_rows
    before = memory.take(np.arange(300))
    for store in mapped_rows:
        store.wipe(np.array([3, 4, 200]))
        store.wipe(np.array([5]))
    # In a run, and one by one.
    for wanted in (np.arange(300), np.arange(300)[::-1]):
        taken = mapped.take(wanted)
        assert np.array_equal(taken, memory.take(wanted))
        is_wiped = np.isin(wanted, [3, 4, 5, 200])
        assert not taken[is_wiped].any()
        assert np.array_equal(taken[~is_wiped], before[wanted[~is_wiped]])
    matrix, places = mapped.select(np.array([5, 6, 5]))
    assert matrix[places].any(axis=1).tolist() == [False, True, False]


@pytest.fixture
def written(tmp_path, sealer, unit_rows, scanner) -> tuple[Path, SegmentEntry]:
    index = Exact8Segment(np.arange(50), unit_rows(50), scanner=scanner)
    return tmp_path, write_segment(tmp_path, index, sealer)


def test_codes_with_another_layout_are_foreign(written, sealer, scanner) -> None:
    (folder, entry), more = written, {"scanner": scanner, "mapped": False}
    for other in ({"padded_rows": entry.padded_rows + 1}, {"width": entry.width * 2}):
        with pytest.raises(SnapshotForeign, match="another version"):
            read_segment(folder, structs.replace(entry, **other), 16, sealer, **more)


def test_the_same_segment_written_twice_shows_no_common_bytes(tmp_path, unit_rows, scanner) -> None:
    """Two files under one name and key would betray what changed between them."""
    sealer = SEALERS[1]
    index = Exact8Segment(np.arange(50), unit_rows(50), scanner=scanner)
    entries = [write_segment(tmp_path, index, sealer) for _ in range(2)]
    assert entries[0].file.name != entries[1].file.name
    one, other = (
        np.frombuffer((tmp_path / f"segment-{entry.file.name}").read_bytes(), np.uint8)
        for entry in entries
    )
    assert (one == other).mean() < 0.02 + 64 * 4 / len(one)
