"""All suites, one after the other, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.core.machine import Machine, stamp
from bench.core.render import count_promises, render
from bench.core.reports import Report, choose_names, load_goals, write_report
from bench.docs.benchmark_charts import draw_all
from engine.errors import RequestError
from serving.settings.settings import benchmark_environment

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite, the options of a quick run of it beside `--quick`, and how long it may take."""

    name: str
    quick: tuple[str, ...] = ()
    most_s: float = 7200.0
    quick_most_s: float = 900.0


SUITES = (
    Suite("kernels"),
    Suite("search", quick=("--postgres", "none", "--no-graph")),
    Suite("join"),
    Suite("gallery"),
    Suite("registrar"),
    Suite("shards"),
    Suite("extract"),
    Suite("accuracy"),
    Suite("import"),
    Suite("sweep", quick=("--only", "million,flood")),
    Suite("serve", quick=("--only", "throughput")),
)


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
    known = {suite.name: suite for suite in SUITES}
    names = choose_names(given, known, "no suite {name}: choose of {known}")
    return tuple(known[name] for name in names) or SUITES


def run_suites(suites: Sequence[Suite], *, quick: bool, seed: int, progress: Progress) -> Ran:
    """Every suite; one that fails costs no other."""
    ran = Ran(stamp(), quick)
    for done, suite in enumerate(suites):
        progress(done, len(suites))
        start = time.monotonic()
        try:
            report = run_alone(suite, quick=quick, seed=seed)
        except RequestError as error:
            ran.failures[suite.name] = str(error)
            continue
        ran.seconds[suite.name] = round(time.monotonic() - start, 1)
        # What was measured of the machine once, with the load that this suite found.
        load, warnings = report.machine.load_at_start, report.machine.warnings
        machine = replace(ran.machine, load_at_start=load, warnings=warnings)
        ran.reports[suite.name] = replace(report, machine=machine)
    progress(len(suites), len(suites))
    return ran


def run_alone(suite: Suite, *, quick: bool, seed: int) -> Report:
    """The report of `sosie bench SUITE` in a new process; `RequestError` says why there is none."""
    command = [sys.executable, "-P", "-m", "bench", "--until-stdin-closes"]
    command += [suite.name, "--json", *(("--no-stamp",) if quick else ())]
    command += ["--seed", str(seed), *(("--quick", *suite.quick) if quick else ())]
    process = subprocess.Popen(
        command,
        env=benchmark_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # `communicate` would close it at once, and so end the suite.
    held, process.stdin = process.stdin, None
    assert held is not None
    most_s = suite.quick_most_s if quick else suite.most_s
    with held:
        try:
            out, err = process.communicate(timeout=most_s)
        except subprocess.TimeoutExpired:
            _end(process)
            raise RequestError(f"took longer than {most_s:.0f} s and was ended") from None
        except BaseException:
            _end(process)
            raise
    return _read(process.returncode, out, err)


def _read(status: int, out: str, err: str) -> Report:
    try:
        document = json.loads(out)
        if "error" in document:
            raise RequestError(str(document["error"]["message"]))
        return Report.from_dict(document)
    except (ValueError, KeyError, TypeError) as error:
        last = (err.strip().splitlines() or ["it said nothing"])[-1]
        raise RequestError(f"ended with status {status}: {last[:200]}") from error


def _end(process: subprocess.Popen[str]) -> None:
    """Terminates a suite, which may have a service to stop; after a while kills its group."""
    process.terminate()
    try:
        process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


PAGE, SUMMARY = "report.md", "summary.json"


def write_folder(folder: Path, ran: Ran) -> dict[str, Any]:
    """Writes `report.md`, `SUITE.json`, `summary.json` and pictures; returns the summary.

    Reports of a run before that this one lacks are removed: a folder is one run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, report in ran.reports.items():
        write_report(folder / f"{name}.json", report)
    for suite in SUITES:
        if suite.name not in ran.reports:
            (folder / f"{suite.name}.json").unlink(missing_ok=True)
    pictures = draw_all(ran.reports, folder) if ran.reports else {}
    kept, measured = count_promises(ran.reports)
    page = render(
        "report.md.j2",
        stamp=ran.machine,
        quick=ran.is_quick,
        kept=kept,
        measured=measured,
        reports=ran.reports,
        failures=ran.failures,
        pictures={name: path.name for name, path in pictures.items()},
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
    summary = {
        "folder": str(folder),
        "quick": ran.is_quick,
        "suites": {
            name: {"holds": ran.keeps(one), "seconds": ran.seconds[name]}
            for name, one in ran.reports.items()
        },
        "failures": ran.failures,
        "promises": {"kept": kept, "measured": measured},
        "pictures": sorted(path.name for path in pictures.values()),
    }
    text = json.dumps(summary, ensure_ascii=False, indent=2)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")
    return summary
