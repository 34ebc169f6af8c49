"""Photographs alone, without a registry: `extract`, `verify`."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from engine.errors import ImageError, SosieError, file_errors
from engine.faces.extractor import Extracted, Extraction
from engine.matching.calibration import Calibration, Rate, ThresholdRates, Thresholds
from schema.decisions import Comparison, SeenFrame
from schema.reasons import ADVICE, PhotographKind, Reason, shows_another, tell_kind
from serving.cli.inputs import (
    KIND_OPTION,
    POINT_OPTION,
    argument,
    list_frames,
    option,
    read_photograph,
)
from serving.cli.output import Answer, Call, Cell, Listing, command, escape, print_fault, warn
from serving.deployment import models
from serving.errors import describe, name_error, require_sound
from serving.settings.settings import Settings, find_home, load_settings


@command("verify")
def verify(
    call: Call,
    first: Path = argument("A photograph, or a folder of frames of one face.", "A"),
    second: Path = argument("Another photograph, or a portrait.", "B"),
    fmr: float | None = option(
        "The false match rate that chooses the threshold.", show_default="1e-4"
    ),
    portrait_kind: PhotographKind | None = KIND_OPTION,
    first_point: tuple[float, float] | None = POINT_OPTION,
    second_point: tuple[float, float] | None = POINT_OPTION,
) -> Answer:
    """Say whether two photographs show one person.

    Exit code 0 for a match; 1 for none, or where a photograph is not fit to be matched: then it is
    not judged, and `match` is null. So it is with a model that is not calibrated.
    """
    paths = [*list_frames([first]), second]
    images = [read_photograph(path) for path in paths]
    settings = load_settings(find_home(call.home))
    with models.build_extractor(settings) as extractor:
        kinds = [tell_kind(None, first_point) for _ in paths[1:]]
        kinds += [tell_kind(portrait_kind, second_point)]
        *frames, portrait = require_sound(extractor.extract(images, kinds), paths)
    calibration, rates = _load_rates(settings, fmr)
    live, told, threshold = _fuse(images, frames, calibration, rates)
    pair = {"a": live, "b": portrait}
    score, is_match, verdict = _judge(live, portrait, threshold)
    warnings = [*models.warn_calibration(settings), *_warn_beside(pair, is_match)]
    rate = _rate_at(score, calibration, fused := sum(one.is_fused for one in told))
    answer = {
        "match": is_match,
        "problems": {name: list(one.problems) for name, one in pair.items()},
        "score": score,
        "threshold": threshold,
        "fmr": rates.verify,
        "fmr_at_score": rate,
        "quality": {name: one.measured or None for name, one in pair.items()},
        "frames": told,
        "model_digest": models.model_digest(settings),
        "warnings": warnings,
    }
    looked_at = [*zip(paths, (*frames, portrait), strict=True), (first, live)]
    return Answer(
        answer,
        *_list_remarks(looked_at[: None if len(frames) > 1 else -1], warnings),
        f"{verdict}  {_describe_score(score, fused, threshold, rates.verify)}",
        "" if rate is None else f"A threshold at this score would have an FMR of {rate}.",
        is_no=not is_match,
    )


def _warn_beside(pair: dict[str, Extraction], is_match: bool | None) -> Iterator[str]:
    for name, one in pair.items() if is_match is False else ():
        if shows_another(one.measured):
            yield f"{name} shows several faces: {ADVICE[Reason.SEVERAL_FACES]['en']}"


def _load_rates(settings: Settings, fmr: float | None) -> tuple[Calibration | None, ThresholdRates]:
    has_one = models.embedder_card(settings).calibration_path is not None
    calibration = models.load_calibration(settings) if has_one else None
    rates = models.threshold_rates(settings)
    return calibration, rates if fmr is None else replace(rates, verify=fmr)


def _judge(
    live: Extraction, portrait: Extraction, threshold: float | None
) -> tuple[float | None, bool | None, str]:
    """The score of a pair, whether it matches, None where it is not judged, and that in words."""
    score = None
    if live.vector is not None and portrait.vector is not None:
        score = float(live.vector @ portrait.vector)
    if score is None or live.problems or portrait.problems:
        return score, None, "[yellow]not judged: take another photograph[/]"
    if threshold is None:
        return score, None, "[yellow]not judged: the model is not calibrated[/]"
    is_match = score >= threshold
    return score, is_match, "[green]match[/]" if is_match else "[red]no match[/]"


def _rate_at(score: float | None, calibration: Calibration | None, fused: int) -> Rate | None:
    if score is None or calibration is None:
        return None
    return calibration.fmr_at(score, Comparison.FUSED if fused > 1 else Comparison.ONE_TO_ONE)


def _describe_score(score: float | None, fused: int, threshold: float | None, fmr: float) -> str:
    shown = "no score" if score is None else f"score {score:.4f}"
    shown += f" of {fused} frames fused" if fused > 1 else ""
    return shown + ("" if threshold is None else f", threshold {threshold:.4f} at FMR {fmr:g}")


def _list_remarks(
    looked_at: Sequence[tuple[Path, Extraction]], warnings: Sequence[str]
) -> Iterator[str]:
    for path, one in looked_at:
        if one.problems:
            yield f"[yellow]{escape(str(path))}[/]: {', '.join(one.problems)}"
            yield ADVICE[one.problems[0]]["en"]
    yield from warn(warnings)


@command("extract")
def extract(
    call: Call,
    images: list[Path] = argument("JPEG, JPEG 2000, PNG, WebP or a document's record.", "IMAGE…"),
    vectors: Path | None = option(
        "Also write the vectors, unprotected, to a new file that only you can read.", "FILE.npz"
    ),
) -> Answer:
    """Find the main face of each photograph and measure its quality.

    Exit code 1 where a photograph is not fit for enrollment, 2 where a file is not an image.
    """
    with models.build_extractor(load_settings(find_home(call.home))) as extractor:
        found = _extract_each(images, extractor.extract)
    if vectors is not None:
        _write_vectors(vectors, images, found)
    errors = [one for one in found if isinstance(one, SosieError)]
    listed = [_describe(path, one) for path, one in zip(images, found, strict=True)]
    answer: dict[str, Any] = {"images": listed}
    table = Listing(listed, FACE_COLUMNS)
    if not errors:
        return Answer(answer, table, is_no=any(one["problems"] for one in listed))
    answer["error"] = _error(errors[0])
    faults = [partial(print_fault, describe(error), as_json=False) for error in errors]
    call.print(Answer(answer, table, *faults))
    raise typer.Exit(describe(errors[0]).exit_code)


def _fuse(
    images: Sequence[bytes],
    frames: Sequence[Extraction],
    calibration: Calibration | None,
    rates: ThresholdRates,
) -> tuple[Extraction, list[SeenFrame], float | None]:
    """One face from the frames of it, what became of each, and the threshold of `verify`."""
    if len(frames) == 1:
        # The one rate that the calibration need support.
        kind = Comparison.ONE_TO_ONE
        alone = None if calibration is None else calibration.threshold_at(rates.verify, kind)
        return frames[0], [], alone
    # Not above: they load the database, and most photographs come alone.
    from engine.matching.checks.picture import describe_frames, fuse_frames
    from engine.matching.samples import Sample

    samples = [
        replace(
            Sample.unseen(image), vector=one.vector, problems=one.problems, quality=one.measured
        )
        for image, one in zip(images, frames, strict=False)
    ]
    thresholds = None if calibration is None else Thresholds.from_calibration(calibration, rates)
    # Without a calibration nobody knows whether frames are of one person: then they differ.
    whole = fuse_frames(samples, 1.0 if thresholds is None else thresholds.one_person)
    best = frames[[one.digest for one in samples].index(whole.digest)]
    face = replace(best, vector=whole.vector, problems=whole.problems)
    threshold = None if thresholds is None else thresholds.verify_for(whole.length)
    return face, describe_frames(whole), threshold


def _extract_each(paths: Sequence[Path], extract_batch: Any) -> list[Extraction | SosieError]:
    """One outcome for each file; one that cannot be read keeps nobody else from being looked at."""
    outcomes: list[Any] = []
    for path in paths:
        try:
            outcomes.append(read_photograph(path))
        except SosieError as error:
            outcomes.append(error)
    places = [place for place, one in enumerate(outcomes) if isinstance(one, bytes)]
    extracted: list[Extracted] = extract_batch([outcomes[place] for place in places])
    for place, one in zip(places, extracted, strict=True):
        outcomes[place] = name_error(one, paths[place]) if isinstance(one, ImageError) else one
    return outcomes


def _error(error: SosieError) -> dict[str, str]:
    fault = describe(error)
    return {"code": fault.code, "message": fault.message}


def _describe(path: Path, one: Extraction | SosieError) -> dict[str, Any]:
    if isinstance(one, SosieError):
        return {"image": str(path), "error": _error(one)}
    return {
        "image": str(path),
        "problems": list(one.problems),
        "quality": one.measured or None,
        "box_px": None if one.box_px is None else [round(side, 1) for side in one.box_px],
        "size_px": list(one.size_px),
    }


def _name_verdict(one: dict[str, Any]) -> str:
    if "error" in one:
        return "[red]unreadable[/]"
    return f"[yellow]{', '.join(one['problems'])}[/]" if one["problems"] else "[green]fit[/]"


def _write(form: str) -> Callable[[dict[str, Any]], str]:
    """Fills what measures of a face are written in."""
    return lambda one: form.format_map(one | one["quality"]) if one.get("quality") else "-"


FACE_COLUMNS: dict[str, Cell] = {
    "photograph": "image",
    "verdict": _name_verdict,
    "face px": _write("{box_px[2]:.0f} x {box_px[3]:.0f}"),
    "eyes px": _write("{inter_eye_px:.0f}"),
    "sharpness": _write("{sharpness:.3f}"),
    "exposure": _write("{exposure:.2f}"),
    "contrast": _write("{contrast:.2f}"),
    "yaw/pitch/roll °": _write("{yaw_deg:+.0f} {pitch_deg:+.0f} {roll_deg:+.0f}"),
}


def _write_vectors(
    target: Path, paths: Sequence[Path], found: Sequence[Extraction | SosieError]
) -> None:
    """`images` and their `vectors` float32[n, d], of the photographs with a face."""
    import numpy as np

    kept = [
        (str(path), one.vector)
        for path, one in zip(paths, found, strict=True)
        if not isinstance(one, SosieError) and one.vector is not None
    ]
    with file_errors(f"{target} cannot be made"):
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        vectors = np.array([vector for _, vector in kept], dtype=np.float32)
        np.savez(file, images=np.array([name for name, _ in kept]), vectors=vectors)
