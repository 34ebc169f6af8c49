"""README.md and docs/*.md, rendered from the committed reports by Jinja templates.

`templates/docs/NAME.md.j2` makes docs/NAME.md. A template made of blocks, from
`<!-- figures: NAME -->` to `<!-- end of figures -->`, replaces the blocks of the page that have
these names, and people write the rest.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.core.render import TEMPLATES, count_promises, describe_setup, render
from bench.core.reports import Report, Result, Setup, find_figure, find_result, read_reports
from bench.docs.accuracy_pages import build_accuracy_page, build_model_card
from engine.errors import RequestError
from engine.sweeps.estimate import FALSE_PAIRS_PER_REFERENCE
from schema.decisions import Comparison
from serving.deployment.models import load_calibration
from serving.settings.settings import Settings, node_environment

ROOT = Path(__file__).parents[2]
"""The checkout; an installed package has no documents."""
KNEE = "knee.json"
SHOWING = ("docs/capacity.md",)
"""Pages with commands, after `$ sosie`, and what they print."""
WIDTH = 100

_BLOCK = re.compile(r"<!-- figures: (?P<name>[\w-]+) -->\n.*?<!-- end of figures -->", re.S)
_SHOWN = re.compile(r"^```\n\$ sosie (?P<words>[^\n]*)\n(?P<output>.*?)^```$", re.M | re.S)
_HEAD = re.compile(r" \| head -(\d+)$")

Run = Callable[[list[str]], str]
"""What `sosie` prints, given these words."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """What docs/performance.md shows of a report: results by patterns of names."""

    name: str
    title: str
    command: str
    text: str
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PageSection:
    """A chapter with its report and the results that it shows."""

    chapter: Chapter
    report: Report
    results: tuple[Result, ...]

    @property
    def common(self) -> Setup:
        """What the setups of all its results have alike, where there are several."""
        first, *others = [one.setup for one in self.results] or [{}]
        return {k: v for k, v in first.items() if others and all(s.get(k) == v for s in others)}

    def describe_own(self, result: Result) -> str:
        """The rest of a result's setup."""
        common = self.common
        return describe_setup({k: v for k, v in result.setup.items() if k not in common})


CHAPTERS = msgspec.toml.decode(
    Path(__file__).with_name("performance.toml").read_bytes(), type=dict[str, tuple[Chapter, ...]]
)["chapter"]


class Figures:
    """Figures of a folder of reports by their names; `RequestError` for one that is not there."""

    def __init__(self, folder: Path) -> None:
        self.reports = read_reports(folder)
        knee = folder / KNEE
        self.knee = json.loads(knee.read_text("utf-8"))["knee"] if knee.is_file() else {}

    def value(
        self, suite: str, result: str, name: str, unit: str | None = None, field: str = "value"
    ) -> float:
        """A figure of a result; `field` may be its ratio, low or high."""
        figure = find_figure(self.reports, suite, result, name, unit)
        return _require(getattr(figure, field, None), suite, result, name, field)

    def promise(self, suite: str, name: str, field: str = "value") -> float:
        """What was measured of a goal; the goal itself, as it is on the report's machine, where
        that is the `field`."""
        checks = self.reports[suite].checks if suite in self.reports else ()
        found = next((one for one in checks if one.name == name), None)
        return _require(getattr(found, field, None), suite, "promise", name)

    def setup(self, suite: str, result: str, name: str) -> float:
        """A number that a result was measured with."""
        found = find_result(self.reports, suite, result)
        return _require(found and found.setup.get(name), suite, result, name)

    def names(self) -> dict[str, Any]:
        """What a template of blocks is given."""
        settings = Settings()
        calibration = load_calibration(settings)
        last = calibration.curve(Comparison.FUSED).points[-1]
        return {
            "value": self.value,
            "promise": self.promise,
            "goal": partial(self.promise, field="goal"),
            "setup": self.setup,
            "knee": self.knee,
            "reports": self.reports,
            "calibration_end": last,
            # Pairs grow with the square of the gallery, the budget of false ones with its size.
            "largest_sweep": float(f"{1 + 2 * FALSE_PAIRS_PER_REFERENCE / last.fmr:.1g}"),
        }


def build_documents(root: Path, reports: Path, images: Path) -> dict[str, str]:
    """Every document by its place under `root`, as the reports say it should be.

    Pictures are written to `images`. `RequestError` where a figure is in no report.
    """
    if not (root / "docs").is_dir():
        raise RequestError(f"no docs in {root}: they are made in a checkout")
    made = {
        "docs/performance.md": build_performance_page(reports),
        "docs/accuracy.md": build_accuracy_page(reports, images),
        "docs/model-card.md": build_model_card(reports),
    }
    names = Figures(reports).names()
    for template in sorted((*TEMPLATES.glob("README.md.j2"), *TEMPLATES.glob("docs/*.md.j2"))):
        name = str(template.relative_to(TEMPLATES).with_suffix(""))
        if name not in made:
            page = (root / name).read_text(encoding="utf-8")
            made[name] = fill_blocks(name, page, render(f"{name}.j2", **names))
    return made


def fill_blocks(name: str, page: str, rendered: str) -> str:
    """The page with the rendered blocks in place of its own, by their names."""
    blocks = {found["name"]: found[0] for found in _BLOCK.finditer(rendered)}
    there = [found["name"] for found in _BLOCK.finditer(page)]
    if sorted(there) != sorted(blocks):
        raise RequestError(f"{name} has the blocks {there}, its template {list(blocks)}")
    return _BLOCK.sub(lambda found: blocks[found["name"]], page)


def build_performance_page(reports: Path) -> str:
    """docs/performance.md."""
    found = read_reports(reports)
    shown = {one.name: found[one.name] for one in CHAPTERS if one.name in found}
    if not shown:
        raise RequestError(f"no report of a suite in {reports}")
    kept, measured = count_promises(shown)
    return render(
        "docs/performance.md.j2",
        reports=shown,
        sections=[_section(one, shown[one.name]) for one in CHAPTERS if one.name in shown],
        kept=kept,
        measured=measured,
    )


def _section(chapter: Chapter, report: Report) -> PageSection:
    main = [one for one in report.results if any(fnmatchcase(one.name, p) for p in chapter.results)]
    # The report says why it skipped the others.
    measured = (
        replace(one, figures=tuple(f for f in one.figures if f.value is not None)) for one in main
    )
    return PageSection(chapter, report, tuple(one for one in measured if one.figures))


def show_commands(documents: Mapping[str, str], root: Path = ROOT) -> dict[str, str]:
    """The pages that show commands, with what these print now."""
    pages = {name: (root / name).read_text(encoding="utf-8") for name in SHOWING}
    return {name: refresh(documents.get(name, page), run_sosie) for name, page in pages.items()}


def find_shown(page: str) -> list[tuple[str, str]]:
    """Each command after `$ sosie`, and the output that the page shows; `| head -N` cuts it."""
    return [(found["words"], found["output"]) for found in _SHOWN.finditer(page)]


def refresh(page: str, run: Run) -> str:
    """The page with what its commands print now."""

    def show(found: re.Match[str]) -> str:
        return f"```\n$ sosie {found['words']}\n{print_words(found['words'], run)}```"

    return _SHOWN.sub(show, page)


def print_words(words: str, run: Run) -> str:
    """The output as a page shows it: no spaces at the ends of lines, cut where it says so."""
    cut = _HEAD.search(words)
    lines: Sequence[str] = run(shlex.split(_HEAD.sub("", words))).splitlines()
    kept = lines if cut is None else lines[: int(cut[1])]
    return "".join(f"{line.rstrip()}\n" for line in kept)


def run_sosie(words: list[str]) -> str:
    """Standard output of `sosie WORDS`, run in the checkout, without a home."""
    command = [sys.executable, "-P", "-m", "serving.cli.main", *words]
    environment = node_environment({}, {"COLUMNS": str(WIDTH)})
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RequestError(f"sosie {' '.join(words)} ended with {done.returncode}: {last}")
    return done.stdout


def _require(found: Any, *names: str) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise RequestError(f"no figure {' > '.join(names)} in the reports")
    return float(found)
