"""What lies on a device follows the segments; where it has no room, or fails, this processor scans.

That the device finds what the kernels find is stated beside theirs, in the tests of the kernels, of
segments, of joins and of concurrent use.
"""

import gc
import importlib.util
import logging
from typing import Any

import numpy as np
import pytest

from indexes.errors import DeviceMissing, SearchInvalid
from indexes.exact.device import DeviceScanner
from indexes.exact.exact8 import Exact8Segment
from indexes.kinds import open_index
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from tests.indexes.conftest import UnitRows, ask, assert_same


class Device:
    """numpy as a device that may lack room or be lost: `refusal` is raised by what it is told."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.held: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        if self.refusal is not None:
            raise self.refusal
        return getattr(np, name)

    def zeros(self, shape: tuple[int, int], dtype: type) -> np.ndarray:
        if self.refusal is not None:
            raise self.refusal
        self.held.append(np.zeros(shape, dtype))
        return self.held[-1]


class OnDevice(DeviceScanner):
    """Products by numpy, whatever the module is that arrays come from."""

    def __init__(self, device: Device) -> None:
        super().__init__(np, threads=2)
        self._arrays = device

    def _multiply(self, rows: Any, queries: Any) -> Any:
        return rows.astype(np.int32) @ queries.T.astype(np.int32)

    def _fetch(self, array: Any) -> Any:
        return array


def test_rows_on_the_device_are_wiped_with_the_codes_and_go_with_their_segment(
    unit_rows: UnitRows,
) -> None:
    device = Device()
    scanner = OnDevice(device)
    index = SegmentedIndex(64, SegmentsConfig(head_rows=100), scanner=scanner)
    index.add(np.arange(1500), unit_rows(1500, 64))
    (held,) = device.held
    (segment,) = index.segments
    assert index.account().device == held.nbytes == 2048 * 64
    assert index.account().total < sum((segment.codes.bytes.nbytes, held.nbytes, 1500 * 400))
    places, _ = segment.find(np.array([7, 8]))
    assert held[places].any(axis=1).all()
    index.remove(np.array([7, 8]))
    assert not held[places].any()
    rewrite = index.begin_rewrite(all_removed=True)
    assert rewrite is not None
    index.finish_rewrite(rewrite, rewrite.build(index.config, scanner))
    del segment, rewrite
    gc.collect()
    # What is freed holds no code.
    assert not held.any()
    assert index.account().device == device.held[-1].nbytes
    assert len(index.search(unit_rows(3, 64), 5).ids) == 15
    scanner.close()


@pytest.mark.parametrize(
    ("refusal", "told"),
    [(MemoryError("out of memory"), "no room"), (RuntimeError("cudaErrorLaunchFailure"), "failed")],
)
def test_without_room_or_after_a_failure_this_processor_gives_the_same_answers_and_it_is_said(
    unit_rows: UnitRows, caplog: pytest.LogCaptureFixture, refusal: Exception, told: str
) -> None:
    rows, ids, device = unit_rows(2500, 64), np.arange(2500), Device()
    scanner = OnDevice(device)
    segment = Exact8Segment(ids, rows, scanner=scanner)
    expected = [ask(segment).search(rows[:9], 4), ask(segment).range_search(rows[:9], 0.3)]
    device.refusal = refusal
    with caplog.at_level(logging.WARNING):
        # One that is there already, and one that comes too late.
        for one in (segment, Exact8Segment(ids, rows, scanner=scanner)):
            assert_same(ask(one).search(rows[:9], 4), expected[0])
            assert_same(ask(one).range_search(rows[:9], 0.3), expected[1])
        segment.remove_rows(segment.find(ids[:5])[0])
    assert told in caplog.text
    assert (scanner.fault is None) == isinstance(refusal, MemoryError)
    device.refusal = None
    assert not np.isin(ask(segment).range_search(rows[:9], 0.3).ids, ids[:5]).any()
    if scanner.fault is None:
        assert not device.held[0][segment.find(ids[:5])[0]].any()
        assert scanner.kernel == "numpy"
    else:
        assert scanner.kernel == scanner._cpu.kernel != "numpy"
    scanner.close()


def test_a_device_that_is_not_here_is_refused_in_one_line() -> None:
    with pytest.raises(SearchInvalid, match="no device abacus to search on; give one of cpu, cuda"):
        open_index("exact8", 64, SegmentsConfig(device="abacus"))
    if importlib.util.find_spec("cupy") is None:
        with pytest.raises(DeviceMissing, match="install the extra gpu"):
            open_index("exact8", 64, SegmentsConfig(device="cuda"))
