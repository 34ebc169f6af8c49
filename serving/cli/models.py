"""Models: an embedder of one's own is added, filled in beside the first, and switched to."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict as values_of
from dataclasses import replace as made_with
from pathlib import Path
from typing import Any, Literal

import typer
from msgspec.structs import asdict, replace

from engine.accuracy.calibrate import save_card
from engine.accuracy.dataset import LabelledFolder, take_crops
from engine.errors import RequestError
from engine.faces import inspection
from engine.faces.embedder import Embedder
from engine.faces.extractor import Extractor, open_detector
from engine.matching.checks.second_model import (
    SecondModel,
    compare_recorded,
    compare_references,
    fill_from_crops,
    fill_from_folder,
)
from engine.models.catalog import InputContract, ModelCard
from engine.models.catalog import export_models as export
from engine.registry.resealing import remove_missing, switch_models
from schema import frozen
from serving.cli.accuracy import CalibrationOptions, fit_model
from serving.cli.inputs import argument, option, require_place
from serving.cli.output import (
    Answer,
    Call,
    Cell,
    Facts,
    JsonFlag,
    Listing,
    Part,
    command,
    confirm,
    escape,
    print_line,
    warn,
)
from serving.deployment import models
from serving.deployment.deployment import Deployment, load_vault, registry_url
from serving.settings.settings import Settings, load_settings, require_home


@frozen
class ModelOptions:
    """A file with an embedder, and what its maker says of it."""

    file: Path = argument("An embedder.", "FILE.onnx")
    photographs: Path | None = option(
        "Photographs to check and calibrate it with: a folder per person, as in LFW.", "DIR"
    )
    card: Path | None = option("Where its card goes.", "FILE.toml", show_default="beside FILE.onnx")
    contract: str | None = option(
        "The family whose input contract it has; a wrong name is answered with the list.",
        "NAME",
        show_default="by the file's name",
    )
    channels: Literal["rgb", "bgr"] | None = option("The order of its channels.", "rgb|bgr")
    mean: float | None = option("Subtracted from each pixel of 0 to 255.")
    scale: float | None = option("Each pixel is multiplied by it then.", min=1e-9)
    side_px: int | None = option(
        "The side of its crops, where its graph leaves it.", min=16, max=1024
    )
    source: str | None = option("Where it comes from.")
    licence: str | None = option("What its maker allows.")


MEAN_PEOPLE = 100
"""The mean of fewer people is rather theirs than the model's."""


@command("model add")
def add_model(call: Call, chosen: ModelOptions) -> Answer:
    """Check an embedder, calibrate it, and write its card.

    Reads the graph, takes the input contract of a known family or as told, and checks that vectors
    are finite, differ from face to face, and do not depend on the batch. Without --photographs the
    card has no calibration: two photographs get a score then, and nobody a decision.
    """
    target = chosen.card or chosen.file.with_suffix(".toml")
    if target.exists():
        raise RequestError(f"{target} is there already: remove it, or give another --card")
    require_place(target)
    shape, sha256 = inspection.read_graph(chosen.file)
    families = inspection.known_contracts()
    guess = inspection.guess_contract(chosen.file.name, shape.dimension, sha256)
    contract = _choose_family(chosen, guess, families, may_ask=not call.as_json)
    family = families[contract] if contract else None
    start = family.input if family else InputContract(channels="rgb")
    changed = _change_contract(start, shape, chosen)
    named = inspection.name_model(chosen.file)
    described = inspection.describe_file(chosen.file, sha256, changed, shape.dimension, named)
    found = inspection.examine(described, inspection.make_crops(changed.width_px))
    warnings: list[str] = []
    mean = None
    if chosen.photographs is not None:
        folder = LabelledFolder.open(chosen.photographs)
        found, warnings = _measure(found, described, folder)
        if len(folder.names) >= MEAN_PEOPLE:
            mean = target.with_name(f"{target.stem}.transform.npz")
    else:
        warnings.append(
            "not calibrated: two photographs get a score, and nobody a decision; run "
            f"sosie calibrate DIR --card {target}"
        )
    if len(shape.outputs) > 1:
        warnings.append(
            f"it has {len(shape.outputs)} outputs: the first, {shape.outputs[0]}, is the vector"
        )
    source, licence = (family.source, family.licence) if family else (None, None)
    origin = chosen.source or source, chosen.licence or licence
    save_card(target, inspection.write_card(target, chosen.file, found, contract, *origin))
    answer = _describe(target, found, contract, warnings)
    if chosen.photographs is None:
        return Answer(answer, *_show(answer))
    if not call.as_json:
        call.print(Answer(answer, *_show(answer)))
    given = CalibrationOptions(chosen.photographs, None, target, None, transform=mean)
    made = fit_model(call, given)
    return Answer(answer | {"calibration": made.value}, *made.parts)


def _measure(
    found: inspection.Examined, described: ModelCard, folder: LabelledFolder
) -> tuple[inspection.Examined, list[str]]:
    """The model examined with these faces, its usual length measured, and what to be warned of."""
    with Extractor(open_detector(), Embedder(found.session, found.card)) as extractor:
        crops, people = take_crops(folder, extractor)
    found = inspection.examine(described, crops[: inspection.CHECK_CROPS])
    better = inspection.find_better_contract(found, crops, people)
    usual_length = inspection.measure_usual_length(found, crops)
    found = made_with(found, card=replace(found.card, usual_length=usual_length))
    warnings = [] if better is None else [better]
    if len(folder.names) < MEAN_PEOPLE:
        warnings.append(
            f"the mean is not subtracted: it takes {MEAN_PEOPLE} people, here are "
            f"{len(folder.names)}; run sosie calibrate DIR --card FILE.toml --transform FILE.npz"
        )
    return found, warnings


def _choose_family(
    chosen: ModelOptions,
    guess: str | None,
    families: Mapping[str, inspection.KnownContract],
    *,
    may_ask: bool,
) -> str | None:
    """The family that is given, else that the file tells; at a terminal it is asked for. None where
    the contract itself is given."""
    wanted = chosen.contract
    if wanted is None and chosen.channels is None:
        wanted = guess
        if wanted is None and may_ask and sys.stdin.isatty():
            print_line("Whose input contract has it?")
            for name, one in families.items():
                print_line(f"  [bold]{name}[/]: {escape(one.title)}")
            wanted = str(typer.prompt("contract"))
        if wanted is None:
            raise RequestError(
                f"the name {chosen.file.name} says nothing of its input: give --contract "
                f"({', '.join(families)}), or --channels, --mean and --scale as its maker states "
                "them"
            )
    if wanted is not None and wanted not in families:
        raise RequestError(f"no contract has this name: choose from {', '.join(families)}")
    return wanted


def _change_contract(
    start: InputContract, shape: inspection.GraphShape, chosen: ModelOptions
) -> InputContract:
    side = shape.side_px or chosen.side_px or start.width_px
    if not side:
        raise RequestError("its graph takes pictures of any size: give --side-px")
    if chosen.side_px not in (None, side):
        raise RequestError(f"its graph takes pictures of {side} x {side}: leave --side-px out")
    mean = start.mean if chosen.mean is None else (chosen.mean,) * 3
    scale = start.scale if chosen.scale is None else (chosen.scale,) * 3
    return replace(
        start,
        channels=chosen.channels or start.channels,
        mean=mean,
        scale=scale,
        width_px=side,
        height_px=side,
        layout=shape.layout,
    )


def _describe(
    target: Path, found: inspection.Examined, family: str | None, warnings: list[str]
) -> dict[str, Any]:
    card = found.card
    return {
        "card": str(target),
        "name": card.name,
        "contract": family,
        "input": asdict(card.input),
        "dimension": card.dimension,
        "usual_length": card.usual_length or None,
        "rewriting": [step.value for step in card.rewriting],
        "alone_ms": round(found.alone_ms, 2),
        "batch_ms": round(found.batch_ms, 2),
        "warnings": warnings,
        "calibration": None,
    }


def _show(answer: dict[str, Any]) -> Iterator[Part]:
    taken = answer["input"]
    shown = f"{taken['channels']}, mean {taken['mean'][0]:g}, scale {taken['scale'][0]:g}"
    facts = {
        "input": f"{taken['width_px']} px, {shown}",
        "vector": f"{answer['dimension']} numbers: finite, different, whatever is beside a face",
        "usual length": f"{length:g}" if (length := answer["usual_length"]) else "not known",
        "rewriting": ", ".join(answer["rewriting"]) or "none: the graph stays as it is",
        "speed": f"{answer['alone_ms']:.1f} ms a face alone, {answer['batch_ms']:.1f} in a batch "
        "(one thread of this machine)",
    }
    yield Facts(f"[bold]{answer['name']}[/]", facts)
    yield from warn(answer["warnings"])
    yield f"[green]Written[/] to {escape(answer['card'])}."


@command("model fill")
def fill_second(
    call: Call,
    folder: Path | None = argument(
        "Photographs named by the id of the document: ID.jpg, or several in ID/. Without it the "
        "crops that are kept are taken.",
        "[DIR]",
        default=None,
    ),
) -> Answer:
    """Give references their template of the second model, beside a running service too.

    A photograph must show the face of the reference, by the model in force. People who return fill
    theirs by themselves.
    """

    deployment, store = call.deployment, call.store
    second, embedder = _require_second(deployment), deployment.second_embedder
    assert embedder is not None
    if folder is None:
        done = fill_from_crops(store, embedder, call.actor)
    else:
        limit = deployment.thresholds.same_document
        extractor = deployment.extractor
        done = fill_from_folder(folder, store, extractor, embedder, limit, call.actor)
    coverage = store.coverage(second.digest)
    left = {name: count for name, count in values_of(done).items() if count and name != "filled"}
    told = "".join(f"\n  {name.replace('_', ' ')}: {count:,}" for name, count in left.items())
    return Answer(
        {**values_of(done), "coverage": values_of(coverage)},
        f"[green]Filled[/] {done.filled:,} references.{told}\nThe second model now has {coverage}.",
    )


@command("model compare")
def compare_models(call: Call) -> Answer:
    """Count how often the second model would decide otherwise, each at its own thresholds.

    Of enrollments decided while it was named, their recorded scores; of references that have both
    templates, every pair (of 20,000 references at most).
    """

    deployment, store = call.deployment, call.store
    second = _require_second(deployment)
    found, decisions = compare_recorded(store, second)
    found |= compare_references(store, second, deployment.thresholds)
    coverage = store.coverage(second.digest)
    first_limits, second_limits = deployment.thresholds, second.thresholds
    assert second_limits is not None
    shown: dict[str, Cell] = {
        "threshold": lambda one: one[0].replace("_", " "),
        "first": lambda one: f"{getattr(first_limits, one[0]):.4f}",
        "second": lambda one: f"{getattr(second_limits, one[0]):.4f}",
        "compared": lambda one: f"{one[1].compared:,}",
        "match by both": lambda one: f"{one[1].both:,}",
        "by the first alone": lambda one: f"{one[1].only_first:,}",
        "by the second alone": lambda one: f"{one[1].only_second:,}",
    }
    changed = {pair: count for pair, count in decisions.items() if len(set(pair.split(", "))) > 1}

    return Answer(
        {
            "decisions": {
                "compared": sum(decisions.values()),
                "differ": sum(changed.values()),
                "by_both": decisions,
            },
            "comparisons": {
                name: {**values_of(one), "differ": one.differ} for name, one in found.items()
            },
            "coverage": values_of(coverage),
        },
        Listing(tuple(found.items()), shown, title=f"The second model has {coverage}"),
        f"Of {sum(decisions.values()):,} recorded decisions it would have made "
        f"{sum(changed.values()):,} others.",
        *(
            f"  {pair.replace(', ', ', and by the second ')}: {count:,}"
            for pair, count in changed.items()
        ),
    )


@command("model switch")
def switch_model(
    call: Call,
    reenroll: Path | None = option(
        "Remove the references that the second model has no template of, and write the ids of "
        "their documents there: their holders must be enrolled again.",
        "FILE.csv",
    ),
    yes: bool = option("Do not ask."),
) -> Answer:
    """Let the second model decide, and keep the first as the second.

    Stop servers first. Refused while a reference has no template of it; asks where its calibration
    supports less than the first one's. May be stopped anywhere: the next call goes on. The same
    command switches back.
    """
    place = require_home(call.home)
    settings = load_settings(place)
    second = _choose_second(settings, yes=yes)
    url, vault = registry_url(place, settings), load_vault(place, settings)
    before = models.model_digest(settings)
    named = {"before": before, "after": second.digest, "actor": call.actor}
    removed: list[str] = []
    if reenroll is not None:
        require_place(reenroll)
        removed = remove_missing(url, vault, **named)
        reenroll.write_text("document_id\n" + "".join(f"{one}\n" for one in removed), "utf-8")
    with call.progress("switching") as report:
        total = switch_models(url, vault, dim=second.dim, progress=report, **named)
    chosen = models.switch_settings(settings)
    lines = "".join(f"\n  {name} = {json.dumps(value)}" for name, value in chosen.items())
    told = f" {len(removed):,} were removed: {reenroll} names their documents." if reenroll else ""
    if damaged := vault.set_aside.names():
        told += "\nDamaged, and what is damaged of them in no search: " + ", ".join(damaged)
    return Answer(
        {
            "references": total,
            "removed": len(removed),
            "damaged": damaged,
            "settings": {"models": chosen},
        },
        f"[green]Switched[/] {total:,} references.{escape(told)}\nNow set under \\[models] in "
        f"sosie.toml, with no other `calibration`, then start:{escape(lines)}",
        is_no=bool(damaged),
    )


def _choose_second(settings: Settings, *, yes: bool) -> SecondModel:
    """The second model, where it can decide; asks where it supports less than the first."""
    second = models.second_model(settings)
    if second is None:
        raise RequestError(NO_SECOND)
    if second.thresholds is None:
        raise RequestError(
            "the second model is not calibrated, so it could decide nothing: run sosie calibrate "
            f"DIR --card {settings.models.second}"
        )
    if not yes and (less := models.find_less_support(settings)):
        reason = f"its calibration supports less ({'; '.join(less)})"
        confirm(f"Switch, although {reason}?", reason)
    return second


NO_SECOND = "no second model is named: set `second` under [models] in sosie.toml to its card"


def _require_second(deployment: Deployment) -> SecondModel:
    if deployment.second is None:
        raise RequestError(NO_SECOND)
    return deployment.second


@command("model export")
def export_models(
    folder: Path = argument("Where to; made if it is missing.", "DIR"), as_json: JsonFlag = False
) -> None:
    """Copy the built-in models, their cards and digests to a folder.

    What is started as `sosie --models DIR` needs no package that brings them, and verifies each.
    """
    written = export(folder)
    names = escape(", ".join(file.name for file in written))
    home = escape(str(folder.resolve()))
    answer = Answer(
        {"folder": str(folder.resolve()), "files": [file.name for file in written]},
        f'Wrote {names}.\nNext: `sosie --models {home} serve`, or folder = "{home}" under '
        "\\[models] in sosie.toml.",
    )
    answer.print(as_json=as_json)
