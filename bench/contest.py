"""Who takes part in a comparison of searches, and the questions that all are asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

from bench.rivals import (
    EFS,
    HNSW,
    K_FACTOR,
    NPROBES,
    USEARCH,
    build_fastscan,
    build_flat,
    build_hnsw,
    build_ivf,
    build_sq8,
    build_usearch,
)
from bench.searchers import Searcher, build_gallery, build_segment
from bench.timing import Seconds, interleave, rested
from bench.vectors import Faces, Vectors
from engine.errors import RequestError
from indexes.exact.exact8 import Exact8Index
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery

PACKAGES = {USEARCH: "usearch", HNSW: "hnswlib"}


@dataclass(slots=True, eq=False)
class Contest:
    """Everyone who is asked, FAISS Flat first; who could not come, and why."""

    segment: Exact8Index
    gallery: Gallery
    searchers: list[Searcher]
    missing: dict[str, str] = field(default_factory=dict)


def refuse_too_much(references: int, dim: int, indexes: int) -> None:
    """`RequestError` where the vectors and so many indexes of them would not fit in memory."""
    needed = references * dim * 4 * indexes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise RequestError(
            f"{references:,} references of {dim} dimensions need {needed / 2**30:.0f} GiB, the "
            f"machine has {memory / 2**30:.0f}: lower --n"
        )


def enter(references: Vectors, scanner: Scanner, *, has_graph: bool) -> Contest:
    """Builds one index after the other."""
    segment, ours = build_segment(references, scanner)
    gallery, deployed = build_gallery(references, scanner)
    contest = Contest(segment, gallery, [*build_flat(references), deployed, ours])
    contest.searchers.append(build_sq8(references))
    contest.searchers.append(build_fastscan(references)[K_FACTOR])
    contest.searchers += build_ivf(references, NPROBES).values()
    searchers, missing = contest.searchers, contest.missing
    enter_if_installed(searchers, missing, USEARCH, lambda: [build_usearch(references)])
    if has_graph:
        enter_if_installed(searchers, missing, HNSW, lambda: build_hnsw(references, EFS).values())
    else:
        missing[HNSW] = "left out by --no-graph: it takes minutes to build"
    return contest


def mix(faces: Faces, count: int) -> Vectors:
    """float32[count, dim]: probes of people in the gallery and of strangers, in turn."""
    mates, strangers = faces.sample(-(-count // 2)).probes, faces.strangers(count)
    probes = strangers.copy()
    probes[: 2 * len(mates) : 2] = mates
    return probes


def enter_if_installed(
    searchers: list[Searcher],
    missing: dict[str, str],
    name: str,
    build: Callable[[], Iterable[Searcher]],
) -> None:
    """With them, or noted as missing where the package is not installed."""
    try:
        searchers += build()
    except ImportError:
        missing[name] = f"not installed: pip install {PACKAGES[name]}"


def ask_in_turn(searcher: Searcher, probes: Vectors, k: int) -> Callable[[], object]:
    """Asks for the k best of one probe, of the next one at each call."""
    places = cycle(range(len(probes)))

    def ask() -> object:
        place = next(places)
        return searcher.best(probes[place : place + 1], k)

    return ask


def time_batch(
    searchers: Iterable[Searcher], probes: Vectors, k: int, rounds: int
) -> dict[str, Seconds]:
    """Seconds of one query where all are asked at once, round by round in turn."""
    actions = {one.name: rested(partial(one.best, probes, k)) for one in searchers}
    seconds = interleave(actions, rounds)
    return {name: values / len(probes) for name, values in seconds.items()}
