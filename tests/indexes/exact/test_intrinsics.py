"""Machine code is cached, rebuilt when a source changes, and built without a cache too."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import caching

from indexes.exact import intrinsics
from indexes.exact.intrinsics import compiled

CALLER = """
from {package}.called import called
from {package}.compilation import compiled

@compiled
def calling(number):
    return called(number) + 1

print(calling(1))
"""
CALLED = """
from {package}.compilation import compiled

@compiled
def called(number):
    return {times} * number
"""


def test_a_kernel_is_made_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(number: int) -> int:
        return 2 * number

    # What numba meets in a read-only installation whose user has no cache folder.
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert compiled(doubled)(21) == 42


def test_a_change_of_what_a_kernel_calls_is_a_change_of_the_kernel(tmp_path: Path) -> None:
    package = tmp_path / "kept"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(intrinsics.__file__, package / "compilation.py")
    (package / "calling.py").write_text(CALLER.format(package="kept"))

    def answer(times: int) -> str:
        (package / "called.py").write_text(CALLED.format(package="kept", times=times))
        command = [sys.executable, "-m", "kept.calling"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert [answer(10), answer(10), answer(20), answer(10)] == ["11", "11", "21", "11"]
    assert len(list((package / "__pycache__").glob("machine-code-*"))) == 2
