"""The suites, and all of them one after the other, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.machine import Machine, look
from bench.core.render import count_promises, render
from bench.core.reports import Report, choose_names, load_goals, write_report
from engine.errors import RequestError
from serving.settings.settings import benchmark_environment

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite. `module` has its `Config`, the fields `QUICK` of that, and `run`; without one it is
    bench/micro/test_NAME.py. `quick` are the options of a quick run of all suites."""

    name: str
    help: str
    module: str = ""
    quick: tuple[str, ...] = ()
    most_s: float = 7200.0


SUITES = (
    Suite("kernels", "The scans of `indexes`, one thread, beside numpy, FAISS and the ceiling."),
    Suite(
        "search",
        "One against all: exactness, speed and recall, beside FAISS, usearch and hnswlib.",
        quick=("--no-graph",),
    ),
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
        "sweep.sweep_suite",
        quick=("--only", "million,flood"),
    ),
    Suite(
        "serve",
        "The service over HTTP: rates, latency, overload, starts, kills and memory.",
        "serve.service_suite",
        quick=("--only", "throughput"),
    ),
    Suite("accelerator", "What a GPU does, beside this processor.", "accelerator"),
)
BY_NAME = {suite.name: suite for suite in SUITES}


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
        """Whether nothing failed, and every promise holds; small sizes promise no speed."""
        return not self.failures and all(map(self.keeps, self.reports.values()))

    def keeps(self, report: Report) -> bool:
        """Whether a report of this run has what it must."""
        exact = {(goal.suite, goal.name) for goal in load_goals() if goal.counts_errors}
        return all(
            check.holds is not False or (self.is_quick and (report.suite, check.name) not in exact)
            for check in report.checks
        )


def choose_suites(given: str) -> tuple[Suite, ...]:
    """Those named with commas, all where none is; `RequestError` for an unknown one."""
    names = choose_names(given, BY_NAME, "no suite {name}: choose of {known}")
    return tuple(BY_NAME[name] for name in names) or SUITES


def run_suites(suites: Sequence[Suite], *, quick: bool, seed: int, progress: Progress) -> Ran:
    """Every suite; one that fails costs no other."""
    ran = Ran(look(), quick)
    for done, suite in enumerate(suites):
        progress(done, len(suites))
        start = time.monotonic()
        try:
            ran.reports[suite.name] = run_alone(suite, quick=quick, seed=seed)
        except RequestError as error:
            ran.failures[suite.name] = str(error)
        ran.seconds[suite.name] = round(time.monotonic() - start, 1)
    progress(len(suites), len(suites))
    return ran


def run_alone(suite: Suite, *, quick: bool, seed: int) -> Report:
    """The report of `sosie bench SUITE` in a new process; `RequestError` says why there is none."""
    command = [sys.executable, "-P", "-m", "bench", suite.name, "--json", "--seed", str(seed)]
    command += ("--quick", *suite.quick) if quick else ()
    process = subprocess.Popen(
        command,
        env=benchmark_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
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
        last = (err.strip().splitlines() or ["it said nothing"])[-1]
        raise RequestError(f"ended with status {process.returncode}: {last[:200]}") from error


PAGE = "report.md"


def write_folder(folder: Path, ran: Ran) -> dict[str, Any]:
    """Writes `report.md` and a `SUITE.json` each; returns the summary.

    Reports of a run before that this one lacks are removed: a folder is one run.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
            name: {"holds": ran.keeps(one), "seconds": ran.seconds[name]}
            for name, one in ran.reports.items()
        },
        "failures": ran.failures,
        "promises": {"kept": kept, "measured": measured},
    }
