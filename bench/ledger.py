"""What visitors were answered, against what they should have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.report import Figure, Result, Setup
from bench.workload import Day, Expected, Kind
from engine.matching.arrivals import Outcome
from engine.matching.requests import Answer
from engine.reasons import Decision


@dataclass(slots=True)
class Ledger:
    """`places` of the day are asked, in order; `outcomes` grows to as many.

    `difference`: references too few or too many in reopened galleries, in all.
    """

    day: Day
    expected: Sequence[Expected | None]
    places: list[int]
    outcomes: list[Outcome] = field(default_factory=list)
    difference: int = 0

    def note_gallery(self, length: int, references: int) -> None:
        """Compares a reopened gallery with what had been acknowledged by then."""
        added = sum(
            isinstance(outcome, Answer)
            and outcome.decision is Decision.APPROVED
            and self.day.kinds[place] is not Kind.RETURNING
            for place, outcome in zip(self.places, self.outcomes, strict=False)
        )
        self.difference += abs(references + added - length)

    def count_wrong(self) -> int:
        return sum(
            not is_right(outcome, self.expected[place])
            for place, outcome in zip(self.places, self.outcomes, strict=True)
        )

    def share(self, kind: Kind, *decisions: Decision) -> float | None:
        """The share of this kind's visitors that got one of these decisions."""
        found = [
            isinstance(outcome, Answer) and outcome.decision in decisions
            for place, outcome in zip(self.places, self.outcomes, strict=True)
            if self.day.kinds[place] is kind
        ]
        return sum(found) / len(found) if found else None

    def list_outcomes(self, setup: Setup) -> Result:
        """What the planted visitors met: how good the model is, beside whether we are right."""
        stopped = (Decision.REVIEW, Decision.REJECTED)
        shares = (
            ("newcomers approved", self.share(Kind.NEWCOMER, Decision.APPROVED)),
            ("newcomers sent to review", self.share(Kind.NEWCOMER, Decision.REVIEW)),
            ("returning approved", self.share(Kind.RETURNING, Decision.APPROVED)),
            ("duplicates stopped", self.share(Kind.DUPLICATE, *stopped)),
        )
        figures = [
            Figure("differ from the oracle", "decisions", float(self.count_wrong())),
            Figure("too few or too many after reopening", "references", float(self.difference)),
        ]
        figures += [
            Figure.skip(name, "share", "no such visitor came")
            if share is None
            else Figure(name, "share", share)
            for name, share in shares
        ]
        near = len(self.expected) - len(self.places)
        counts: Setup = {"visitors": len(self.outcomes), "left_out_near_a_threshold": near}
        return Result("What was decided", setup | counts, tuple(figures))


def is_right(outcome: Outcome, expected: Expected | None) -> bool:
    """Whether decision and reasons are exactly those expected."""
    assert expected is not None, "such a visitor is not asked"
    return (
        isinstance(outcome, Answer)
        and not outcome.is_repeated
        and outcome.decision is expected.decision
        and frozenset(outcome.reasons) == expected.reasons
    )
