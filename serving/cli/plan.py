"""`sosie plan`: how large a deployment must be, from figures of a machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from engine.errors import RequestError
from serving.cli.inputs import HomeOption
from serving.cli.output import JsonFlag, exit_negative, print_json, show_progress
from serving.cli.panels import FIGURES
from serving.cli.plan_options import (
    ArrivalsOption,
    BatchOption,
    CeilingOption,
    CheckOption,
    EnrollingOption,
    FacesOption,
    MeasureFlag,
    NodeBandwidthOption,
    NodeCoresOption,
    NodeGibOption,
    PhotographsOption,
    ReportsOption,
    RequestsOption,
    ScannedOption,
    SearchesOption,
    SearchingOption,
    SeedOption,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.capacity.candidates import FalseCandidates
    from engine.capacity.demand import Demand
    from engine.capacity.figures import Figure, Figures, Quantity
    from engine.capacity.planning import Plan
    from serving.settings import Settings

GIB = 2**30
_DURABLE = Path("/var/tmp")  # noqa: S108 - /tmp may be memory, where nothing is durable
_BESIDE_CHECK = frozenset({"check", "reports", "seed", "home", "as_json"})
"""Parameters that a check heeds, or that change nothing of its answer."""


def register(app: typer.Typer) -> None:
    app.command("plan", rich_help_panel=FIGURES)(plan)


def plan(
    context: typer.Context,
    faces: FacesOption = None,
    arrivals: ArrivalsOption = None,
    searches: SearchesOption = 0,
    p99_ms: EnrollingOption = 1000,
    search_p99_ms: SearchingOption = 1000,
    node_cores: NodeCoresOption = None,
    node_gib: NodeGibOption = None,
    node_gb_s: NodeBandwidthOption = None,
    batch: BatchOption = None,
    ceiling: CeilingOption = 0.7,
    measure: MeasureFlag = False,
    photographs: PhotographsOption = None,
    measured_references: ScannedOption = None,
    reports: ReportsOption = None,
    check: CheckOption = None,
    requests: RequestsOption = 20_000,
    seed: SeedOption = 0,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Plan machines for so many faces, arrivals and an objective.

    The formula chooses, a simulation of the queues checks it, and the assumptions are listed.
    Exit code 1 where no layout will do. Needs no deployment; one's settings are heeded.
    """
    settings, own_home = _open(home)
    if check is not None:
        _check(context, check, reports, seed, as_json=as_json)
        return
    demand = _read_demand(faces, arrivals, searches, (p99_ms, search_p99_ms), ceiling)
    measuring = _Measuring(measure, photographs, measured_references)
    figures = _find_figures(settings, own_home, reports, measuring, is_shown=not as_json)
    hardware = _Hardware(node_cores, node_gib, node_gb_s, batch)
    _tell(_make(settings, demand, figures, hardware, requests, seed), as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Measuring:
    """Whether this machine is measured, with which photographs and how many references."""

    is_asked: bool
    photographs: Path | None
    references: int | None


@dataclass(frozen=True, slots=True)
class _Hardware:
    """What was given of a node, and how many decisions a transaction may hold."""

    cores: int | None
    gib: float | None
    gb_s: float | None
    batch: int | None


def _open(home: Path | None) -> tuple[Settings, Path | None]:
    """The settings that a plan heeds, and the home that they are of, where there is one."""
    from serving.settings import find_home, load_settings

    own_home = find_home(home)
    settings = load_settings(own_home)
    if settings.gallery.kind != "exact8" or settings.gallery.mapped:
        raise RequestError(
            "a plan is for galleries of kind exact8 with their vectors in memory: see "
            "`sosie index advise` for others"
        )
    return settings, own_home


def _make(
    settings: Settings,
    demand: Demand,
    figures: Figures,
    given: _Hardware,
    requests: int,
    seed: int,
) -> Plan:
    from engine.capacity.costs import Costs, assume_node
    from engine.capacity.planning import make_plan
    from engine.capacity.simulation import Trial

    node = assume_node(
        figures,
        given.cores,
        None if given.gib is None else given.gib * GIB,
        None if given.gb_s is None else given.gb_s * 1e9,
    )
    costs = Costs.of(figures, given.batch or settings.registrar.batch_size)
    candidates = _expect_candidates(settings, demand)
    trial = Trial(requests=requests, seed=seed, most_ongoing=settings.serve.enrollments_ongoing)
    return make_plan(demand, figures, costs, node, candidates, trial)


def _tell(made: Plan, *, as_json: bool) -> None:
    if as_json:
        print_json(made.to_dict())
    else:
        from serving.cli.plan_tables import print_plan

        print_plan(made)
    if made.layout is None:
        raise exit_negative()


def _read_demand(
    faces: float | None,
    arrivals: float | None,
    searches: float,
    objectives_ms: tuple[float, float],
    ceiling: float,
) -> Demand:
    from engine.capacity.demand import Demand

    if faces is None or arrivals is None:
        raise RequestError("give --faces N and --arrivals N (a second), or --check REPORT")
    return Demand(
        faces=round(faces),
        enrollments=arrivals,
        searches=searches,
        enroll_p99_s=objectives_ms[0] / 1e3,
        search_p99_s=objectives_ms[1] / 1e3,
        ceiling=ceiling,
    )


def _find_figures(
    settings: Settings,
    home: Path | None,
    reports: Path | None,
    measuring: _Measuring,
    *,
    is_shown: bool,
) -> Figures:
    from serving.measuring.sources import find_reports, join_figures

    known = find_reports(reports)
    if measuring.is_asked:
        measured = _measure(settings, home, measuring, is_shown=is_shown)
    elif measuring.photographs or measuring.references:
        raise RequestError("--photographs and --measure-references are for --measure: give it too")
    else:
        measured = {}
    return join_figures(settings, known, measured)


def _measure(
    settings: Settings, home: Path | None, measuring: _Measuring, *, is_shown: bool
) -> Mapping[Quantity, Figure]:
    from serving.measuring.machine import measure_machine
    from serving.settings import find_cache

    # The disk that commits go to: the home's, else one that is no memory.
    folder = home or (_DURABLE if _DURABLE.is_dir() else Path.cwd())
    with show_progress("measuring", is_shown=is_shown) as report:
        return measure_machine(
            settings,
            find_cache(),
            folder,
            photographs=measuring.photographs,
            references=measuring.references,
            progress=report,
        )


def _expect_candidates(settings: Settings, demand: Demand) -> FalseCandidates:
    from engine.capacity.candidates import expect_candidates
    from engine.matching.thresholds import Comparison
    from serving.models import build_thresholds, load_calibration

    calibration = load_calibration(settings)
    return expect_candidates(
        demand.faces,
        demand.enrollments,
        calibration.curve(Comparison.FUSED),
        build_thresholds(settings, calibration).review,
    )


def _check(
    context: typer.Context, path: Path, reports: Path | None, seed: int, *, as_json: bool
) -> None:
    from engine.capacity.checking import check_report
    from engine.capacity.figures import USUAL, Figures
    from engine.capacity.findings import gather_figures
    from engine.capacity.reports import read_report
    from serving.cli.plan_tables import print_check
    from serving.measuring.sources import find_reports

    _refuse_others(context)
    report = read_report(path)
    figures = Figures(report.stamp, USUAL, gather_figures(find_reports(reports)))
    made = check_report(report, figures, seed)
    if as_json:
        print_json(made.to_dict())
    else:
        print_check(made)
    if not made.holds:
        raise exit_negative()


def _refuse_others(context: typer.Context) -> None:
    """A demand or a node would change nothing: the report says how its load was made."""
    others = [
        one.opts[0]
        for one in context.command.params
        if one.name is not None and one.name not in _BESIDE_CHECK and _is_given(context, one.name)
    ]
    if others:
        raise RequestError(
            "--check compares with a report: give it alone, or with --reports and --seed, "
            f"without {', '.join(others)}"
        )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
