"""The key ring: `keys rotate`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from serving.cli.inputs import HomeOption
from serving.cli.output import JsonFlag, print_json, print_line, show_progress
from serving.cli.panels import DEPLOYMENT


def register(app: typer.Typer) -> None:
    ring = typer.Typer(help="Rotate the data key.", no_args_is_help=True)
    ring.command("rotate")(rotate_key)
    app.add_typer(ring, name="keys", rich_help_panel=DEPLOYMENT)


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
