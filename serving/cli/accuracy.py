"""Error rates of the model: `evaluate` them, `calibrate` thresholds by them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.accuracy.evaluation_report import describe_flagged
from engine.accuracy.plots import MEASURE_NAMES, describe_span
from engine.accuracy.writing import power, rate, share, times
from engine.errors import RequestError
from serving.cli.inputs import HomeOption, require_place
from serving.cli.output import (
    FIGURES,
    JsonFlag,
    escape,
    print_json,
    print_line,
    print_table,
    show_progress,
)

if TYPE_CHECKING:
    from engine.accuracy.evaluate import Evaluation
    from engine.accuracy.gallery_growth import GalleryGrowth
    from engine.accuracy.population import Population
    from engine.matching.calibration import Calibration, OperatingPoint, ThresholdRates, Thresholds
    from serving.settings import Settings


FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Photographs: a folder per person, as in LFW.")
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        help="What the photographs are, in words; kept with the figures.", show_default="DIR"
    ),
]


def register(app: typer.Typer) -> None:
    app.command("evaluate", rich_help_panel=FIGURES)(evaluate_folder)
    app.command("calibrate", rich_help_panel=FIGURES)(calibrate_model)


def evaluate_folder(
    folder: FolderArgument,
    pairs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pairs in folds, as LFW's pairs.txt.")
    ] = None,
    attributes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Groups to compare: a column `photograph` (its path in DIR) or `person`, others "
            "of labels; `captured_at`, where there, dates the photographs.",
        ),
    ] = None,
    dates: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Columns `photograph` and `captured_at`: ageing."),
    ] = None,
    fmr: Annotated[
        float | None,
        typer.Option(
            min=1e-12,
            max=0.5,
            help="Sets the one threshold at which qualities, groups and ages are compared.",
            show_default="1e-4, or what the data support",
        ),
    ] = None,
    source: SourceOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw the DET curve there; beside it FILE-gallery.png, FILE-quality.png, and "
            "those of attributes and ageing.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write report.md, evaluation.json, pictures, and flagged.csv, which has paths.",
        ),
    ] = None,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Also list photographs without a face, by their paths."),
    ] = False,
    flagged: Annotated[
        bool,
        typer.Option(
            "--flagged",
            help="Also list, by their paths, strangers who may be one person under two names.",
        ),
    ] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure error rates on photographs of known people, as ISO/IEC 19795 has them.

    Failure to acquire; over all pairs, over folds where a file of pairs is given; in an open set,
    by the size of the gallery; by quality, by attributes, by the years between photographs; and
    strangers who may be one person under two names.
    """
    from engine.accuracy.evaluate import evaluate
    from serving.compose import build_extractor
    from serving.settings import find_cache, find_home, load_settings

    if plot is not None or report is not None:
        _require_matplotlib()
    for target in (plot, report and report / "report.md"):
        if target is not None:
            _require_room(target, is_folder=target is not plot)
    settings = load_settings(find_home(home))
    with (
        build_extractor(settings, find_cache()) as extractor,
        show_progress("extracting", is_shown=not as_json) as progress,
    ):
        measured = evaluate(
            folder,
            pairs,
            extractor,
            progress,
            attributes=attributes,
            dates=dates,
            fmr=fmr,
            source=source,
        )
    _draw(measured, plot, report)
    if as_json:
        print_json(measured.to_dict(with_failed=failed, with_flagged=flagged))
    else:
        print_evaluation(measured, with_failed=failed, with_flagged=flagged)


def calibrate_model(
    folder: FolderArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the calibration goes.",
            show_default="beside the card, as NAME.calibration.json",
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="The model card to update with the calibration and thresholds that these "
            "photographs support; where there is none yet, a copy of the deployment's.",
        ),
    ] = None,
    source: SourceOption = None,
    population: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="Also fit the statistics that synthetic galleries come from."
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit a model's thresholds to photographs of known people.

    Give --card, --output, or both.
    """
    from engine.accuracy.dataset import LabelledFolder
    from serving.settings import find_home, load_settings

    if card is not None and output is None:
        output = card.with_name(f"{card.stem}.calibration.json")
    if output is None:
        raise RequestError("nothing would be kept: give --card FILE.toml or --output FILE")
    for target in (card, output, population):
        if target is not None:
            require_place(target)
    settings = load_settings(find_home(home))
    if card is not None and card.exists():
        settings = _with_card(settings, card)
    fitted, people = _fit(
        settings,
        folder,
        source or folder.name,
        with_population=population is not None,
        is_shown=not as_json,
    )
    chosen = _choose(fitted)
    left_out = len(LabelledFolder.open(folder).paths) - fitted.photographs
    fitted.save(output)
    if population is not None and people is not None:
        people.save(population)
    if card is not None:
        _write_card(card, output, settings, fitted, *chosen)
    if as_json:
        print_json(write_calibration(fitted, output, card, *chosen, left_out))
    else:
        print_calibration(fitted, output, card, *chosen, left_out)


def _fit(
    settings: Settings, folder: Path, source: str, *, with_population: bool, is_shown: bool
) -> tuple[Calibration, Population | None]:
    from engine.accuracy.calibrate import calibrate_folder
    from serving.compose import build_extractor
    from serving.settings import find_cache

    with (
        build_extractor(settings, find_cache()) as extractor,
        show_progress("extracting", is_shown=is_shown) as progress,
    ):
        return calibrate_folder(
            folder, extractor, source=source, population=with_population, progress=progress
        )


def _choose(fitted: Calibration) -> tuple[ThresholdRates, Thresholds]:
    """The rates that the data support, and the scores that keep them."""
    from engine.accuracy.calibrate import choose_rates
    from engine.matching.calibration import Thresholds

    rates = choose_rates(fitted)
    return rates, Thresholds.from_calibration(fitted, rates)


def _with_card(settings: Settings, card: Path) -> Settings:
    """The same with the embedder of this card."""
    models = settings.models.model_copy(update={"embedder": str(card.absolute())})
    return settings.model_copy(update={"models": models})


def _write_card(
    card: Path,
    output: Path,
    settings: Settings,
    fitted: Calibration,
    rates: ThresholdRates,
    thresholds: Thresholds,
) -> None:
    """Update the card, or make it of the deployment's own."""
    import os

    from engine.accuracy.calibrate import (
        copy_card,
        describe_thresholds,
        save_card,
        write_calibrated,
    )
    from engine.models.catalog import CARDS_FOLDER
    from serving.compose import embedder_card
    from serving.settings import is_card_file

    folder = card.absolute().parent
    if card.exists():
        text = card.read_text("utf-8")
    else:
        name = settings.models.embedder
        path = Path(name) if is_card_file(name) else CARDS_FOLDER / f"{name}.toml"
        text = copy_card(embedder_card(settings), path.read_text("utf-8"), folder)
    calibration_file = os.path.relpath(output.absolute(), folder)
    notes = describe_thresholds(fitted, rates, thresholds)
    save_card(card, write_calibrated(text, calibration_file, rates, notes))


def _draw(measured: Evaluation, plot: Path | None, report: Path | None) -> None:
    from engine.accuracy.evaluation_report import draw_pictures, write_folder

    if plot is not None:
        draw_pictures(measured.to_dict(), plot)
    if report is not None:
        write_folder(measured, report)


def _require_room(target: Path, *, is_folder: bool) -> None:
    """A folder that is not there yet is made; its parent must be there."""
    if is_folder and not target.parent.exists():
        require_place(target.parent)
    else:
        require_place(target)


def _require_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise RequestError("a picture needs matplotlib: pip install 'sosie[bench]'")


# What `evaluate` and `calibrate` print for people, and the latter's JSON.

KINDS = {"single": "one photograph", "fused": "two fused"}
DOUBTFUL_HIGHEST = 0.9
"""Strangers who score as high are more likely one person under two names."""


def print_evaluation(measured: Evaluation, *, with_failed: bool, with_flagged: bool) -> None:
    """Writes an evaluation to standard output; paths only where they are asked for."""
    print_line(
        f"{measured.photographs:,} photographs of {measured.people:,} people; "
        f"{measured.mated_pairs:,} mated and {measured.nonmated_pairs:,} non-mated pairs."
    )
    print_line(f"Failure to acquire (FTA): {share(asdict(measured.acquisition.failed))}.")
    reasons = {**measured.acquisition.failures, **measured.acquisition.problems}
    if reasons:
        rows = [[name, f"{one.events:,}", share(asdict(one))] for name, one in reasons.items()]
        print_table("Wrong with photographs", ("reason", "photographs", "share (95 %)"), rows)
    if measured.verification is not None:
        folds = measured.verification
        print_line(
            f"Accuracy over folds: {folds.accuracy:.2%}, standard deviation "
            f"{folds.accuracy_std:.2%}."
        )
    _print_rates(measured)
    _print_open_set(measured)
    if measured.growth is not None:
        _print_growth(measured.growth)
    _print_conditions(measured)
    _print_flagged(measured, with_flagged=with_flagged)
    print_line(f"[dim]{measured.seconds:.1f} s, of it {measured.extract_s:.1f} s extraction[/]")
    for path in measured.failed_photographs if with_failed else ():
        print_line(f"not acquired: {escape(path)}")


def _print_rates(measured: Evaluation) -> None:
    from engine.accuracy.evaluate import TABLE_RATES

    rows, columns = [], ["FMR", "threshold", "FNMR (95 %)"]
    for name, wanted in TABLE_RATES.items():
        point = measured.point_at(wanted)
        rows.append([name, *(_measures(point) if point else ["not supported", ""])])
    if measured.fta:
        columns.append("generalised: not acquired is missed")
        for row, found in zip(rows, measured.generalised.values(), strict=True):
            row.append(share(asdict(found)) if found else "")
    print_table("One to one, all pairs", columns, rows)
    if measured.points:
        print_line(f"No FMR below {power(measured.points[-1].fmr)} is supported by these pairs.")


def _print_open_set(measured: Evaluation) -> None:
    if measured.identification is None:
        return
    found = measured.identification
    rows = [
        [kind, f"{one.fpir:g}", f"{one.threshold:.4f}", _share(one.fnir, one.low, one.high)]
        for kind, points in ((KINDS["single"], found.single), (KINDS["fused"], found.fused))
        for one in points
    ]
    title = f"One to {found.gallery_size:,}, open set"
    print_table(title, ("reference", "FPIR", "threshold", "FNIR (95 %)"), rows)


def _print_growth(growth: GalleryGrowth) -> None:
    rows = []
    for curve in growth.curves:
        largest = curve.measured[-1] if curve.measured else None
        beyond = curve.extrapolated[-1] if curve.extrapolated else None
        for what, one in (("measured", largest), ("extrapolated", beyond)):
            if one is not None:
                size = f"{one.gallery_size:,}"
                found = _share(one.fnir, one.low, one.high)
                rows.append([KINDS[curve.reference], f"{curve.fpir:g}", what, size, found])
        refused = ["[dim]refused[/]", "", curve.refused]
        rows.append([KINDS[curve.reference], f"{curve.fpir:g}", *refused])
    columns = ("reference", "FPIR", "", "gallery", "FNIR (95 %)")
    title = (
        "By the size of the gallery; extrapolated as if comparisons were independent: "
        f"{growth.formula}"
    )
    print_table(title, columns, rows)


def _print_conditions(measured: Evaluation) -> None:
    conditions = measured.conditions.to_dict()
    bands = conditions["quality_bands"]
    if bands:
        common = f"score {bands['threshold']:.4f} (FMR {power(conditions['common_fmr'])} over all)"
        print_line(f"What follows is at one threshold: {common}.")
        rows = [
            [
                MEASURE_NAMES[one["measure"]],
                *(share(band["fnmr"], band["refused"]) for band in one["bands"]),
            ]
            for one in bands["measures"]
        ]
        columns = ("", *(band["name"] for band in bands["measures"][0]["bands"]))
        print_table("FNMR by the quality of the worse photograph (95 %)", columns, rows)
    for attribute in conditions["attributes"]:
        _print_attribute(attribute)
    if conditions["ageing"]:
        _print_ageing(conditions["ageing"])


def _print_attribute(attribute: dict[str, Any]) -> None:
    rows = [
        [
            escape(group["label"]),
            f"{group['people']:,}",
            share(group["fnmr"], group["fnmr_refused"]),
            rate(group["fmr"], group["fmr_refused"]),
        ]
        for group in attribute["groups"]
    ]
    title = f"By {escape(attribute['column'])}"
    print_table(title, ("group", "people", "FNMR (95 %)", "FMR (95 %)"), rows)
    for name, found in (("negative", "false_negative"), ("positive", "false_positive")):
        print_line(f"False {name} differential: {escape(times(attribute[found]))}.")


def _print_ageing(ageing: dict[str, Any]) -> None:
    rows = [
        [
            describe_span(one),
            f"{one['people']:,}",
            f"{one['median']:.3f}",
            share(one["fnmr"], one["refused"]),
        ]
        for one in ageing["spans"]
    ]
    columns = ("years between", "people", "median score", "FNMR (95 %)")
    print_table("Template ageing", columns, rows)


def _print_flagged(measured: Evaluation, *, with_flagged: bool) -> None:
    print_line(describe_flagged(measured.flagged.to_dict()))
    if with_flagged:
        for row in measured.flagged.to_rows(measured.embeddings):
            both = escape(f"{row['photograph']} · {row['other']}")
            print_line(f"flagged: {both}, score {row['score']:.3f}")


def _measures(point: OperatingPoint) -> list[str]:
    return [f"{point.threshold:.4f}", _share(point.fnmr, point.fnmr_low, point.fnmr_high)]


def _share(value: float, low: float, high: float) -> str:
    return share({"value": value, "low": low, "high": high})


def write_calibration(
    fitted: Calibration,
    output: Path,
    card: Path | None,
    rates: ThresholdRates,
    thresholds: Thresholds,
    left_out: int,
) -> dict[str, Any]:
    """What `calibrate --json` prints."""
    return {
        "calibration": str(output),
        "card": None if card is None else str(card),
        "model_digest": fitted.model_digest,
        "source": fitted.source,
        "people": fitted.people,
        "photographs": fitted.photographs,
        "photographs_without_a_face": left_out,
        "rates": asdict(rates),
        "thresholds": asdict(thresholds),
        "warnings": _warn(fitted, rates),
        "curves": {
            kind.value: {
                "mated_pairs": curve.mated_pairs,
                "nonmated_pairs": curve.nonmated_pairs,
                "lowest_fmr": curve.lowest_fmr,
                "highest_nonmated": curve.highest_nonmated,
            }
            for kind, curve in fitted.curves.items()
        },
    }


def print_calibration(
    fitted: Calibration,
    output: Path,
    card: Path | None,
    rates: ThresholdRates,
    thresholds: Thresholds,
    left_out: int,
) -> None:
    """Writes what was fitted to standard output, and where it is."""
    rows = [
        [
            kind.value.replace("_", " "),
            f"{curve.nonmated_pairs:,}",
            f"{curve.lowest_fmr:.2g}",
            f"{curve.points[-1].threshold:.4f}",
            f"{curve.highest_nonmated:.4f}",
        ]
        for kind, curve in fitted.curves.items()
    ]
    titles = ("comparison", "non-mated pairs", "lowest FMR", "its threshold", "highest stranger")
    print_table(f"{fitted.photographs:,} photographs of {fitted.people:,} people", titles, rows)
    if left_out:
        print_line(f"Left out, since no face was found: {left_out:,} of the photographs.")
    kept = asdict(rates)
    rows = [
        [name, f"{score:.4f}", f"FMR {kept[name]:g}" if name in kept else "highest + margin"]
        for name, score in asdict(thresholds).items()
    ]
    print_table("Thresholds that these photographs support", ("", "score", "set by"), rows)
    for warning in _warn(fitted, rates):
        print_line(f"[yellow]warning:[/] {warning}")
    if card is None:
        told = f"{escape(str(output))}: name it in the card's `calibration`."
    else:
        told = f"{escape(str(output))}, and into the card {escape(str(card))}."
    print_line(f"[green]Written[/] to {told}")


def _warn(fitted: Calibration, rates: ThresholdRates) -> list[str]:
    """Where the data fall short of the usual, and where their labels are doubtful."""
    from engine.matching.calibration import Comparison, ThresholdRates

    usual, told = asdict(ThresholdRates()), []
    for name, chosen in asdict(rates).items():
        if chosen > usual[name]:
            told.append(
                f"{name} keeps an FMR of {chosen:g}, not the usual {usual[name]:g}: "
                "the data support no less"
            )
    if fitted.curve(Comparison.FUSED).highest_nonmated > DOUBTFUL_HIGHEST:
        told.append(
            "two strangers look like one person, and `certain` stands above them: "
            "look at `sosie evaluate --flagged`"
        )
    return told
