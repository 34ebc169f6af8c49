"""Where enrollments come from: carriers and their outlets."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.inputs import (
    HomeOption,
    name_actor,
    open_deployment,
    require_code,
    require_words,
)
from serving.cli.output import JsonFlag, escape, print_json, print_line, print_table
from serving.cli.panels import DEPLOYMENT

Code = Annotated[str, typer.Argument(metavar="CODE")]

MAX_NAME_LENGTH = 200
MOST_LINES = 1_000_000


def register(app: typer.Typer) -> None:
    carriers = typer.Typer(help="Add a carrier, or list them.", no_args_is_help=True)
    carriers.command("add")(add_carrier)
    carriers.command("list")(list_carriers)
    outlets = typer.Typer(
        help="Add an outlet of a carrier, close one, or list them.", no_args_is_help=True
    )
    outlets.command("add")(add_outlet)
    outlets.command("close")(close_outlet)
    outlets.command("list")(list_outlets)
    app.add_typer(carriers, name="carrier", rich_help_panel=DEPLOYMENT)
    app.add_typer(outlets, name="outlet", rich_help_panel=DEPLOYMENT)


def add_carrier(
    code: Code,
    name: Annotated[str, typer.Option(help="The carrier's name.")],
    line_limit: Annotated[
        int,
        typer.Option(min=1, max=MOST_LINES, help="Open lines that one holder may have with it."),
    ] = 5,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add a carrier."""
    from engine.registry.records import Carrier

    require_code(code)
    require_words(name, "a name", MAX_NAME_LENGTH)
    with open_deployment(home) as deployment:
        deployment.store.add_carrier(Carrier(code, name, line_limit), actor=name_actor())
    if as_json:
        print_json({"carrier": code, "name": name, "line_limit": line_limit})
    else:
        print_line(f"[green]Added[/] the carrier {escape(code)}.")


def add_outlet(
    code: Code,
    carrier: Annotated[str, typer.Option(metavar="CODE", help="The carrier it belongs to.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add an outlet of a carrier."""
    require_code(code)
    require_code(carrier)
    with open_deployment(home) as deployment:
        deployment.store.add_outlet(code, carrier, actor=name_actor())
    if as_json:
        print_json({"outlet": code, "carrier": carrier, "is_open": True})
    else:
        print_line(f"[green]Added[/] the outlet {escape(code)} of {escape(carrier)}.")


def close_outlet(code: Code, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Close an outlet: nobody is enrolled there any more, and its keys are refused."""
    with open_deployment(home) as deployment:
        deployment.store.close_outlet(code, actor=name_actor())
    if as_json:
        print_json({"outlet": code, "is_open": False})
    else:
        print_line(f"[green]Closed[/] the outlet {escape(code)}.")


def list_carriers(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the carriers by code."""
    with open_deployment(home) as deployment:
        carriers = deployment.store.carriers()
    if as_json:
        print_json(
            {
                "carriers": [
                    {"carrier": one.code, "name": one.name, "line_limit": one.line_limit}
                    for one in carriers
                ]
            }
        )
        return
    rows = [[escape(one.code), escape(one.name), str(one.line_limit)] for one in carriers]
    print_table(None, ("carrier", "name", "line limit"), rows)


def list_outlets(
    carrier: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only those of this carrier.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the outlets by code."""
    with open_deployment(home) as deployment:
        outlets = [
            one
            for one in deployment.store.all_outlets()
            if carrier is None or one.carrier == carrier
        ]
    if as_json:
        print_json(
            {
                "outlets": [
                    {"outlet": one.code, "carrier": one.carrier, "is_open": one.is_open}
                    for one in outlets
                ]
            }
        )
        return
    rows = [
        [escape(one.code), escape(one.carrier), "open" if one.is_open else "closed"]
        for one in outlets
    ]
    print_table(None, ("outlet", "carrier", "state"), rows)
