"""A budget keeps what is suspicious beyond its score, and says by what."""

import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import CalibrationError
from engine.matching.documents import read_birth, read_serial
from engine.registry.database import new_id
from engine.sweeps import budget, likelihood
from engine.sweeps.budget import BudgetTerms, Ranking, expect_true, rank_within_budget
from engine.sweeps.clustering import Owners
from engine.sweeps.folder import SweepFolder
from engine.sweeps.groups import FaceFacts, without_documents
from engine.sweeps.likelihood import (
    CIRCUMSTANCES,
    NAME,
    NUMBER,
    OPENING,
    PERSON,
    UNKNOWN,
    Openings,
    Particulars,
    ScoreRatio,
    compare_particulars,
    estimate,
    log_ratios,
)
from engine.sweeps.sweep_run import SweepResult, SweepTask, run_sweep
from indexes.joining import NO_PAIRS, RECORD, Records
from indexes.joining.join import join_gallery
from schema.cases import Outcome
from schema.sweeps import Identity, SweepScope, SweepTerms
from tests.engine.curves import make_curve
from tests.engine.sweeps.synthetic_registry import faces, other_photographs
from tests.engine.sweeps.test_estimate import CURVE, LAST

THRESHOLD = 0.5
CLOSE, FAR = 0.52, 0.55
PEOPLE = 2_000
NONE = np.empty(0, np.int64)


def table(*pairs: tuple[int, int, float]) -> Records:
    return np.array(list(pairs), RECORD)


def openings(minutes: Mapping[int, tuple[int, int]], people: int = PEOPLE) -> Openings:
    """A line each: at an outlet of its own and long ago, but where outlet and minute are given."""
    rows = np.arange(people)
    told = [minutes.get(row, (row, -row * 100_000)) for row in rows.tolist()]
    outlets, moments = np.array(told, np.int64).T
    return Openings(rows, outlets.astype(np.int32), moments, np.zeros(people, np.bool_))


def identities_of(references: object) -> list[Identity]:
    return [Identity(f"{row:05d}", (row,)) for row in references]  # type: ignore[attr-defined]


def nothing_near(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Faces of which no two score anything but the pairs that are given."""
    return rows, np.zeros((len(rows), 8), np.float32)


def rank(pairs: Records, known: Openings, **given: object) -> Ranking:
    rows = np.arange(PEOPLE)
    facts = FaceFacts(Owners(rows, rows), np.empty((0, 2), np.int64), identities_of)
    terms = BudgetTerms(
        budget=5,
        threshold=THRESHOLD,
        references=PEOPLE,
        ratio=ScoreRatio.of(CURVE),
        openings=known,
        read_particulars=lambda _: {},
        judged=np.empty((0, 2), np.int64),
    )
    terms = replace(terms, **{key: given.pop(key) for key in list(given) if hasattr(terms, key)})

    def pieces() -> Iterator[Records]:
        for start in range(0, len(pairs), 100):
            yield pairs[start : start + 100]

    return rank_within_budget(
        pieces, terms, facts, earlier=NO_PAIRS, read_vectors=nothing_near, **given
    )


def strangers(count: int = 400, first: int = 200) -> list[tuple[int, int, float]]:
    """Pairs that score just above the threshold, from which shares of strangers are read."""
    return [(first + 2 * i, first + 2 * i + 1, THRESHOLD + 1e-4) for i in range(count)]


def members(ranking: Ranking) -> list[tuple[int, ...]]:
    return [tuple(x.reference_ids[0] for x in one.identities) for one in ranking.groups]


def test_a_ratio_never_falls_with_the_score_and_follows_the_calibrated_rates() -> None:
    ratio = ScoreRatio.of(CURVE)
    scores = np.linspace(0.2, 1.0, 400)
    assert (np.diff(ratio.log_ratio(scores)) >= -1e-9).all()
    for each in CURVE.points:
        assert ratio.log_rate(np.array([each.threshold]))[0] == pytest.approx(np.log10(each.fmr))
        assert ratio.score_at(each.fmr) == pytest.approx(each.threshold)


def test_beyond_the_calibration_the_rate_falls_on_for_two_decades_and_no_further() -> None:
    ratio = ScoreRatio.of(CURVE)
    beyond = np.array([LAST.threshold + 0.12, LAST.threshold + 0.2, 1.0])
    assert ratio.log_rate(beyond) == pytest.approx(np.log10(LAST.fmr) - 2)
    assert ratio.score_at(1e-30) == pytest.approx(LAST.threshold + 0.12)


def test_a_calibration_without_a_slope_is_refused() -> None:
    with pytest.raises(CalibrationError, match="less than a decade"):
        ScoreRatio.of(make_curve([(1e-3, 0.4), (5e-4, 0.42)]))


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ((7, 1000), (7, 1010), "same_outlet_minutes"),
        ((7, 1000), (7, 1100), "same_outlet_day"),
        ((7, 1000), (7, 30_000), "same_outlet_month"),
        ((7, 1000), (7, 900_000), "same_outlet"),
        ((7, 1000), (8, 1000), "other_outlet"),
    ],
)
def test_openings_are_told_by_outlet_and_time(
    one: tuple[int, int], other: tuple[int, int], value: str
) -> None:
    codes, places = openings({0: one, 1: other}, 2).compare(np.array([0]), np.array([1]))
    assert places.tolist() == [7 if one[0] == other[0] else -1]
    assert list(CIRCUMSTANCES[OPENING])[codes[0]] == value


def test_of_many_lines_the_most_telling_two_count_and_without_lines_nothing_is_known() -> None:
    known = Openings(
        np.array([0, 0, 2, 2]),
        np.array([1, 2, 3, 2], np.int32),
        np.array([0, 50, 0, 60]),
        np.array([False, False, True, False]),
    )
    codes, places = known.compare(np.array([0, 1]), np.array([2, 2]))
    assert (codes.tolist(), places.tolist()) == ([0, UNKNOWN], [2, -1])
    assert known.list_disputes(np.array([0, 0]), np.array([2, 1])).tolist() == [0, 1]


def test_the_lines_of_many_pairs_are_compared_a_part_at_a_time(monkeypatch) -> None:
    generator = np.random.default_rng(5)
    documents = np.sort(generator.integers(0, 20, 90))
    known = Openings(
        documents,
        generator.integers(0, 4, 90).astype(np.int32),
        generator.integers(0, 40_000, 90),
        np.zeros(90, np.bool_),
    )
    one, other = generator.integers(0, 22, (2, 300))
    whole = known.compare(one, other)
    monkeypatch.setattr(likelihood, "AT_ONCE", 30)
    for first, second in zip(whole, known.compare(one, other), strict=True):
        assert first.tolist() == second.tolist()


def test_a_document_of_ten_thousand_lines_fits_in_memory() -> None:
    lines = 10_000
    rows = np.repeat([0, 1], lines)
    minutes = np.arange(2 * lines)
    known = Openings(rows, rows.astype(np.int32), minutes, np.zeros(2 * lines, np.bool_))
    tracemalloc.start()
    try:
        codes, _ = known.compare(np.array([0, 1]), np.array([1, 0]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(CIRCUMSTANCES[OPENING])[codes[0]] == "other_outlet"
    assert peak < 512 * 2**20


LI = Particulars("li wei", date(1990, 1, 2))


@pytest.mark.parametrize(
    ("other", "circumstance", "value"),
    [
        (Particulars("wei lii", date(1990, 1, 2)), PERSON, "alike_name_and_birth"),
        (Particulars("li wei", date(1991, 1, 2)), PERSON, "alike_name"),
        (Particulars("zhang min", date(1990, 1, 2)), PERSON, "same_birth"),
        (Particulars("li xiuying", date(1991, 1, 2)), PERSON, "other_name_and_birth"),
        (Particulars("li wei"), NAME, "similar_name"),
        (Particulars("zhang min"), NAME, "other_name"),
    ],
)
def test_names_and_birth_dates_are_one_circumstance(
    other: Particulars, circumstance: str, value: str
) -> None:
    found = compare_particulars(np.array([0]), np.array([1]), {0: LI, 1: other})
    assert list(CIRCUMSTANCES[circumstance])[found[circumstance][0]] == value
    assert sum(codes[0] != UNKNOWN for codes in found.values()) == 1


def test_what_a_document_says_is_in_no_repr() -> None:
    assert repr(replace(LI, serial=("UTO:L:7", 8988901))) == "Particulars()"


def test_a_name_that_many_bear_says_nothing() -> None:
    known = dict.fromkeys(range(likelihood.MOST_BEARERS + 1), LI)
    found = compare_particulars(np.array([0]), np.array([1]), known)
    assert found[PERSON][0] == found[NAME][0] == UNKNOWN


def test_only_numbers_of_one_series_are_compared() -> None:
    def number(one: str, other: str, kind: str = "passport") -> int:
        known = {
            row: Particulars(serial=read_serial(kind, text))
            for row, text in enumerate((one, other))
        }
        return int(compare_particulars(np.array([0]), np.array([1]), known)[NUMBER][0])

    assert number("UTO:L8988901", "UTO:L8988931") == 0
    assert number("UTO:L8988901", "UTO:L9988931") == 1
    assert number("UTO:L8988901", "XYZ:L8988931") == UNKNOWN
    # A national number tells birth, sex and place.
    assert number("11010519491231002X", "110105194912310038", "cn-ric") == UNKNOWN
    assert read_birth("cn-ric", "11010519491231002X") == date(1949, 12, 31)
    assert read_birth("passport", "UTO:L8988901") is None


def test_a_ratio_is_bounded_and_is_not_taken_from_few_strangers() -> None:
    codes = np.full(10_000, 4)
    rare = estimate(OPENING, codes, NONE)
    assert [one.judged for one in rare] == [0] * 5
    assert rare[0].ratio == likelihood.MOST_RATIO
    assert 0.4 < rare[4].ratio < 0.5
    # Where all share an outlet, it says nothing to share none.
    assert estimate(OPENING, np.zeros(10_000, np.int64), NONE)[4].ratio == 1
    assert estimate(OPENING, codes[: likelihood.LEAST_STRANGERS - 1], NONE) == []
    assert log_ratios(np.array([UNKNOWN, 0]), rare).tolist() == [0, 3]


def test_judged_pairs_correct_what_was_assumed() -> None:
    before, after = (
        estimate(OPENING, np.full(1_000, 4), np.full(count, 4))[4].mated for count in (0, 50)
    )
    assert before == CIRCUMSTANCES[OPENING]["other_outlet"]
    assert after == pytest.approx((before + 1) / 2)


def test_a_pair_with_a_shared_visit_comes_before_one_that_scores_more() -> None:
    pairs = table(*strangers(), (0, 1, CLOSE), (2, 3, FAR))
    known = openings({0: (7, 100), 1: (7, 105)})
    first, second = members(rank(pairs, known))[:2]
    assert (first, second) == ((0, 1), (2, 3))
    assert members(rank(pairs, openings({})))[0] == (2, 3)


def test_an_outlet_that_many_strangers_share_who_look_alike_says_less() -> None:
    there = {row: (7, -row * 100_000) for row in range(200, 400)}
    pairs = table(*strangers(), (0, 1, FAR), (2, 3, FAR))
    known = openings(there | {row: (7 if row < 2 else 8, row) for row in range(4)})
    # Of the size of the other, but for those who look alike.
    others = {row: (8, -row * 100_000) for row in range(1_400, 1_600)}
    both = openings(there | others | {row: (7 if row < 2 else 8, row) for row in range(4)})
    for each in (known, both):
        risks = {one.identities[0].reference_ids[0]: one.risk for one in rank(pairs, each).groups}
        assert risks[2] > risks[0]


def test_every_group_carries_the_terms_that_make_its_risk() -> None:
    pairs = table(*strangers(), (0, 1, FAR))
    group = rank(pairs, openings({0: (7, 100), 1: (7, 105)})).groups[0]
    terms = {term.name: term for term in group.terms}
    assert {"prior", "score_ratio", "same_outlet_minutes", "not_disputed"} == set(terms)
    assert terms["prior"].value == PEOPLE * 100
    assert group.risk == pytest.approx(sum(term.points for term in group.terms), abs=0.05)
    visit = terms["same_outlet_minutes"]
    assert visit.points == pytest.approx(5 * np.log10(visit.value), abs=0.06)


def test_a_further_identity_adds_and_never_takes_away() -> None:
    ring = [(0, 1, FAR), (0, 2, FAR), (1, 2, FAR)]
    doubtful = [(0, 1, FAR), (0, 2, THRESHOLD + 1e-3), (1, 2, THRESHOLD + 1e-3)]
    risks = [
        rank(table(*strangers(), *pairs), openings({})).groups[0].risk
        for pairs in ([(0, 1, FAR)], doubtful, ring)
    ]
    assert risks[0] == risks[1] <= risks[2]


def test_pairs_in_any_order_give_the_same_groups_within_the_budget() -> None:
    pairs = [*strangers(), *((i, i + 100, CLOSE + i / 1000) for i in range(20))]
    shuffled = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
    some, others = (rank(table(*each), openings({})) for each in (pairs, shuffled))
    assert some.groups == others.groups
    assert members(some) == [(19, 119), (18, 118), (17, 117), (16, 116), (15, 115)]
    assert some.candidates.found == len(pairs)
    assert len(some.candidates.pairs) == budget.PAIRS_A_CASE * 5


def test_what_was_decided_takes_no_place() -> None:
    pairs = table(*strangers(), (0, 1, FAR), (2, 3, CLOSE))
    assert members(rank(pairs, openings({}), decided={("00000", "00001")}))[0] == (2, 3)


def test_the_share_of_true_ones_needs_decided_groups_of_like_risk() -> None:
    decided = [(75.0, i % 4 > 0) for i in range(25)] + [(25.0, False)] * 45
    expected = expect_true([76.0, 78.0, 27.0, 26.0], decided)
    assert expected["share"] == pytest.approx(18 / 25 / 2)
    assert expected["low"] < expected["share"] < expected["high"]
    unlike = expect_true([15.0, 16.0, 76.0], decided)
    assert unlike["share"] is None
    assert unlike["decided"] == 70


@pytest.fixture
def sweep(registry, tmp_path) -> Callable[..., SweepResult]:
    """Sweeps the registry with a budget of three, all of it or what is new since another sweep."""

    def run(after: SweepResult | None = None) -> SweepResult:
        terms = SweepTerms(
            threshold=0.8, budget=3, scope=SweepScope.NEW if after else SweepScope.ALL
        )
        folder = SweepFolder.of(tmp_path / "sweeps", new_id())
        task = SweepTask(
            id=folder.path.name, terms=terms, folder=folder, known=after and after.covered
        )
        folder.make()
        curve = make_curve(
            [(10.0**-i, 0.2 * i) for i in (1, 2, 3, 4)],
            people=10,
            mated_pairs=10,
            nonmated_pairs=1_000,
            stranger_pairs=1_000,
            highest_nonmated=0.8,
        )
        join = partial(join_gallery, registry.gallery, tile_rows=50)
        near = registry.gallery.held
        return run_sweep(task, join, registry.store, read_vectors=near, curve=curve)

    return run


def test_a_registry_is_swept_within_its_budget_and_then_what_is_new(registry, sweep) -> None:
    rows = faces(40, 32)
    first = registry.enroll(rows)
    second = registry.enroll(other_photographs(rows[:8], seed=1))
    registry.judge(first[7], second[7], Outcome.FRAUD)
    registry.judge(first[6], second[6], Outcome.TWINS)
    done = sweep()
    found = [{one.document_id for one in group.identities} for group in done.groups]
    assert len(found) == 3
    assert all(pair in [{first[i], second[i]} for i in range(6)] for pair in found)
    assert done.ranking.candidates.found == 8
    assert done.ranking.considered == 6
    assert len(done.pairs) == 3
    third = registry.enroll(other_photographs(rows[:1], seed=2))
    (grown,) = sweep(after=done).groups
    assert {one.document_id for one in grown.identities} == {first[0], second[0], third[0]}


def test_an_erasure_leaves_the_terms_by_which_a_group_was_chosen(registry, sweep) -> None:
    rows = faces(3, 32)
    registry.enroll(rows)
    registry.enroll(other_photographs(rows[:1], seed=1))
    gone = registry.enroll(other_photographs(rows[:1], seed=2))[0]
    (group,) = sweep().groups
    (left,) = without_documents([group], {gone}, 0.8, is_ranked=True)
    assert (left.terms, left.risk) == (group.terms, group.risk)
    assert gone not in {one.document_id for one in left.identities}
    assert len(left.links) == 1
