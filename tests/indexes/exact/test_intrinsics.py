"""Machine code is cached, rebuilt when a source changes, and built without a cache too."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import caching

from indexes.exact import intrinsics
from indexes.exact.intrinsics import compiled

CALLER = """
from kept.called import called
from kept.compilation import compiled, machine_code_folder

@compiled
def calling(number):
    return called(number) + 1

print(calling(1), len(calling.stats.cache_hits), oct(machine_code_folder().stat().st_mode))
"""
CALLED = """
from kept.compilation import compiled

@compiled
def called(number):
    return {times} * number
"""


# Prints what was compiled after `warm`, of all that additions, upkeep and searches run.
COMPILED_LATER = """
import gc
import numpy as np
from numba.core.registry import CPUDispatcher
from indexes.exact.scanner import Scanner, available_kernels
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex

def made():
    return {one.__name__: len(one.signatures) for one in ours}

ours = [one for one in gc.get_objects() if isinstance(one, CPUDispatcher)]
rows = np.random.default_rng(0).standard_normal((1000, 128)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
for kernel in available_kernels():
    for kept in "float32", "float16":
        config = SegmentsConfig(head_rows=50, fan=2, rows=kept)
        gallery = Gallery(SegmentedIndex(128, config, scanner=Scanner(kernel)))
        gallery.warm()
        before = made()
        assert sum(before.values()) > 3
        for start in range(0, 300, 25):
            gallery.add(np.arange(start, start + 25), rows[start : start + 25], start + 1)
            gallery.settle()
        gallery.add(np.arange(300, 1000), rows[300:], 300)
        gallery.remove(np.arange(0, 1000, 7), 301)
        gallery.compact()
        for queries in 1, 3, 20, 40:
            gallery.search(rows[:queries], 5)
            gallery.range_search(rows[:queries], 0.5)
        gallery.refresh(gallery.range_search(rows[:1], 0.5), rows[:1], 0.5)
        print(*[name for name, count in made().items() if count != before[name]])
"""


def test_after_warming_nothing_that_searches_and_upkeep_run_is_compiled() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPILED_LATER], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.fixture
def package(tmp_path) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "__init__.py").touch()
    shutil.copy(intrinsics.__file__, folder / "compilation.py")
    (folder / "called.py").write_text(CALLED.format(times=10))
    (folder / "calling.py").write_text(CALLER)
    return folder


def run_calling(package: Path) -> list[str]:
    command = [sys.executable, "-m", "kept.calling"]
    done = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_machine_code_that_came_with_the_installation_is_used_elsewhere(
    package, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    assert run_calling(package) == ["11", "0", "0o40700"]
    # As in an image, where it is root's and others may read it.
    (made,) = (package / "__pycache__").glob("machine-code-*")
    made.chmod(0o755)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache" / "numba"))
    assert run_calling(package) == ["11", "1", "0o40700"]
    assert [one.name for one in (tmp_path / "cache" / "numba").iterdir()] == [made.name]


def test_a_kernel_is_made_where_nothing_can_be_cached(monkeypatch) -> None:
    def doubled(number: int) -> int:
        return 2 * number

    # What numba meets in a read-only installation whose user has no cache folder.
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert compiled(doubled)(21) == 42


def test_a_change_of_what_a_kernel_calls_is_a_change_of_the_kernel(package) -> None:
    def answer(times: int) -> str:
        (package / "called.py").write_text(CALLED.format(times=times))
        return run_calling(package)[0]

    assert [answer(10), answer(200), answer(10)] == ["11", "201", "11"]
    assert len(list((package / "__pycache__").glob("machine-code-*"))) == 2
