"""The command `sosie`: the module of a command is imported when it is called."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command, get_group

from serving.cli.inputs import Globals
from serving.cli.output import RootGroup, apps

PANELS = {
    "Photographs alone": "faces:verify faces:extract",
    "Faces on record": "enrollment:enroll enrollment:show imports:import lines:lines "
    "enrollment:search enrollment:erase enrollment:withdraw enrollment:erasures lines:block "
    "lines:unblock lines:blocked cases:cases cases:precision lines:line lines:campaign lines:watch "
    "cases:case sweep:sweep retention:statutory retention:subject",
    "A deployment": "deployment:init deployment:upgrade serve:serve serve:ray-environment "
    "serve:serve-config serve:drain serve:sandbox deployment:doctor backups:backup backups:restore "
    "outlets:exceptions models:model outlets:carrier outlets:outlet outlets:apikey outlets:account "
    "deployment:keys webhooks:webhooks backups:audit lines:death retention:retention",
    "Figures": "accuracy:evaluate accuracy:calibrate plan:plan serve:bench serve:demo "
    "serve:loadtest",
}
"""The commands as `sosie --help` lists them, after the modules that they are in."""
GROUPS = {
    "line": "Close a line, report or show what happened to it, check rules.",
    "campaign": "Ask for the holders of many lines by a deadline.",
    "watch": "Maintain the watch-list.",
    "case": "Show a case, and take its steps.",
    "sweep": "Find the faces in the whole gallery that hold several identities.",
    "statutory": "Lists that a law or a regulator asks for.",
    "subject": "All that is kept about one person.",
    "model": "Add an embedder of your own, and change to it; keep the built-in models apart.",
    "carrier": "Add a carrier, set its time zone, or list them.",
    "outlet": "Add an outlet of a carrier, close one, restrict one, or list them.",
    "apikey": "Add a key of the service, list them, or revoke one.",
    "account": "List who has signed in to the console, and end their sessions.",
    "keys": "Rotate the data key.",
    "webhooks": "Say where events are sent, and send them.",
    "audit": "Read, verify and mend the audit chain, and hold certificates against it.",
    "death": "Holders who are reported dead.",
    "retention": "Delete data whose retention period is over, or show what is due.",
}


class LazyGroup(RootGroup):
    """Imports a command's module when it is called: together they take seconds."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for panel, places in PANELS.items():
            for name in (place.partition(":")[2] for place in places.split()):
                self.add_command(TyperCommand(name, rich_help_panel=panel))

    def resolve_command(self, context: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(context, args)
        assert name is not None
        return name, _load(name), rest

    def format_help(self, context: Any, formatter: Any) -> None:
        for name, one in self.commands.items():
            one.help = GROUPS.get(name) or _read_summary(name)
        super().format_help(context, formatter)


def _find_module(name: str) -> str:
    places = " ".join(PANELS.values()).split()
    return next(place.partition(":")[0] for place in places if place.endswith(f":{name}"))


@cache
def _load(name: str) -> Any:
    import_module(f"serving.cli.{_find_module(name)}")
    if name not in GROUPS:
        return get_command(apps[name])
    apps[name].info.help, apps[name].info.no_args_is_help = GROUPS[name], name != "sweep"
    return get_group(apps[name])


def _read_summary(name: str) -> str:
    """The first paragraph of a command's docstring, from the source of its module."""
    source = Path(__file__).with_name(f"{_find_module(name)}.py").read_text("utf-8")
    found = re.search(rf'^@command\("{name}".*?"""(.*?)(\n\n|""")', source, re.M | re.S)
    assert found is not None, name
    return found[1]


app = typer.Typer(
    name="sosie",
    cls=LazyGroup,
    help="One face, one identity: a live face against a document, and against every known face.",
    epilog="Exit codes: 0 fine, 1 a negative answer, 2 bad input or usage, 3 internal error.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"sosie {version('sosie')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The deployment's folder (default: SOSIE_HOME, or this folder)."
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Take the built-in models from here, where `sosie model export` wrote them.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version."),
    ] = False,
) -> None:
    del debug, version  # the root group and the callback look at these
    context.obj = Globals(home)
    if models is not None:
        from serving.settings.settings import choose_models

        choose_models(models)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
