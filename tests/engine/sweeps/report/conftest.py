"""Synthetic sweeps for the report."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from engine.matching.calibration import CalibrationCurve
from engine.sweeps.report.contents import Chance, ReportedSweep, ReportInput
from engine.sweeps.risk import summarise
from schema.sweeps import Group, Identity, LineFact, Link, RiskTerm, SweepTerms
from tests.engine import records
from tests.engine.curves import make_curve

Made = Callable[..., ReportInput]
MadeGroup = Callable[..., Group]
THRESHOLD = 0.5
COMPARISONS = 10**9


@pytest.fixture
def curve() -> CalibrationCurve:
    """A tenth of the rate per 0.1 of score; supported up to 0.6."""
    points = [(10.0**-power, power / 10, 0.001 * power) for power in range(1, 7)]
    counts = {"people": 100, "mated_pairs": 1000, "stranger_pairs": 4950, "highest_nonmated": 0.65}
    return make_curve(points, below=2.0, above=2.0, **counts)


@pytest.fixture
def make_group() -> MadeGroup:
    """A chain of `size` identities, each linked to the next, with two lines each."""

    def make(name: str = "g", size: int = 3, outlet: str = "n-1", risk: float = 40.0) -> Group:
        opened_at = datetime(2024, 3, 4, tzinfo=UTC)

        def identity(number: int) -> Identity:
            at = opened_at + timedelta(days=number)
            names = (f"{name}-l{number}.{line}" for line in range(2))
            lines = (LineFact(one, "north", outlet, at, "active") for one in names)
            return Identity(f"{name}-d{number}", (number,), tuple(lines))

        identities = [identity(number) for number in range(size)]
        links = tuple(
            Link(one.document_id, other.document_id, 0.9 - 0.01 * number)
            for number, (one, other) in enumerate(pairwise(identities))
        )
        terms = RiskTerm("identities", float(size), 18.0), RiskTerm("outlets", 1.0, 0.0)
        return records.make_group(name, *identities, links=links, risk=risk, terms=terms)

    return make


@pytest.fixture
def make_contents(curve, make_group) -> Made:
    """A sweep with these groups, and any changes."""

    def make(*groups: Group, **changes: object) -> ReportInput:
        listed = groups or (make_group(),)
        contents = ReportInput(
            sweep=ReportedSweep(
                id="0190-sweep",
                terms=SweepTerms(threshold=THRESHOLD),
                made_at=datetime(2024, 6, 1, 12, tzinfo=UTC),
                sequence=44_722,
                references=44_722,
                comparisons=COMPARISONS,
                seconds=12.5,
                same_document_pairs=3,
                excepted_pairs=1,
            ),
            chance=Chance(
                false_pairs=curve.fmr_at(THRESHOLD).times(COMPARISONS),
                curve=curve,
                source="synthetic faces",
            ),
            scores=np.array([0.5, 0.55, 0.7, 0.71, 1.0], np.float32),
            groups=listed,
            summary=summarise(listed),
        )
        return replace(contents, **changes)  # type: ignore[arg-type]

    return make
