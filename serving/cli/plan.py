"""`sosie plan`: how large a deployment must be, from figures of a machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import RequestError
from serving.cli.inputs import HomeOption
from serving.cli.output import JsonFlag, exit_negative, print_json, show_progress
from serving.cli.panels import FIGURES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.capacity.candidates import FalseCandidates
    from engine.capacity.demand import Demand
    from engine.capacity.figures import Figure, Figures, Quantity
    from engine.capacity.planning import Plan
    from engine.capacity.reports import Report
    from engine.capacity.simulation import Trial
    from serving.settings import Settings

GIB = 2**30
_DURABLE = Path("/var/tmp")  # noqa: S108 - /tmp may be memory, where nothing is durable


def register(app: typer.Typer) -> None:
    app.command("plan", rich_help_panel=FIGURES)(plan)


def read_number(text: str | float) -> float:
    """A number as people write it: 1.6e9, 1,600,000,000 or 1_600_000_000."""
    try:
        number = float(str(text).replace(",", "").replace("_", ""))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number: write 1.6e9 or 1,600,000") from None
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number


def plan(
    faces: Annotated[
        float | None,
        typer.Option(parser=read_number, metavar="N", help="Faces in the gallery, as 1.6e9."),
    ] = None,
    arrivals: Annotated[
        float | None,
        typer.Option(
            parser=read_number, metavar="N", help="Enrollments a second in the busiest hour."
        ),
    ] = None,
    searches: Annotated[
        float, typer.Option(parser=read_number, metavar="N", help="1:N searches a second.")
    ] = 0,
    p99_ms: Annotated[
        float, typer.Option(min=1, help="99 of 100 enrollments are to be answered in so long.")
    ] = 1000,
    search_p99_ms: Annotated[float, typer.Option(min=1, help="The same of searches.")] = 1000,
    node_cores: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Cores of a node.", show_default="those of the figures' machine"
        ),
    ] = None,
    node_gib: Annotated[
        float | None,
        typer.Option(
            min=1, max=1e6, help="Its memory.", show_default="that of the figures' machine"
        ),
    ] = None,
    node_gb_s: Annotated[
        float | None,
        typer.Option(
            min=1, max=1e5, help="What it reads of memory, GB/s.", show_default="as measured a core"
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Decisions a transaction.",
            show_default="[registrar] batch_size",
        ),
    ] = None,
    ceiling: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Share of time that anything may be busy.")
    ] = 0.7,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure this machine first: about 20 s, in a folder here."),
    ] = False,
    photographs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --measure: photographs such as people bring."),
    ] = None,
    measured_references: Annotated[
        int | None,
        typer.Option(
            "--measure-references",
            min=1_000,
            max=10_000_000,
            help="With --measure: references to scan.",
            show_default="a million, if they fit",
        ),
    ] = None,
    reports: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Reports of `sosie bench`, for what is not measured.",
            show_default="those that come with Sosie",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT",
            help="Instead of a plan: hold simulation and formula against a report of "
            "`sosie bench serve`.",
        ),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1_000, max=1_000_000, help="That the simulation plays.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulation.")] = 0,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Plan machines for so many faces, arrivals and an objective.

    The formula chooses, a simulation of the queues checks it, and the assumptions are listed.
    Exit code 1 where no layout will do. Needs no deployment; one's settings are heeded.
    """
    from engine.capacity.simulation import Trial
    from serving.measuring.sources import find_reports, join_figures
    from serving.settings import find_home, load_settings

    given_home = find_home(home)
    settings = load_settings(given_home)
    _require_plain(settings)
    if (photographs or measured_references) and not measure:
        raise RequestError("--photographs and --measure-references are for --measure: give it too")
    if check is not None:
        _refuse_both(faces, arrivals, measure)
        _check(check, find_reports(reports), seed, as_json=as_json)
        return
    demand = _read_demand(faces, arrivals, searches, (p99_ms, search_p99_ms), ceiling)
    known = find_reports(reports)
    measured = (
        _measure(settings, given_home, photographs, measured_references, is_shown=not as_json)
        if measure
        else {}
    )
    made = _make(
        settings,
        demand,
        join_figures(settings, known, measured),
        _Hardware(node_cores, node_gib, node_gb_s, batch),
        Trial(requests=requests, seed=seed, most_ongoing=settings.serve.enrollments_ongoing),
    )
    if as_json:
        print_json(made.to_dict())
    else:
        from serving.cli.plan_tables import print_plan

        print_plan(made)
    if made.layout is None:
        raise exit_negative()


@dataclass(frozen=True, slots=True)
class _Hardware:
    """What was given of a node, and how many decisions a transaction may hold."""

    cores: int | None
    gib: float | None
    gb_s: float | None
    batch: int | None


def _make(
    settings: Settings, demand: Demand, figures: Figures, given: _Hardware, trial: Trial
) -> Plan:
    from engine.capacity.costs import Costs, assume_node
    from engine.capacity.planning import make_plan

    node = assume_node(
        figures,
        given.cores,
        None if given.gib is None else given.gib * GIB,
        None if given.gb_s is None else given.gb_s * 1e9,
    )
    costs = Costs.of(figures, given.batch or settings.registrar.batch_size)
    candidates = _expect_candidates(settings, demand)
    return make_plan(demand, figures, costs, node, candidates, trial)


def _require_plain(settings: Settings) -> None:
    if settings.gallery.kind != "exact8" or settings.gallery.mapped:
        raise RequestError(
            "a plan is for galleries of kind exact8 with their vectors in memory: see "
            "`sosie index advise` for others"
        )


def _refuse_both(faces: float | None, arrivals: float | None, measure: bool) -> None:
    if faces is not None or arrivals is not None or measure:
        raise RequestError("--check compares with a report: give it alone, or with --reports")


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


def _measure(
    settings: Settings,
    home: Path | None,
    photographs: Path | None,
    references: int | None,
    *,
    is_shown: bool,
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
            photographs=photographs,
            references=references,
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


def _check(path: Path, known: tuple[Report, ...], seed: int, *, as_json: bool) -> None:
    from engine.capacity.checking import check_report
    from engine.capacity.figures import Figures
    from engine.capacity.findings import gather_figures
    from engine.capacity.reports import read_report
    from serving.cli.plan_tables import print_check
    from serving.measuring.sources import REPORTED_DIM

    report = read_report(path)
    figures = Figures(report.stamp, REPORTED_DIM, gather_figures(known))
    made = check_report(report, figures, seed)
    if as_json:
        print_json(made.to_dict())
    else:
        print_check(made)
    if not made.holds:
        raise exit_negative()
