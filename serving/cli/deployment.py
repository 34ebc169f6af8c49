"""A deployment as a whole: `init`, `upgrade`, `keys rotate`, `doctor`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import typer

from engine.errors import RequestError, SosieError
from engine.formatting import plural
from engine.registry.accounts import Carrier
from engine.registry.upgrade import upgrade as upgrade_registry
from serving.cli.inputs import argument, name_actor, option, require_code
from serving.cli.output import Answer, Call, JsonFlag, command, escape, print_line
from serving.deployment.backups import rotate_data_key
from serving.deployment.deployment import Deployment, create_home, load_vault
from serving.deployment.models import describe_calibration, find_conversion
from serving.settings.settings import (
    KEY_RING_FILE,
    SETTINGS_FILE,
    is_card_file,
    load_settings,
    make_settings,
    require_home,
)


@command("init")
def init(
    folder: Path = argument("A new or empty folder.", "DIR"),
    carrier: str | None = option("Also add this carrier.", "CODE"),
    outlet: str | None = option("Also add this outlet of the carrier.", "CODE"),
    registry_url: str | None = option(
        "Where the registry is, if not in DIR. A URL with a password belongs in "
        "SOSIE_REGISTRY__URL.",
        "URL",
    ),
    embedder: str | None = option("The card of an embedder of your own.", "CARD"),
    crops: Literal["none", "cases", "all"] | None = option(
        "Whose faces are kept for those who decide cases; asked on a terminal, else none.",
        "none|cases|all",
    ),
    hold_days: int | None = option(
        "With --crops cases: so long everybody's face is held, shown to nobody, for a case that "
        "may come. [7]",
        "DAYS",
        min=0,
        max=366,
    ),
    as_json: JsonFlag = False,
) -> None:
    """Make a deployment: settings, key ring, an empty registry."""
    if outlet is not None and carrier is None:
        raise RequestError("an outlet needs a carrier: give --carrier too")
    for code in (carrier, outlet):
        if code is not None:
            require_code(code)
    chosen = _choose_settings(registry_url, embedder)
    is_asked = not as_json and _is_terminal()
    chosen |= _choose_crops(crops, hold_days, is_asked=is_asked)
    settings = make_settings(chosen)
    create_home(folder, settings, chosen)
    with Deployment(folder, settings) as made:
        if carrier is not None:
            made.store.add_carrier(Carrier(carrier, carrier), actor=name_actor())
        if outlet is not None and carrier is not None:
            made.store.add_outlet(outlet, carrier, actor=name_actor())
        deployment_id = made.vault.deployment_id
    _show_made(folder, deployment_id, carrier, outlet).print(as_json=as_json)


def _show_made(folder: Path, deployment_id: str, carrier: str | None, outlet: str | None) -> Answer:
    ring = (folder / KEY_RING_FILE).resolve()
    answer = {
        "home": str(folder.resolve()),
        "settings": str((folder / SETTINGS_FILE).resolve()),
        "key_ring": str(ring),
        "deployment_id": deployment_id,
        "carrier": carrier,
        "outlet": outlet,
    }
    home = escape(str(folder))
    lines = [
        f"[green]Made[/] {home}, deployment {deployment_id}.",
        f"The key ring is [bold]{escape(str(ring))}[/]. Keep a copy of it elsewhere:",
        "whoever loses it loses every reference, and whoever has it can undo the rotation.",
    ]
    if outlet is None:
        lines.append("Next:")
        if carrier is None:
            lines.append(f"  sosie --home {home} carrier add CODE --name NAME")
        lines.append(f"  sosie --home {home} outlet add CODE --carrier {escape(carrier or 'CODE')}")
    return Answer(answer, "\n".join(lines))


@command("upgrade")
def upgrade(call: Call) -> Answer:
    """Bring the registry to this version, and say which thresholds hold.

    Stop servers first. May be stopped anywhere: the next call goes on. Templates are converted
    where the embedder's card has a transform that they were made without. The thresholds of one
    model stay as they are until the settings take a newer calibration.
    """
    from serving.deployment.deployment import registry_url

    folder = require_home(call.home)
    settings = load_settings(folder)
    vault = load_vault(folder, settings)
    with call.progress("upgrading") as report:
        before, after, is_converted = upgrade_registry(
            registry_url(folder, settings), vault, report, find_conversion(settings)
        )
    text = f"[green]Upgraded[/] the registry from {before} to {after}."
    if before == after:
        text = f"The registry has this version's schema ({after}) already."
    if is_converted:
        text += "\n[green]Converted[/] its references to the embedder's transform."
    try:
        calibration, advice = describe_calibration(settings)
    except SosieError as error:
        calibration, advice = "none", str(error)
    text += f"\nCalibration: {escape(calibration)}." + (f" → {escape(advice)}." if advice else "")
    answer = {
        "before": before,
        "after": after,
        "is_converted": is_converted,
        "calibration": calibration,
        "advice": advice,
    }
    return Answer(answer, text)


HOLD_DAYS = 7
CROPS_ASKED = """
Whose aligned face is kept, sealed, so that who decides a case can look at it?
  [bold]none[/]   Nobody's. Cases are decided by scores and histories, without a face to look at.
         What is not kept cannot be lost, nor asked for.
  [bold]cases[/]  Of people whom a decision, a sweep or a dispute brings into a case, for 30 days.
         Everybody's is held first, shown to nobody, since their case may come later.
  [bold]all[/]    Everybody's, for 30 days: any of them can be shown without a case, and whoever
         has the registry and the key ring has them all.
A face is biometric data of somebody who mostly did nothing: the law may ask for a reason."""


KEEP, MOST_DAYS = ("none", "cases", "all"), 366


def _read_keep(text: str) -> str:
    if text not in KEEP:
        raise typer.BadParameter("write none, cases or all")
    return text


def _read_days(text: str | int) -> int:
    if not str(text).isdecimal() or int(text) > MOST_DAYS:
        raise typer.BadParameter(f"write a number of days, {MOST_DAYS} at most")
    return int(text)


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _choose_crops(
    keep: str | None, hold_days: int | None, *, is_asked: bool
) -> dict[str, dict[str, Any]]:
    """The settings' choice of crops; nothing where nobody chose: none are kept."""
    if keep is None and is_asked:
        print_line(CROPS_ASKED)
        keep = typer.prompt("Keep none, cases or all?", default="none", value_proc=_read_keep)
        if keep == "cases" and hold_days is None:
            asked = "Hold everybody's for how many days? As many as lie between two sweeps"
            hold_days = typer.prompt(asked, default=HOLD_DAYS, value_proc=_read_days)
        print_line("It can be changed under \\[crops] in sosie.toml; sosie doctor shows it.")
    if keep != "cases":
        if hold_days is not None:
            raise RequestError("--hold-days is for --crops cases: give both")
        return {} if keep is None else {"crops": {"keep": keep}}
    return {"crops": {"keep": keep, "hold_days": HOLD_DAYS if hold_days is None else hold_days}}


def _choose_settings(registry_url: str | None, embedder: str | None) -> dict[str, dict[str, Any]]:
    chosen: dict[str, dict[str, Any]] = {}
    if registry_url is not None:
        if _has_password(registry_url):
            raise RequestError(
                "a password on the command line shows in `ps` and in the shell's history: "
                "put the URL in SOSIE_REGISTRY__URL instead"
            )
        chosen["registry"] = {"url": registry_url}
    if embedder is not None:
        card = str(Path(embedder).resolve()) if is_card_file(embedder) else embedder
        chosen["models"] = {"embedder": card}
    return chosen


def _has_password(url: str) -> bool:
    try:
        return urlsplit(url).password is not None or "password=" in url
    except ValueError:
        return False


@command("keys rotate")
def rotate_key(call: Call) -> Answer:
    """Seal every value with a new data key, and retire the old one.

    Stop servers first. May be stopped anywhere: the next call goes on.
    """
    folder = require_home(call.home)
    with call.progress("sealing anew") as report:
        done = rotate_data_key(folder, load_settings(folder), report)
    how = "Finished the rotation to" if done.resumed else "Rotated to"
    retired = ", ".join(str(version) for version in done.retired)
    snapshots = damaged = ""
    if done.shard_snapshots:
        snapshots = (
            f"The snapshots of {plural(done.shard_snapshots, 'shard')} open no more: the next "
            "start reads the gallery from the store, and saves them anew."
        )
    if done.damaged:
        named = "".join(f"\n  {escape(one)}" for one in done.damaged)
        damaged = (
            f"[red]Not complete[/]: values of these rows are damaged, and stay as they were:{named}"
            f"\n{KEY_RING_FILE} keeps their key, which opens nothing. Run sosie doctor."
        )
    return Answer(
        asdict(done),
        f"[green]{how}[/] data key {done.active}; retired {retired}.",
        ", ".join(f"{rows:,} {table}" for table, rows in done.resealed.items()) + ".",
        snapshots,
        damaged,
        f"Replace your backup of {KEY_RING_FILE}; older backups of the database need the old.",
        is_no=bool(done.damaged),
    )


MARKS = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "broken": "[red]broken [/]"}


@command("doctor")
def doctor(call: Call, deep: bool = option("Read every row of a large registry, too.")) -> Answer:
    """Examine the machine, the models and the deployment.

    Exit code 1 where something is broken.
    """
    from serving.doctor import State, examine
    from serving.settings.settings import find_home

    findings = examine(find_home(call.home), is_deep=deep)
    is_well = all(one.state is not State.BROKEN for one in findings)
    lines = [
        f"{MARKS[one.state.value]} [bold]{one.subject}[/]: {escape(one.detail)}"
        + (f" → {escape(one.advice)}" if one.advice else "")
        for one in findings
    ]
    answer = {"ok": is_well, "checks": [asdict(one) for one in findings]}
    return Answer(answer, "\n".join(lines), is_no=not is_well)
