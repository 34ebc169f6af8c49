"""Error rates of the model: `evaluate` them, `calibrate` thresholds by them."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import structs

from engine.accuracy import calibrate, evaluation_report
from engine.accuracy.dataset import LabelledFolder
from engine.accuracy.evaluate import evaluate
from engine.accuracy.evaluation_report import draw_det
from engine.errors import RequestError, advise_extra
from engine.matching.calibration import Calibration, ThresholdRates, Thresholds
from schema import frozen
from serving.cli.inputs import argument, option, require_place
from serving.cli.output import Answer, Call, Cell, Listing, Part, command, escape, print_page, warn
from serving.deployment import models
from serving.settings.settings import find_home, load_settings

FOLDER_ARGUMENT = argument("Photographs: a folder per person, as in LFW.", "DIR")
SOURCE_OPTION = option(
    "What the photographs are, in words; kept with the figures.", show_default="DIR"
)


@frozen
class EvaluationOptions:
    """The photographs to evaluate a model with, and what is drawn, written and listed."""

    folder: Path = FOLDER_ARGUMENT
    card: Path | None = option(
        "The model card to evaluate, instead of the deployment's.", "FILE.toml"
    )
    attributes: Path | None = option(
        "Groups to compare: a column `photograph` (its path in DIR) or `person`, others of labels.",
        "FILE.csv",
    )
    fmr: float | None = option(
        "Sets the one threshold at which qualities and groups are compared.",
        min=1e-12,
        max=0.5,
        show_default="1e-4, or what the data support",
    )
    source: str | None = SOURCE_OPTION
    plot: Path | None = option("Draw the DET curve there.", "FILE.png")
    report: Path | None = option(
        "Write report.md, evaluation.json, pictures, and flagged.csv, which has paths.", "DIR"
    )
    failed: bool = option("Also list photographs without a face, by their paths.")
    flagged: bool = option(
        "Also list, by their paths, strangers who may be one person under two names."
    )


@command("evaluate")
def evaluate_folder(call: Call, chosen: EvaluationOptions) -> Answer:
    """Measure error rates on photographs of known people, as ISO/IEC 19795 has them.

    Failure to acquire; one to one, where people are weighed and not photographs; one to many by the
    size of the gallery; by quality, by attributes; and strangers who may be one person under two
    names.
    """
    report = chosen.report
    for target in (chosen.plot, report and (report / "report.md" if report.exists() else report)):
        if target is not None:
            if find_spec("matplotlib") is None:
                raise RequestError(f"a picture needs matplotlib: {advise_extra('desk')}")
            require_place(target)
    settings = models.use_card(load_settings(find_home(call.home)), chosen.card)
    with models.build_extractor(settings) as extractor, call.progress("extracting") as progress:
        measured = evaluate(
            chosen.folder,
            extractor,
            progress,
            attributes=chosen.attributes,
            fmr=chosen.fmr,
            source=chosen.source,
        )
    if chosen.plot is not None:
        draw_det(measured.to_dict(), chosen.plot)
    if chosen.report is not None:
        evaluation_report.write_folder(measured, chosen.report)
    return _show_evaluation(
        measured.to_dict(with_failed=chosen.failed, with_flagged=chosen.flagged)
    )


@frozen
class CalibrationOptions:
    """The photographs to calibrate a model with, and where what is fitted goes."""

    folder: Path = FOLDER_ARGUMENT
    output: Path | None = option(
        "Where the calibration goes.",
        "FILE",
        show_default="beside the card, as NAME.calibration.json",
    )
    card: Path | None = option(
        "The model card to update with the calibration and thresholds that these photographs "
        "support; where there is none yet, a copy of the deployment's.",
        "FILE.toml",
    )
    source: str | None = SOURCE_OPTION
    transform: Path | None = option(
        "Also fit what is applied to the model's vectors (their mean is subtracted). It changes "
        "the model's digest: references made without it are converted by sosie upgrade.",
        "FILE.npz",
    )


@command("calibrate")
def calibrate_model(call: Call, chosen: CalibrationOptions) -> Answer:
    """Fit a model's thresholds to photographs of known people.

    Give --card, --output, or both.
    """
    return fit_model(call, chosen)


def fit_model(call: Call, chosen: CalibrationOptions) -> Answer:
    """Fits a calibration, writes it with what else was asked for, and says what was fitted."""
    card, transform, output = chosen.card, chosen.transform, _choose_output(chosen)
    settings = load_settings(find_home(call.home))
    if card is not None and card.exists():
        settings = models.use_card(settings, card)
    with (
        models.build_extractor(settings, is_plain=transform is not None) as extractor,
        call.progress("extracting") as progress,
    ):
        fitted, made = calibrate.calibrate_folder(
            chosen.folder,
            extractor,
            source=chosen.source or chosen.folder.name,
            transform=transform is not None,
            progress=progress,
        )
    fitted = structs.replace(fitted, version=models.choose_version(fitted, settings, card))
    rates = calibrate.choose_rates(fitted)
    thresholds = Thresholds.from_calibration(fitted, rates)
    fitted.save(output)
    if transform is not None and made is not None:
        transform.write_bytes(made.to_bytes())
    if card is not None:
        text, folder = models.read_card(card, settings), card.absolute().parent
        name = os.path.relpath(output.absolute(), folder)
        notes = calibrate.describe_thresholds(fitted, rates, thresholds)
        text = calibrate.write_calibrated(text, name, rates, notes)
        if transform is not None and made is not None:
            name = os.path.relpath(transform.absolute(), folder)
            text = calibrate.write_transform(text, name, made)
        calibrate.save_card(card, text)
    left_out = len(LabelledFolder.open(chosen.folder).paths) - fitted.photographs
    where = ": name it in the card's `calibration`."
    if card is not None:
        where = f", and into the card {escape(str(card))}."
    answer = _describe(fitted, rates, thresholds, left_out)
    return Answer(
        {"calibration": str(output), "card": None if card is None else str(card), **answer},
        *_show_calibration(fitted, rates, thresholds, left_out),
        f"[green]Written[/] to {escape(str(output))}{where}",
    )


def _choose_output(chosen: CalibrationOptions) -> Path:
    """Where the calibration goes; every file that is asked for can be written."""
    card, output = chosen.card, chosen.output
    if card is not None and output is None:
        output = card.with_name(f"{card.stem}.calibration.json")
    if output is None:
        raise RequestError("nothing would be kept: give --card FILE.toml or --output FILE")
    for target in (card, output, chosen.transform):
        require_place(target)
    return output


def _describe(
    fitted: Calibration, rates: ThresholdRates, thresholds: Thresholds, left_out: int
) -> dict[str, Any]:
    told = ("model_digest", "version", "source", "people", "photographs")
    return {
        **{name: getattr(fitted, name) for name in told},
        "photographs_without_a_face": left_out,
        "rates": asdict(rates),
        "thresholds": structs.asdict(thresholds),
        "warnings": calibrate.warn_of(fitted, rates),
        "curves": {
            kind.value: {name: getattr(curve, name) for name in CURVE_FIELDS}
            for kind, curve in fitted.curves.items()
        },
    }


CURVE_FIELDS = ("mated_pairs", "nonmated_pairs", "lowest_fmr", "highest_nonmated")


def _show_evaluation(report: evaluation_report.Report) -> Answer:
    """The page of an evaluation; paths only where `Evaluation.to_dict` has them."""
    flagged = (
        f"flagged: {escape(row['photograph'])} · {escape(row['other'])}, score {row['score']:.3f}"
        for row in report.get("flagged_photographs", ())
    )
    failed = report.get("failed_photographs", ())
    seconds, extract_s = report["seconds"], report["extract_seconds"]
    return Answer(
        report,
        lambda: print_page(evaluation_report.write_report(report)),
        *flagged,
        f"[dim]{seconds:.1f} s, of it {extract_s:.1f} s extraction[/]",
        *(f"not acquired: {escape(path)}" for path in failed),
    )


def _show_calibration(
    fitted: Calibration, rates: ThresholdRates, thresholds: Thresholds, left_out: int
) -> Iterator[Part]:
    compared: dict[str, Cell] = {
        "comparison": lambda one: one[0].value.replace("_", " "),
        "non-mated pairs": lambda one: f"{one[1].nonmated_pairs:,}",
        "lowest FMR": lambda one: f"{one[1].lowest_fmr:.2g}",
        "its threshold": lambda one: f"{one[1].points[-1].threshold:.4f}",
        "highest stranger": lambda one: f"{one[1].highest_nonmated:.4f}",
    }
    counted = f"{fitted.photographs:,} photographs of {fitted.people:,} people"
    yield Listing(tuple(fitted.curves.items()), compared, title=counted)
    if left_out:
        yield f"Left out, since no face was found: {left_out:,} of the photographs."
    sources = calibrate.name_sources(rates, thresholds)
    supported = [
        (name, f"{score:.4f}", sources[name]) for name, score in structs.asdict(thresholds).items()
    ]
    title = "Thresholds that these photographs support"
    yield Listing(supported, ("", "score", "set by"), title=title)
    yield from warn(calibrate.warn_of(fitted, rates))
