"""The scanner: its threads share the work, and no search waits for an idle thread."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
import pytest

from indexes.exact.codes import CodedQueries
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.kernels import Found
from indexes.exact.scanner import PRECEDENCE, Part, Precedence, Scanner
from indexes.joining.join import join
from indexes.joining.tiling import References
from tests.indexes.conftest import ask

ROWS, QUERIES = 4096, 64
"""Enough to be shared by two threads, in a part each."""


def test_a_search_waits_for_no_thread_that_has_not_begun(unit_rows) -> None:
    rows = unit_rows(ROWS, 64)
    scanner, release = Scanner(threads=2), threading.Event()
    index = Exact8Segment(np.arange(ROWS), rows, scanner=scanner)
    scanner._few.submit(release.wait)
    try:
        with ThreadPoolExecutor(1) as caller:
            hits = caller.submit(ask(index).search, rows[:QUERIES], 1).result(timeout=120)
    finally:
        release.set()
        scanner.close()
    assert hits.ids.tolist() == list(range(QUERIES))


def test_a_scan_of_many_queries_pauses_while_one_of_few_runs(unit_rows, monkeypatch) -> None:
    monkeypatch.setattr("indexes.exact.scanner._GIVE_WAY_S", 120)
    rows = unit_rows(ROWS, 64)
    few, many = Scanner(threads=2), Scanner(threads=2)
    index = Exact8Segment(np.arange(ROWS), rows, scanner=few)
    wanted = CodedQueries.of_vectors(rows[: QUERIES + 1]).wanted(index.codes, 0.99)
    begun, order = threading.Event(), []

    def scan_many() -> None:
        begun.set()
        many.gather(index.codes, index.alive, wanted, lambda _: order.append("many"))

    with ThreadPoolExecutor(1) as pool:
        with PRECEDENCE.first():
            running = pool.submit(scan_many)
            assert begun.wait(120)
            time.sleep(0.2)  # Time for a scan that would not pause; too short, it only hides that.
            assert len(ask(index).search(rows[:QUERIES], 1).ids) == QUERIES
            order.append("few")
        running.result(timeout=120)
    few.close()
    many.close()
    assert order[0] == "few"
    assert set(order[1:]) == {"many"}


class CountedPrecedence(Precedence):
    """Counts the scans that went first, and those that gave way."""

    def __init__(self) -> None:
        super().__init__()
        self.went_first = self.gave_way = 0

    def first(self) -> AbstractContextManager[None]:
        self.went_first += 1
        return super().first()

    def give_way(self, parts: Iterable[Part]) -> Iterator[Part]:
        self.gave_way += 1
        return super().give_way(parts)


def test_a_join_of_few_goes_before_no_other_scan(unit_rows, monkeypatch) -> None:
    counted, scanner = CountedPrecedence(), Scanner(threads=1)
    monkeypatch.setattr("indexes.exact.scanner.PRECEDENCE", counted)
    rows = unit_rows(ROWS, 64)
    index = Exact8Segment(np.arange(ROWS), rows, scanner=scanner)
    few = Exact8Segment(np.arange(ROWS, ROWS + 9), rows[:9], scanner=scanner)
    assert len(join([few], References([index], [index.alive_rows]), 0.99).left) == 9
    assert counted.went_first == 0
    assert counted.gave_way > 0
    ask(index).range_search(rows[:9], 0.99)
    assert counted.went_first == 1
    scanner.close()


def test_a_scan_that_fails_ends_only_when_all_its_threads_have_ended(unit_rows) -> None:
    rows = unit_rows(ROWS, 64)
    scanner = Scanner(threads=2)
    index = Exact8Segment(np.arange(ROWS), rows, scanner=scanner)
    wanted = CodedQueries.of_vectors(rows[:QUERIES]).wanted(index.codes, 0.99)
    caller = threading.current_thread()
    begun, ended = threading.Event(), threading.Event()

    def finish(_: Found) -> None:
        if threading.current_thread() is caller:
            assert begun.wait(120)
            raise MemoryError
        begun.set()
        time.sleep(0.2)  # Time for a scan that would not wait; too short, it only hides that.
        ended.set()

    with pytest.raises(MemoryError):
        scanner.gather(index.codes, index.alive, wanted, finish)
    assert ended.is_set()
    scanner.close()


SEARCH = """
import numpy as np
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.codes import CodedQueries
from indexes.exact.scanner import Scanner, available_kernels
rows = np.eye(64, dtype=np.float32)
for kernel in available_kernels():
    scanner = Scanner(kernel, threads=1)
    index = Exact8Segment(np.arange(64), rows, scanner=scanner)
    for queries in (1, 17):
        wanted = CodedQueries.of_vectors(rows[:queries]).wanted(index.codes, 0.5)
        found = scanner.gather(index.codes, index.alive, wanted, np.copy)
        assert sorted(np.concatenate(found)[:, 0].tolist()) == list(range(queries)), kernel
print(Scanner(threads=1).kernel)
"""


def test_a_target_of_numba_that_lacks_instructions_does_not_end_the_process() -> None:
    command = [sys.executable, "-c", SEARCH]
    environment = os.environ | {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() in {"onnxruntime", "numba"}
