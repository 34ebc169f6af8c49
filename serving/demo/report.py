"""What the demo has to say: one JSON document, and the same for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from engine.matching.thresholds import Comparison
from serving.demo.cast import Cast
from serving.demo.story import Told
from serving.models import detector_card, embedder_card, threshold_rates

if TYPE_CHECKING:
    from engine.faces.extractor import StageTimes
    from serving.compose import Deployment

PHOTOGRAPH_STAGES = ("decode", "detect", "align", "quality", "embed")


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the faces came from, who plays, how large the gallery is, what took how long."""

    title: str
    cast: Cast
    gallery_size: int
    seconds: Mapping[str, float]


def build_report(deployment: Deployment, setting: Setting, told: Sequence[Told]) -> dict[str, Any]:
    """The JSON document; times in ms are medians over the story."""
    cast = setting.cast
    return {
        "as_told": all(one.as_told for one in told),
        "faces": {
            "source": setting.title,
            **asdict(cast.survey),
            "people": {
                letter: person.label for letter, person in zip("ABC", cast.people, strict=True)
            },
            "made": _name_made(told),
        },
        "gallery": {
            "synthetic": setting.gallery_size,
            "references": len(deployment.restored.gallery),
            "index": deployment.restored.gallery.kind,
        },
        "model": _describe_model(deployment),
        "thresholds": _describe_thresholds(deployment),
        "expected_false_candidates": {
            name: deployment.expect_false_candidates(setting.gallery_size, score)
            for name, score in (
                ("review", deployment.thresholds.review),
                ("certain", deployment.thresholds.certain),
            )
        },
        "scenes": [_describe_scene(number, one) for number, one in enumerate(told, start=1)],
        "stages_ms": _time_stages(told),
        "seconds": {name: round(value, 3) for name, value in setting.seconds.items()},
    }


def _name_made(told: Sequence[Told]) -> list[str]:
    """Labels of the pictures that are no photographs of their own."""
    activations = [one.scene.activation for one in told]
    pictures = [one for item in activations for one in (item.live, item.portrait)]
    return list(dict.fromkeys(picture.label for picture in pictures if picture.is_made))


def _describe_model(deployment: Deployment) -> dict[str, Any]:
    embedder = embedder_card(deployment.settings)
    return {
        "embedder": embedder.name,
        "detector": detector_card(deployment.settings).name,
        "dimension": embedder.dimension,
        "digest": deployment.store.model_digest,
        "calibrated_on": deployment.calibration.source,
    }


def _describe_thresholds(deployment: Deployment) -> dict[str, Any]:
    """Each threshold with the false match rate it was chosen for; `certain` has a bound only."""
    thresholds, rates = deployment.thresholds, threshold_rates(deployment.settings)
    bound = deployment.calibration.fmr_at(thresholds.certain, Comparison.FUSED)
    return {
        "verify": {"score": thresholds.verify, "fmr": rates.verify},
        "same_document": {"score": thresholds.same_document, "fmr": rates.same_document},
        "review": {"score": thresholds.review, "fmr": rates.review},
        "certain": {"score": thresholds.certain, "fmr_at_most": bound.high},
    }


def _describe_scene(number: int, told: Told) -> dict[str, Any]:
    scene, answered = told.scene, told.answered
    body = answered.answer.body
    return {
        "number": number,
        "who": scene.who,
        "what": scene.what,
        "live": scene.activation.live.label,
        "portrait": scene.activation.portrait.label,
        "decision": body["decision"],
        "reasons": body["reasons"],
        "scores": body["scores"],
        "searched": body["duplicate_search"].get("searched"),
        "is_repeated": answered.answer.is_repeated,
        "references_added": answered.references_added,
        "milliseconds": round(answered.total_ms, 2),
        "parts_ms": {
            "extract": round(answered.extract_ms, 2),
            "judge": round(answered.judge_ms, 2),
            "commit": round(answered.commit_ms, 2),
        },
        "as_told": told.as_told,
    }


def _time_stages(told: Sequence[Told]) -> dict[str, float]:
    """Median milliseconds: of one photograph up to `embed`, of one decision from `judge` on."""
    photographs = [times for one in told for times in one.answered.photographs]
    stages = {name: _median_stage(photographs, f"{name}_ms") for name in PHOTOGRAPH_STAGES}
    fresh = [one.answered for one in told if not one.answered.answer.is_repeated]
    stages["judge"] = median(one.judge_ms for one in fresh)
    stages["commit"] = median(one.commit_ms for one in fresh)
    return {name: round(value, 3) for name, value in stages.items()}


def _median_stage(photographs: Sequence[StageTimes], name: str) -> float:
    return float(median(getattr(times, name) for times in photographs))
