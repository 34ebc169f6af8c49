"""A model card's text with another calibration: all else in it, comments too, stays as it is."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from engine.errors import ModelCardInvalid, ModelMissing
from engine.matching.thresholds import Comparison
from engine.models.catalog import load_card

if TYPE_CHECKING:
    from pathlib import Path

    from engine.matching.thresholds import Calibration, ThresholdRates, Thresholds
    from engine.models.catalog import ModelCard

NOTE = "Fitted by `sosie calibrate`"
_NOTES = re.compile(rf"^# {NOTE}.*\n(?:#.*\n)*", re.MULTILINE)
_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)
_CALIBRATION = re.compile(r"^[ \t]*calibration[ \t]*=.*$", re.MULTILINE)
_THRESHOLDS = re.compile(
    r"^[ \t]*\[thresholds\][ \t]*(#.*)?\n(?:[ \t]*(?:\w+[ \t]*=.*)?\n)*", re.MULTILINE
)
_PATH = re.compile(r"^([ \t]*path[ \t]*=[ \t]*).*$", re.MULTILINE)


def write_calibrated(
    text: str, calibration_file: str, rates: ThresholdRates, notes: tuple[str, ...]
) -> str:
    """The card's text with this calibration and these rates, under `notes` as comments."""
    text = _THRESHOLDS.sub("", _NOTES.sub("", f"{text.rstrip()}\n"))
    top, tables = _split(text)
    line = f"calibration = {json.dumps(calibration_file)}"
    if _CALIBRATION.search(top):
        top = _CALIBRATION.sub(lambda _: line, top, count=1)
    else:
        top = f"{top.rstrip()}\n{line}\n\n"
    lines = [
        *(f"# {note}" for note in notes),
        "[thresholds]",
        f"verify_fmr = {rates.verify!r}",
        f"same_document_fmr = {rates.same_document!r}",
        f"review_fmr = {rates.review!r}",
        f"certain_margin = {rates.certain_margin!r}",
    ]
    return f"{top}{tables.rstrip()}\n\n" + "\n".join(lines) + "\n"


def describe_thresholds(
    calibration: Calibration, rates: ThresholdRates, thresholds: Thresholds
) -> tuple[str, ...]:
    """What a card says of its thresholds, a line each."""
    single = calibration.curve(Comparison.ONE_TO_ONE)
    return (
        f"{NOTE} from {_one_line(calibration.source)}: {calibration.photographs:,} photographs of "
        f"{calibration.people:,} people.",
        f"Scores: verify {thresholds.verify:.4f} (FMR {rates.verify:g}), same_document "
        f"{thresholds.same_document:.4f} (FMR {rates.same_document:g}),",
        f"review {thresholds.review:.4f} (FMR {rates.review:g}), certain "
        f"{thresholds.certain:.4f}. Lowest rate supported: {single.lowest_fmr:.1e} one to one,",
        f"{calibration.curve(Comparison.FUSED).lowest_fmr:.1e} fused.",
    )


def copy_card(card: ModelCard, text: str, folder: Path) -> str:
    """The text of a card for another folder: a model file beside the old one is found from it."""
    if card.file.wheel:
        return text
    path = os.path.relpath(card.folder / card.file.path, folder)
    return _PATH.sub(lambda found: found[1] + json.dumps(path), text, count=1)


def save_card(path: Path, text: str) -> None:
    """Replace or make the card at once; where it would be none, raises and changes nothing."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        load_card(fresh)
        fresh.replace(path)
    except OSError as error:
        raise ModelMissing(f"cannot write the model card {path}: {error.strerror}") from error
    except ModelCardInvalid as error:
        raise ModelCardInvalid(
            f"{path} cannot be changed by itself: set `calibration` and [thresholds] by hand"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def _split(text: str) -> tuple[str, str]:
    """What stands before the first table, comments that belong to that table not; and the rest."""
    found = _TABLE.search(text)
    place = found.start() if found else len(text)
    return text[:place], text[place:]


def _one_line(text: str) -> str:
    """Fit for a comment."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())
