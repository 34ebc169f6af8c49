"""What a gallery has removed is nowhere in the memory of its process, read from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.exact.codes import code_limit
from indexes.exact.plane import make_plane
from indexes.exact.scanner import Scanner

DIM, ERASED, REFERENCES = 128, 17, 6_000
# Freed blocks of this size go back to the system, so that what is left is what is held.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "16384"}

GALLERY = f"""
import json, sys
import numpy as np
from indexes.gallery import Gallery
from indexes.kinds import open_index
from indexes.segmented.segments import SegmentsConfig

def pause(stage):
    print(json.dumps(stage), flush=True)
    sys.stdin.readline()

def draw(seed, count):
    rows = np.random.default_rng(seed).standard_normal((count, {DIM})).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows

gallery = Gallery(open_index("exact8", {DIM}, SegmentsConfig(head_rows=1024)))
for batch, start in enumerate(range(0, {REFERENCES}, 1000)):
    rows = draw(batch, 1000)
    gallery.add(np.arange(start, start + 1000), rows, batch + 1)
    rows[:] = 0
pause("in heads")
pinned = gallery.pin()
pause("pinned")
gallery.settle()
pause("sealed")
gallery.remove(np.array([{ERASED}]), 100)
pause("removed")
gallery.compact()
pause("compacted")
del pinned
"""


def forms_of_the_row() -> dict[str, bytes]:
    """A stretch of the removed row in each form that a gallery keeps it in."""
    rows = np.random.default_rng(0).standard_normal((1000, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    row = rows[ERASED]
    step = code_limit(DIM) / 127
    codes = (np.rint(row.astype(np.float64) / step).clip(-127, 127) + 128).astype(np.uint8)
    forms = {"vector": row[8:24].tobytes(), "byte codes": codes[8:72].tobytes()}
    if Scanner().reads_planes:
        halves: NDArray[np.uint8] = make_plane(np.tile(codes, (8, 1)), DIM).halves
        forms["half bytes"] = halves[0].tobytes()
    return forms


def count_in_memory(pid: int, forms: dict[str, bytes]) -> dict[str, int]:
    """How often each form stands in what the process can write to."""
    counts = dict.fromkeys(forms, 0)
    regions = re.findall(r"^(\w+)-(\w+) rw", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for first, last in regions:
            memory.seek(int(first, 16))
            held = memory.read(int(last, 16) - int(first, 16))
            for name, form in forms.items():
                counts[name] += held.count(form)
    return counts


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of another process")
def test_a_removed_face_is_nowhere_in_the_process_at_once_pins_and_merges_included() -> None:
    forms = forms_of_the_row()
    seen: dict[str, dict[str, int]] = {}
    with subprocess.Popen(
        [sys.executable, "-c", GALLERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | MALLOC,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            seen[json.loads(line)] = count_in_memory(child.pid, forms)
            child.stdin.write("\n")
            child.stdin.flush()
    assert child.returncode == 0
    assert seen["in heads"]["vector"] == 1
    # That of the pin and that of the gallery.
    assert seen["sealed"]["vector"] >= 2
    assert all(seen["sealed"].values())
    assert seen["removed"] == seen["compacted"] == dict.fromkeys(forms, 0), seen
