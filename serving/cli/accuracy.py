"""Error rates of the model: `evaluate` them, `calibrate` thresholds by them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import RequestError
from serving.cli.inputs import HomeOption, require_place
from serving.cli.output import JsonFlag, print_json, show_progress
from serving.cli.panels import FIGURES

if TYPE_CHECKING:
    from engine.accuracy.evaluate import Evaluation
    from engine.accuracy.population import Population
    from engine.matching.thresholds import Calibration, ThresholdRates, Thresholds
    from serving.settings import Settings

FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Photographs: a folder a person, as LFW has them.")
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
            help="Also list, by their paths, one picture twice, strangers who may be one person, "
            "photographs that may show another.",
        ),
    ] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure error rates on photographs of known people, as ISO/IEC 19795 has them.

    Failure to acquire; over all pairs, over folds where a file of pairs is given; in an open set,
    by the size of the gallery; by quality, by attributes, by the years between photographs; and
    what looks wrong in the data.
    """
    from engine.accuracy.evaluate import evaluate
    from serving.cli.accuracy_tables import print_evaluation
    from serving.models import build_extractor
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
    from engine.accuracy.labelled import LabelledFolder
    from serving.cli.accuracy_tables import print_calibration, write_calibration
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
    from serving.models import build_extractor
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
    from engine.matching.thresholds import Thresholds

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

    from engine.accuracy.card_text import (
        copy_card,
        describe_thresholds,
        save_card,
        write_calibrated,
    )
    from engine.models.catalog import CARDS_FOLDER
    from serving.models import embedder_card
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
    from engine.accuracy.report import draw_pictures, write_folder

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
