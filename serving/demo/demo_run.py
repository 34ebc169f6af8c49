"""`sosie demo`: every kind of decision on real photographs, and its report as JSON and as text."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msgspec import to_builtins
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Column, Table

from engine.accuracy.photographs import open_folder, open_wheel
from engine.accuracy.population import Population
from engine.errors import CalibrationError
from engine.formatting import with_interval
from schema.decisions import Comparison
from serving.cli.output import print_json, show_progress
from serving.demo.scenario import (
    DemoParticipants,
    StepResult,
    admit_synthetic_gallery,
    choose_participants,
    list_steps,
    open_demo_deployment,
    run_step,
)
from serving.deployment.deployment import Deployment
from serving.deployment.models import detector_card, embedder_card, model_digest
from serving.errors import ExitCode
from serving.settings.settings import Settings, load_settings


def build_report(
    deployment: Deployment,
    title: str,
    participants: DemoParticipants,
    gallery_size: int,
    results: Sequence[StepResult],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The JSON document; `title` says whose faces they are.

    Its keys `as_told`, `scenes` and `story` are older than the names used here.
    """
    pictures = [picture for one in results for picture in (one.step.live, one.step.portrait)]
    return {
        "as_told": all(one.as_expected for one in results),
        "faces": {
            "source": title,
            **asdict(participants.survey),
            "people": {
                letter: person.label
                for letter, person in zip("ABC", participants.people, strict=True)
            },
            "made": list(dict.fromkeys(one.label for one in pictures if one.is_made)),
        },
        "gallery": {
            "synthetic": gallery_size,
            "references": len(deployment.restored.gallery),
            "index": deployment.restored.gallery.kind,
        },
        "model": _describe_model(deployment),
        "expected_false_candidates": {
            name: deployment.calibration.expect_together(
                gallery_size,
                # The mean of both photographs, and each alone.
                [
                    (getattr(deployment.thresholds.of(kind), name), kind)
                    for kind in (Comparison.FUSED, *(Comparison.FUSED_TO_ONE,) * 2)
                ],
            )
            for name in ("review", "certain")
        },
        "scenes": [_describe_step(number, one) for number, one in enumerate(results, start=1)],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _describe_model(deployment: Deployment) -> dict[str, Any]:
    embedder = embedder_card(deployment.settings)
    return {
        "embedder": embedder.name,
        "detector": detector_card(deployment.settings).name,
        "dimension": embedder.dimension,
        "digest": deployment.store.model_digest,
        "calibrated_on": deployment.calibration.source,
    }


def _describe_step(number: int, result: StepResult) -> dict[str, Any]:
    step, decided = result.step, result.answer.decided
    return {
        "number": number,
        "who": step.who,
        "what": step.what,
        "live": step.live.label,
        "portrait": step.portrait.label,
        "decision": decided.decision,
        "reasons": decided.reasons,
        "scores": decided.scores,
        "searched": decided.duplicate_search.searched,
        "is_repeated": result.answer.is_repeated,
        "references_added": result.references_added,
        "milliseconds": round(result.total_ms, 2),
        "as_told": result.as_expected,
    }


MIN_COLUMNS = 100
_COLOURS = {"approved": "green", "review": "yellow", "rejected": "red"}
_Report = Mapping[str, Any]


def print_report(report: _Report) -> None:
    """Print the report to standard output, at least 100 columns wide where it is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, MIN_COLUMNS))
    faces = report["faces"]
    text = (
        "1:1 compares live and portrait; holder, the face and the document's reference; 1:N is the "
        "best reference of another document, from the review threshold up."
    )
    made = ", ".join(faces["made"])
    if made:
        text += f" Derived from a photograph: {escape(made)}."
    if "*" in made:
        text += (
            " A derived picture (*: tilted, cropped, relit, recompressed) scores higher than a "
            "true second photograph would."
        )
    for part in (_lay_out_facts(report), _lay_out_steps(report["scenes"]), text, _conclude(report)):
        console.print(Padding(part, (0, 0, 0, 1), expand=False))


def _lay_out_facts(report: _Report) -> RenderableType:
    faces, model, seconds = report["faces"], report["model"], report["seconds"]
    problems = ", ".join(f"{count} {name}" for name, count in faces["problems"].items())
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_row("[bold]Faces[/]", escape(faces["source"]))
    facts.add_row(
        "",
        f"{faces['fit']} of {faces['photographs']} are fit for enrollment"
        + (f"; the others: {problems}" if problems else ""),
    )
    for letter, label in faces["people"].items():
        facts.add_row("", f"{letter}  {escape(label)}")
    facts.add_row(
        "[bold]Gallery[/]",
        f"{report['gallery']['synthetic']:,} references of synthetic people, rotated and sealed "
        f"like real ones, in {seconds['admit_gallery']:.1f} s",
    )
    facts.add_row(
        "[bold]Model[/]",
        f"{model['embedder']} {model['digest'][:8]}, {model['dimension']} floats a face; "
        f"detector {model['detector']}",
    )
    return facts


def _lay_out_steps(steps: Sequence[_Report]) -> RenderableType:
    figures = (
        Column(name, justify="right", no_wrap=True) for name in ("1:1", "holder", "1:N", "ms")
    )
    reasons = Column("reasons", no_wrap=True)
    columns: list[Column | str] = ["", "who", "what", "decision", reasons, *figures]
    # The longest reason leaves no room for more in 100 columns.
    table = Table(*columns, box=box.SIMPLE_HEAD, header_style="bold", padding=0)
    for step in steps:
        scores = step["scores"]
        lines = [
            f"{item['reason']} ({item['photograph']})" if "photograph" in item else item["reason"]
            for item in step["reasons"]
        ]
        if step["is_repeated"]:
            lines.append("[dim]the stored answer[/]")
        if not step["as_told"]:
            lines.append("[bold red]not as expected[/]")
        table.add_row(
            str(step["number"]),
            step["who"],
            step["what"],
            f"[{_COLOURS[step['decision']]}]{step['decision']}[/]",
            "\n".join(lines),
            _write_score(scores["live_portrait"]),
            _write_score(scores["holder"]),
            _write_score(scores["best_candidate"]),
            f"{step['milliseconds']:.0f}",
        )
    return table


def _write_score(score: float | None) -> str:
    return "[dim]-[/]" if score is None else f"{score:.3f}"


def _conclude(report: _Report) -> str:
    expected, seconds = report["expected_false_candidates"], report["seconds"]
    review, certain = (
        with_interval(**expected[name], level="95 %: ") for name in ("review", "certain")
    )
    steps = report["scenes"]
    as_expected = sum(step["as_told"] for step in steps)
    return (
        f"\nOne search of {report['gallery']['synthetic']:,} strangers is expected to give "
        f"{review} false candidates at the review threshold, "
        f"{certain} at the certain one. These are synthetic, and quieter than life: a real face "
        "meets about a tenth of that among them.\n\n"
        f"[bold]{as_expected} of {len(steps)} steps ended as expected[/] after "
        f"{seconds['all']:.1f} s: {seconds['prepare']:.1f} to start, "
        f"{seconds['look_at_photographs']:.1f} for the photographs, "
        f"{seconds['admit_gallery']:.1f} for the gallery, {seconds['story']:.1f} for the steps.\n"
        "Next: `sosie demo --faces DIR` for your own photographs, `sosie init DIR` for a "
        "deployment."
    )


def run_demo(*, faces: Path | None, gallery_size: int, as_json: bool = False) -> int:
    """Run all steps and print the report; `ExitCode.NEGATIVE` where one did not end as expected."""
    start = time.perf_counter()
    settings = load_settings(None)
    source = open_wheel() if faces is None else open_folder(faces)
    population = _load_population(settings)
    with open_demo_deployment(settings) as deployment:
        prepared = time.perf_counter()
        verify = deployment.thresholds.verify
        participants = choose_participants(source, deployment.extractor, verify)
        extracted = time.perf_counter()
        with show_progress("Admitting a synthetic gallery", is_shown=not as_json) as report:
            admit_synthetic_gallery(deployment, population, gallery_size, report)
        admitted = time.perf_counter()
        results = [run_step(deployment, step) for step in list_steps(participants)]
        end = time.perf_counter()
        seconds = {
            "prepare": prepared - start,
            "look_at_photographs": extracted - prepared,
            "admit_gallery": admitted - extracted,
            "story": end - admitted,
            "all": end - start,
        }
        setup = (source.title, participants, gallery_size)
        document = to_builtins(build_report(deployment, *setup, results, seconds))
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
