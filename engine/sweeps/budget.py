"""The groups that a budget has room for: those with the highest likelihood ratio.

Pairs are read in pieces from where the join has put them, and never held all at once: first to
count how often strangers share a circumstance, then to keep the best by score, openings and
disputes. Only the documents of these, and of a sample of strangers, are opened for names and
numbers; of them nothing is kept but which circumstance holds.

A group ranks by its strongest pair. Each further identity adds what it is likelier than not to be
the same person, and takes nothing away.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from engine.accuracy.pair_scores import wilson_interval
from engine.sweeps.clustering import Documents, ReadVectors, mark_exceptions
from engine.sweeps.groups import FaceFacts, group_faces, strongest_tree
from engine.sweeps.likelihood import (
    CIRCUMSTANCES,
    DISPUTE,
    EVEN_POINTS,
    NEAR_CIRCUMSTANCES,
    OPENING,
    POINTS_A_DECADE,
    SECOND_IDENTITIES,
    STRANGERS,
    UNKNOWN,
    Codes,
    Estimate,
    Openings,
    ReadParticulars,
    ScoreRatio,
    compare_particulars,
    estimate,
    log_ratios,
    prior_log_odds,
)
from indexes.base import Doubles, Flags, Ints, concatenated
from indexes.joining import NO_PAIRS, Records
from schema import frozen
from schema.sweeps import Group, RiskTerm

PAIRS_A_CASE = 20
"""So many pairs are looked into for each case, before names and numbers are known."""
STRANGERS_A_CASE = 300
"""A budgeted sweep's threshold lets so many pairs of strangers in for each case."""
MOST_STRANGERS = 2_000_000
"""But never more: 40 MB on the disk."""
SAMPLE = 5_000
"""Pairs of strangers whose names and numbers are looked at."""
DECIDED_TOGETHER = 25
"""Of so many decided groups one share of true ones is taken."""
_SCATTER = np.uint64(0x9E3779B97F4A7C15)

Pieces = Callable[[], Iterable[Records]]
"""All pairs found, in pieces; can be called again."""


@frozen(kw_only=True, eq=False)
class BudgetTerms:
    """Terms of a ranking: `judged` int64[k, 2] are documents that people found to be one person's,
    by no sweep with a budget."""

    budget: int
    threshold: float
    references: int
    ratio: ScoreRatio
    openings: Openings
    read_particulars: ReadParticulars
    judged: Documents


@frozen(kw_only=True, eq=False)
class Candidates:
    """The best pairs, and what was counted on the way.

    `strangers` int64[k, 2]: a sample of documents of pairs with low scores. `estimates` by
    circumstance; `excess` as of `Openings.find_excess`.
    """

    pairs: Records
    strangers: Documents
    estimates: dict[str, list[Estimate]]
    excess: Doubles
    found: int
    same_document: int
    excepted: int


@frozen(kw_only=True, eq=False)
class Ranking:
    """The groups within a budget, of `considered` ones, with how their terms were estimated."""

    groups: list[Group]
    considered: int
    candidates: Candidates
    estimates: tuple[Estimate, ...]
    opened: int

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, without a document."""
        return {
            "considered": self.considered,
            "pairs_found": self.candidates.found,
            "pairs_kept": len(self.candidates.pairs),
            "documents_opened": self.opened,
            "unknown": sorted(set(CIRCUMSTANCES) - {one.circumstance for one in self.estimates}),
            "estimates": [asdict(one) | {"ratio": one.ratio} for one in self.estimates],
        }


def rank_within_budget(
    pieces: Pieces,
    terms: BudgetTerms,
    facts: FaceFacts,
    *,
    earlier: Records,
    read_vectors: ReadVectors,
    fresh: Ints | None = None,
    decided: Collection[tuple[str, str]] = (),
) -> Ranking:
    """The groups of one face with the highest ratio, at most `terms.budget`.

    `earlier` pairs are of sweeps before, and `fresh` as in `group_faces`. A group whose links are
    all among the `decided` pairs of documents would be asked again: it takes no place.
    """
    candidates = choose_pairs(pieces, terms, facts)
    pairs = np.concatenate([earlier, candidates.pairs])
    groups = group_faces(
        pairs, terms.threshold, facts, read_vectors=read_vectors, fresh=fresh, is_whole=False
    )
    groups = [group for group in groups if not _is_decided(group, decided)]
    ranked, estimates, opened = _assess(groups, candidates, terms, facts)
    return Ranking(
        groups=ranked[: terms.budget],
        considered=len(groups),
        candidates=candidates,
        estimates=tuple(estimates),
        opened=opened,
    )


def choose_threshold(ratio: ScoreRatio, budget: int, comparisons: int, loosest: float) -> float:
    """The score that about `STRANGERS_A_CASE` pairs of strangers reach for each case of a budget,
    but not more than the rate `loosest` of them."""
    strangers = min(STRANGERS_A_CASE * budget, MOST_STRANGERS)
    return ratio.score_at(min(strangers / max(comparisons, 1), loosest))


def choose_pairs(pieces: Pieces, terms: BudgetTerms, facts: FaceFacts) -> Candidates:
    """The pairs between two documents with the highest ratio of score, openings and disputes."""
    low_rate = float(terms.ratio.log_rate(np.array([terms.threshold]))[0]) + math.log10(STRANGERS)
    low = terms.ratio.score_at(10**low_rate)
    codes: dict[str, list[Codes]] = {name: [] for name in NEAR_CIRCUMSTANCES}
    strangers = np.empty((0, 2), np.int64)
    shared: list[Ints] = []
    found = same_document = excepted = 0
    for piece in pieces():
        one, other, is_between, is_excepted = _place(piece, facts)
        found += int(is_between.sum())
        excepted += int(is_excepted.sum())
        same_document += int(((one == other) & (one >= 0)).sum())
        is_low = is_between & ~is_excepted & (piece["score"] < low)
        near, places = _compare_near(one[is_low], other[is_low], terms.openings)
        for name, values in near.items():
            codes[name].append(values.astype(np.int8))
        shared.append(places[places >= 0])
        strangers = _sample(strangers, one[is_low], other[is_low])
    judged, _ = _compare_near(terms.judged[:, 0], terms.judged[:, 1], terms.openings)
    excess = terms.openings.find_excess(concatenated(shared))
    estimates = {name: estimate(name, concatenated(codes[name]), judged[name]) for name in codes}
    return Candidates(
        pairs=_keep_best(pieces, terms, facts, estimates, excess),
        strangers=strangers,
        estimates=estimates,
        excess=excess,
        found=found,
        same_document=same_document,
        excepted=excepted,
    )


def _keep_best(
    pieces: Pieces,
    terms: BudgetTerms,
    facts: FaceFacts,
    estimates: Mapping[str, list[Estimate]],
    excess: Doubles,
) -> Records:
    most = PAIRS_A_CASE * terms.budget
    values = np.empty(0)
    kept = NO_PAIRS
    for piece in pieces():
        one, other, is_between, is_excepted = _place(piece, facts)
        wanted = is_between & ~is_excepted
        more, one, other = piece[wanted], one[wanted], other[wanted]
        found = terms.ratio.log_ratio(more["score"].astype(np.float64))
        near, places = _compare_near(one, other, terms.openings)
        for name, codes in near.items():
            found += log_ratios(codes, estimates[name], excess[places] if name == OPENING else 0.0)
        values = np.concatenate([values, found])
        kept = np.concatenate([kept, more])
        # Ties by score, then by ids: the same gallery gives the same pairs.
        best = np.lexsort((kept["right"], kept["left"], -kept["score"], -values))[:most]
        values = values[best]
        kept = kept[best]
    return kept


def _place(piece: Records, facts: FaceFacts) -> tuple[Documents, Documents, Flags, Flags]:
    """The documents of both sides, and which pairs are between two, and which judged apart."""
    one, other = facts.owners.of(piece["left"]), facts.owners.of(piece["right"])
    is_between = (one >= 0) & (other >= 0) & (one != other)
    return one, other, is_between, is_between & mark_exceptions(one, other, facts.exceptions)


def _compare_near(
    one: Documents, other: Documents, openings: Openings
) -> tuple[dict[str, Codes], Ints]:
    """The values of pairs, and the outlets that they share."""
    opened, places = openings.compare(one, other)
    return {OPENING: opened, DISPUTE: openings.list_disputes(one, other)}, places


def _sample(kept: Documents, one: Documents, other: Documents) -> Documents:
    """At most `SAMPLE` pairs, chosen by their numbers alone: in any order the same ones."""
    both = np.concatenate([kept, np.stack([one, other], axis=1)])
    keys = (both[:, 0].astype(np.uint64) << np.uint64(32)) ^ both[:, 1].astype(np.uint64)
    keys *= _SCATTER
    return both[np.argsort(keys, kind="stable")[:SAMPLE]]


def _is_decided(group: Group, decided: Collection[tuple[str, str]]) -> bool:
    return all(
        (min(link.left, link.right), max(link.left, link.right)) in decided for link in group.links
    )


def _assess(
    groups: Sequence[Group], candidates: Candidates, terms: BudgetTerms, facts: FaceFacts
) -> tuple[list[Group], list[Estimate], int]:
    """The groups with their terms, by ratio; the estimates; and how many documents were opened."""
    ends, scores = _read_links(groups, facts)
    pairs = np.concatenate([ends, candidates.strangers, terms.judged])
    documents = np.unique(pairs)
    known = terms.read_particulars(documents)
    one, other = pairs[:, 0], pairs[:, 1]
    near, places = _compare_near(one, other, terms.openings)
    codes = near | compare_particulars(one, other, known)
    until = len(ends) + len(candidates.strangers)
    estimates = dict(candidates.estimates)
    for name in set(CIRCUMSTANCES) - set(estimates):
        estimates[name] = estimate(name, codes[name][len(ends) : until], codes[name][until:])
    scores = terms.ratio.log_ratio(scores)
    less = {OPENING: candidates.excess[places[: len(ends)]]}
    parts = {
        name: log_ratios(codes[name][: len(ends)], estimates[name], less.get(name, 0.0))
        for name in CIRCUMSTANCES
    }
    totals = scores + sum(parts.values())
    prior = prior_log_odds(terms.references)
    first = _term("prior", prior, terms.references / SECOND_IDENTITIES, EVEN_POINTS)
    ranked: list[tuple[float, Group]] = []
    start = 0
    for group in groups:
        rows = range(start, start + len(group.links))
        start += len(rows)
        best, *others = [rows[place] for place in _span(group, totals[rows.start : rows.stop])]
        found = [first, _term("score_ratio", float(scores[best]))]
        told = {name: int(codes[name][best]) for name in CIRCUMSTANCES if estimates[name]}
        found += [
            _term(estimates[name][code].value, float(parts[name][best]))
            for name, code in told.items()
            if code != UNKNOWN
        ]
        if others:
            more = sum(max(float(totals[row]) + prior, 0.0) for row in others)
            found.append(_term("further_identities", more, float(len(others))))
        ranked.append(_sum_up(group, found))
    ranked.sort(key=_order)
    return (
        [group for _, group in ranked],
        [one for name in CIRCUMSTANCES for one in estimates[name]],
        len(known),
    )


def _read_links(groups: Sequence[Group], facts: FaceFacts) -> tuple[Documents, Doubles]:
    """The documents of both ends of all links, int64[links, 2], and their scores."""
    numbers = {
        one.document_id: int(number)
        for group in groups
        for one, number in zip(
            group.identities,
            facts.owners.of_any([one.reference_ids for one in group.identities]).tolist(),
            strict=True,
        )
    }
    links = [link for group in groups for link in group.links]
    ends = np.array([(numbers[x.left], numbers[x.right]) for x in links], np.int64).reshape(-1, 2)
    return ends, np.array([link.score for link in links], np.float64)


def _order(ranked: tuple[float, Group]) -> tuple[float, float, str]:
    """The most points first, then the highest score."""
    points, group = ranked
    return -points, -max(link.score for link in group.links), group.key


def _sum_up(group: Group, terms: Sequence[RiskTerm]) -> tuple[float, Group]:
    """The points of all terms, and the group with its terms and its risk."""
    total = sum(term.points for term in terms)
    return total, replace(group, terms=tuple(terms), risk=round(min(max(total, 0.0), 100.0), 1))


def _span(group: Group, totals: Doubles) -> list[int]:
    """Places of the links of a group's maximum spanning tree by ratio, the strongest first."""
    places = {one.document_id: place for place, one in enumerate(group.identities)}
    edges = [(places[link.left], places[link.right]) for link in group.links]
    return strongest_tree(len(places), edges, totals.tolist())


def _term(name: str, log_ratio: float, value: float | None = None, points: float = 0.0) -> RiskTerm:
    """`value` is the ratio unless another is given; `points` are added to those of the ratio."""
    shown = 10**log_ratio if value is None else value
    return RiskTerm(name, shown, round(points + POINTS_A_DECADE * log_ratio, 1))


def expect_true(risks: Iterable[float], decided: Iterable[tuple[float, bool]]) -> dict[str, Any]:
    """The share of groups with these risks that are expected to be true, with its 95 % interval, by
    the `decided` ones of sweeps with a budget: their risk, and whether they were fraud.

    Groups are held against the `DECIDED_TOGETHER` of nearest risk. One of less risk than any that
    was decided may be either, which widens the interval; `share` is None where most are.
    """
    ordered = sorted(decided, reverse=True)
    size = DECIDED_TOGETHER
    bands = [ordered[start : start + size] for start in range(0, len(ordered) - size + 1, size)]
    edges = [-band[-1][0] for band in bands]
    rates = [
        (true / size, *wilson_interval(true, size))
        for true in (sum(is_true for _, is_true in band) for band in bands)
    ]
    places = [bisect_left(edges, -risk) for risk in risks]
    known = [rates[place] for place in places if place < len(rates)]
    total = len(places)
    if 2 * len(known) <= total:
        return {"share": None, "low": None, "high": None, "decided": len(ordered)}
    value, low, high = (sum(column) for column in zip(*known, strict=True))
    return {
        "share": value / len(known),
        "low": low / total,
        "high": (high + total - len(known)) / total,
        "decided": len(ordered),
    }
