import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bench.core.machine import filesystem_of, interleave, look, speedup, stamp


def test_the_stamp_names_processor_memory_packages_and_what_all_cores_can_do() -> None:
    machine = stamp()
    assert machine.cpu
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.memory_bytes > 2**28
    assert machine.packages["numpy"] == version("numpy")
    assert "sosie" in machine.packages
    assert (machine.read_gb_per_s or 0) > 0
    assert (machine.int8_gops or 0) > 0
    assert (machine.float_gflops or 0) > 0
    assert (machine.python_mops or 0) > 0


def test_variables_that_steer_the_arithmetic_are_warned_of(monkeypatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert not any("OPENBLAS_CORETYPE" in warning for warning in look().warnings)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert any("OPENBLAS_CORETYPE" in warning for warning in look().warnings)


def test_the_file_system_of_a_folder_is_that_of_its_nearest_mount() -> None:
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(Path("/proc/sys/kernel/no-such-file")) == "proc"


def test_rounds_are_interleaved_and_the_first_is_not_counted() -> None:
    order: list[str] = []

    def act(name: str) -> Callable[[], float]:
        def perform() -> float:
            order.append(name)
            return float(len(order))

        return perform

    seconds = interleave({"a": act("a"), "b": act("b")}, rounds=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert seconds["a"].tolist() == [3, 6, 7]
    assert seconds["b"].tolist() == [4, 5, 8]


def test_a_slow_moment_that_meets_both_leaves_the_speedup_alone() -> None:
    slow, fast = np.array([2.0, 20.0, 2.0]), np.array([1.0, 10.0, 1.0])
    assert speedup(slow, fast) == 2
