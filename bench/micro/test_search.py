"""One against all, as fast as the machine allows and exactly right, beside FAISS and others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.conftest import Clock, Note
from bench.core.machine import MemoryReader, cores
from bench.core.reports import Figure, Measured, Result, Setup, Skipped
from bench.data.vectors import Answers, Faces, Vectors, default_thresholds, find_best, find_reaching
from bench.suites.baselines import (
    EFS,
    FASTSCAN,
    FLAT,
    FLAT_BLAS,
    GALLERY,
    HNSW,
    INDEXES_AT_ONCE,
    IVF,
    K_FACTOR,
    NPROBES,
    NUMKONG,
    PROMISED_SIZE,
    RABITQ,
    SCORE_TOLERANCE,
    SEGMENT,
    SQ8,
    USEARCH,
    K,
    Participants,
    ask_in_turn,
    build_participants,
    certified,
    count_lists,
    find_bands,
    list_recall,
    mix,
    refuse_too_much,
    size_reason,
)
from bench.suites.pgvector import PgvectorConfig, compare_pgvector
from indexes.base import Hits
from indexes.exact.codes import no_plane
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.view import SealedView, SegmentSearch

READING, LIMIT = "reading the codes", "The memory's limit"
FASTSCAN_NAME = f"{FASTSCAN}, k_factor {K_FACTOR}"
BOUNDS = "One query, by bytes and by half bytes"
SPEEDUPS = {
    "one_query_speedup": ("One query", FLAT, GALLERY),
    "one_query_over_memory": ("One query", GALLERY, READING),
    "batch_speedup": ("A batch", FLAT, GALLERY),
    "batch_fastscan_speedup": ("A batch", FASTSCAN_NAME, GALLERY),
    "half_bytes_range_speedup": (BOUNDS, "range, bytes", "range, half bytes"),
    "half_bytes_best_speedup": (BOUNDS, f"best {K}, bytes", f"best {K}, half bytes"),
}
FULL = SimpleNamespace(
    references=1_000_000, batch=256, probes=5_000, near=1_000, postgres=100_000,
    one=50, many=7, ranges=5,
)  # fmt: skip
QUICK = SimpleNamespace(
    references=20_000, batch=64, probes=100, near=200, postgres=5_000, one=9, many=3, ranges=3
)
"""`probes` mated and as many others for exactness, `near` mates a band for recall; rounds of one
query, of batches and of ranges."""

Ask = Callable[[Vectors], Hits]


@dataclass(frozen=True, slots=True, eq=False)
class SearchCase:
    """Everybody who is compared, what is asked, and under which conditions."""

    sizes: Any
    faces: Faces
    participants: Participants
    probes: Vectors
    threshold: float
    setup: Setup


def sizes_of(config: pytest.Config) -> Any:
    chosen = QUICK if config.getoption("--quick") else FULL
    return SimpleNamespace(
        **(vars(chosen) | {"references": config.getoption("--n") or chosen.references})
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "who" not in metafunc.fixturenames:
        return
    lists = count_lists(sizes_of(metafunc.config).references)
    nprobes = [one for one in NPROBES if one <= lists]
    inverted = [f"{kind}{lists}, nprobe {one}" for kind in (IVF, RABITQ) for one in nprobes]
    graphs = [f"{HNSW}, ef {one}" for one in EFS]
    ours = [FLAT, FLAT_BLAS, READING, GALLERY, SEGMENT, SQ8, FASTSCAN_NAME]
    metafunc.parametrize("who", [*ours, *inverted, USEARCH, NUMKONG, *graphs])


@pytest.fixture(scope="module")
def case(pytestconfig: pytest.Config, measured: dict[str, Measured]) -> Iterator[SearchCase]:
    sizes, option = sizes_of(pytestconfig), pytestconfig.getoption
    size = (sizes.references, option("--dim"))
    refuse_too_much(*size, INDEXES_AT_ONCE)
    if size != PROMISED_SIZE:
        reason = Skipped(size_reason(*PROMISED_SIZE))
        is_large = math.prod(size) >= math.prod(PROMISED_SIZE)
        measured |= {name: reason for name, (group, *_) in SPEEDUPS.items()
                     if group != BOUNDS or not is_large}  # fmt: skip
    faces, scanner = Faces(*size, option("--seed")), Scanner()
    participants = build_participants(faces.references, scanner, has_graph=not option("--no-graph"))
    setup: Setup = faces.setup | {"threads": cores(), "kernel": scanner.kernel}
    probes = mix(faces, sizes.batch)
    yield SearchCase(sizes, faces, participants, probes, default_thresholds().review, setup)
    scanner.close()


@pytest.fixture(scope="module")
def reader(case: SearchCase) -> Iterator[MemoryReader]:
    one = MemoryReader(case.participants.segment.codes.bytes)
    yield one
    one.close()


def find(case: SearchCase, who: str, note: Note, group: str, setup: Setup, *, ranges: bool) -> Any:
    """The searcher, or a skipped test and figure that say why there is none."""
    known = {one.name: one for one in case.participants.searchers}
    reason = case.participants.missing.get(who.partition(", ef")[0])
    searcher = known.get(who)
    if searcher is not None and ranges and searcher.reaching is None:
        reason = searcher.no_range
    if searcher is None or reason:
        note(Result(group, setup, (Figure.skip(who, "ms", reason or "it is not here"),)))
        pytest.skip(reason or "it is not here")
    return searcher


def test_one_query(
    who: str, case: SearchCase, clock: Clock, note: Note, reader: MemoryReader
) -> None:
    setup, group = case.setup | {"k": K}, "One query"
    rounds = case.sizes.one
    if who == READING:
        stats = clock(group, who, reader.read, setup, rounds=rounds)
        size = reader.size_bytes
        figures = (
            Figure("codes", "MB", size / 1e6),
            Figure("reading them", "GB/s", size / stats.median / 1e9),
            Figure("best reading", "GB/s", size / stats.min / 1e9),
        )
        how = "all cores sum the codes as 64-bit words"
        note(Result(LIMIT, case.setup | {"reading": how}, figures))
        return
    searcher = find(case, who, note, group, setup, ranges=False)
    clock(group, who, ask_in_turn(searcher, case.probes, K), setup, rounds=rounds)


def test_batch(who: str, case: SearchCase, clock: Clock, note: Note) -> None:
    if who == READING:
        pytest.skip("it is for one query")
    count = len(case.probes)
    setup, group = case.setup | {"k": K, "batch": count}, "A batch"
    searcher = find(case, who, note, group, setup, ranges=False)

    def ask() -> object:
        return searcher.best(case.probes, K)

    clock(group, who, ask, setup, rounds=case.sizes.many, per=count)


@pytest.mark.parametrize("group", ["One query, range", "A batch, range"])
def test_range(group: str, who: str, case: SearchCase, clock: Clock, note: Note) -> None:
    """Everything at or above the threshold."""
    if who == READING:
        pytest.skip("it is for one query")
    # The first probe has a mate: one query finds something.
    probes = case.probes[: 1 if group.startswith("One") else None]
    setup = case.setup | {"threshold": round(case.threshold, 4), "batch": len(probes)}
    searcher = find(case, who, note, group, setup, ranges=True)

    def ask() -> object:
        return searcher.reaching(probes, case.threshold)

    clock(group, who, ask, setup, rounds=case.sizes.ranges, per=len(probes))


@pytest.mark.parametrize("way", ["bytes", "half bytes"])
@pytest.mark.parametrize("what", ["range", f"best {K}"])
def test_bounds(what: str, way: str, case: SearchCase, clock: Clock) -> None:
    """One query of a segment by bytes alone, and by half bytes first."""
    segment = copy(case.participants.segment)
    if way == "bytes":
        segment.codes = copy(segment.codes)
        segment.codes.plane = no_plane()
    whole = SegmentSearch([SealedView.of(segment)], [], segment.scanner.kernel)
    turn = cycle(range(len(case.probes)))

    def ask() -> object:
        query = case.probes[(place := next(turn)) : place + 1]
        is_range = what == "range"
        return whole.range_search(query, case.threshold) if is_range else whole.search(query, K)

    setup = case.setup | {"threshold": round(case.threshold, 4), "baseline": "bytes"}
    base = f"{what}, bytes"
    clock(BOUNDS, f"{what}, {way}", ask, setup, rounds=case.sizes.one, base=base)


def test_answers_are_those_of_brute_force(
    case: SearchCase, note: Note, measured: dict[str, Measured]
) -> None:
    probes = min(case.sizes.probes, len(case.faces))
    given = (case.participants.segment, case.participants.gallery, case.faces, probes)
    share = check_exactness(*given, case.threshold)
    setup = case.setup | {"mated": probes, "others": probes, "threshold": case.threshold}
    note(Result("Identical to brute force", setup, (Figure("of all", "share", share),)))
    measured["identical_answers"] = share
    assert share == 1


def test_recall_and_what_is_kept(case: SearchCase, note: Note) -> None:
    """The share of mates near the thresholds that each finds, certificates, builds and memory."""
    participants = case.participants
    # Both ways of FAISS Flat answer the same; one is asked.
    others = [one for one in participants.searchers if one.name != FLAT]
    bands = find_bands(case.faces, case.threshold, case.sizes.near, K)
    for one in list_recall(bands, others, participants.missing, case.setup):
        note(one)
    best = certified(participants.gallery.search(case.probes, K).hits).certificate
    figure = Figure.of("epsilon", "score", best.epsilon)
    note(Result("Certificate", case.setup | {"queries": len(case.probes)}, (figure,)))
    note(_list_builds(participants, case.setup))


def test_postgres(case: SearchCase, note: Note, pytestconfig: pytest.Config) -> None:
    option, sizes = pytestconfig.getoption, case.sizes
    config = PgvectorConfig(
        url=option("--postgres"),
        references=min(sizes.references, sizes.postgres),
        dim=option("--dim"),
        has_graph=not option("--no-graph"),
        seed=option("--seed"),
    )
    note(compare_pgvector(config, K, case.participants.segment.scanner))


def check_exactness(
    segment: Exact8Segment, gallery: Gallery, faces: Faces, probes: int, threshold: float
) -> float:
    """The share of probes with brute force's ids and scores, of the worst way to search.

    `probes` mated ones and as many strangers, in one batch, and each by itself too: one query has a
    kernel and a bound of its own.
    """
    queries = np.concatenate([faces.sample(probes).probes, faces.strangers(probes)])
    best = find_best(queries, faces.references, K)
    reaching = find_reaching(queries, faces.references, threshold)
    whole = SegmentSearch([SealedView.of(segment)], [], segment.scanner.kernel)
    asked: tuple[tuple[Answers, Ask], ...] = (
        (best, lambda some: gallery.search(some, K).hits),
        (reaching, lambda some: gallery.range_search(some, threshold).hits),
        (best, lambda some: whole.search(some, K)),
        (reaching, lambda some: whole.range_search(some, threshold)),
    )
    shares = []
    for right, ask in asked:
        alone = [
            next(_compare(ask(queries[one : one + 1]), right, one)) for one in range(len(queries))
        ]
        shares += [np.mean(list(_compare(ask(queries), right))), np.mean(alone)]
    return float(min(shares))


def _compare(hits: Hits, right: Answers, first: int = 0) -> Iterator[bool]:
    """Whether each query has the ids, in their order, and the scores that are right."""
    for query in range(len(hits)):
        ids, scores = hits.of(query)
        rows, expected = right.of(first + query)
        yield np.array_equal(ids, rows) and bool(
            (np.abs(scores - expected) <= SCORE_TOLERANCE).all()
        )


def _list_builds(participants: Participants, setup: Setup) -> Result:
    figures = []
    for one in participants.searchers:
        figures.append(Figure(f"{one.name}: build", "s", one.build_s))
        figures.append(Figure(f"{one.name}: memory", "bytes/reference", one.bytes_per_reference))
    return Result("Build", setup, tuple(figures))
