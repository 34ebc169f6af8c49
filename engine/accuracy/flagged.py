"""What looks wrong in the data: one picture twice, one person under two names, a wrong photograph.

Nothing is left out for it: every figure of an evaluation counts all photographs as they are
labelled, and `Cleaned` says beside them what the flagged comparisons make of the rates.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.accuracy.error_rates import false_nonmatch_rate, lowest_rate, thresholds_at
from engine.accuracy.likeness import ONE_PICTURE, compare_prints
from engine.accuracy.pair_scores import Comparisons, find_close_strangers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from engine.accuracy.dataset import Embeddings
    from engine.accuracy.pair_scores import PairScores, Templates


CLOSE = 0.9
"""From this score on two photographs are looked at as one picture: no model tells copies apart."""
MATE_QUANTILE = 0.25
"""Strangers who score as high as three quarters of the mates do may be one person."""
MOST_SUSPECTS = 1000
"""Pairs of strangers, the highest; a model that tells nobody apart would flag all."""
APART_FMR = 1e-2
"""Below its threshold a photograph's scores with its own person are those of a stranger."""
LEAST_OTHERS = 2
"""Of its own person, that a photograph must be unlike to be called out of place."""


class Flag(StrEnum):
    """Why a pair of photographs, or one alone, is flagged."""

    SAME_FILE = "same_file"
    SAME_PICTURE = "same_picture"
    TWO_NAMES = "two_names"
    OUT_OF_PLACE = "out_of_place"


@dataclass(frozen=True, slots=True)
class FlaggedPair:
    """Photographs `left` and `right` by their places in the folder; `right` is -1 where alone.

    `likeness` of the pictures, `score` of the faces; of a photograph out of place `score` is the
    median of its scores with its own person, and `right` a stranger's that may show the same one.
    """

    flag: Flag
    left: int
    right: int
    is_across_people: bool
    score: float | None
    likeness: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Flagged:
    """All that was flagged, the surest first.

    `same_pictures` and `strangers` are rows of templates. From `suspect_score` on strangers are
    flagged as perhaps one person; the share `mates_reaching` of mated pairs is there too.
    """

    pairs: tuple[FlaggedPair, ...]
    suspect_score: float
    mates_reaching: float
    same_pictures: Comparisons
    strangers: Comparisons

    def count(self) -> dict[str, dict[str, int]]:
        """By flag: pairs within a person, and across people."""
        counted = Counter((pair.flag, pair.is_across_people) for pair in self.pairs)
        return {
            flag.value: {
                "within_person": counted[flag, False],
                "across_people": counted[flag, True],
            }
            for flag in Flag
        }

    def to_rows(self, embeddings: Embeddings) -> list[dict[str, Any]]:
        """The pairs with the paths of their photographs, which may name people."""
        folder = embeddings.folder

        def name(place: int) -> str | None:
            return None if place < 0 else folder.paths[place].relative_to(folder.root).as_posix()

        return [
            {
                "flag": pair.flag.value,
                "photograph": name(pair.left),
                "other": name(pair.right),
                "across_people": pair.is_across_people,
                "score": pair.score,
                "likeness": pair.likeness,
            }
            for pair in self.pairs
        ]


def flag_data(
    embeddings: Embeddings, singles: Templates, mated: Comparisons, nonmated: NDArray[np.float32]
) -> Flagged:
    """`mated` are all of `singles`, `nonmated` the scores of all its strangers."""
    rates = np.array([APART_FMR, min(MOST_SUSPECTS / len(nonmated), 0.5)])
    apart, crowded = map(float, thresholds_at(nonmated, rates))
    suspect = max(float(np.quantile(mated.scores, MATE_QUANTILE)), crowded)
    strangers = find_close_strangers(singles, max(min(suspect, CLOSE), crowded))
    pictures, likeness = _find_pictures(embeddings, mated, strangers)
    suspects = strangers.keep(strangers.scores >= suspect)
    pairs = [
        *_flag_files(embeddings),
        *_flag_pictures(embeddings, pictures, likeness),
        *_flag_names(embeddings, suspects),
        *_flag_places(embeddings, singles, mated, apart, suspect),
    ]
    reaching = float((mated.scores >= suspect).mean())
    return Flagged(_first_flags(pairs), suspect, reaching, pictures, suspects)


def _first_flags(pairs: list[FlaggedPair]) -> tuple[FlaggedPair, ...]:
    """Each pair under its surest flag alone."""
    kept: dict[tuple[int, int, bool], FlaggedPair] = {}
    for pair in pairs:
        kept.setdefault((pair.left, pair.right, pair.flag is Flag.OUT_OF_PLACE), pair)
    return tuple(kept.values())


def _find_pictures(
    embeddings: Embeddings, mated: Comparisons, strangers: Comparisons
) -> tuple[Comparisons, NDArray[np.float32]]:
    """Comparisons of one picture with itself, and how alike their crops are."""
    close = Comparisons(
        np.concatenate([mated.left, strangers.left]),
        np.concatenate([mated.right, strangers.right]),
        np.concatenate([mated.scores, strangers.scores]),
    )
    close = close.keep(close.scores >= CLOSE)
    prints = embeddings.prints[embeddings.places]
    alike = compare_prints(prints, close.left, close.right) if len(close) else close.scores
    return close.keep(alike >= ONE_PICTURE), alike[alike >= ONE_PICTURE]


def _flag_files(embeddings: Embeddings) -> list[FlaggedPair]:
    """Every file that has the bytes of an earlier one, with the first that has them."""
    people = embeddings.folder.people
    first: dict[bytes, int] = {}
    pairs = []
    for place, digest in enumerate(embeddings.digests):
        earlier = first.setdefault(digest, place)
        if earlier != place and embeddings.reasons[place] != ("IMAGE.DAMAGED",):
            across = bool(people[earlier] != people[place])
            pairs.append(FlaggedPair(Flag.SAME_FILE, earlier, place, across, None, 1.0))
    return pairs


def _flag_pictures(
    embeddings: Embeddings, pictures: Comparisons, likeness: NDArray[np.float32]
) -> list[FlaggedPair]:
    places, people = embeddings.places, embeddings.folder.people
    pairs = []
    for row in np.argsort(-likeness, kind="stable"):
        left, right = places[pictures.left[row]], places[pictures.right[row]]
        across = bool(people[left] != people[right])
        score, alike = float(pictures.scores[row]), float(likeness[row])
        pairs.append(FlaggedPair(Flag.SAME_PICTURE, int(left), int(right), across, score, alike))
    return pairs


def _flag_names(embeddings: Embeddings, suspects: Comparisons) -> list[FlaggedPair]:
    places = embeddings.places
    return [
        FlaggedPair(
            Flag.TWO_NAMES,
            int(places[suspects.left[row]]),
            int(places[suspects.right[row]]),
            True,
            float(suspects.scores[row]),
            None,
        )
        for row in np.argsort(-suspects.scores, kind="stable")
    ]


def _flag_places(
    embeddings: Embeddings,
    singles: Templates,
    mated: Comparisons,
    apart: float,
    suspect: float,
) -> list[FlaggedPair]:
    """Photographs unlike their person's others, which are like one another."""
    count = len(singles.people)
    rows = np.concatenate([mated.left, mated.right])
    scores = np.concatenate([mated.scores, mated.scores])
    order = np.lexsort((scores, rows))
    others = np.bincount(rows, minlength=count)
    starts = np.cumsum(others) - others
    medians = np.full(count, np.inf)
    has_others = np.flatnonzero(others >= LEAST_OTHERS)
    medians[has_others] = scores[order][starts[has_others] + others[has_others] // 2]
    found = []
    for row in np.flatnonzero(medians < apart):
        own = np.flatnonzero((singles.people == singles.people[row]) & (np.arange(count) != row))
        between = singles.vectors[own] @ singles.vectors[own].T
        if np.median(between[np.triu_indices(len(own), 1)]) < apart:
            continue
        against = singles.vectors @ singles.vectors[row]
        against[singles.people == singles.people[row]] = -1
        nearest = int(against.argmax())
        is_known = against[nearest] >= suspect
        found.append(
            FlaggedPair(
                Flag.OUT_OF_PLACE,
                int(embeddings.places[row]),
                int(embeddings.places[nearest]) if is_known else -1,
                bool(is_known),
                float(medians[row]),
                None,
            )
        )
    return sorted(found, key=lambda pair: pair.score or 0.0)


# What the flagged comparisons do to the rates: the same table without them.
#
# It is no better estimate: strangers are flagged by their score, so a rate without them is the
# lowest that could be true. The truth lies between both.


@dataclass(frozen=True, slots=True)
class CleanedRate:
    """The threshold that keeps a false match rate, and the FNMR there."""

    threshold: float
    fnmr: float


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Without mated comparisons of one picture, and without all of two people flagged as one.

    `rates` by their names; None where not supported.
    """

    mated_pairs: int
    nonmated_pairs: int
    pairs_of_people: int
    rates: dict[str, CleanedRate | None]


def leave_out(
    scores: PairScores,
    mated: Comparisons,
    flagged: Flagged,
    singles: Templates,
    rates: Mapping[str, float],
) -> Cleaned:
    """`mated` in the order of `scores.mated`."""
    doubtful = flag_people(flagged, singles)
    nonmated = scores.nonmated[~np.isin(scores.nonmated_people, doubtful)]
    kept = scores.mated[~_are_one_picture(mated, flagged, len(singles.people))]
    known = {n: r for n, r in rates.items() if r >= lowest_rate(len(nonmated)) * (1 - 1e-9)}
    found: dict[str, CleanedRate | None] = dict.fromkeys(rates)
    if known and len(kept):
        thresholds = thresholds_at(nonmated, np.array(list(known.values())))
        for name, threshold in zip(known, map(float, thresholds), strict=True):
            found[name] = CleanedRate(threshold, false_nonmatch_rate(kept, threshold))
    return Cleaned(len(kept), len(nonmated), len(doubtful) // 2, found)


def flag_people(flagged: Flagged, singles: Templates) -> NDArray[np.int64]:
    """int64[k]: the codes `left * population + right` of people flagged as one, both ways."""
    codes = []
    for pairs in (flagged.strangers, flagged.same_pictures):
        left, right = singles.people[pairs.left], singles.people[pairs.right]
        apart = left != right
        codes.append(left[apart] * singles.population + right[apart])
        codes.append(right[apart] * singles.population + left[apart])
    return np.unique(np.concatenate(codes))


def _are_one_picture(mated: Comparisons, flagged: Flagged, count: int) -> NDArray[np.bool_]:
    """bool[k]: mated comparisons of a picture with itself."""
    pictures = flagged.same_pictures
    codes = pictures.left * count + pictures.right
    return np.isin(mated.left * count + mated.right, codes)
