"""Error rates of the model: `evaluate` them, `calibrate` thresholds by them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import RequestError
from serving.cli.inputs import HomeOption, require_place
from serving.cli.output import JsonFlag, escape, print_json, print_line, print_table, show_progress
from serving.cli.panels import FIGURES

if TYPE_CHECKING:
    from engine.accuracy.evaluate import Evaluation
    from engine.matching.thresholds import Calibration, OperatingPoint

FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Photographs: a folder a person, as LFW has them.")
]


def register(app: typer.Typer) -> None:
    app.command("evaluate", rich_help_panel=FIGURES)(evaluate_folder)
    app.command("calibrate", rich_help_panel=FIGURES)(calibrate_model)


def evaluate_folder(
    folder: FolderArgument,
    pairs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pairs in folds, as LFW's pairs.txt.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw the DET curve.")
    ] = None,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Also list photographs without a face, by their paths."),
    ] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure error rates on photographs of known people.

    Over all pairs, over folds where a file of pairs is given, and in an open set.
    """
    from engine.accuracy.evaluate import evaluate
    from serving.models import build_extractor
    from serving.settings import find_cache, find_home, load_settings

    if plot is not None:
        require_place(plot)
        _require_matplotlib()
    settings = load_settings(find_home(home))
    with (
        build_extractor(settings, find_cache()) as extractor,
        show_progress("extracting", is_shown=not as_json) as report,
    ):
        measured = evaluate(folder, pairs, extractor, report)
    if plot is not None:
        from engine.accuracy.det import plot_det

        plot_det(measured, plot)
    if as_json:
        print_json(measured.to_dict(with_failed=failed))
    else:
        _print_evaluation(measured, failed)


def calibrate_model(
    folder: FolderArgument,
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the calibration goes: name it in the card.")
    ],
    source: Annotated[
        str | None,
        typer.Option(
            help="What the photographs are, in words; kept in the file.", show_default="DIR"
        ),
    ] = None,
    population: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="Also fit the statistics that synthetic galleries come from."
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit a model's thresholds to photographs of known people."""
    from engine.accuracy.calibrate import calibrate_folder
    from serving.models import build_extractor
    from serving.settings import find_cache, find_home, load_settings

    for target in (output, population):
        if target is not None:
            require_place(target)
    settings = load_settings(find_home(home))
    with (
        build_extractor(settings, find_cache()) as extractor,
        show_progress("extracting", is_shown=not as_json) as report,
    ):
        fitted, people = calibrate_folder(
            folder,
            extractor,
            source=source or folder.name,
            population=population is not None,
            progress=report,
        )
    fitted.save(output)
    if population is not None and people is not None:
        people.save(population)
    if as_json:
        print_json(_write_calibration(fitted, output))
    else:
        _print_calibration(fitted, output)


def _require_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise RequestError("a picture needs matplotlib: pip install 'sosie[bench]'")


def _print_evaluation(measured: Evaluation, with_failed: bool) -> None:
    from engine.accuracy.evaluate import TABLE_RATES

    print_line(
        f"{measured.photographs:,} photographs of {measured.people:,} people; "
        f"{measured.mated_pairs:,} mated and {measured.nonmated_pairs:,} non-mated pairs."
    )
    low, high = measured.fta_interval
    print_line(f"FTA {measured.fta:.3%} ({low:.3%} to {high:.3%})")
    if measured.verification is not None:
        folds = measured.verification
        print_line(f"Accuracy over folds {folds.accuracy:.2%} ± {folds.accuracy_std:.2%}")
    rows = []
    for name, rate in TABLE_RATES.items():
        point = measured.point_at(rate)
        rows.append([name, *(_measures(point) if point else ["not supported", ""])])
    print_table("One to one, all pairs", ("FMR", "threshold", "FNMR (95 %)"), rows)
    if measured.identification is not None:
        found = measured.identification
        rows = [
            [kind, f"{one.fpir:g}", f"{one.threshold:.4f}", _share(one.fnir, one.low, one.high)]
            for kind, points in (("one photograph", found.single), ("two fused", found.fused))
            for one in points
        ]
        title = f"One to {found.gallery_size:,}, open set"
        print_table(title, ("reference", "FPIR", "threshold", "FNIR (95 %)"), rows)
    print_line(f"[dim]{measured.seconds:.1f} s, of it {measured.extract_s:.1f} s extraction[/]")
    for path in measured.failed_photographs if with_failed else ():
        print_line(f"not acquired: {escape(path)}")


def _measures(point: OperatingPoint) -> list[str]:
    return [f"{point.threshold:.4f}", _share(point.fnmr, point.fnmr_low, point.fnmr_high)]


def _share(value: float, low: float, high: float) -> str:
    return f"{value:.2%} ({low:.2%} to {high:.2%})"


def _write_calibration(fitted: Calibration, output: Path) -> dict[str, object]:
    return {
        "calibration": str(output),
        "model_digest": fitted.model_digest,
        "source": fitted.source,
        "people": fitted.people,
        "photographs": fitted.photographs,
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


def _print_calibration(fitted: Calibration, output: Path) -> None:
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
    print_line(f"[green]Written[/] to {escape(str(output))}: name it in the card's `calibration`.")
