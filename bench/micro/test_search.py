"""One against all, as fast as the machine allows and exactly right, beside FAISS and others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest

from bench.conftest import Clock, Note
from bench.core.machine import MemoryReader, cores
from bench.core.reports import Figure, Measured, Result, Setup
from bench.datasets import Answer, Faces, Vectors, default_thresholds, find_best, find_reaching
from bench.suites.baselines import (
    FLAT,
    FLAT_BLAS,
    GALLERY,
    INDEXES_AT_ONCE,
    IVF,
    NPROBES,
    PANORAMA,
    RABITQ,
    SEGMENT,
    USEARCH,
    K,
    Participants,
    ask_in_turn,
    build_participants,
    compare_hits,
    count_lists,
    list_recall,
    mix,
    refuse_too_much,
    search_segment,
)
from indexes.base import Hits
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from schema import frozen

READING, LIMIT = "reading the codes", "The memory's limit"
INVERTED = (f"{kind}, nprobe {one}" for kind in (IVF, RABITQ) for one in NPROBES)
WHO = (FLAT, FLAT_BLAS, PANORAMA, GALLERY, SEGMENT, *INVERTED, USEARCH)
SPEEDUPS = {
    "one_query_speedup": ("One query", FLAT, GALLERY),
    "one_query_over_memory": ("One query", GALLERY, READING),
    "batch_speedup": ("A batch", FLAT, GALLERY),
}
QUICK = {"references": 20_000, "batch": 64, "probes": 100, "near": 200}
QUICK |= {"one": 9, "many": 3}


@frozen(kw_only=True)
class SearchConfig:
    """`probes` mated and as many others for exactness, `near` mates a band for recall; rounds of
    one query and of batches."""

    references: int = 1_000_000
    dim: int = 128
    batch: int = 256
    probes: int = 5_000
    near: int = 1_000
    one: int = 50
    many: int = 7


def configure(config: pytest.Config) -> SearchConfig:
    option = config.getoption
    small = QUICK if option("--quick") else {}
    chosen = SearchConfig(**{"dim": option("--dim"), **small})
    chosen = replace(chosen, references=option("--n") or chosen.references)
    refuse_too_much(chosen.references, chosen.dim, INDEXES_AT_ONCE)
    return chosen


Ask = Callable[[Vectors], Hits]


@frozen(eq=False)
class SearchCase:
    """Everybody who is compared, what is asked, and under which conditions."""

    sizes: SearchConfig
    faces: Faces
    participants: Participants
    probes: Vectors
    threshold: float
    setup: Setup


@pytest.fixture(scope="module")
def case(pytestconfig: pytest.Config) -> Iterator[SearchCase]:
    sizes, option = configure(pytestconfig), pytestconfig.getoption
    faces, scanner = Faces(sizes.references, sizes.dim, option("--seed")), Scanner()
    participants = build_participants(faces.references, scanner)
    setup: Setup = faces.setup | {"threads": cores(), "kernel": scanner.kernel}
    probes = mix(faces, sizes.batch)
    yield SearchCase(sizes, faces, participants, probes, default_thresholds().review, setup)
    scanner.close()


def find(case: SearchCase, who: str, note: Note, group: str, setup: Setup) -> Any:
    """The searcher, or a skipped test and figure that say why there is none."""
    searchers, lists = case.participants.searchers, f"IVF{count_lists(len(case.faces))}"
    found = next((one for one in searchers if one.name.replace(lists, "IVF") == who), None)
    if found is None:
        reason = case.participants.missing.get(who, "it has too few lists")
        note(Result(group, setup, (Figure.skip(who, "ms", reason),)))
        pytest.skip(reason)
    return found


@pytest.mark.parametrize("who", WHO)
def test_one_query(who: str, case: SearchCase, clock: Clock, note: Note) -> None:
    setup, group = case.setup | {"k": K}, "One query"
    searcher = find(case, who, note, group, setup)
    ask = ask_in_turn(searcher, case.probes, K)
    clock(group, searcher.name, ask, setup, rounds=case.sizes.one)


def test_reading(case: SearchCase, clock: Clock, note: Note) -> None:
    """The least that a scan of the codes must do."""
    reader = MemoryReader(case.participants.segment.codes.bytes)
    stats = clock("One query", READING, reader.read, case.setup | {"k": K}, rounds=case.sizes.one)
    reader.close()
    figure = Figure("reading them", "GB/s", reader.size_bytes / stats.median / 1e9)
    note(Result(LIMIT, case.setup, (figure,)))


@pytest.mark.parametrize("who", WHO)
def test_batch(who: str, case: SearchCase, clock: Clock, note: Note) -> None:
    size = len(case.probes)
    setup, group = case.setup | {"k": K, "batch": size}, "A batch"
    searcher = find(case, who, note, group, setup)
    ask = partial(searcher.best, case.probes, K)
    clock(group, searcher.name, ask, setup, rounds=case.sizes.many, per=size)


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


def test_recall_and_certificate(case: SearchCase, note: Note) -> None:
    """The share of mates near the thresholds that each finds."""
    for one in list_recall(
        case.faces, case.threshold, case.sizes.near, case.participants, case.setup
    ):
        note(one)
    best = case.participants.gallery.search(case.probes, K).hits.certificate
    figure = Figure.of("epsilon", "score", best.epsilon)
    note(Result("Certificate", case.setup | {"queries": len(case.probes)}, (figure,)))


def check_exactness(
    segment: Exact8Segment, gallery: Gallery, faces: Faces, probes: int, threshold: float
) -> float:
    """The share of probes with brute force's ids and scores, of the worst way to search.

    `probes` mated ones and as many strangers, in one batch, and each by itself too: one query has a
    kernel and a bound of its own.
    """
    queries = np.concatenate([faces.sample(probes)[1], faces.strangers(probes)])
    best = find_best(queries, faces.references, K)
    reaching = find_reaching(queries, faces.references, threshold)
    whole = search_segment(segment)
    asked: tuple[tuple[Sequence[Answer], Ask], ...] = (
        (best, lambda some: gallery.search(some, K).hits),
        (reaching, lambda some: gallery.range_search(some, threshold).hits),
        (best, lambda some: whole.search(some, K)),
        (reaching, lambda some: whole.range_search(some, threshold)),
    )
    shares = []
    for right, ask in asked:
        for size in (len(queries), 1):
            starts = range(0, len(queries), size)
            found = (compare_hits(ask(queries[one : one + size]), right, one) for one in starts)
            shares.append(np.mean([is_same for part in found for is_same in part]))
    return float(min(shares))


@pytest.mark.parametrize("batch", [1, 32])
def test_add(batch: int, case: SearchCase, clock: Clock) -> None:
    """References added to the gallery, alone and in a batch; the last is then found."""
    gallery, rounds = case.participants.gallery, 4 * case.sizes.one
    newcomers = case.faces.newcomers((rounds + 1) * batch)
    first, turn = len(gallery), count()

    def add() -> None:
        start = next(turn) * batch
        ids = np.arange(first + start, first + start + batch)
        gallery.add(ids, newcomers[start : start + batch], gallery.sequence + 1)

    group, setup = "Adding to a gallery", case.setup | {"threads": 1}
    clock(group, f"{batch} at once", add, setup, rounds=rounds, per=batch, unit="us")
    last = first + len(newcomers) - 1
    assert gallery.search(newcomers[-1:], 1).hits.ids.tolist() == [last]
