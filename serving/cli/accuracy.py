"""Error rates of the model: `evaluate` them, `calibrate` thresholds by them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import RequestError, advise_extra
from serving.cli.inputs import argument, option, require_place
from serving.cli.output import Answer, Call, command, escape, print_line, print_table, wide_console

if TYPE_CHECKING:
    from engine.accuracy.calibrate import Fitted
    from engine.accuracy.evaluation_report import Report
    from engine.matching.calibration import Calibration, ThresholdRates, Thresholds
    from engine.models.transform import Transform
    from serving.settings.settings import Settings

FOLDER_ARGUMENT = argument("Photographs: a folder per person, as in LFW.", "DIR")
SOURCE_OPTION = option(
    "What the photographs are, in words; kept with the figures.", show_default="DIR"
)


@command("evaluate")
def evaluate_folder(
    call: Call,
    folder: Path = argument(
        "Photographs: a folder per person, as in LFW; or in each a folder live and one portrait, "
        "to compare live photographs with portraits alone.",
        "DIR",
    ),
    card: Path | None = option(
        "The model card to evaluate, instead of the deployment's.", "FILE.toml"
    ),
    pairs: Path | None = option(
        "Compare these pairs alone: columns `photograph` and `other`, paths in DIR; or LFW's "
        "pairs.txt.",
        "FILE",
    ),
    attributes: Path | None = option(
        "Groups to compare: a column `photograph` (its path in DIR) or `person`, others of "
        "labels; `captured_at`, where there, dates the photographs.",
        "FILE.csv",
    ),
    dates: Path | None = option("Columns `photograph` and `captured_at`: ageing.", "FILE.csv"),
    fmr: float | None = option(
        "Sets the one threshold at which qualities, groups and ages are compared.",
        min=1e-12,
        max=0.5,
        show_default="1e-4, or what the data support",
    ),
    source: str | None = SOURCE_OPTION,
    plot: Path | None = option(
        "Draw the DET curve there; beside it FILE-gallery.png, FILE-quality.png, and those of "
        "attributes and ageing.",
        "FILE.png",
    ),
    report: Path | None = option(
        "Write report.md, evaluation.json, pictures, and flagged.csv, which has paths.", "DIR"
    ),
    failed: bool = option("Also list photographs without a face, by their paths."),
    flagged: bool = option(
        "Also list, by their paths, strangers who may be one person under two names."
    ),
) -> Answer:
    """Measure error rates on photographs of known people, as ISO/IEC 19795 has them.

    Failure to acquire; one to one, where people are weighed and not photographs; one to many by the
    size of the gallery; by quality, by attributes, by the years between photographs; and strangers
    who may be one person under two names.

    By a protocol (live photographs against portraits, or --pairs) the report has the generalised
    rates at the threshold in use, and by group: there a photograph that is sent back fails.
    """
    from engine.accuracy.dataset import has_sides
    from engine.accuracy.evaluate import evaluate
    from engine.accuracy.evaluation_report import draw_pictures, write_folder
    from serving.deployment.models import build_extractor
    from serving.settings.settings import find_home, load_settings

    if plot is not None or report is not None:
        _require_matplotlib()
    for target in (plot, report and report / "report.md"):
        if target is not None:
            _require_room(target, is_folder=target is not plot)
    settings = _use_card(load_settings(find_home(call.home)), card)
    if pairs is not None or has_sides(folder):
        unused = {
            "--plot": plot,
            "--dates": dates,
            "--fmr": fmr,
            "--failed": failed or None,
            "--flagged": flagged or None,
        }
        for name, value in unused.items():
            if value is not None:
                raise RequestError(f"{name} is for comparisons of all photographs: leave it out")
        return _evaluate_protocol(call, folder, settings, pairs, attributes, source, report)
    with build_extractor(settings) as extractor, call.progress("extracting") as progress:
        measured = evaluate(
            folder, extractor, progress, attributes=attributes, dates=dates, fmr=fmr, source=source
        )
    if plot is not None:
        draw_pictures(measured.to_dict(), plot)
    if report is not None:
        write_folder(measured, report)
    found = measured.to_dict(with_failed=failed, with_flagged=flagged)
    return Answer(found, lambda: print_evaluation(found))


def _use_card(settings: Settings, card: Path | None) -> Settings:
    """The settings with this embedder."""
    if card is None:
        return settings
    chosen = {"embedder": str(card.absolute()), "calibration": 0}
    return settings.model_copy(update={"models": settings.models.model_copy(update=chosen)})


def _evaluate_protocol(
    call: Call,
    folder: Path,
    settings: Settings,
    pairs: Path | None,
    attributes: Path | None,
    source: str | None,
    report: Path | None,
) -> Answer:
    from engine.accuracy.evaluation_report import write_protocol, write_protocol_folder
    from engine.accuracy.protocols import evaluate_protocol
    from serving.deployment.models import build_extractor

    verify = _find_verify(settings)
    with build_extractor(settings) as extractor, call.progress("extracting") as progress:
        measured = evaluate_protocol(
            folder,
            extractor,
            progress,
            pairs=pairs,
            attributes=attributes,
            verify=verify,
            source=source,
        )
    if report is not None:
        write_protocol_folder(measured, report)
    found = measured.to_dict()

    def show() -> None:
        from rich.markdown import Markdown

        wide_console().print(Markdown(write_protocol(found)))

    return Answer(found, show)


def _find_verify(settings: Settings) -> tuple[float, str] | None:
    """The threshold `verify` in use and what set it; None for a model without a calibration."""
    from engine.errors import CalibrationError
    from serving.deployment.models import build_thresholds, load_calibration, threshold_rates

    try:
        calibration = load_calibration(settings)
    except CalibrationError:
        return None
    score = build_thresholds(settings, calibration).verify
    fmr = threshold_rates(settings).verify
    return score, f"`verify`, FMR {fmr:g} by version {calibration.version} of the calibration"


@command("calibrate")
def calibrate_model(
    call: Call,
    folder: Path = FOLDER_ARGUMENT,
    output: Path | None = option(
        "Where the calibration goes.",
        "FILE",
        show_default="beside the card, as NAME.calibration.json",
    ),
    card: Path | None = option(
        "The model card to update with the calibration and thresholds that these photographs "
        "support; where there is none yet, a copy of the deployment's.",
        "FILE.toml",
    ),
    source: str | None = SOURCE_OPTION,
    population: Path | None = option(
        "Also fit the statistics that synthetic galleries come from.", "FILE.npz"
    ),
    transform: Path | None = option(
        "Also fit what is applied to the model's vectors (their mean is subtracted). It changes "
        "the model's digest: references made without it are converted by sosie upgrade.",
        "FILE.npz",
    ),
) -> Answer:
    """Fit a model's thresholds to photographs of known people.

    Give --card, --output, or both.
    """
    made = fit_model(call, folder, output, card, source, population, transform=transform)
    return Answer(made.to_dict(), lambda: print_calibration(made))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedModel:
    """A calibration that was written to `output` and, where there is one, into a `card`; `left_out`
    photographs have no face."""

    calibration: Calibration
    output: Path
    card: Path | None
    rates: ThresholdRates
    thresholds: Thresholds
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        fitted = self.calibration
        return {
            "calibration": str(self.output),
            "card": None if self.card is None else str(self.card),
            "model_digest": fitted.model_digest,
            "version": fitted.version,
            "source": fitted.source,
            "people": fitted.people,
            "photographs": fitted.photographs,
            "photographs_without_a_face": self.left_out,
            "rates": asdict(self.rates),
            "thresholds": asdict(self.thresholds),
            "warnings": _warn(fitted, self.rates),
            "curves": {
                kind.value: {name: getattr(curve, name) for name in CURVE_FIELDS}
                for kind, curve in fitted.curves.items()
            },
        }


def fit_model(
    call: Call,
    folder: Path,
    output: Path | None,
    card: Path | None,
    source: str | None,
    population: Path | None,
    *,
    transform: Path | None = None,
) -> FittedModel:
    """Fits a calibration and writes it, with what else was asked for."""
    from engine.accuracy.calibrate import calibrate_folder, choose_rates
    from engine.accuracy.dataset import LabelledFolder
    from engine.matching.calibration import Thresholds
    from serving.deployment.models import build_extractor
    from serving.settings.settings import find_home, load_settings

    if card is not None and output is None:
        output = card.with_name(f"{card.stem}.calibration.json")
    if output is None:
        raise RequestError("nothing would be kept: give --card FILE.toml or --output FILE")
    for target in (card, output, population, transform):
        if target is not None:
            require_place(target)
    settings = load_settings(find_home(call.home))
    if card is not None and card.exists():
        settings = _use_card(settings, card)
    with (
        build_extractor(settings, is_plain=transform is not None) as extractor,
        call.progress("extracting") as progress,
    ):
        made = calibrate_folder(
            folder,
            extractor,
            source=source or folder.name,
            population=population is not None,
            transform=transform is not None,
            progress=progress,
        )
    fitted = made.calibration
    fitted = replace(fitted, version=_choose_version(fitted, settings, card))
    rates = choose_rates(fitted)
    thresholds = Thresholds.from_calibration(fitted, rates)
    fitted.save(output)
    _save_others(made, population, transform)
    if card is not None:
        _write_card(card, output, settings, fitted, rates, thresholds)
        if transform is not None and made.transform is not None:
            _name_transform(card, transform, made.transform)
    return FittedModel(
        calibration=fitted,
        output=output,
        card=card,
        rates=rates,
        thresholds=thresholds,
        left_out=len(LabelledFolder.open(folder).paths) - fitted.photographs,
    )


def _save_others(made: Fitted, population: Path | None, transform: Path | None) -> None:
    """Saves the population and the transform where they were asked for."""
    if population is not None and made.population is not None:
        made.population.save(population)
    if transform is not None and made.transform is not None:
        transform.write_bytes(made.transform.to_bytes())


def _choose_version(fitted: Calibration, settings: Settings, card: Path | None) -> int:
    """One above that of the model's calibration, or the same where nothing changed; 1 for a new
    card, or without any."""
    from engine.errors import CalibrationError
    from engine.matching.calibration import Calibration
    from serving.deployment.models import embedder_card

    path = embedder_card(settings).calibration_path
    if path is None or (card is not None and not card.exists()):
        return 1
    try:
        # Of any model: the versions of a card are counted on where its transform changes.
        before = Calibration.load(path, None)
    except CalibrationError:
        return 1
    return before.version + (replace(fitted, version=before.version) != before)


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

    from engine.accuracy.calibrate import describe_thresholds, save_card, write_calibrated
    from engine.models.catalog import CARDS_FOLDER, copy_card, read_transform_file
    from serving.deployment.models import embedder_card
    from serving.settings.settings import is_card_file

    folder = card.absolute().parent
    if card.exists():
        text = card.read_text("utf-8")
    else:
        name = settings.models.embedder
        path = Path(name) if is_card_file(name) else CARDS_FOLDER / f"{name}.toml"
        own = embedder_card(settings)
        text = copy_card(own, path.read_text("utf-8"), folder)
        if own.transform:
            (folder / Path(own.transform).name).write_bytes(read_transform_file(own))
    calibration_file = os.path.relpath(output.absolute(), folder)
    notes = describe_thresholds(fitted, rates, thresholds)
    save_card(card, write_calibrated(text, calibration_file, rates, notes))


def _require_room(target: Path, *, is_folder: bool) -> None:
    """A folder that is not there yet is made; its parent must be there."""
    if is_folder and not target.parent.exists():
        require_place(target.parent)
    else:
        require_place(target)


def _require_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise RequestError(f"a picture needs matplotlib: {advise_extra('bench')}")


CURVE_FIELDS = ("mated_pairs", "nonmated_pairs", "lowest_fmr", "highest_nonmated")
DOUBTFUL_HIGHEST = 0.9
"""Strangers who score as high are more likely one person under two names."""


def print_evaluation(report: Report) -> None:
    """Writes the page of an evaluation; paths only where `Evaluation.to_dict` has them."""
    from rich.markdown import Markdown

    from engine.accuracy.evaluation_report import write_report

    wide_console().print(Markdown(write_report(report, {})))
    for row in report.get("flagged_photographs", ()):
        both = escape(f"{row['photograph']} · {row['other']}")
        print_line(f"flagged: {both}, score {row['score']:.3f}")
    seconds, extract_s = report["seconds"], report["extract_seconds"]
    print_line(f"[dim]{seconds:.1f} s, of it {extract_s:.1f} s extraction[/]")
    for path in report.get("failed_photographs", ()):
        print_line(f"not acquired: {escape(path)}")


def print_calibration(made: FittedModel) -> None:
    """Writes what was fitted to standard output, and where it is."""
    fitted, rates, card = made.calibration, made.rates, made.card
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
    if made.left_out:
        print_line(f"Left out, since no face was found: {made.left_out:,} of the photographs.")
    kept = asdict(rates)
    rows = [
        [name, f"{score:.4f}", f"FMR {kept[name]:g}" if name in kept else "highest + margin"]
        for name, score in asdict(made.thresholds).items()
    ]
    print_table("Thresholds that these photographs support", ("", "score", "set by"), rows)
    for warning in _warn(fitted, rates):
        print_line(f"[yellow]warning:[/] {warning}")
    if card is None:
        where = f"{escape(str(made.output))}: name it in the card's `calibration`."
    else:
        where = f"{escape(str(made.output))}, and into the card {escape(str(card))}."
    print_line(f"[green]Written[/] to {where}")


def _warn(fitted: Calibration, rates: ThresholdRates) -> list[str]:
    """Warnings where the data fall short of the usual, or their labels are doubtful."""
    from engine.matching.calibration import ThresholdRates
    from schema.thresholds import Comparison

    usual, warnings = asdict(ThresholdRates()), []
    for name, chosen in asdict(rates).items():
        if chosen > usual[name]:
            warnings.append(
                f"{name} keeps an FMR of {chosen:g}, not the usual {usual[name]:g}: "
                "the data support no less"
            )
    if fitted.curve(Comparison.FUSED).highest_nonmated > DOUBTFUL_HIGHEST:
        warnings.append(
            "two strangers look like one person, and `certain` stands above them: "
            "look at `sosie evaluate --flagged`"
        )
    return warnings


def _name_transform(card: Path, file: Path, transform: Transform) -> None:
    import os

    from engine.accuracy.calibrate import save_card, write_transform

    name = os.path.relpath(file.absolute(), card.absolute().parent)
    save_card(card, write_transform(card.read_text("utf-8"), name, transform))
