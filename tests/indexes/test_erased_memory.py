"""What a gallery has removed is nowhere in the memory of its process, read from outside."""

import gc
import sys
import weakref

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.base import GIVEN_BACK_FROM_BYTES, overwrite_when_freed
from tests.indexes.freed_memory import PAUSING, Forms, forms_of, watch

# Faces are added by small batches and sealed in between, as a service does: heads, segments and
# what is copied on the way are freed by the hundred, and malloc keeps them as it will.
DRAWING = """
import numpy as np

DIM, REFERENCES, BATCH = 128, 20_000, 32
ERASED = np.arange(5, REFERENCES, 50)

def draw(batch):
    rows = np.random.default_rng(batch).standard_normal((BATCH, DIM)) * 0.97 ** np.arange(DIM)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)
"""
GALLERY = f"""{DRAWING}{PAUSING}
from indexes.gallery import Gallery
from indexes.joining import tiling
from indexes.joining.join import join_gallery
from indexes.segmented.segments import SegmentedIndex
from indexes.segmented.merging import SegmentsConfig

gallery = Gallery(SegmentedIndex(DIM, SegmentsConfig(head_rows=1024)))
for batch in range(REFERENCES // BATCH):
    rows = draw(batch)
    gallery.add(np.arange(BATCH * batch, BATCH * (batch + 1)), rows, batch + 1)
    rows[:] = 0
    gallery.settle()

blocks = []
class Watched(tiling.Block):
    def __init__(self, *args):
        super().__init__(*args)
        at = np.flatnonzero(np.isin(self.ids, ERASED))
        blocks.append([self.codes.bytes[one, 16:32].tolist() for one in at])  # leaves no copy

def progress(done):
    if done.tiles_done == 1:
        pause("in a join", **{{"codes along axes": blocks[0]}})
        gallery.remove(ERASED, 10_000)
    if done.tiles_done == 2:
        pause("removed in a join")

pinned = gallery.pin()
join_gallery(gallery, 0.6, tile_rows=4096)
tiling.Block, tiling._AXES_FROM = Watched, 0
join_gallery(gallery, 0.6, tile_rows=4096, progress=progress)
pause("joined")
gallery.compact()
pause("compacted")
del pinned
"""
MOVED = f"""{DRAWING}{PAUSING}
from indexes.segmented.merging import SegmentsConfig
from indexes.sharding.host import ShardHost
from indexes.sharding.shards import ShardMark, ShardPlan

plan = ShardPlan(DIM, threads=1, config=SegmentsConfig(head_rows=1024))
host = ShardHost(plan)
# Memory is read while nothing is mapped or given back.
host._upkeep.close()
for first in range(0, REFERENCES // BATCH - 63, 64):
    for batch in range(first, first + 64):
        rows = draw(batch)
        host.receive(np.arange(BATCH * batch, BATCH * (batch + 1)), rows)
        rows[:] = 0
    host.take(np.arange(BATCH * first, BATCH * (first + 64)), ShardMark(first + 1, "h"))
    host._gallery.settle()
pause("moved")
host.remove(np.intersect1d(ERASED, host.ids()))
host.compact()
pause("removed")
host.close()
"""
# A merge of 8,192, 4,096 and 4,096 rows, in blocks of 4,096: one fails at its third block, with the
# error kept, and one is held there, and again when all is copied and coded.
MERGED = f"""{DRAWING}{PAUSING}
from threading import Event, Thread
from indexes.exact.exact8 import MemoryRows
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from indexes.segmented.merging import SegmentsConfig

HEAD_ROWS, SEALED = 4096, 16_384
gallery = Gallery(SegmentedIndex(DIM, SegmentsConfig(head_rows=HEAD_ROWS, fan=2)))
for batch in range(SEALED // BATCH):
    rows = draw(batch)
    gallery.add(np.arange(BATCH * batch, BATCH * (batch + 1)), rows, batch + 1)
    rows[:] = 0
    if BATCH * (batch + 1) < SEALED:
        gallery.settle()
gallery.maintain()
erased = [ERASED[ERASED < SEALED][first::3] for first in range(3)]
pause("whole")

class Stop:
    def __init__(self):
        self.reached, self.left = Event(), Event()

    def wait(self):
        self.reached.set()
        self.left.wait()

def fail():
    raise MemoryError

take, prepare, calls = MemoryRows.take, Scanner.prepare, []
copying, made = Stop(), Stop()

def stop_taking(rows, places):
    calls.append(len(places))
    if len(calls) == 3:
        at_third()
    return take(rows, places)

def stop_when_made(scanner, codes):
    prepare(scanner, codes)
    made.wait()

MemoryRows.take, Scanner.prepare = stop_taking, stop_when_made
at_third = fail
try:
    gallery.maintain()
except MemoryError as error:
    kept = error
gallery.remove(erased[0], 10_000)
pause("failed")
calls.clear()
at_third = copying.wait
merging = Thread(target=gallery.maintain)
merging.start()
copying.reached.wait()
gallery.remove(erased[1], 10_001)
pause("copying")
copying.left.set()
made.reached.wait()
gallery.remove(erased[2], 10_002)
pause("made")
made.left.set()
merging.join()
assert [len(segment) for segment in gallery.segments] == [SEALED - sum(map(len, erased))]
pause("merged")
"""
# Overwritten, and given back to the system, each with what malloc keeps and with what it maps.
SIZES = (1 << 20, 31 << 20, GIVEN_BACK_FROM_BYTES, 96 << 20)
FREED = f"""{PAUSING}
import numba
import numpy as np
from indexes.base import overwrite_when_freed

def fill(array, value):
    size = len(array)
    for part, start in enumerate((64, size // 2, size - 64)):
        # One by one, for an array of them would be in memory as well.
        for place in range(32):
            array[start + place] = value + 5 * part + place * place * 37 & 255
    return array

made = numba.njit(lambda size: np.empty(size, np.uint8))
# From here on malloc keeps what is nearly as large as this, too, and takes larger ones from it.
np.ones({GIVEN_BACK_FROM_BYTES - 8192}, np.uint8)
small = [np.empty(31 << 20, np.uint8) for _ in range(6)]
last = np.ones(100_000, np.uint8)
views = []
for place, size in enumerate({SIZES} * 2):
    if place == {len(SIZES)}:
        small.clear()
    array = fill(np.full(size, 7, np.uint8), (size >> 20) + 128 * (place // {len(SIZES)}))
    views.append(overwrite_when_freed(array)[8:])
    del array
views.append(overwrite_when_freed(fill(made(4096), 50))[8:])
pause("a view is left")
views.clear()
pause("freed")
"""


def forms_of_the_erased() -> Forms:
    names: dict[str, NDArray[np.float32]] = {}
    exec(DRAWING + "rows = np.concatenate(list(map(draw, range(REFERENCES // BATCH))))", names)
    return forms_of(names["rows"][names["ERASED"].tolist()])


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of another process")


def test_a_removed_face_is_nowhere_in_the_process_at_once_pins_and_freed_memory_included() -> None:
    forms = forms_of_the_erased()
    seen = watch(GALLERY, forms)
    assert seen["in a join"] == {name: len(form) for name, form in forms.items()}
    for stage in ("removed in a join", "joined", "compacted"):
        assert seen[stage] == dict.fromkeys(forms, 0), (stage, seen[stage])


def test_a_face_removed_beside_a_merge_or_after_it_failed_is_nowhere_before_it_ends() -> None:
    groups = {
        f"{name}, {group}": form[group::3]
        for name, form in forms_of_the_erased().items()
        for group in range(3)
    }
    seen = watch(MERGED, groups)
    assert all(seen["whole"].values())
    for gone, stage in enumerate(("failed", "copying", "made")):
        left = {name for name, count in seen[stage].items() if count}
        assert left == {name for name in groups if int(name[-1]) > gone}, stage
    assert seen["merged"] == dict.fromkeys(groups, 0)


def test_a_face_that_is_removed_after_a_move_is_nowhere_in_the_shard_that_took_it() -> None:
    forms = forms_of_the_erased()
    seen = watch(MOVED, forms)
    assert seen["moved"]["vectors"] > 0
    assert seen["removed"] == dict.fromkeys(forms, 0)


def test_memory_is_overwritten_with_the_last_array_over_it_or_given_back_to_the_system() -> None:
    places = np.arange(16, 32)
    values = {f"{size >> 20} MiB": size >> 20 for size in SIZES}
    values |= {f"{name}, of what was freed": value + 128 for name, value in values.items()}
    values["numba's"] = 50
    forms: Forms = {
        f"{name}, {part}": (value + 5 * at + places * places * 37 & 255).astype(np.uint8)[None]
        for name, value in values.items()
        for at, part in enumerate(("begin", "middle", "end"))
    }
    seen = watch(FREED, forms)
    assert seen["a view is left"] == dict.fromkeys(forms, 1)
    assert seen["freed"] == dict.fromkeys(forms, 0)


def test_memory_that_is_no_arrays_own_stays_as_it_is(tmp_path) -> None:
    path, kept = tmp_path / "rows", bytes(range(64))
    path.write_bytes(kept)
    for array in (np.memmap(path, mode="r+"), np.frombuffer(kept, np.uint8)):
        overwrite_when_freed(array[2:])
    del array
    gc.collect()
    assert (path.read_bytes(), kept) == (bytes(range(64)), bytes(range(64)))


def test_an_array_that_is_asked_for_again_is_overwritten_once() -> None:
    rows = np.ones((4, 8), np.float32)
    for view in (rows, rows[1:], rows.reshape(-1)):
        overwrite_when_freed(view)
    assert weakref.getweakrefcount(rows) == 1
