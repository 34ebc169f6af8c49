"""Suite `search`: one against all, as fast as the machine allows and exactly right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from bench.core.machine import MemoryReader, cores
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.core.timing import Seconds, interleave, rested, speedup
from bench.data.vectors import Answers, Faces, Vectors, default_thresholds, find_best, find_reaching
from bench.suites.baselines import (
    FASTSCAN,
    FLAT,
    GALLERY,
    K_FACTOR,
    SEGMENT,
    Participants,
    Searcher,
    ask_in_turn,
    build_participants,
    certified,
    find_bands,
    list_recall,
    mix,
    refuse_too_much,
    time_batch,
)
from bench.suites.pgvector import PgvectorConfig, compare_pgvector
from indexes.base import Hits
from indexes.exact.codes import no_plane
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.view import SealedView, SegmentSearch

SCORE_TOLERANCE = 1e-6

Ask = Callable[[Vectors], Hits]


def check_exactness(
    segment: Exact8Segment,
    gallery: Gallery,
    faces: Faces,
    probes: int,
    k: int,
    threshold: float,
    setup: Setup,
) -> tuple[Result, float]:
    """Shares of probes with brute force's ids and scores, and the least of them.

    `probes` mated ones and as many strangers, in one batch, and each by itself too: one query has a
    kernel and a bound of its own.
    """
    mates, strangers = faces.sample(probes).probes, faces.strangers(probes)
    queries = np.concatenate([mates, strangers])
    best = find_best(queries, faces.references, k)
    reaching = find_reaching(queries, faces.references, threshold)
    whole = SegmentSearch([SealedView.of(segment)], [], segment.scanner.kernel)
    asked: tuple[tuple[str, Answers, Ask], ...] = (
        (f"the gallery, best {k}", best, lambda some: gallery.search(some, k).hits),
        ("the gallery, range", reaching, lambda some: gallery.range_search(some, threshold).hits),
        (f"one segment, best {k}", best, lambda some: whole.search(some, k)),
        ("one segment, range", reaching, lambda some: whole.range_search(some, threshold)),
    )
    figures = []
    for name, right, ask in asked:
        same = np.array(list(_compare(ask(queries), right)))
        alone = [
            next(_compare(ask(queries[one : one + 1]), right, one)) for one in range(len(queries))
        ]
        parts = (
            ("mated", same[: len(mates)]),
            ("others", same[len(mates) :]),
            ("one by one", np.array(alone)),
        )
        figures += [Figure(f"{name}, {part}", "share", float(x.mean())) for part, x in parts]
    setup = setup | {"mated": len(mates), "others": len(strangers), "threshold": threshold}
    least = min(figure.value for figure in figures if figure.value is not None)
    return Result("Identical to brute force", setup, tuple(figures)), least


def _compare(hits: Hits, right: Answers, first: int = 0) -> Iterator[bool]:
    """Whether each query has the ids, in their order, and the scores that are right."""
    for query in range(len(hits)):
        ids, scores = hits.of(query)
        rows, expected = right.of(first + query)
        yield np.array_equal(ids, rows) and bool(
            (np.abs(scores - expected) <= SCORE_TOLERANCE).all()
        )


K = 10
PROMISED_SIZE = (1_000_000, 128)
"""References and dimensions that the promised speeds are for."""

QUICK = {
    "references": 20_000,
    "batch": 64,
    "probes": 100,
    "near": 200,
    "rounds": 3,
    "batch_rounds": 2,
    "range_rounds": 2,
    "calls": 2,
    "postgres_references": 5_000,
}
FASTSCAN_NAME = f"{FASTSCAN}, k_factor {K_FACTOR}"
_INDEXES_AT_ONCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """`probes` mated and as many others for exactness; `near` mates a band for recall.

    One query is asked `calls` times a round. `has_graph` False leaves hnswlib out, whose graph
    takes longer to build than all else takes together. `postgres` is the URL of a database to
    compare with, None for one started here, `none` for none; it has `postgres_references` at most.
    """

    references: int = 1_000_000
    dim: int = 128
    batch: int = 256
    probes: int = 5_000
    near: int = 1_000
    rounds: int = 15
    batch_rounds: int = 5
    range_rounds: int = 3
    calls: int = 10
    has_graph: bool = True
    postgres: str | None = None
    postgres_references: int = 100_000
    seed: int = 0


def run(config: SearchConfig) -> SuiteOutput:
    refuse_too_much(config.references, config.dim, _INDEXES_AT_ONCE)
    threshold = default_thresholds().review
    faces = Faces(config.references, config.dim, config.seed)
    scanner = Scanner()
    participants = build_participants(faces.references, scanner, has_graph=config.has_graph)
    setup: Setup = faces.setup | {"threads": cores(), "kernel": scanner.kernel}
    exactness, share = check_exactness(
        participants.segment, participants.gallery, faces, config.probes, K, threshold, setup
    )
    probes = mix(faces, config.batch)
    one, reading = _time_one(participants, probes, config)
    batch = time_batch(participants.searchers, probes, K, config.batch_rounds)
    bounds, speedups = _compare_bounds(participants.segment, faces, threshold, config, setup)
    results = (
        _list_times("One query", participants, one, setup | {"k": K}, reading),
        _list_times("A batch", participants, batch, setup | {"k": K, "batch": config.batch}),
        *_list_ranges(participants, probes, threshold, config, setup),
        bounds,
        _list_reading(participants, one, reading, setup),
        *list_recall(
            find_bands(faces, threshold, config.near, K),
            # Both ways of FAISS Flat answer the same; one is asked.
            [other for other in participants.searchers if other.name != FLAT],
            participants.missing,
            setup,
        ),
        exactness,
        _list_certificates(participants, probes, threshold, setup),
        _list_builds(participants, setup),
        *_compare_with_postgres(config, scanner),
    )
    scanner.close()
    measured = {"identical_answers": share} | speedups
    return results, measured | _measure(config, one, batch, reading)


def _compare_with_postgres(config: SearchConfig, scanner: Scanner) -> list[Result]:
    return compare_pgvector(
        PgvectorConfig(
            url=config.postgres,
            references=min(config.references, config.postgres_references),
            dim=config.dim,
            near=config.near,
            has_graph=config.has_graph,
            seed=config.seed,
        ),
        K,
        scanner,
    )


def _time_one(
    participants: Participants, probes: Vectors, config: SearchConfig
) -> tuple[dict[str, Seconds], Seconds]:
    """Seconds a query, round by round; those of reading all codes in the same rounds."""
    reader = MemoryReader(participants.segment.codes.bytes)
    actions = {
        one.name: rested(ask_in_turn(one, probes, K), config.calls)
        for one in participants.searchers
    }
    seconds = interleave(actions | {"read": rested(reader.read, config.calls)}, config.rounds)
    reader.close()
    return seconds, seconds.pop("read")


def _compare_bounds(
    segment: Exact8Segment, faces: Faces, threshold: float, config: SearchConfig, setup: Setup
) -> tuple[Result, dict[str, Measured]]:
    """One query of a segment by bytes alone and by half bytes first, round by round in turn."""
    by_bytes = copy(segment)
    by_bytes.codes = copy(segment.codes)
    by_bytes.codes.plane = no_plane()
    probes = mix(faces, config.batch)
    wholes = {
        name: SegmentSearch([SealedView.of(one)], [], segment.scanner.kernel)
        for name, one in (("bytes", by_bytes), ("half bytes", segment))
    }

    def ask(whole: SegmentSearch, is_range: bool) -> Callable[[], object]:
        turn = cycle(range(len(probes)))

        def search() -> object:
            query = probes[(place := next(turn)) : place + 1]
            return whole.range_search(query, threshold) if is_range else whole.search(query, K)

        return search

    figures: list[Figure] = []
    speedups: dict[str, Measured] = {}
    for name, called in (("range", "range"), ("best", f"best {K}")):
        actions = {
            way: rested(ask(whole, name == "range"), config.calls) for way, whole in wholes.items()
        }
        seconds = interleave(actions, config.rounds)
        baseline = seconds["bytes"]
        figures += [
            Figure.of(f"{called}, {way}", "ms", taken * 1e3, speedup(baseline, taken))
            for way, taken in seconds.items()
        ]
        speedups[f"half_bytes_{name}_speedup"] = (
            speedup(baseline, seconds["half bytes"])
            if by_bytes.codes.bytes.nbytes >= math.prod(PROMISED_SIZE)
            else Skipped(size_reason(*PROMISED_SIZE))
        )
    setup = setup | {"threshold": round(threshold, 4), "baseline": "bytes"}
    return Result("One query, by bytes and by half bytes", setup, tuple(figures)), speedups


def _list_ranges(
    participants: Participants,
    probes: Vectors,
    threshold: float,
    config: SearchConfig,
    setup: Setup,
) -> list[Result]:
    """Everything at or above the threshold, of one query and of a batch."""

    def ask(searcher: Searcher, queries: Vectors) -> Callable[[], object]:
        assert searcher.reaching is not None
        reaching = searcher.reaching
        return lambda: reaching(queries, threshold)

    able = [one for one in participants.searchers if one.reaching]
    setup = setup | {"threshold": round(threshold, 4)}
    results = []
    for name, count in (("One query, range", 1), ("A batch, range", len(probes))):
        # The first probe has a mate: one query finds something.
        actions = {one.name: rested(ask(one, probes[:count])) for one in able}
        seconds = interleave(actions, config.range_rounds)
        per_query = {one: values / count for one, values in seconds.items()}
        results.append(_list_times(name, participants, per_query, setup | {"batch": count}))
    return results


def _list_times(
    name: str,
    participants: Participants,
    seconds: dict[str, Seconds],
    setup: Setup,
    reading: Seconds | None = None,
) -> Result:
    baseline = seconds[FLAT]
    figures = [
        Figure.of(one.name, "ms", seconds[one.name] * 1e3, speedup(baseline, seconds[one.name]))
        if one.name in seconds
        else Figure.skip(one.name, "ms", one.no_range)
        for one in participants.searchers
    ]
    if reading is not None:
        figures.append(Figure.of("reading the codes", "ms", reading * 1e3))
    figures += [Figure.skip(one, "ms", reason) for one, reason in participants.missing.items()]
    return Result(name, setup, tuple(figures))


def _list_reading(
    participants: Participants, one: dict[str, Seconds], reading: Seconds, setup: Setup
) -> Result:
    """The least time that a scan of the codes can take, and how near one query comes."""
    size = participants.segment.codes.bytes.nbytes
    figures = [
        Figure("codes", "MB", size / 1e6),
        Figure("reading them", "GB/s", float(np.median(size / reading)) / 1e9),
        Figure("best reading", "GB/s", size / float(reading.min()) / 1e9),
    ]
    for name in (GALLERY, SEGMENT):
        beside, best = speedup(one[name], reading), float(np.median(one[name]) / reading.min())
        figures.append(Figure(f"{name}: times the reading beside it", "times", beside))
        figures.append(Figure(f"{name}: times the best reading of all", "times", best))
    how = "all cores sum the codes as 64-bit words, in the same rounds"
    return Result("The memory's limit", setup | {"reading": how}, tuple(figures))


def _list_certificates(
    participants: Participants, probes: Vectors, threshold: float, setup: Setup
) -> Result:
    best = certified(participants.gallery.search(probes, K).hits).certificate
    reaching = certified(participants.gallery.range_search(probes, threshold).hits).certificate
    figures = [Figure.of("epsilon", "score", best.epsilon)]
    for name, one in ((f"rescored for the best {K}", best), ("rescored for a range", reaching)):
        figures.append(Figure.of(name, "references a query", one.rescored.astype(np.float64)))
        figures.append(Figure(f"{name}, mean", "references a query", float(one.rescored.mean())))
    return Result("Certificate", setup | {"queries": len(probes)}, tuple(figures))


def _list_builds(participants: Participants, setup: Setup) -> Result:
    figures = []
    for one in participants.searchers:
        figures.append(Figure(f"{one.name}: build", "s", one.build_s))
        figures.append(Figure(f"{one.name}: memory", "bytes/reference", one.bytes_per_reference))
    return Result("Build", setup, tuple(figures))


def _measure(
    config: SearchConfig, one: dict[str, Seconds], batch: dict[str, Seconds], reading: Seconds
) -> dict[str, Measured]:
    """The figures that `targets.toml` names; against FAISS Flat as it comes."""
    names = (
        "one_query_speedup",
        "one_query_over_memory",
        "batch_speedup",
        "batch_fastscan_speedup",
    )
    if (config.references, config.dim) != PROMISED_SIZE:
        return dict.fromkeys(names, Skipped(size_reason(*PROMISED_SIZE)))
    values = (
        speedup(one[FLAT], one[GALLERY]),
        speedup(one[GALLERY], reading),
        speedup(batch[FLAT], batch[GALLERY]),
        speedup(batch[FASTSCAN_NAME], batch[GALLERY]),
    )
    return dict(zip(names, values, strict=True))


def size_reason(references: int, dim: int) -> str:
    """Why a goal for that size says nothing of another."""
    return f"promised for {references:,} references of {dim} dimensions"
