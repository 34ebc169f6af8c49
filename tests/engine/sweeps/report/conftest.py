"""Synthetic sweeps for the report."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from engine.matching.calibration import CalibrationCurve, OperatingPoint
from engine.sweeps.report.contents import Chance, ReportedSweep, ReportInput
from engine.sweeps.risk import summarise
from schema.sweeps import Group, GroupKind, Identity, LineFact, Link, RiskTerm, SweepTerms

Made = Callable[..., ReportInput]
MadeGroup = Callable[..., Group]
THRESHOLD = 0.5
COMPARISONS = 10**9


def point(fmr: float, threshold: float, fnmr: float) -> OperatingPoint:
    return OperatingPoint(
        fmr=fmr, fmr_low=fmr / 2, fmr_high=fmr * 2,
        threshold=threshold, threshold_low=threshold, threshold_high=threshold,
        fnmr=fnmr, fnmr_low=fnmr / 2, fnmr_high=fnmr * 2,
    )  # fmt: skip


@pytest.fixture
def curve() -> CalibrationCurve:
    """A tenth of the rate per 0.1 of score; supported up to 0.6."""
    points = tuple(point(10.0**-power, power / 10, 0.001 * power) for power in range(1, 7))
    return CalibrationCurve(
        people=100,
        mated_pairs=1000,
        nonmated_pairs=10**7,
        stranger_pairs=4950,
        highest_nonmated=0.65,
        points=points,
    )


@pytest.fixture
def make_group() -> MadeGroup:
    """A chain of `size` identities, each linked to the next, with two lines each."""

    def make(name: str = "g", size: int = 3, outlet: str = "n-1", risk: float = 40.0) -> Group:
        opened_at = datetime(2024, 3, 4, tzinfo=UTC)
        identities = tuple(
            Identity(
                f"{name}-d{number}",
                (number,),
                tuple(
                    LineFact(
                        f"{name}-l{number}.{line}", "north", outlet,
                        opened_at + timedelta(days=number), "active",
                    )
                    for line in range(2)
                ),
            )
            for number in range(size)
        )  # fmt: skip
        links = tuple(
            Link(one.document_id, other.document_id, 0.9 - 0.01 * number)
            for number, (one, other) in enumerate(pairwise(identities))
        )
        return Group(
            key=name,
            kind=GroupKind.ONE_FACE,
            identities=identities,
            links=links,
            weakest=links[-1],
            risk=risk,
            terms=(RiskTerm("identities", float(size), 18.0), RiskTerm("outlets", 1.0, 0.0)),
        )

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
