"""README.md and docs/*.md, rendered from the committed reports by Jinja templates.

`templates/docs/NAME.md.j2` makes docs/NAME.md. A template made of blocks, from
`<!-- figures: NAME -->` to `<!-- end of figures -->`, replaces the blocks of the page that have
these names, and people write the rest.
"""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.core.render import TEMPLATES, count_promises, describe_setup, render
from bench.core.reports import Figure, Report, Result, Setup, read_report, read_reports
from bench.suites.accuracy import CAUSES, DEGRADED, HELD_OUT, LOSSES, REPEATS, TOLD
from engine.accuracy.bootstrap import MIN_PEOPLE, REPLICATES
from engine.accuracy.evaluate import find_point, list_galleries
from engine.accuracy.evaluation_report import draw_det, write_section
from engine.accuracy.pair_scores import MOST_PHOTOGRAPHS, wilson_interval
from engine.errors import RateUnsupported, RequestError
from engine.formatting import percent, power, span, write_table
from engine.matching.calibration import ONE_PERSON_FACTOR, Calibration, ThresholdRates, Thresholds
from engine.models.catalog import builtin_card
from engine.plots import open_panels, save_figure
from engine.sweeps.estimate import FALSE_PAIRS_PER_REFERENCE
from schema import frozen
from schema.decisions import Comparison
from serving.deployment.models import load_calibration
from serving.settings.settings import Settings, node_environment

EVALUATION, SUITE = "evaluation.json", "accuracy"
TOO_LOW_FMR = 1e-8
GAIN_RATES = (1e-3, 1e-4, 1e-5)
FUSIONS = (Comparison.FUSED_TO_ONE, Comparison.FUSED)
LOOKED_AT = 16
"""Pairs flagged in the half of LFW, all of which were reviewed by hand."""
GOOD, BAD, NEEDLESS = "#0072B2", "#CC3311", "#E69F00"

Evaluated = dict[str, Any]
"""What `sosie evaluate --json` wrote."""


def score(value: float) -> str:
    return f"{value:.3f}"


def build_accuracy_page(reports: Path, images: Path) -> str:
    """The page, from evaluation.json and accuracy.json; its pictures are drawn into `images`.

    Raises `RequestError` where a report is missing or has not all parts.
    """
    report = read_evaluation(reports)
    images.mkdir(parents=True, exist_ok=True)
    draw_det(report, images / "det.png", reports=digest_report(reports / EVALUATION))
    draw_degraded(reports / f"{SUITE}.json", images / "degraded.png")
    return render("docs/accuracy.md.j2", **_fill(report, reports))


def build_model_card(reports: Path) -> str:
    """The model card of the default model (Mitchell et al. 2019), from the same reports."""
    card, detector = builtin_card("sface"), builtin_card("yunet")
    fields = _fill(read_evaluation(reports), reports)
    return render("docs/model-card.md.j2", card=card, detector=detector, **fields)


def read_evaluation(reports: Path) -> Evaluated:
    """What `sosie evaluate --json` wrote; raises `RequestError` where it is not all there."""
    try:
        report: Evaluated = json.loads((reports / EVALUATION).read_text("utf-8"))
    except OSError as error:
        raise RequestError(f"cannot read {EVALUATION}: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"{EVALUATION} is none: write it by `evaluate --json`") from error
    needed = ("quality_bands", "lowest_fmr")
    missing = [name for name in needed if not report.get(name)]
    if missing:
        raise RequestError(f"{EVALUATION} lacks {missing[0]}: evaluate all of LFW")
    return report


def _fill(report: Evaluated, reports: Path) -> dict[str, Any]:
    """What both pages are given: the report, with its tables and sentences, and the calibration."""
    suite = read_report(reports / f"{SUITE}.json")
    calibration = load_calibration(Settings())
    fused = calibration.curve(Comparison.FUSED)
    review = Thresholds.from_calibration(calibration).review
    try:
        calibration.threshold_at(TOO_LOW_FMR, Comparison.ONE_TO_ONE)
    except RateUnsupported as refused:
        refusal = str(refused)
    else:
        raise AssertionError("LFW can't support so low a rate")
    return {
        "report": report,
        "held_out": {"repeats": REPEATS}
        | {rate.lower(): _find(suite, HELD_OUT, f"verify, {rate}") for rate in ("FMR", "FNMR")},
        "version": calibration.version,
        "single_review": power(calibration.fmr_at(review, Comparison.FUSED_TO_ONE).value),
        "fused_review": power(fused.fmr_at(review).value),
        "rates": write_section("rates", report),
        "acquisition": write_section("acquisition", report["acquisition"]),
        "gain": {
            rate: [find_point(calibration.curve(kind).points, rate) for kind in FUSIONS]
            for rate in GAIN_RATES
        },
        "generalised": "The table of [one to one](#one-to-one) has it in its last column."
        if report["fta"]
        else "Here both are the same.",
        "galleries_words": write_section("galleries_words"),
        "galleries": write_section("galleries", list_curves(report, calibration)),
        "quality": write_section("quality_words", report),
        "bands": write_section("quality", report["quality_bands"]),
        "flagged": write_section("flagged_words", report["flagged"]),
        "are_looked_at": report["flagged"]["pairs"] == LOOKED_AT,
        "causes": write_causes(suite),
        "refusal": refusal,
        "lowest_fused": power(fused.lowest_fmr),
        "highest": score(fused.highest_nonmated),
        "thresholds": tabulate_thresholds(calibration),
        "calibrated_on": calibration.source,
        "replicates": REPLICATES,
        "least_people": MIN_PEOPLE,
        "most_photographs": MOST_PHOTOGRAPHS,
        "percent": percent,
        "power": power,
        "span": span,
    }


def list_curves(report: Evaluated, calibration: Calibration) -> Evaluated:
    """Of each kind of comparison the points for galleries of several sizes."""
    return {"one to one": report["galleries"]} | {
        kind.value.replace("_", " "): {
            str(size): one and msgspec.structs.asdict(one)
            for size, one in list_galleries(calibration.curve(kind).points)
        }
        for kind in FUSIONS
    }


def _find(suite: Report, result: str, name: str) -> Figure:
    measured = suite.find(result)
    found = measured.find(name) if measured else None
    if found is None or found.value is None:
        raise RequestError(f"{SUITE}.json lacks {result}: run `sosie bench accuracy` on all of LFW")
    return found


def tabulate_thresholds(calibration: Calibration) -> str:
    """The scores with what sets them."""
    rates = ThresholdRates()
    scores = Thresholds.from_calibration(calibration, rates)
    fused, to_one = map(calibration.curve, (Comparison.FUSED, Comparison.FUSED_TO_ONE))
    review = fused.fmr_at(scores.review)
    low = power(review.low) if review.low else "0"
    rows = (
        ("`verify`", score(scores.verify), f"FMR {power(rates.verify)}, single photographs",
         "live photograph against portrait"),
        ("`verify_fused`", score(scores.verify_fused), f"FMR {power(rates.verify)}, fused",
         "the most that `verify` becomes for several live frames"),
        ("`one_person`", score(scores.one_person),
         f"FMR {power(rates.verify * ONE_PERSON_FACTOR)}, single photographs",
         "one of several live frames against each of the others"),
        ("`same_document`", score(scores.same_document), f"FMR {power(rates.same_document)}, fused",
         "a returning subscriber against the document's reference"),
        ("`same_document_single`", score(scores.of(Comparison.FUSED_TO_ONE).same_document),
         f"FMR {power(rates.same_document)}, one against fused",
         "their live face, and their portrait, alone"),
        ("`review`", score(scores.review),
         f"FMR {power(rates.review)}, fused ({low} to {power(review.high)})",
         "1:N: a possible duplicate, for a person to judge"),
        ("`review_single`", score(scores.of(Comparison.FUSED_TO_ONE).review),
         f"FMR {power(rates.review)}, one against fused",
         "1:N of the live face, and of the portrait, alone"),
        ("`certain`", score(scores.certain),
         f"the highest fused score of two strangers, {score(fused.highest_nonmated)}, plus "
         f"{rates.certain_margin:g}", "1:N: a duplicate"),
        ("`certain_single`", score(scores.of(Comparison.FUSED_TO_ONE).certain),
         f"the same, one against fused: {score(to_one.highest_nonmated)}, plus "
         f"{rates.certain_margin:g}", "1:N of one photograph alone"),
    )  # fmt: skip
    return write_table(("threshold", "score", "set by", "compares"), rows)


def digest_report(path: Path) -> str:
    """SHA-256 of its bytes: what a picture holds as `reports` of the report it was drawn from."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def draw_degraded(report: Path, path: Path) -> None:
    """Stacked bars of what becomes of honest pairs at each level of each degradation."""
    result = read_report(report).find(DEGRADED)
    if result is None:
        return
    shares = {figure.name: 100 * (figure.value or 0.0) for figure in result.figures}
    levels = [name.removesuffix(", lost") for name in shares if name.endswith(", lost")]
    size = -(-len(levels) // _LEVEL_COLUMNS)
    figure, panels = open_panels(12.0, 0.19 * size + 1.2, _LEVEL_COLUMNS)
    for axes, start in zip(panels, range(0, len(levels), size), strict=True):
        shown = levels[start : start + size]
        left = np.zeros(len(shown))
        for label, color, of in _OUTCOMES:
            widths = np.array([of(*(shares[f"{one}, {kind}"] for kind in LOSSES)) for one in shown])
            axes.barh(shown, widths, left=left, height=0.7, color=color, label=label)
            left += widths
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", labelsize=7)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    caption = (
        "per cent of a person's first photograph against the second, degraded; "
        f"{result.setup['people']} people, none of them used for fitting"
    )
    save_figure(figure, path, caption, reports=digest_report(report))


def write_causes(suite: Report) -> str:
    """The table of what was told first of photographs sent back, by what degraded them."""
    result = suite.find(TOLD)
    counts: dict[str, dict[str, int]] = {}
    for figure in result.figures if result else ():
        cause, reason = figure.name.split(", ")
        counts.setdefault(cause, {})[reason] = int(figure.value or 0)
    rows = []
    for cause, told in counts.items():
        due, total = CAUSES[cause], sum(told.values())
        right = told.pop(due, 0)
        first = f"{percent(right / total)} ({span(*wilson_interval(right, total))})"
        seen = {reason: n / total for reason, n in told.items() if n >= total / 100}
        others = ", ".join(f"{reason} {percent(share)}" for reason, share in seen.items())
        rows.append((cause, due, str(total), first, others or "none"))
    head = ("degraded by", "reason", "sent back", "told first", "told else, from 1 %")
    return write_table(head, rows)


_LEVEL_COLUMNS = 3
# Of (lost, silent, needless), as `sosie bench accuracy` reports them.
_OUTCOMES: tuple[tuple[str, str, Callable[[float, float, float], float]], ...] = (
    ("below the threshold, no reason told", BAD, lambda _lost, silent, _needless: silent),
    ("below the threshold, sent back with a reason", GOOD, lambda lost, silent, _: lost - silent),
    ("sent back, would have matched", NEEDLESS, lambda _lost, _silent, needless: needless),
)


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


@frozen
class Chapter:
    """What docs/performance.md shows of a report: results by patterns of names."""

    name: str
    title: str
    command: str
    text: str
    results: tuple[str, ...]


@frozen
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
        found = self._find(suite, result)
        figure = found and found.find(name, unit)
        return _require(getattr(figure, field, None), suite, result, name, field)

    def promise(self, suite: str, name: str, field: str = "value") -> float:
        """What was measured of a goal; the goal itself, as it is on the report's machine, where
        that is the `field`."""
        checks = self.reports[suite].checks if suite in self.reports else ()
        found = next((one for one in checks if one.name == name), None)
        return _require(getattr(found, field, None), suite, "promise", name)

    def setup(self, suite: str, result: str, name: str) -> float:
        """A number that a result was measured with."""
        found = self._find(suite, result)
        return _require(found and found.setup.get(name), suite, result, name)

    def _find(self, suite: str, result: str) -> Result | None:
        return self.reports[suite].find(result) if suite in self.reports else None

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


def show_commands(documents: Mapping[str, str]) -> dict[str, str]:
    """The pages that show commands, with what these print now."""
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in SHOWING}
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
    """The output as a page shows it: tables without frames, no spaces at the ends of lines, cut
    where it says so."""
    cut = _HEAD.search(words)
    lines: Sequence[str] = run(shlex.split(_HEAD.sub("", words))).splitlines()
    kept = lines if cut is None else lines[: int(cut[1])]
    plain = (re.sub("[│┃]", " ", line).rstrip() for line in kept if line[:1] not in {*"┏┡┌└"})
    return "".join(f"{line}\n" for line in plain)


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
