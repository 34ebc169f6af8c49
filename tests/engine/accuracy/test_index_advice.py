"""Advice on kinds of index: real measurements, honest projections, picks that follow limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from engine.accuracy.index_advice import (
    MOST_MEASURED,
    Figures,
    Limits,
    advise,
    measurable,
    measure_kinds,
    pick_kind,
    project,
)
from engine.accuracy.population import Population
from engine.errors import RequestError
from indexes.approximate.faiss_kinds import IvfConfig, IvfIndex

REFERENCES, THRESHOLD, SEED = 12_000, 0.5, 3


@pytest.fixture(scope="module")
def population() -> Population:
    return Population.load()


@pytest.fixture(scope="module")
def measured(population: Population) -> dict[str, Figures]:
    figures = measure_kinds(population, REFERENCES, THRESHOLD, SEED)
    return {one.name: one for one in figures}


def figures(name: str, **changes: object) -> Figures:
    """Made up: a thousand bytes, a millisecond."""
    base = Figures(
        name=name,
        kind=name.split(maxsplit=1)[0],
        references=10**6,
        measured_at=10**6,
        bytes_per_reference=1000,
        one_query_ms=1,
        batch_query_ms=0.1,
        build_s=10,
        mates=1000,
        missed=0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


KINDS = (
    figures("exact8", bytes_per_reference=660, one_query_ms=3),
    figures("exact8 float16", bytes_per_reference=400, one_query_ms=3),
    figures("flat", bytes_per_reference=620, one_query_ms=20),
    figures("fastscan", bytes_per_reference=560, one_query_ms=0.9, missed=14),
    figures("ivf", bytes_per_reference=580, one_query_ms=0.2, missed=500),
    figures("hnsw", bytes_per_reference=930, one_query_ms=0.8, missed=150),
)


def test_every_kind_is_measured_with_the_same_mates(measured: dict[str, Figures]) -> None:
    assert list(measured) == [one.name for one in KINDS]
    for one in measured.values():
        assert (one.references, one.measured_at) == (REFERENCES, REFERENCES)
        assert one.mates == measured["flat"].mates > 100
        assert min(one.one_query_ms, one.batch_query_ms, one.build_s) > 0
        assert 350 < one.bytes_per_reference < 1000
        assert not one.is_projected
        assert one.knows_misses
        assert one.is_exact is (one.kind in ("exact8", "flat"))
    for name in ("exact8", "exact8 float16", "flat"):
        assert measured[name].missed == 0
        assert measured[name].miss_interval == (0, 0)
    assert measured["exact8 float16"].bytes_per_reference < measured["exact8"].bytes_per_reference


def test_what_a_kind_misses_is_what_another_count_finds(
    measured: dict[str, Figures], population: Population
) -> None:
    people = replace(population, group_share=0.0)
    rows = people.references(REFERENCES, SEED)
    mates = people.mates(np.arange(REFERENCES), SEED, photographs=1)
    index = IvfIndex(population.dim, IvfConfig(threshold=THRESHOLD))
    index.add(np.arange(REFERENCES), rows)
    scores = (mates.astype(np.float64) * rows).sum(axis=1)
    near = np.flatnonzero((scores >= THRESHOLD + 0.001) & (scores <= THRESHOLD + 0.05))
    hits = index.range_search(mates[near], THRESHOLD)
    missed = sum(row not in hits.of(query)[0] for query, row in enumerate(near))
    assert len(near) == measured["ivf"].mates
    assert missed == measured["ivf"].missed > 0
    low, high = measured["ivf"].miss_interval
    assert low < missed / len(near) < high


def test_a_threshold_without_mates_near_it_is_refused(population: Population) -> None:
    with pytest.raises(RequestError, match=r"no mates that score 0\.10 to 0\.15"):
        measure_kinds(population, 10_000, 0.1)


def test_advice_says_how_far_it_is(population: Population) -> None:
    steps: list[tuple[int, int]] = []
    advice = advise(
        population,
        50_000,
        Limits(),
        threshold=THRESHOLD,
        measured_at=10_000,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(done, 7) for done in range(8)]
    assert advice.pick == "exact8"
    assert {one.references for one in advice.figures} == {50_000}
    told = advice.to_dict()
    by_name = {one["name"]: one for one in told["figures"]}
    assert told["pick"] == "exact8"
    assert by_name["exact8"]["projected"]
    assert by_name["exact8"]["miss_rate_known"]
    assert not by_name["hnsw"]["miss_rate_known"]


def test_a_projection_grows_as_the_kind_works() -> None:
    def grown(name: str) -> Figures:
        return project(figures(name, one_query_fixed_ms=0.25), 4 * 10**6)

    for name in ("exact8", "flat", "fastscan"):
        assert grown(name).one_query_ms == pytest.approx(0.25 + 4 * 0.75)
        assert grown(name).batch_query_ms == pytest.approx(0.4)
        assert grown(name).build_s == pytest.approx(40)
    assert grown("ivf").batch_query_ms == pytest.approx(0.2)
    assert grown("ivf").build_s == pytest.approx(80)
    log = math.log(4 * 10**6) / math.log(10**6)
    assert grown("hnsw").batch_query_ms == pytest.approx(0.1 * log)
    assert grown("hnsw").build_s == pytest.approx(40 * log)
    for name in ("exact8", "ivf"):
        assert grown(name).memory_bytes == 4e9
        assert grown(name).is_projected


def test_a_projection_to_the_same_size_is_the_measurement() -> None:
    assert project(KINDS[0], 10**6) == KINDS[0]
    assert not project(KINDS[5], 10**6).is_projected


@pytest.mark.parametrize(
    ("limits", "pick"),
    [
        (Limits(), "exact8"),
        (Limits(memory_bytes=660e6, latency_ms=3, miss_rate=0), "exact8"),
        (Limits(memory_bytes=659e6), "exact8 float16"),
        (Limits(latency_ms=2.9), "fastscan"),
        (Limits(latency_ms=0.85), "hnsw"),
        (Limits(latency_ms=0.85, memory_bytes=900e6), "ivf"),
        (Limits(latency_ms=2.9, miss_rate=0.03), "fastscan"),
        (Limits(latency_ms=2.9, miss_rate=0.015), None),
        (Limits(latency_ms=0.85, miss_rate=0.03), None),
        (Limits(memory_bytes=399e6), None),
        (Limits(latency_ms=0.1), None),
    ],
)
def test_the_pick_is_exact_unless_it_does_not_fit(limits: Limits, pick: str | None) -> None:
    assert pick_kind(KINDS, limits)[0] == pick


def test_flat_is_picked_where_the_other_exact_kinds_do_not_fit() -> None:
    slow = (replace(KINDS[0], one_query_ms=50), replace(KINDS[1], one_query_ms=50), *KINDS[2:])
    assert pick_kind(slow, Limits(latency_ms=30))[0] == "flat"


def test_the_reason_names_what_was_exceeded() -> None:
    reason = pick_kind(KINDS, Limits(latency_ms=2.9))[1]
    assert "misses least: 1.40%" in reason
    assert "exact8: takes 3 ms a query" in reason
    reason = pick_kind(KINDS, Limits(memory_bytes=0.25 * 2**30))[1]
    assert reason.startswith("no kind is within the limits")
    assert "exact8 float16: takes 0.373 GiB" in reason
    reason = pick_kind(KINDS, Limits(latency_ms=2.9, miss_rate=0.001))[1]
    assert "fastscan: may miss 2.34%" in reason


def test_a_miss_rate_that_is_not_known_is_never_an_allowed_one() -> None:
    """Even where nothing was missed: at another size something may be."""
    projected = tuple(project(replace(one, missed=0), 2 * 10**6) for one in KINDS)
    pick, reason = pick_kind(projected, Limits(latency_ms=2, miss_rate=0.5))
    assert pick is None
    assert "hnsw: its misses at this size are not known" in reason
    pick, reason = pick_kind(projected, Limits(latency_ms=2))
    assert pick == "fastscan"
    assert "not known at 2,000,000" in reason


def test_the_size_measured_is_what_memory_and_a_minute_allow() -> None:
    assert measurable(50_000, 128, 2**40) == 50_000
    assert measurable(10**9, 128, 2**40) == MOST_MEASURED
    assert measurable(10**9, 128, 2**28) < MOST_MEASURED / 2
    assert measurable(10**9, 128, 0) == 1
