"""`sosie plan`: how large a deployment must be, from figures of a machine."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import typer

from engine.capacity.figures import PlanFigure, Quantity
from engine.capacity.model import Costs, Demand, assume_node
from engine.capacity.planning import (
    CapacityPlan,
    Planning,
    Simulated,
    Sizing,
    expect_candidates,
    show_value,
)
from engine.capacity.simulation import Trial
from engine.errors import RequestError
from engine.formatting import count, duration, percent, plural, size, with_interval
from engine.matching.calibration import Rate
from schema import frozen
from schema.decisions import Comparison
from serving.cli.inputs import option
from serving.cli.output import Answer, Call, Cell, Listing, Part, command, escape
from serving.deployment.models import build_thresholds, load_calibration
from serving.measure import join_figures, measure_machine
from serving.settings.settings import Settings, find_home, load_settings


def read_number(text: str | float) -> float:
    """A number as people write it: 1.6e9, 1,600,000,000 or 1_600_000_000."""
    try:
        number = float(str(text).replace(",", "").replace("_", ""))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number: write 1.6e9 or 1,600,000") from None
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number


GIB = 2**30
_DURABLE = Path("/var/tmp")  # noqa: S108 - /tmp may be memory, where nothing is durable


@frozen
class PlanOptions:
    """The demand, the machines, and the sources of figures."""

    faces: float | None = option("Faces in the gallery, as 1.6e9.", "N", parser=read_number)
    arrivals: float | None = option(
        "Enrollments a second in the busiest hour.", "N", parser=read_number
    )
    searches: float = option("1:N searches a second.", "N", default=0, parser=read_number)
    p99_ms: float = option(
        "99 of 100 enrollments are to be answered in so long.", default=1000, min=1
    )
    search_p99_ms: float = option("The same of searches.", default=1000, min=1)
    node_cores: int | None = option(
        "Cores of a node.", min=1, max=4096, show_default="those of this machine"
    )
    node_gib: float | None = option(
        "Its memory.", min=1, max=1e6, show_default="that of this machine"
    )
    node_gb_s: float | None = option(
        "What it reads of memory, GB/s.", min=1, max=1e5, show_default="as measured a core"
    )
    batch: int | None = option(
        "Decisions a transaction.", min=1, max=1024, show_default="[registrar] batch_size"
    )
    ceiling: float = option(
        "Share of time that anything may be busy.", default=0.7, min=0.05, max=0.95
    )
    measure: bool = option(
        "Measure this machine first: about 20 s; commits in a folder that is made in the home, "
        "else in /var/tmp, and removed."
    )
    photographs: Path | None = option("With --measure: photographs such as people bring.", "DIR")
    measured_references: int | None = option(
        "With --measure: references to scan.",
        None,
        "--measure-references",
        min=1_000,
        max=10_000_000,
        show_default="a million, if they fit",
    )
    requests: int = option("That the simulation plays.", default=20_000, min=1_000, max=1_000_000)
    seed: int = option("Of the simulation.", default=0, min=0)


@command("plan")
def plan(call: Call, chosen: PlanOptions) -> Answer:
    """Plan machines for so many faces, arrivals and an objective.

    A simulation of the queues chooses them, and the assumptions are listed.
    Exit code 1 where no layout will do. Needs no deployment; one's settings are heeded.
    """
    settings, own_home = _open(call.home)
    if chosen.faces is None or chosen.arrivals is None:
        raise RequestError("give --faces N and --arrivals N (a second)")
    if not chosen.measure and (chosen.photographs or chosen.measured_references):
        raise RequestError("--photographs and --measure-references are for --measure: give it too")
    demand = Demand(
        faces=round(chosen.faces),
        enrollments=chosen.arrivals,
        searches=chosen.searches,
        enroll_p99_s=chosen.p99_ms / 1e3,
        search_p99_s=chosen.search_p99_ms / 1e3,
        ceiling=chosen.ceiling,
    )
    measured: Mapping[Quantity, PlanFigure] = {}
    if chosen.measure:
        measured = _measure(call, settings, own_home, chosen)
    figures = join_figures(settings, measured)
    memory_bytes = None if chosen.node_gib is None else chosen.node_gib * GIB
    bandwidth = None if chosen.node_gb_s is None else chosen.node_gb_s * 1e9
    planning = Planning(
        demand,
        Costs.of(figures, chosen.batch or settings.registrar.batch_size),
        figures,
        assume_node(figures, chosen.node_cores, memory_bytes, bandwidth),
        Trial(
            requests=chosen.requests,
            seed=chosen.seed,
            max_ongoing=settings.serve.enrollments_admitted,
        ),
        settings.gallery.shard_copies,
    )
    calibration = load_calibration(settings)
    review = build_thresholds(settings, calibration, demand.faces).review
    curve = calibration.curve(Comparison.FUSED)
    found = expect_candidates(demand.faces, demand.enrollments, curve, review)
    made = planning.make_plan(found)
    return Answer(made.to_dict(), *_show_plan(made), is_no=made.sizing is None)


def _open(home: Path | None) -> tuple[Settings, Path | None]:
    """The settings that a plan heeds, and the home that they are of, where there is one."""
    own_home = find_home(home)
    settings = load_settings(own_home)
    if settings.gallery.mapped:
        raise RequestError("a plan is for vectors in memory: unset gallery.mapped")
    return settings, own_home


def _measure(
    call: Call, settings: Settings, home: Path | None, chosen: PlanOptions
) -> Mapping[Quantity, PlanFigure]:
    # The disk that commits go to: the home's, else one that is no memory.
    folder = home or (_DURABLE if _DURABLE.is_dir() else Path.cwd())
    with call.progress("measuring") as report:
        return measure_machine(
            settings,
            folder,
            photographs=chosen.photographs,
            references=chosen.measured_references,
            progress=report,
        )


COLOURS = {"MEASURED": "green", "ASSUMED": "yellow"}


def _show_plan(plan: CapacityPlan) -> Iterator[Part]:
    """Everything, the verdict first: machines, times, memory and disk, strangers, figures,
    assumptions."""
    demand, found = plan.demand, plan.candidates
    yield _judge(plan, plan.sizing)
    yield (
        f"[bold]{demand.faces:,} {'face' if demand.faces == 1 else 'faces'}[/]; a second "
        f"{plural(demand.enrollments, 'enrollment')} and "
        f"{plural(demand.searches, 'search', 'searches')}; a node has {plan.node.cores} cores, "
        f"{size(plan.node.memory_bytes)} and reads "
        f"{plan.node.bandwidth_bytes_s / 1e9:,.0f} GB/s"
    )
    if plan.sizing is None:
        yield f"[red]No layout will do[/]: {escape(plan.shortfall or '')}."
    else:
        yield _list_machines(plan.sizing, demand)
        yield from _show_times(plan.sizing.simulated, demand)
        yield Listing(_list_bytes(plan.sizing), ("", ""), title="Memory and disk")
    yield Listing(
        (
            ("strangers a search", _interval(found.expected)),
            ("searches that bring one at least", _interval(found.searches_with_any, percent)),
            ("enrollments a day sent to review by them", _interval(found.cases_a_day)),
        ),
        ("", "expected (95 %)"),
        title=f"False candidates at the review threshold {found.threshold:.3f} (FMR {found.fmr})",
    )
    explained = found.explain()
    colour = "green" if found.is_supported else "red"
    yield f"  [{colour}]{escape(explained[:1].upper() + explained[1:])}.[/]"
    figures: dict[str, Cell] = {
        "": lambda one: one.value.label,
        " ": lambda one: show_value(plan.figures[one].value, one),
        "from": lambda one: _describe_origin(plan.figures[one]),
    }
    yield Listing(tuple(Quantity), figures, title="Figures, and where they come from")
    yield "[bold]Assumptions[/]"
    for number, line in enumerate(plan.assumptions, 1):
        yield f"{number:>4}. {escape(line)}"


def _judge(plan: CapacityPlan, sizing: Sizing | None) -> str:
    """The verdict; nothing where no layout will do, which is told below."""
    demand, found = plan.demand, plan.candidates
    cases = f"{count(found.cases_a_day.value)} of {demand.enrollments * 86_400:,.0f}"
    if not found.is_supported:
        return (
            f"[red]Do not run {demand.faces:,} faces on this model[/]: "
            f"{percent(found.searches_with_any.value)} of searches would bring a stranger, and "
            f"{cases} enrollments a day wait for people."
        )
    if sizing is None:
        return ""
    return (
        f"[green]{plural(sizing.layout.nodes + 1, 'node')} will do[/], one of them to spare; "
        f"{cases} enrollments a day wait for people because of strangers."
    )


def _describe_origin(figure: PlanFigure) -> str:
    return f"[{COLOURS[figure.origin.name]}]{figure.origin}[/]: {escape(figure.source)}"


def _list_machines(sizing: Sizing, demand: Demand) -> Listing:
    layout, use = sizing.layout, sizing.use
    ingress, scans = f"cores {use.ingress:.0%}", f"scans {use.scanner:.0%}"
    writer = f"writer {use.writer:.0%}"
    if layout.is_one_machine:
        nodes = [("all in one", 1, f"{ingress}, {writer}")]
    else:
        writing = writer if layout.shards else f"{writer}, {scans}"
        nodes = [("ingresses", layout.ingress_nodes, ingress), ("registrar", 1, writing)]
        if layout.shards:
            name = "shards" if layout.copies == 1 else f"{layout.shards} shards, two copies"
            nodes.append((name, layout.shard_nodes, scans))
    nodes.append(("to spare (N+1)", 1, ""))
    cores, total = layout.node.cores, layout.nodes + 1
    rows = [(name, f"{count:,}", f"{count * cores:,}", busy) for name, count, busy in nodes]
    in_all = *(f"[bold]{text}[/]" for text in ("in all", f"{total:,}", f"{total * cores:,}")), ""
    return Listing(
        (*rows, in_all),
        ("", "nodes", "cores", f"of what it can do, at most {demand.ceiling:.0%}"),
        title=f"Machines: the work of {use.busy_cores:,.1f} cores; the fullest node holds "
        f"{size(sizing.memory.fullest_node_bytes)}",
    )


def _show_times(simulated: Simulated, demand: Demand) -> Iterator[Part]:
    rows = [
        (name, f"{goal_s * 1e3:,.0f} ms", f"{seen.p50_s * 1e3:,.0f}, {seen.p99_s * 1e3:,.0f} ms")
        for name, seen, goal_s in (
            ("enrollment", simulated.enroll, demand.enroll_p99_s),
            ("search", simulated.search, demand.search_p99_s),
        )
        if seen is not None
    ]
    yield Listing(rows, ("", "objective, p99", "simulated p50, p99"), title="Answers")
    yield (
        f"  The simulation of {simulated.requests:,} requests (seed {simulated.seed}) [green]holds "
        f"the objectives[/]; it refused {simulated.refused:.2%} of enrollments (429)."
    )


def _list_bytes(sizing: Sizing) -> list[tuple[str, str]]:
    memory, disk, layout, waits = sizing.memory, sizing.disk, sizing.layout, sizing.waits
    if waits.lost_shard_s is None:
        restarts = [
            ("disk of a snapshot, the new beside the old", size(disk.snapshot_bytes)),
            ("a start, from the snapshot", duration(waits.reopen_s)),
            ("a start from the store alone", duration(waits.start_s)),
            ("failover of the registrar, from the snapshot", duration(waits.failover_s)),
        ]
    else:
        lost = "a lost shard, from the store"
        if layout.copies > 1:
            lost = "a lost copy, made again; nothing waits"
        restarts = [
            ("disk of snapshots (shard_folder), as before", size(disk.snapshot_bytes)),
            ("failover of the registrar, shards kept", duration(waits.failover_s)),
            (lost, duration(waits.lost_shard_s)),
            ("a lost shard or all, from snapshots", duration(waits.reopen_s)),
            ("a start of all shards from the store", duration(waits.start_s)),
        ]
    return [
        ("memory of the gallery, at rest", size(memory.gallery_bytes)),
        ("the same while the largest segments merge", size(memory.gallery_peak_bytes)),
        ("memory of all nodes", size(memory.total_bytes)),
        ("disk of the store, an enrollment a face", size(disk.store_bytes)),
        ("what a day at this rate adds", size(disk.day_bytes)),
        *restarts,
        ("an erasure, until a snapshot without it is whole", duration(waits.erasure_s)),
    ]


def _interval(rate: Rate, write: Callable[[float], str] = count) -> str:
    return with_interval(rate.value, rate.low, rate.high, rate.is_bound, write=write)
