"""Keys and the chain that they protect: `keys rotate`, `audit verify`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from serving.cli.inputs import HomeOption, open_deployment
from serving.cli.output import JsonFlag, exit_negative, print_json, print_line, show_progress
from serving.cli.panels import DEPLOYMENT


def register(app: typer.Typer) -> None:
    ring = typer.Typer(help="Rotate the data key.", no_args_is_help=True)
    ring.command("rotate")(rotate_key)
    chain = typer.Typer(help="Verify the audit chain.", no_args_is_help=True)
    chain.command("verify")(verify_chain)
    app.add_typer(ring, name="keys", rich_help_panel=DEPLOYMENT)
    app.add_typer(chain, name="audit", rich_help_panel=DEPLOYMENT)


def rotate_key(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Seal every value with a new data key, and retire the old one.

    Stop servers first. May be stopped anywhere: the next call goes on.
    """
    from serving.rotation import rotate_data_key
    from serving.settings import KEY_RING_FILE, find_cache, load_settings, require_home

    folder = require_home(home)
    with show_progress("sealing anew", is_shown=not as_json) as report:
        done = rotate_data_key(folder, load_settings(folder), find_cache(), report)
    if as_json:
        print_json(asdict(done))
        return
    how = "Finished the rotation to" if done.resumed else "Rotated to"
    retired = ", ".join(str(version) for version in done.retired)
    print_line(f"[green]{how}[/] data key {done.active}; retired {retired}.")
    print_line(", ".join(f"{rows:,} {table}" for table, rows in done.resealed.items()) + ".")
    print_line(
        f"Replace your backup of {KEY_RING_FILE}; older backups of the database need the old."
    )


def verify_chain(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Recompute the audit chain.

    Exit code 1 where an entry was altered, removed or added.
    """
    from engine.registry.audit import verify_chain as recompute

    with open_deployment(home) as deployment:
        report = recompute(deployment.store)
        number, head = deployment.store.audit_head()
    if as_json:
        print_json(asdict(report) | {"head": {"number": number, "hash": head.hex()}})
    elif report.intact:
        print_line(f"[green]Intact[/]: {report.entries:,} entries, head {number} {head.hex()}.")
    else:
        print_line(
            f"[red]Broken[/] at entry {report.first_bad}: it or one before it was altered, "
            "removed or added. Compare with a backup."
        )
    if not report.intact:
        raise exit_negative()
