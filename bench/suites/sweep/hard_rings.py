"""Rings below `certain` in a registry of a million, by a budget of cases and by score alone.

A ring whose identities reach `certain` with each other stands out by its score, so none of these
does: they are drawn from the people whom the population calls hard to recognise, and only those are
kept whose strongest pair lies below. Strangers have look-alikes, as the population has them, and
some siblings: half of the variance between people is common to them.

What surrounds a ring is not drawn from the shares that rank it (`engine.sweeps.likelihood`):
subscribers go to outlets by Zipf's law and most on a few days; a ring's people share an outlet, a
visit, a name or a birth date as often as `HABITS` says; and siblings come together, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from bench.core.machine import clock, read_peak_bytes
from bench.core.reports import Figure, Result, SuiteOutput
from bench.data.vectors import Rows, Vectors, default_thresholds, describe_faces, turn
from bench.suites.baselines import build_gallery
from bench.suites.sweep.planted import SweepConfig, make_facts
from engine.accuracy.pair_scores import fuse
from engine.accuracy.population import Population
from engine.sweeps.budget import BudgetTerms, Ranking, choose_pairs, expect_true, rank_within_budget
from engine.sweeps.clustering import PairTable
from engine.sweeps.groups import group_faces
from engine.sweeps.likelihood import Openings, Particulars, ScoreRatio
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining.join import join_gallery
from indexes.joining.tiling import Pairs
from schema.decisions import Comparison
from schema.sweeps import Group
from serving.deployment.models import load_calibration
from serving.settings.settings import Settings

BUDGETS = (500, 1_000, 5_000)
SIZES = (2, 2, 2, 2, 2, 2, 2, 3, 3, 4)
"""Identities of a ring, in turn."""
_DRAWN = 12
"""So many people are drawn for each ring; of the hard ones, 9 % can make one of three."""
_RINGS, _SIBLINGS, _REGISTRY = 31, 32, 33
"""Added to the seed."""
_OUTLETS = 20_000
_DAYS, _OPEN_MINUTES = 5 * 365, 12 * 60
_DECIDED = 5
"""Every fifth group of the largest budget is taken as decided, for the expected share."""


HABITS = SimpleNamespace(
    ring_outlet=0.5,
    ring_visit=0.2,
    ring_day=0.15,
    ring_name=0.25,
    ring_birth=0.2,
    ring_passports=0.15,
    ring_disputed=0.03,
    sibling_visit=0.3,
    sibling_outlet=0.2,
    second_line=0.2,
    passport=0.1,
    disputed=0.0005,
)
"""How often something holds: of a ring's further identity (`ring_`), with the first one; of a pair
of siblings; of subscribers."""


@dataclass(frozen=True, slots=True, eq=False)
class HardRings:
    """`vectors` float32[n, d], unit rows; `rings` and `siblings` are rows of them."""

    vectors: Vectors
    rings: tuple[Rows, ...]
    siblings: Rows


def plant_hard(plan: SweepConfig) -> HardRings:
    """Draws the gallery; the same plan gives the same one."""
    population = Population.load("sface")
    rng = np.random.default_rng([plan.seed, _RINGS])
    sizes = [SIZES[number % len(SIZES)] for number in range(plan.hard_rings)]
    faces = list(_draw_rings(population, plan, sizes, default_thresholds().certain))
    vectors = population.references(plan.references, plan.seed)
    places = rng.permutation(plan.references)
    rings = tuple(np.split(places[: sum(sizes)], np.cumsum(sizes)[:-1]))
    for rows, ring in zip(rings, faces, strict=True):
        vectors[rows] = ring
    siblings = places[sum(sizes) :][: 2 * plan.siblings].reshape(-1, 2)
    for side, some in zip(siblings.T, _draw_siblings(population, plan), strict=True):
        vectors[side] = some
    dim = population.dim
    turn(vectors, np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32))
    return HardRings(vectors, rings, siblings)


def _draw_rings(
    population: Population, plan: SweepConfig, sizes: Sequence[int], certain: float
) -> Iterator[Vectors]:
    """float32[size, d] each: hard people, with the least number of whose pairs below `certain`."""
    hard = replace(population, hard_share=1.0)
    seed = plan.seed + _RINGS
    latent = hard.people(_DRAWN * plan.hard_rings + 1_000, seed)
    references = np.stack(
        [
            fuse(hard.samples(latent, seed, 2 * i), hard.samples(latent, seed, 2 * i + 1))
            for i in range(max(SIZES))
        ],
        axis=1,
    )
    scores = np.einsum("nid,njd->nij", references, references)
    used = np.zeros(len(latent), np.bool_)
    chosen: dict[int, list[int]] = {}
    # The large ones first, for few people can make them.
    for size in sorted(set(sizes), reverse=True):
        apart = scores[:, :size, :size][:, *np.triu_indices(size, 1)].max(axis=1) < certain
        chosen[size] = np.flatnonzero(apart & ~used)[: sizes.count(size)].tolist()
        assert len(chosen[size]) == sizes.count(size), "too few people were drawn"
        used[chosen[size]] = True
    for size in sizes:
        yield references[chosen[size].pop(), :size]


def _draw_siblings(population: Population, plan: SweepConfig) -> tuple[Vectors, Vectors]:
    """float32[siblings, d] twice: two who share half of what sets people apart."""
    seeds = (plan.seed + _SIBLINGS + number for number in range(0, 30, 10))
    common, *own = (population.people(plan.siblings, seed) - population.mean for seed in seeds)
    one, other = (
        fuse(population.samples(latent, seed, 0), population.samples(latent, seed, 1))
        for seed, latent in (
            (plan.seed + _SIBLINGS + number, population.mean + np.sqrt(0.5) * (common + each))
            for number, each in enumerate(own)
        )
    )
    return one, other


@dataclass(frozen=True, slots=True, eq=False)
class Registry:
    """What is known of each row: its lines, and arrays int64[n] of names, birth days and passport
    numbers (-1: another document)."""

    openings: Openings
    families: Rows
    given: Rows
    births: Rows
    passports: Rows
    misspelt: NDArray[np.bool_]

    def read(self, documents: Rows) -> Mapping[int, Particulars]:
        """The particulars of these rows."""
        return {row: self._introduce(row) for row in documents.tolist()}

    def _introduce(self, row: int) -> Particulars:
        family, given = _spell(int(self.families[row])), _spell(int(self.given[row]), 3)
        # Two letters swapped.
        given = given[:-2] + given[-1] + given[-2] if self.misspelt[row] else given
        passport = int(self.passports[row])
        if passport >= 0:
            return Particulars(f"{family} {given}", None, ("XX", passport))
        birth = date(1950, 1, 1) + timedelta(days=int(self.births[row]))
        return Particulars(f"{family} {given}", birth, None)


def _spell(number: int, syllables: int = 2) -> str:
    parts = []
    for _ in range(syllables):
        number, part = divmod(number, 100)
        parts.append("bdghklmnprstvwyz"[part % 16] + "aeiou"[part // 16 % 5] + "nlrs"[part % 4])
    return "".join(parts)


def register(hard: HardRings, seed: int) -> Registry:
    """Draws the registry; the same arguments give the same one."""
    n, habits = len(hard.vectors), HABITS
    rng = np.random.default_rng([seed, _REGISTRY])
    lines = np.concatenate([np.arange(n), np.flatnonzero(rng.random(n) < habits.second_line)])
    shares = 1 / np.arange(1, _OUTLETS + 1)
    outlets = rng.choice(_OUTLETS, len(lines), p=shares / shares.sum())
    days = np.where(rng.random(_DAYS) < 0.05, 8.0, 1.0)
    minutes = rng.choice(_DAYS, len(lines), p=days / days.sum()) * 24 * 60
    minutes += rng.integers(0, _OPEN_MINUTES, len(lines))
    families = np.minimum(rng.zipf(1.5, n), 9_999)
    given = rng.integers(0, 50_000, n)
    births = rng.integers(0, 56 * 365, n)
    passports = np.where(rng.random(n) < habits.passport, rng.integers(0, 10**9, n), -1)
    misspelt = np.zeros(n, np.bool_)
    disputed = rng.random(len(lines)) < habits.disputed

    def bring(first: int, row: int, chance: float, visit: float, day: float, here: float) -> None:
        """The first line of a row where and when the first one's was, by these shares."""
        if chance < here:
            outlets[row] = outlets[first]
            away = rng.integers(1, 10) if chance < visit else rng.integers(10, 480)
            far = rng.integers(-90 * 24 * 60, 90 * 24 * 60)
            minutes[row] = minutes[first] + (away if chance < visit + day else far)

    for rows in hard.rings:
        first = int(rows[0])
        if rng.random() < habits.ring_passports:
            passports[rows] = rng.integers(0, 10**9 - 30) + rng.permutation(30)[: len(rows)]
        disputed[rows] = rng.random(len(rows)) < habits.ring_disputed
        for row in rows[1:].tolist():
            shares_of = (habits.ring_visit, habits.ring_day, habits.ring_outlet)
            bring(first, row, rng.random(), *shares_of)
            if rng.random() < habits.ring_name:
                families[row], given[row], misspelt[row] = families[first], given[first], True
            if rng.random() < habits.ring_birth:
                births[row] = births[first]
    for first, row in hard.siblings.tolist():
        here = habits.sibling_visit + habits.sibling_outlet
        bring(first, row, rng.random(), habits.sibling_visit, 0.0, here)
        families[row] = families[first]
    order = np.argsort(lines, kind="stable")
    openings = Openings(
        lines[order], outlets[order].astype(np.int32), minutes[order], disputed[order]
    )
    return Registry(openings, families, given, births, passports, misspelt)


def measure_budgets(plan: SweepConfig, folder: Path) -> SuiteOutput:
    """The rings in the first groups, by the ratio and by the score; checkpoints go to `folder`."""
    hard = plant_hard(plan)
    curve = load_calibration(Settings()).curve(Comparison.FUSED)
    threshold, scanner = curve.points[-1].threshold, Scanner()
    gallery = build_gallery(hard.vectors, scanner)
    joined, join_s = clock(
        lambda: join_gallery(gallery, threshold, checkpoint=folder / "budgets").pairs
    )
    registry = register(hard, plan.seed)
    terms = BudgetTerms(
        budget=max(BUDGETS),
        threshold=threshold,
        references=plan.references,
        ratio=ScoreRatio.of(curve),
        openings=registry.openings,
        read_particulars=registry.read,
        judged=np.empty((0, 2), np.int64),
    )
    ranking, rank_s = clock(lambda: _rank(joined, terms, gallery))
    by_score = _rank_by_score(joined, terms, gallery)
    scanner.close()
    setup = describe_faces(plan.references, hard.vectors.shape[1], plan.seed)
    setup |= {"rings": plan.hard_rings, "pairs of siblings": plan.siblings}
    found = {
        name: [_count_rings(groups[:budget], hard.rings) for budget in BUDGETS]
        for name, groups in (("ratio", ranking.groups), ("score", by_score))
    }
    costs = (
        Figure("pairs found", "pairs", float(ranking.candidates.found)),
        Figure("peak of memory, gallery and all", "GB", read_peak_bytes() / 1e9),
    )
    rings = (*_compare(found), *_list_siblings(ranking, hard))
    results = (
        Result("What a budget of cases costs", setup, costs),
        Result("Rings in a budget", setup, rings),
        Result("The share that is expected", setup, tuple(_expect(ranking.groups, hard.rings))),
    )
    return results, {
        "budget_gain": found["ratio"][1] / max(found["score"][1], 1),
        "ranking_share": rank_s / join_s,
    }


def _rank(joined: Pairs, terms: BudgetTerms, gallery: Gallery) -> Ranking:
    return rank_within_budget(
        lambda: _read(joined),
        terms,
        make_facts(terms.references),
        earlier=PairTable(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)),
        read_vectors=gallery.held,
    )


def _rank_by_score(joined: Pairs, terms: BudgetTerms, gallery: Gallery) -> list[Group]:
    """The same groups by the score of their strongest pair: nothing is known of openings."""
    none = np.empty(0, np.int64)
    nothing = Openings(none, none.astype(np.int32), none, none.astype(np.bool_))
    facts = make_facts(terms.references)
    chosen = choose_pairs(lambda: _read(joined), replace(terms, openings=nothing), facts)
    groups = group_faces(
        chosen.pairs, terms.threshold, facts, read_vectors=gallery.held, is_whole=False
    )
    return sorted(groups, key=lambda one: (-max(x.score for x in one.links), one.key))


def _read(joined: Pairs) -> Iterator[PairTable]:
    for piece in joined.pieces():
        yield PairTable(*(np.ascontiguousarray(piece[name]) for name in ("left", "right", "score")))


def _number_rings(rings: Sequence[Rows]) -> Mapping[int, int]:
    return {row: number for number, rows in enumerate(rings) for row in rows.tolist()}


def _count_rings(groups: Sequence[Group], rings: Sequence[Rows]) -> int:
    """Rings of which a group holds two identities at least."""
    ring_of = _number_rings(rings)
    return len({ring for group in groups for ring in _rings_of(group, ring_of)})


def _rings_of(group: Group, ring_of: Mapping[int, int]) -> set[int]:
    found = [ring_of.get(one.reference_ids[0], -1) for one in group.identities]
    return {ring for ring in found if ring >= 0 and found.count(ring) > 1}


def _compare(found: Mapping[str, Sequence[int]]) -> Iterator[Figure]:
    for budget, ratio, score in zip(BUDGETS, found["ratio"], found["score"], strict=True):
        gain = ratio / max(score, 1)
        yield Figure(f"{budget:,} groups by score alone", "rings", float(score), ratio=1.0)
        yield Figure(f"{budget:,} groups by likelihood ratio", "rings", float(ratio), ratio=gain)


def _list_siblings(ranking: Ranking, hard: HardRings) -> Iterator[Figure]:
    """Honest families are what is suspicious beyond the score, too."""
    sibling_of = dict(hard.siblings.tolist())
    for budget in BUDGETS:
        members = ({x.reference_ids[0] for x in one.identities} for one in ranking.groups[:budget])
        count = sum(any(sibling_of.get(row) in rows for row in rows) for rows in members)
        yield Figure(f"siblings in the {budget:,} best", "groups", float(count))


def _expect(groups: Sequence[Group], rings: Sequence[Rows]) -> Iterator[Figure]:
    """What those decided say of the others, and what is true of these."""
    ring_of = _number_rings(rings)
    judged = [(group.risk, bool(_rings_of(group, ring_of))) for group in groups]
    decided = judged[::_DECIDED]
    for budget in BUDGETS:
        left = [one for place, one in enumerate(judged[:budget]) if place % _DECIDED]
        expected = expect_true([risk for risk, _ in left], decided)
        true = sum(is_true for _, is_true in left) / max(len(left), 1)
        yield Figure(f"of the {budget:,} best, true", "share", true)
        if expected["share"] is not None:
            yield Figure(f"of the {budget:,} best, expected", "share", expected["share"])
            yield Figure(f"of the {budget:,} best, expected at least", "share", expected["low"])
            yield Figure(f"of the {budget:,} best, expected at most", "share", expected["high"])
