"""What stands in the memory of another process, at stages that it names itself."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.exact.codes import code_limit
from indexes.exact.scanner import Scanner
from tests.indexes.conftest import make_plane

Forms = dict[str, NDArray[np.uint8]]
PAUSING = """
import json, sys

def pause(stage, **forms):
    print(json.dumps([stage, forms]), flush=True)
    sys.stdin.readline()
"""


def forms_of(rows: NDArray[np.float32]) -> Forms:
    """Sixteen bytes of each row in each form that a gallery keeps it in."""
    step = code_limit(rows.shape[1]) / 127
    codes = (np.rint(rows.astype(np.float64) / step).clip(-127, 127) + 128).astype(np.uint8)
    forms: Forms = {"vectors": rows[:, 8:12].copy().view(np.uint8), "byte codes": codes[:, 16:32]}
    if Scanner().reads_planes:
        forms["half bytes"] = make_plane(codes, rows.shape[1]).halves[:, 16:32]
    return forms


def count_in_memory(pid: int, forms: Forms) -> dict[str, int]:
    """How many of the erased stand in each form in what the process can write to."""
    words = np.concatenate([np.ascontiguousarray(form).view(np.uint64) for form in forms.values()])
    # Two forms may be one, where this processor's kernel has no use for the other.
    distinct, which = np.unique(words, axis=0, return_inverse=True)
    begins, ends = np.ascontiguousarray(distinct.T)
    # Most of the memory is told apart by two bytes.
    may_begin = np.zeros(1 << 16, np.bool_)
    may_begin[begins & 0xFFFF] = True
    is_seen = np.zeros(len(distinct), np.bool_)
    regions = re.findall(r"^(\w+)-(\w+) rw", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for first, last in regions:
            memory.seek(int(first, 16))
            held = np.frombuffer(memory.read(int(last, 16) - int(first, 16)), np.uint64)
            at = np.flatnonzero(may_begin[held[:-1].view(np.uint16)[::4]])
            places = np.minimum(begins.searchsorted(held[at]), len(begins) - 1)
            alike = (begins[places] == held[at]) & (ends[places] == held[at + 1])
            is_seen[places[alike]] = True
    sizes = np.cumsum([len(form) for form in forms.values()])[:-1]
    parts = np.split(is_seen[which.reshape(-1)], sizes)
    return {name: int(part.sum()) for name, part in zip(forms, parts, strict=True)}


def watch(program: str, forms: Forms) -> dict[str, dict[str, int]]:
    """What of the forms stands in memory at each stage that another process names.

    With a stage it may give bytes, in a form that is known from then on.
    """
    seen: dict[str, dict[str, int]] = {}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        for line in child.stdout:
            stage, given = json.loads(line)
            forms |= {name: np.array(rows, np.uint8) for name, rows in given.items()}
            seen[stage] = count_in_memory(child.pid, forms)
            child.stdin.write("\n")
            child.stdin.flush()
    assert child.returncode == 0
    return seen
