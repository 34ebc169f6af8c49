"""`python -m bench SUITE`, which `sosie bench SUITE` runs in a process of its own.

The commands: one for each suite, whose options are the fields of its configuration, those about
reports, and all suites one after the other, each in a process of its own."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from types import FrameType
from typing import Annotated, Any, get_type_hints

import typer

from bench.core.machine import Machine, filesystem_of, look, stamp, stamp_again
from bench.core.render import count_promises, render
from bench.core.reports import (
    LEFT_OUT,
    REPORTS,
    Report,
    Setup,
    Skipped,
    SuiteOutput,
    check_goals,
    choose_names,
    load_goals,
    read_report,
    write_report,
)
from engine.errors import RequestError, advise_extra
from engine.formatting import duration
from schema import frozen
from serving.cli.output import (
    TELL_EVERY_S,
    Answer,
    JsonFlag,
    RootGroup,
    escape,
    print_line,
    print_page,
)
from serving.cluster.processes import end_with_starter
from serving.settings.settings import benchmark_environment

QuickFlag = Annotated[bool, typer.Option("--quick", help="Small sizes: to try it, not to measure.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
MICRO = Path(__file__).parent / "micro"
"""Benchmarks of what is small, under pytest-benchmark."""
IMAGES = Path(__file__).parents[1] / "docs" / "img"
PAGE = "report.md"
HELP = {
    "n": "References, people, pairs or rows.",
    "dim": "Dimensions of a face.",
    "faces": "Photographs in LFW's layout, a folder a person.",
    "folder": "On the disk to measure; /var/tmp if none.",
    "long": "Also the parts that take twenty minutes.",
}
_KINDS = (bool, int, int | None, float, str, str | None, Path, Path | None)


@frozen
class MicroConfig:
    """What the suites under pytest take."""

    n: int | None = None
    dim: int = 128


@frozen
class Suite:
    """A suite. `module` has `run`, which takes a configuration, and `QUICK` of that; without one it
    is bench/micro/test_NAME.py. `quick` are the options of a quick run of all suites."""

    name: str
    help: str
    module: str = ""
    quick: tuple[str, ...] = ()
    most_s: float = 7200.0


SUITES = (
    Suite("kernels", "The scans of `indexes`, one thread, beside numpy."),
    Suite("search", "One against all: exactness, speed and recall, beside FAISS and usearch."),
    Suite("join", "All against all, beside the machine's int8 ceiling.", "join"),
    Suite("gallery", "Memory, growth, snapshots, erasure; searching while all changes.", "gallery"),
    Suite("registrar", "Decisions a second, durable and right.", "registrar"),
    Suite("shards", "A gallery over shards on two Ray nodes: answers, kills, moves.", "shards"),
    Suite("extract", "Photographs to vectors, the alternatives, start of a command.", "extract"),
    Suite("accuracy", "Error rates on photographs of known people.", "accuracy"),
    Suite("import", "An existing base taken in: photographs, vectors a second.", "imports"),
    Suite(
        "sweep",
        "Rings hidden in a million references: found, grouped, and told from chains.",
        "sweeps",
    ),
    Suite(
        "serve",
        "The service over HTTP: rates, latency, overload, starts, kills and memory.",
        "serve.service_suite",
        quick=("--only", "throughput"),
    ),
)
BY_NAME = {suite.name: suite for suite in SUITES}
_tell = partial(print_line, is_notice=True)


def _pass_on(context: typer.Context) -> int:
    """Runs the suite that is named: what another one needs is not loaded."""
    suite = BY_NAME[str(context.info_name)]
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(help=suite.help)(_build_command(suite))
    main = typer.main.get_command(app).main
    code = main(context.args, prog_name=f"sosie bench {suite.name}", standalone_mode=False)
    return int(code or 0)


def _build_command(suite: Suite) -> Callable[..., None]:
    module = import_module(f"bench.suites.{suite.module}") if suite.module else None
    config: type[Any] = get_type_hints(module.run)["config"] if module else MicroConfig
    small, parts = getattr(module, "QUICK", {}), getattr(module, "PARTS", {})

    def run(as_json: JsonFlag = False, quick: QuickFlag = False, seed: SeedOption = 0,
            debug: DebugFlag = False, **given: Any) -> None:  # fmt: skip
        del debug
        sizes = {name: value for name, value in given.items() if value is not None}
        if "n" in sizes:
            sizes[fields(config)[0].name] = sizes.pop("n")
        if chosen := sizes.pop("only", ""):
            sizes["parts"] = choose_names(chosen, parts, "no part {name}: choose of {known}")
        if quick:
            sizes = dict(small) | sizes
        with telling(suite.name, _tell):
            if module is None:
                measured = _run_pytest(suite.name, sizes, is_quick=quick, seed=seed)
            else:
                measured = _measure(suite, module.run, config(seed=seed, **sizes), is_quick=quick)
        page = partial(print_page, render("suite.md.j2", report=measured))
        Answer(measured.to_dict(), page, is_no=not measured.holds).print(as_json=as_json)

    shared = inspect.signature(run, eval_str=True).parameters.values()
    both = [one for one in shared if one.kind is not inspect.Parameter.VAR_KEYWORD]
    both += _list_options(config, parts)
    run.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in both}
    return run


@contextmanager
def telling(name: str, tell: Callable[[str], object]) -> Iterator[None]:
    """Tells now and then how long a suite has been running."""
    start, ended = time.monotonic(), Event()

    def run() -> None:
        while not ended.wait(TELL_EVERY_S):
            tell(f"{name} has been running for {duration(time.monotonic() - start)}")

    Thread(target=run, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _list_options(config: type[Any], parts: Mapping[str, Any]) -> Iterator[inspect.Parameter]:
    """`--n` for the first field of a configuration, and for each of the others its name."""
    hints = get_type_hints(config)
    for place, one in enumerate(fields(config)):
        kind, name = hints[one.name], "n" if place == 0 else one.name
        told, least = HELP.get(name), 1 if kind in (int, int | None) else None
        if one.name == "parts":
            kind, name, told = str, "only", f"Parts of {', '.join(parts)}."
        if one.name == "seed" or kind not in _KINDS:
            continue
        option = typer.Option(f"--{name.replace('_', '-')}", help=told, min=least)
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, option],
        )


def _measure(
    suite: Suite, run: Callable[[Any], SuiteOutput], config: Any, *, is_quick: bool
) -> Report:
    # Goals first: a misspelt one must not cost a run.
    goals = [goal for goal in load_goals() if goal.suite == suite.name]
    machine = look() if is_quick else stamp()
    results, measured = run(config)
    if hasattr(config, "parts"):
        left_out = Skipped(f"{LEFT_OUT} its part")
        measured = {goal.name: measured.get(goal.name, left_out) for goal in goals}
    if not is_quick:
        machine = stamp_again(machine)
    usual: Setup = {"seed": config.seed, "threads": machine.cores}
    if folder := getattr(config, "folder", None):
        usual["filesystem"] = filesystem_of(folder)
    # A result that does not state them has those of the run, and all cores.
    complete = tuple(replace(one, setup=one.setup | usual | one.setup) for one in results)
    checks = check_goals(goals, suite.name, measured, machine, config)
    return Report(machine, complete, checks, suite.name)


def _run_pytest(name: str, sizes: Mapping[str, Any], *, is_quick: bool, seed: int) -> Report:
    """Runs bench/micro/test_NAME.py; the report that pytest-benchmark writes."""
    command = [sys.executable, "-P", "-m", "pytest", str(MICRO / f"test_{name}.py"), "-q"]
    command += ["-p", "no:cacheprovider", f"--seed={seed}", *(["--quick"] * is_quick)]
    # Why nothing was run is said besides.
    command += ["-W", "ignore:Not saving anything"]
    for option, value in sizes.items():
        command.append(f"--{option}={value}")
    # Not those of a pytest that this runs in: its workers are no reason to measure nothing.
    environment = {key: one for key, one in os.environ.items() if not key.startswith("PYTEST_")}
    if name == "kernels":
        environment["OPENBLAS_NUM_THREADS"] = "1"
    with TemporaryDirectory(prefix="sosie-bench-") as folder:
        path = Path(folder) / "report.json"
        command += ["--benchmark-json", str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not path.is_file():
            last = _read_last(done.stderr or done.stdout)
            raise RequestError(f"pytest ended with {done.returncode}: {last}")
        found = read_report(path)
    if done.returncode and found.holds:
        raise RequestError(f"a benchmark of {name} failed: run `pytest bench/micro/test_{name}.py`")
    return found


def _read_last(text: str) -> str:
    """The last line that a process has written."""
    return (text.strip().splitlines() or ["it said nothing"])[-1][:200]


def report(
    as_json: JsonFlag = False,
    quick: QuickFlag = False,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder of page and JSON.")
    ] = Path("bench-report"),
    only: Annotated[
        str, typer.Option(metavar="SUITES", help="With commas between them; all if none.")
    ] = "",
    seed: SeedOption = 0,
    debug: DebugFlag = False,
) -> None:
    """Run all suites and write Markdown and JSON: in full an hour and a half.

    A suite that fails costs no other. Ends with 1 where one failed or missed a goal; most goals
    are not for --quick.
    """
    del debug
    suites, start = choose_suites(only), time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    ran = run_suites(suites, quick=quick, seed=seed, tell=_tell)
    summary = write_folder(output, ran)
    lines = [
        f"{'[green]✓' if one.holds else '[red]✗'}[/] {name}, {duration(ran.seconds[name])}"
        for name, one in ran.reports.items()
    ]
    lines += [f"[red]✗[/] {name} failed: {escape(why)}" for name, why in ran.failures.items()]
    lines += [f"{output / PAGE}, after {duration(time.monotonic() - start)}"]
    Answer(summary, *lines, is_no=not ran.holds).print(as_json=as_json)


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
    from bench.docs.pages import ROOT, build_documents, show_commands

    del debug
    with TemporaryDirectory(prefix="sosie-bench-") as folder:
        made = build_documents(ROOT, REPORTS, Path(folder) if check else IMAGES)
    made |= show_commands(made)
    changed = [
        name
        for name, text in made.items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text(encoding="utf-8") != text
    ]
    if not check:
        for name in changed:
            (ROOT / name).write_text(made[name], encoding="utf-8")
    is_no = check and bool(changed)
    Answer({"changed": changed}, *changed, is_no=is_no).print(as_json=as_json)


@dataclass(slots=True)
class Ran:
    """Reports by suite, why there is none of others, and how long each took."""

    machine: Machine
    is_quick: bool
    reports: dict[str, Report] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether nothing failed, and every promise holds."""
        return not self.failures and all(one.holds for one in self.reports.values())


def choose_suites(given: str) -> tuple[Suite, ...]:
    """Those named with commas, all where none is; `RequestError` for an unknown one."""
    names = choose_names(given, BY_NAME, "no suite {name}: choose of {known}")
    return tuple(BY_NAME[name] for name in names) or SUITES


def run_suites(
    suites: Sequence[Suite], *, quick: bool, seed: int, tell: Callable[[str], object]
) -> Ran:
    """Every suite; one that fails costs no other. `tell` gets a line at the start of each, and one
    with its time."""
    ran = Ran(look(), quick)
    for place, suite in enumerate(suites, 1):
        tell(f"{place} of {len(suites)}: {suite.name} …")
        start = time.monotonic()
        try:
            with telling(suite.name, tell):
                ran.reports[suite.name] = run_alone(suite, quick=quick, seed=seed)
        except RequestError as error:
            ran.failures[suite.name] = str(error)
        ran.seconds[suite.name] = round(time.monotonic() - start, 1)
        tell(f"{suite.name} took {duration(ran.seconds[suite.name])}")
    return ran


def run_alone(suite: Suite, *, quick: bool, seed: int) -> Report:
    """The report of `sosie bench SUITE` in a new process; `RequestError` says why there is none."""
    command = [sys.executable, "-P", "-m", "bench", "--until-stdin-closes"]
    command += (suite.name, "--json", "--seed", str(seed))
    command += ("--quick", *suite.quick) if quick else ()
    pipe, environment = subprocess.PIPE, benchmark_environment()
    reading, writing = os.pipe()
    with (
        open(reading) as starter,
        open(writing, "w"),
        subprocess.Popen(
            command, env=environment, stdin=starter, stdout=pipe, stderr=pipe, text=True
        ) as process,
    ):
        try:
            out, err = process.communicate(timeout=suite.most_s)
        except BaseException as error:
            # It may have a service to stop.
            process.terminate()
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RequestError(f"took longer than {suite.most_s:g} s and was ended") from None
            raise
    try:
        document = json.loads(out)
        if "error" in document:
            raise RequestError(str(document["error"]["message"]))
        return Report.from_dict(document)
    except (ValueError, KeyError, TypeError) as error:
        told = f"ended with status {process.returncode}: {_read_last(err)}"
        raise RequestError(told) from error


def write_folder(folder: Path, ran: Ran) -> dict[str, Any]:
    """Writes `report.md` and a `SUITE.json` each; returns the summary.

    Reports of a run before that this one lacks are removed: a folder is one run.
    """
    for suite in SUITES:
        path = folder / f"{suite.name}.json"
        if suite.name in ran.reports:
            write_report(path, ran.reports[suite.name])
        else:
            path.unlink(missing_ok=True)
    kept, measured = count_promises(ran.reports)
    page = render("report.md.j2", ran=ran, kept=kept, measured=measured)
    (folder / PAGE).write_text(page, encoding="utf-8")
    return {
        "folder": str(folder),
        "quick": ran.is_quick,
        "suites": {
            name: {"holds": one.holds, "seconds": ran.seconds[name]}
            for name, one in ran.reports.items()
        },
        "failures": ran.failures,
        "promises": {"kept": kept, "measured": measured},
    }


NEEDED = (
    "execnet",
    "faiss",
    "matplotlib",
    "pyarrow",
    "pytest_benchmark",
    "ray",
    "scipy",
    "structlog",
)
app = typer.Typer(
    cls=RootGroup,
    name="bench",
    add_completion=False,
    rich_markup_mode=None,
    help="Measure what targets.toml promises. Ends with 1 where a measured figure misses its goal.",
)


@app.callback()
def _root(until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False) -> None:
    missing = ", ".join(one for one in NEEDED if find_spec(one) is None)
    if missing:
        raise RequestError(f"benchmarks need {missing}: {advise_extra('bench')}")
    for one in (signal.SIGTERM, signal.SIGHUP):
        # `nohup` has hanging up ignored, and means it.
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, _interrupt)
    if until_stdin_closes:
        end_with_starter()


def _interrupt(number: int, _: FrameType | None) -> None:
    """As Ctrl-C does: services are stopped, folders removed. A second signal disturbs neither."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


for suite in SUITES:
    app.command(suite.name, help=suite.help, context_settings=PASSED_ON)(_pass_on)
app.command()(report)
app.command()(docs)

if __name__ == "__main__":
    app(prog_name="sosie bench")
