"""Models: an embedder of one's own is added, filled in beside the first, and switched to."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from engine.errors import RequestError
from serving.cli.inputs import argument, option, require_place
from serving.cli.output import (
    Answer,
    Call,
    Columns,
    JsonFlag,
    command,
    escape,
    print_items,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from engine.faces.inspection import Examined, GraphShape
    from engine.matching.checks.second_model import SecondModel
    from engine.models.catalog import InputContract
    from serving.deployment.deployment import Deployment

CONTRACT_PEOPLE = 60
"""So many people, two photographs of each, tell whether the input contract is the right one."""


@dataclass(frozen=True, slots=True)
class _Told:
    """An input contract and where the model comes from; `family` is its name, if it has one."""

    contract: InputContract
    family: str | None = None
    source: str = ""
    licence: str = ""


@command("model add")
def add_model(
    call: Call,
    file: Path = argument("An embedder.", "FILE.onnx"),
    photographs: Path | None = option(
        "Photographs to check and calibrate it with: a folder per person, as in LFW.", "DIR"
    ),
    card: Path | None = option(
        "Where its card goes.", "FILE.toml", show_default="beside FILE.onnx"
    ),
    contract: str | None = option(
        "The family whose input contract it has; a wrong name is answered with the list.",
        "NAME",
        show_default="by the file's name",
    ),
    channels: str | None = option("The order of its channels.", "rgb|bgr"),
    mean: float | None = option("Subtracted from each pixel of 0 to 255."),
    scale: float | None = option("Each pixel is multiplied by it then.", min=1e-9),
    side_px: int | None = option(
        "The side of its crops, where its graph leaves it.", min=16, max=1024
    ),
    source: str | None = option("Where it comes from."),
    licence: str | None = option("What its maker allows."),
) -> Answer:
    """Check an embedder, calibrate it, and write its card.

    Reads the graph, takes the input contract of a known family or as told, and checks that vectors
    are finite, differ from face to face, and do not depend on the batch. Without --photographs the
    card has no calibration: two photographs get a score then, and nobody a decision.
    """
    from engine.faces.inspection import (
        CHECK_CROPS,
        describe_file,
        examine,
        make_crops,
        name_model,
        read_graph,
    )

    target = card or file.with_suffix(".toml")
    if target.exists():
        raise RequestError(f"{target} is there already: remove it, or give another --card")
    require_place(target)
    shape, sha256 = read_graph(file)
    given = {"channels": channels, "mean": mean, "scale": scale, "side_px": side_px}
    told = _choose_contract(file, shape, contract, given, may_ask=not call.as_json)
    described = describe_file(file, sha256, told.contract, shape.dimension, name_model(file))
    found, warnings = examine(described, make_crops(told.contract.width_px)), []
    if photographs is not None:
        crops, people = _take_crops(photographs, found)
        found = examine(described, crops[:CHECK_CROPS])
        warnings += _compare_contracts(found, crops, people)
    else:
        warnings.append(
            "not calibrated: two photographs get a score, and nobody a decision; run "
            f"sosie calibrate DIR --card {target}"
        )
    if len(shape.outputs) > 1:
        warnings.append(
            f"it has {len(shape.outputs)} outputs: the first, {shape.outputs[0]}, is the vector"
        )
    _write_new_card(target, file, found, told, source, licence)
    answer = _describe(target, found, told, warnings)
    if photographs is None:
        return Answer(answer, partial(_show, answer))
    from serving.cli.accuracy import fit_model, print_calibration

    if not call.as_json:
        _show(answer)
    made = fit_model(call, photographs, None, target, None, None)
    answer["calibration"] = made.to_dict()
    return Answer(answer, partial(print_calibration, made))


def _choose_contract(
    file: Path, shape: GraphShape, wanted: str | None, given: dict[str, Any], *, may_ask: bool
) -> _Told:
    """A family's contract, by its name or the file's, changed by what is given; or what is given
    alone. At a terminal the family is asked for."""
    from engine.faces.inspection import guess_contract, known_contracts
    from engine.models.catalog import InputContract

    families = known_contracts()
    is_told = given["channels"] is not None
    if wanted is None and not is_told:
        wanted = guess_contract(file.name, shape.dimension)
        if wanted is None and may_ask and sys.stdin.isatty():
            wanted = _ask_family(families)
    if wanted is not None and wanted not in families:
        raise RequestError(f"no contract has this name: choose from {', '.join(families)}")
    if wanted is None and not is_told:
        raise RequestError(
            f"the name {file.name} says nothing of its input: give --contract "
            f"({', '.join(families)}), or --channels, --mean and --scale as its maker states them"
        )
    family = families[wanted] if wanted is not None else None
    start = family.input if family is not None else InputContract(channels="rgb")
    return _Told(
        _change_contract(start, shape, given),
        wanted,
        family.source if family else "",
        family.licence if family else "",
    )


def _change_contract(
    start: InputContract, shape: GraphShape, given: dict[str, Any]
) -> InputContract:
    from msgspec.structs import replace

    order: Literal["rgb", "bgr"] = start.channels
    if given["channels"] is not None:
        if given["channels"] not in ("rgb", "bgr"):
            raise RequestError("--channels is rgb or bgr")
        order = given["channels"]
    side = shape.side_px or given["side_px"] or start.width_px
    if not side:
        raise RequestError("its graph takes pictures of any size: give --side-px")
    if given["side_px"] not in (None, side):
        raise RequestError(f"its graph takes pictures of {side} x {side}: leave --side-px out")
    mean = start.mean if given["mean"] is None else (given["mean"],) * 3
    scale = start.scale if given["scale"] is None else (given["scale"],) * 3
    return replace(
        start,
        channels=order,
        mean=mean,
        scale=scale,
        width_px=side,
        height_px=side,
        layout=shape.layout,
    )


def _ask_family(families: Any) -> str:
    print_line("Whose input contract has it?")
    for name, one in families.items():
        print_line(f"  [bold]{name}[/]: {escape(one.title)}")
    return str(typer.prompt("contract"))


def _take_crops(folder: Path, found: Examined) -> tuple[Any, Any]:
    """Aligned faces uint8[n, side, side, 3] and whose they are, int64[n]: two of each person."""
    import numpy as np

    from engine.accuracy.dataset import LabelledFolder
    from engine.errors import ImageError
    from engine.faces.embedder import Embedder
    from engine.faces.extractor import Extractor, open_detector

    listed = LabelledFolder.open(folder)
    places: list[int] = []
    for person in range(len(listed.names)):
        of_person = np.flatnonzero(listed.people == person)
        if len(of_person) > 1 and len(places) < 2 * CONTRACT_PEOPLE:
            places += of_person[:2].tolist()
    with Extractor(open_detector(), Embedder(found.session, found.card)) as extractor:
        extracted = extractor.extract([listed.paths[place].read_bytes() for place in places])
    faces = [
        (one.crop, listed.people[place])
        for place, one in zip(places, extracted, strict=True)
        if not isinstance(one, ImageError) and one.crop is not None
    ]
    if len(faces) < 2:
        raise RequestError("no faces of two people were found in these photographs: give others")
    return np.stack([crop for crop, _ in faces]), np.array([person for _, person in faces])


def _compare_contracts(found: Examined, crops: Any, people: Any) -> list[str]:
    from engine.faces.inspection import find_better_contract

    better = find_better_contract(found, crops, people)
    if better is None:
        return []
    form, other, own = better
    return [
        f"the input contract looks wrong: with {form} these photographs of a person lie "
        f"{other:.1f} standard deviations above strangers, with the one given {own:.1f}"
    ]


def _write_new_card(
    target: Path, file: Path, found: Examined, told: _Told, source: str | None, licence: str | None
) -> None:
    from engine.accuracy.calibrate import save_card

    card, contract = found.card, found.card.input
    path = os.path.relpath(file.absolute(), target.absolute().parent)
    rewriting = ", ".join(json.dumps(step.value) for step in card.rewriting)
    named = f"that of {told.family}" if told.family else "as it was told"
    lines = [
        "# Checked by `sosie model add`; every field is in docs/embedders.md.",
        f"name = {json.dumps(card.name)}",
        'role = "embedder"',
        f"source = {json.dumps(source or told.source or 'not told')}",
        f"licence = {json.dumps(licence or told.licence or 'not told')}",
        f'sha256 = "{card.sha256}"',
        f"dimension = {card.dimension}",
        f'alignment = "{card.alignment}"',
        f"rewriting = [{rewriting}]",
        "",
        "[file]",
        f"path = {json.dumps(path)}",
        "",
        f"# The input contract: {named}.",
        "[input]",
        f"width_px = {contract.width_px}",
        f"height_px = {contract.height_px}",
        f'channels = "{contract.channels}"',
        f'layout = "{contract.layout}"',
        f"mean = {list(contract.mean)!r}",
        f"scale = {list(contract.scale)!r}",
    ]
    save_card(target, "\n".join(lines) + "\n")


def _describe(target: Path, found: Examined, told: _Told, warnings: list[str]) -> dict[str, Any]:
    from msgspec.structs import asdict

    card = found.card
    return {
        "card": str(target),
        "name": card.name,
        "contract": told.family,
        "input": asdict(card.input),
        "dimension": card.dimension,
        "rewriting": [step.value for step in card.rewriting],
        "alone_ms": round(found.alone_ms, 2),
        "batch_ms": round(found.batch_ms, 2),
        "warnings": warnings,
        "calibration": None,
    }


def _show(answer: dict[str, Any]) -> None:
    contract = answer["input"]
    shown = f"{contract['channels']}, mean {contract['mean'][0]:g}, scale {contract['scale'][0]:g}"
    rows = [
        ["input", f"{contract['width_px']} px, {shown}"],
        ["vector", f"{answer['dimension']} numbers: finite, different, whatever is beside a face"],
        ["rewriting", ", ".join(answer["rewriting"]) or "none: the graph stays as it is"],
        [
            "speed",
            f"{answer['alone_ms']:.1f} ms a face alone, {answer['batch_ms']:.1f} in a batch "
            "(one thread of this machine)",
        ],
    ]
    print_table(f"{answer['name']}", ("", ""), rows)
    for warning in answer["warnings"]:
        print_line(f"[yellow]warning:[/] {escape(warning)}")
    print_line(f"[green]Written[/] to {escape(answer['card'])}.")


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
    from dataclasses import asdict as values_of

    from engine.matching.checks.second_model import fill_from_crops, fill_from_folder

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
    from dataclasses import asdict as values_of

    from engine.matching.checks.second_model import compare_recorded, compare_references

    deployment, store = call.deployment, call.store
    second = _require_second(deployment)
    found, decisions = compare_recorded(store, second)
    found |= compare_references(store, second, deployment.thresholds)
    coverage = store.coverage(second.digest)
    first_limits, second_limits = deployment.thresholds, second.thresholds
    assert second_limits is not None
    columns: Columns = {
        "threshold": lambda one: one[0].replace("_", " "),
        "first": lambda one: f"{getattr(first_limits, one[0]):.4f}",
        "second": lambda one: f"{getattr(second_limits, one[0]):.4f}",
        "compared": lambda one: f"{one[1].compared:,}",
        "match by both": lambda one: f"{one[1].both:,}",
        "by the first alone": lambda one: f"{one[1].only_first:,}",
        "by the second alone": lambda one: f"{one[1].only_second:,}",
    }
    changed = {pair: count for pair, count in decisions.items() if len(set(pair.split(", "))) > 1}

    def show() -> None:
        print_items(f"The second model has {coverage}", tuple(found.items()), columns)
        print_line(
            f"Of {sum(decisions.values()):,} recorded decisions it would have made "
            f"{sum(changed.values()):,} others."
        )
        for pair, count in changed.items():
            print_line(f"  {pair.replace(', ', ', and by the second ')}: {count:,}")

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
        show,
    )


@command("model switch")
def switch_model(
    call: Call,
    reenroll: Path | None = option(
        "Remove the references that the second model has no template of, and write the ids of "
        "their documents there: their holders must be enrolled again.",
        "FILE.csv",
    ),
) -> Answer:
    """Let the second model decide, and keep the first as the second.

    Stop servers first. Refused while a reference has no template of it. May be stopped anywhere:
    the next call goes on. The same command switches back.
    """
    from engine.registry.upgrade import remove_missing, switch_models
    from serving.deployment.deployment import load_vault, registry_url
    from serving.deployment.models import (
        load_newest_calibration,
        model_digest,
        second_model,
        second_settings,
    )
    from serving.settings.settings import is_card_file, load_settings, require_home

    place = require_home(call.home)
    settings = load_settings(place)
    second = second_model(settings)
    if second is None:
        raise RequestError(NO_SECOND)
    if second.thresholds is None:
        raise RequestError(
            "the second model is not calibrated, so it could decide nothing: run sosie calibrate "
            f"DIR --card {settings.models.second}"
        )
    url, vault = registry_url(place, settings), load_vault(place, settings)
    before = model_digest(settings)
    named = {"before": before, "after": second.digest, "actor": call.actor}
    removed: list[str] = []
    if reenroll is not None:
        require_place(reenroll)
        removed = remove_missing(url, vault, **named)
        reenroll.write_text("document_id\n" + "".join(f"{one}\n" for one in removed), "utf-8")
    with call.progress("switching") as report:
        total = switch_models(url, vault, dim=second.dim, progress=report, **named)
    chosen: dict[str, Any] = {
        "embedder": settings.models.second,
        "second": settings.models.embedder,
    }
    if not is_card_file(settings.models.second):
        # Without it a home keeps the first calibration that the built-in card had.
        other = second_settings(settings) or settings
        chosen["calibration"] = load_newest_calibration(other).version
    lines = "".join(f"\n  {name} = {json.dumps(value)}" for name, value in chosen.items())
    told = f" {len(removed):,} were removed: {reenroll} names their documents." if reenroll else ""
    damaged = vault.set_aside.names()
    if damaged:
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
    from engine.models.catalog import export_models as export

    written = export(folder)
    names = escape(", ".join(file.name for file in written))
    home = escape(str(folder.resolve()))
    answer = Answer(
        {"folder": str(folder.resolve()), "files": [file.name for file in written]},
        f'Wrote {names}.\nNext: `sosie --models {home} serve`, or folder = "{home}" under '
        "\\[models] in sosie.toml.",
    )
    answer.print(as_json=as_json)
