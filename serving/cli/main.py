"""The command `sosie`: puts the subjects together; each command imports what it needs itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli import (
    accuracy,
    apikeys,
    backups,
    bench,
    cases,
    deployment,
    enrollment,
    faces,
    gallery,
    imports,
    line_life,
    lines,
    models,
    outlets,
    people,
    plan,
    retention,
    serve,
    sweep,
    webhooks,
)
from serving.cli.inputs import Globals
from serving.cli.output import RootGroup

REGISTRATIONS = (
    faces.register,
    enrollment.register,
    imports.register,
    lines.register,
    line_life.register,
    gallery.register,
    lines.register_restrictions,
    cases.register,
    sweep.register,
    retention.register_statutory,
    deployment.register,
    serve.register,
    serve.register_sandbox,
    deployment.register_doctor,
    models.register,
    outlets.register,
    apikeys.register,
    deployment.register_keys,
    backups.register,
    webhooks.register,
    backups.register_audit,
    people.register,
    retention.register,
    accuracy.register,
    plan.register,
    bench.register,
    bench.register_loadtest,
)
"""In the order in which `sosie --help` lists them."""

app = typer.Typer(
    name="sosie",
    cls=RootGroup,
    help="One face, one identity: a live face against a document, and against every known face.",
    epilog="Exit codes: 0 fine, 1 a negative answer, 2 bad input or usage, 3 internal error.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for register in REGISTRATIONS:
    register(app)


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
