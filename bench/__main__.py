"""`python -m bench SUITE`: what `sosie bench SUITE` runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.checks import TARGETS, Goal, Measured, check_goals, load_goals
from bench.machine import stamp
from bench.report import Report, Result
from serving.cli.faults import RootGroup
from serving.cli.output import JsonFlag, exit_negative, print_json, show_progress

app = typer.Typer(
    cls=RootGroup,
    name="bench",
    add_completion=False,
    rich_markup_mode=None,
    help="Measure what targets.toml promises. Ends with 1 where a measured figure misses its goal.",
)
REPORTS = Path(__file__).parent / "reports"
IMAGES = Path(__file__).parents[1] / "docs" / "img"
Suite = Callable[[], tuple[tuple[Result, ...], dict[str, Measured]]]

Quick = Annotated[bool, typer.Option("--quick", help="Small sizes: to try it, not to measure.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")]
Targets = Annotated[Path, typer.Option(metavar="FILE", help="Goals other than the project's.")]
Dim = Annotated[int, typer.Option(min=8, max=4096, help="Dimensions of a face.")]
Graph = Annotated[bool, typer.Option(help="Build hnswlib's graph too, which takes minutes.")]
Faces = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Photographs in LFW's layout, a folder a person."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _python(package: str) -> Any:
    """An option that names another interpreter."""
    return typer.Option(metavar="PATH", help=f"A Python of another venv that has {package}.")


def _given(**options: Any) -> dict[str, Any]:
    """Those that are not None: what was not given keeps its default."""
    return {name: value for name, value in options.items() if value is not None}


@app.callback()
def _root() -> None:
    """Keeps the suites subcommands."""


@app.command()
def accuracy(
    as_json: JsonFlag = False,
    quick: Quick = False,
    n: Annotated[int | None, typer.Option(min=2, help="Only the first N people.")] = None,
    faces: Faces = None,
    pairs: Annotated[Path | None, typer.Option(metavar="FILE", help="LFW's pairs.txt.")] = None,
    seed: Seed = 0,
    targets: Targets = TARGETS,
    debug: Debug = False,
) -> None:
    """Error rates on photographs of known people; the gain of fused references."""
    from bench.accuracy import AccuracyConfig, run

    del debug
    people = n if n is not None else (100 if quick else None)
    config = AccuracyConfig(faces=faces, pairs=pairs, people=people, seed=seed)
    with show_progress("extract", is_shown=not as_json) as progress:
        report, goals = _measure("accuracy", lambda: run(config, progress), targets)
    _show(report, goals, as_json)


@app.command()
def extract(
    as_json: JsonFlag = False,
    quick: Quick = False,
    n: Annotated[int | None, typer.Option(min=1, help="Pairs of photographs a round.")] = None,
    faces: Faces = None,
    openvino_python: Annotated[Path | None, _python("onnxruntime-openvino")] = None,
    deepface_python: Annotated[Path | None, _python("deepface")] = None,
    face_recognition_python: Annotated[Path | None, _python("face_recognition")] = None,
    seed: Seed = 0,
    targets: Targets = TARGETS,
    debug: Debug = False,
) -> None:
    """Photographs to vectors: the graph, pairs a second, the alternatives, start of a command."""
    from bench.extract import ExtractConfig, run
    from bench.pairs import Interpreters

    del debug
    sizes: dict[str, Any] = {"pairs": 10, "rounds": 2, "graph_rounds": 3} if quick else {}
    sizes |= _given(pairs=n)
    interpreters = Interpreters(openvino_python, deepface_python, face_recognition_python)
    config = ExtractConfig(faces=faces, seed=seed, interpreters=interpreters, **sizes)
    report, goals = _measure("extract", lambda: run(config), targets)
    _show(report, goals, as_json)


@app.command()
def registrar(
    as_json: JsonFlag = False,
    quick: Quick = False,
    n: Annotated[int | None, typer.Option(min=1, help="References enrolled before.")] = None,
    decisions: Annotated[int | None, typer.Option(min=1, help="Decided in full batches.")] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="On the disk to measure; /var/tmp if none.")
    ] = None,
    seed: Seed = 0,
    targets: Targets = TARGETS,
    debug: Debug = False,
) -> None:
    """Decisions a second, durable and right, with a gallery of 100,000 references."""
    from bench.registrar import RegistrarConfig, run

    del debug
    sizes: dict[str, Any] = (
        {"references": 5_000, "decisions": 640, "single_decisions": 32, "stage_batches": 4}
        if quick
        else {}
    )
    sizes |= _given(references=n, decisions=decisions, folder=folder)
    report, goals = _measure("registrar", lambda: run(RegistrarConfig(seed=seed, **sizes)), targets)
    _show(report, goals, as_json)


@app.command()
def search(
    as_json: JsonFlag = False,
    quick: Quick = False,
    n: Annotated[int | None, typer.Option(min=1_000, help="References in the gallery.")] = None,
    dim: Dim = 128,
    graph: Graph = True,
    seed: Seed = 0,
    targets: Targets = TARGETS,
    debug: Debug = False,
) -> None:
    """One against all: exactness, speed and recall, beside FAISS, usearch and hnswlib."""
    from bench.search import QUICK, SearchConfig, run

    del debug
    sizes: dict[str, Any] = dict(QUICK) if quick else {}
    sizes |= _given(references=n)
    config = SearchConfig(dim=dim, has_graph=graph, seed=seed, **sizes)
    report, goals = _measure("search", lambda: run(config), targets)
    _show(report, goals, as_json)


@app.command()
def join(
    as_json: JsonFlag = False,
    quick: Quick = False,
    n: Annotated[int | None, typer.Option(min=1_000, help="References joined.")] = None,
    dim: Dim = 128,
    seed: Seed = 0,
    targets: Targets = TARGETS,
    debug: Debug = False,
) -> None:
    """All against all: comparisons a second, beside the machine's int8 ceiling."""
    from bench.join import QUICK, JoinConfig, run

    del debug
    sizes: dict[str, Any] = dict(QUICK) if quick else {}
    sizes |= _given(references=n)
    config = JoinConfig(dim=dim, seed=seed, **sizes)
    report, goals = _measure("join", lambda: run(config), targets)
    _show(report, goals, as_json)


@app.command()
def gallery(
    as_json: JsonFlag = False,
    quick: Quick = False,
    n: Annotated[int | None, typer.Option(min=1_000, help="References in the gallery.")] = None,
    dim: Dim = 128,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="On the disk to measure; /var/tmp if none.")
    ] = None,
    seed: Seed = 0,
    targets: Targets = TARGETS,
    debug: Debug = False,
) -> None:
    """Memory, growth, snapshots, erasure, shards; searching while everything changes."""
    from bench.gallery import QUICK, GalleryConfig, run

    del debug
    sizes: dict[str, Any] = dict(QUICK) if quick else {}
    sizes |= _given(references=n, folder=folder)
    config = GalleryConfig(dim=dim, seed=seed, **sizes)
    report, goals = _measure("gallery", lambda: run(config), targets)
    _show(report, goals, as_json)


@app.command()
def sweep(
    as_json: JsonFlag = False,
    quick: Quick = False,
    n: Annotated[int | None, typer.Option(min=1_000, help="References in the gallery.")] = None,
    only: Annotated[
        str, typer.Option(metavar="PARTS", help="Of million,flood,deployment,lfw.")
    ] = "",
    registered: Annotated[
        int | None, typer.Option(min=1_000, help="References of the deployment.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.3, max=0.7, help="Score; 0.62 if none.")
    ] = None,
    faces: Faces = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For checkpoints; /var/tmp if none.")
    ] = None,
    seed: Seed = 0,
    targets: Targets = TARGETS,
    debug: Debug = False,
) -> None:
    """Rings hidden in a million references: found, grouped, and told from chains."""
    from bench.sweep import QUICK, SweepConfig, read_parts, run

    del debug
    sizes: dict[str, Any] = dict(QUICK) if quick else {}
    sizes |= _given(
        references=n, registered=registered, threshold=threshold, faces=faces, folder=folder
    )
    config = SweepConfig(parts=read_parts(only), seed=seed, **sizes)
    report, goals = _measure("sweep", lambda: run(config), targets)
    _show(report, goals, as_json)


@app.command()
def serve(
    as_json: JsonFlag = False,
    quick: Quick = False,
    n: Annotated[int | None, typer.Option(min=256, help="References enrolled before.")] = None,
    only: Annotated[
        str, typer.Option(metavar="PARTS", help="Of throughput,overload,start,kills,soak.")
    ] = "",
    soak_s: Annotated[float | None, typer.Option(min=2, help="Seconds of the soak.")] = None,
    kills: Annotated[int | None, typer.Option(min=1, help="How often something is killed.")] = None,
    million: Annotated[
        int | None, typer.Option(min=256, help="References of the large start; loading takes long.")
    ] = None,
    faces: Faces = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="On the disk to measure; /var/tmp if none.")
    ] = None,
    seed: Seed = 0,
    targets: Targets = TARGETS,
    debug: Debug = False,
) -> None:
    """The service over HTTP: rates, latency, overload, starts, kills and memory."""
    from bench.serve import ServeConfig, read_parts, run
    from bench.serving.sizes import QUICK, Sizes

    del debug
    chosen = _given(references=n, soak_s=soak_s, kills=kills, million=million)
    sizes = replace(QUICK if quick else Sizes(), **chosen)
    config = ServeConfig(
        sizes=sizes, parts=read_parts(only), faces=faces, seed=seed, **_given(folder=folder)
    )
    report, goals = _measure("serve", lambda: run(config), targets)
    _show(report, goals, as_json)


@app.command("import")
def import_base(
    as_json: JsonFlag = False,
    quick: Quick = False,
    n: Annotated[int | None, typer.Option(min=2, help="Only the first N people.")] = None,
    vectors: Annotated[int | None, typer.Option(min=1, help="Synthetic rows of vectors.")] = None,
    faces: Faces = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="On the disk to measure; /var/tmp if none.")
    ] = None,
    seed: Seed = 0,
    targets: Targets = TARGETS,
    debug: Debug = False,
) -> None:
    """An existing base taken in: photographs a second, vectors a second."""
    from bench.imports import QUICK, ImportConfig, run

    del debug
    sizes: dict[str, Any] = dict(QUICK) if quick else {}
    sizes |= _given(people=n, vectors=vectors, folder=folder)
    config = ImportConfig(faces=faces, seed=seed, **sizes)
    report, goals = _measure("import", lambda: run(config), targets)
    _show(report, goals, as_json)


@app.command()
def curves(
    as_json: JsonFlag = False,
    quick: Quick = False,
    n: Annotated[int | None, typer.Option(min=1_000, help="References at the end.")] = None,
    dim: Dim = 128,
    graph: Graph = True,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Latency against the size of the gallery, recall against speed: for `plots`."""
    from bench.curves import QUICK, CurvesConfig, run

    del debug
    sizes: dict[str, Any] = dict(QUICK) if quick else {}
    sizes |= _given(references=n)
    config = CurvesConfig(dim=dim, has_graph=graph, seed=seed, **sizes)
    report, goals = _measure("curves", lambda: run(config), TARGETS)
    _show(report, goals, as_json)


@app.command()
def plots(
    report: Annotated[
        Path, typer.Option(metavar="FILE", help="What `curves --json` wrote.")
    ] = REPORTS / "curves.json",
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the pictures go.")] = IMAGES,
    debug: Debug = False,
) -> None:
    """Draw latency.png and recall.png from the report of `curves`."""
    from bench.plots import draw_plots
    from serving.cli.output import print_line

    del debug
    for path in draw_plots(report, folder):
        print_line(str(path))


def _measure(name: str, suite: Suite, targets: Path) -> tuple[Report, Sequence[Goal]]:
    # Goals first: a misspelt file must not cost a run.
    goals = [goal for goal in load_goals(targets) if goal.suite == name]
    machine = stamp()
    results, measured = suite()
    return Report(machine, results, check_goals(goals, name, measured)), goals


def _show(report: Report, goals: Sequence[Goal], as_json: bool) -> None:
    if as_json:
        print_json(report.to_dict())
    else:
        from bench.tables import print_report

        print_report(report, goals)
    if not report.holds:
        raise exit_negative()


if __name__ == "__main__":
    app(prog_name="sosie bench")
