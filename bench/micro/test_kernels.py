"""A sealed segment searched on one core by each kernel of this machine, beside numpy.

Every other probe is a mate of a row; all have to find the very same rows above the review
threshold, with the same scores."""

import os
from contextlib import closing
from functools import partial

import numpy as np
import pytest

from bench.conftest import Clock
from bench.core.reports import Measured
from bench.datasets import Answer, Faces, Vectors, default_thresholds, find_reaching
from bench.suites.baselines import build_segment, compare_hits, mix, search_segment
from indexes.exact.scanner import Scanner, available_kernels
from schema import frozen

NUMPY = "numpy float32"
WHO = (NUMPY, *(f"kernel {one}" for one in available_kernels()))
ONE_THREAD = "OPENBLAS_NUM_THREADS"
"""What numpy's BLAS reads when it is loaded."""
_PLAIN_PAIRS = 1 << 22  # the plain loop is slow: beyond it says nothing new


@frozen(eq=False)
class KernelCase:
    """Rows and probes, and the answers that reach the threshold."""

    faces: Faces
    probes: Vectors
    threshold: float
    right: list[Answer]


@pytest.fixture(scope="module", params=["one", "many"])
def case(request: pytest.FixtureRequest) -> KernelCase:
    option, is_quick = request.config.getoption, request.config.getoption("--quick")
    queries = 1 if request.param == "one" else 64 if is_quick else 256
    rows = option("--n") or (16_384 if is_quick else 262_144)
    faces, threshold = Faces(rows, option("--dim"), option("--seed")), default_thresholds().review
    probes = mix(faces, queries)
    return KernelCase(faces, probes, threshold, find_reaching(probes, faces.references, threshold))


@pytest.mark.parametrize("who", WHO)
def test_scan(
    who: str,
    case: KernelCase,
    clock: Clock,
    measured: dict[str, Measured],
    pytestconfig: pytest.Config,
) -> None:
    rows, queries = len(case.faces), len(case.probes)
    called = "one query" if queries == 1 else f"a batch of {queries}"
    group, setup = f"Scan of {rows:,} rows, {called}", case.faces.setup | {"queries": queries}
    rounds = 5 if pytestconfig.getoption("--quick") else 30
    time = partial(clock, group, who, setup=setup | {"threads": 1}, rounds=rounds)
    if who == NUMPY:
        if os.environ.get(ONE_THREAD) != "1":
            pytest.skip(f"numpy has all cores: set {ONE_THREAD}=1")
        references = case.faces.references.T
        time(lambda: np.argwhere(case.probes @ references >= case.threshold))
        return
    if who == "kernel numba" and rows * queries > _PLAIN_PAIRS:
        pytest.skip("it takes long, and says no more")
    with closing(Scanner(who.removeprefix("kernel "), threads=1)) as scanner:
        search = search_segment(build_segment(case.faces.references, scanner))
        find = partial(search.range_search, case.probes, case.threshold)
        is_right = all(compare_hits(find(), case.right))
        wrong = measured.get("wrong_kernels", 0.0)
        measured["wrong_kernels"] = float(wrong) + (not is_right)  # type: ignore[arg-type]
        assert is_right, f"{who} finds others"
        time(find)
