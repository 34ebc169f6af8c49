"""`sosie demo`: the whole engine on real photographs, telling itself whether all went as told."""

from __future__ import annotations

import time
from pathlib import Path

from engine.accuracy.population import Population
from engine.errors import CalibrationError, RequestError
from serving.cli.output import print_json, show_progress
from serving.demo.albums import open_folder, open_wheel
from serving.demo.cast import choose_cast
from serving.demo.crowd import admit_crowd
from serving.demo.printout import print_report
from serving.demo.report import Setting, build_report
from serving.demo.stage import open_stage
from serving.demo.story import tell, write_story
from serving.errors import ExitCode
from serving.models import embedder_card, model_digest
from serving.settings import Settings, find_cache, load_settings

DEFAULT_GALLERY = 100_000
LARGEST_GALLERY = 1_000_000


def run_demo(
    *, faces: Path | None, gallery_size: int = DEFAULT_GALLERY, as_json: bool = False
) -> int:
    """Plays the story and prints it; `ExitCode.NEGATIVE` where a scene did not end as told."""
    if not 0 <= gallery_size <= LARGEST_GALLERY:
        raise RequestError(f"the gallery must hold 0 to {LARGEST_GALLERY:,} references")
    start = time.perf_counter()
    settings = load_settings(None)
    source = open_wheel() if faces is None else open_folder(faces)
    population = _load_population(settings)
    with open_stage(settings, find_cache()) as stage:
        prepared = time.perf_counter()
        cast = choose_cast(source, stage.deployment.extractor, stage.deployment.thresholds.verify)
        looked = time.perf_counter()
        with show_progress("Admitting a synthetic gallery", is_shown=not as_json) as report:
            admit_crowd(stage.registrar, stage.deployment.vault, population, gallery_size, report)
        admitted = time.perf_counter()
        told = list(tell(stage, write_story(cast)))
        end = time.perf_counter()
        seconds = {
            "prepare": prepared - start,
            "look_at_photographs": looked - prepared,
            "admit_gallery": admitted - looked,
            "story": end - admitted,
            "all": end - start,
        }
        setting = Setting(source.title, cast, gallery_size, seconds)
        document = build_report(stage.deployment, setting, told)
    if as_json:
        print_json(document)
    else:
        print_report(document)
    return ExitCode.FINE if document["as_told"] else ExitCode.NEGATIVE


def _load_population(settings: Settings) -> Population:
    """The statistics of the embedder that the settings name."""
    population = Population.load(embedder_card(settings).name)
    if population.model_digest != model_digest(settings):
        raise CalibrationError(
            "the synthetic population belongs to another model: "
            "run the demo with the built-in embedder, without flip"
        )
    return population
