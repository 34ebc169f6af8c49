"""The service: `serve`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.inputs import HomeOption
from serving.cli.output import DEPLOYMENT, escape, print_fault, print_line

if TYPE_CHECKING:
    from serving.cluster.site import Site
    from serving.cluster.supervisor import Order


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=DEPLOYMENT)(serve)
    app.command("ray-environment", rich_help_panel=DEPLOYMENT)(print_environment)
    app.command("serve-config", rich_help_panel=DEPLOYMENT)(print_application)
    app.command(rich_help_panel=DEPLOYMENT)(drain)


def serve(
    home: HomeOption = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A settings file in place of the home's sosie.toml."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where to listen, for this run.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, metavar="PORT", help="The same.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for whatever happens.")
    ] = False,
    until_stdin_closes: Annotated[
        bool, typer.Option(hidden=True, help="Stop with whoever started it, however that ends.")
    ] = False,
) -> None:
    """Serve the HTTP interface until stopped (Ctrl-C, SIGTERM); starts Ray where needed.

    Parts that die are started again. Exit code 3 where the service dies over and over.
    """
    from serving.cluster.site import Site, require_ray

    require_ray()
    from serving.cluster.processes import end_with_starter
    from serving.cluster.supervisor import NodeRefused, Supervisor, claim, require_port
    from serving.operator_client import leave_address
    from serving.settings.settings import require_home

    if until_stdin_closes:
        end_with_starter()
    require_ray()
    folder = require_home(home)
    site = Site.of(folder, config)
    order = _validate(site, host, port)
    if not order.serve.ray_address:
        # A cluster that serves others already has its proxies there.
        require_port(order.serve.host, order.serve.port)
    with claim(folder), leave_address(folder, order.serve):
        try:
            code = Supervisor(order, _print_event_json if as_json else _print_event).run()
        except NodeRefused as refused:
            print_fault(refused.fault, as_json=as_json)
            code = refused.fault.exit_code
    raise typer.Exit(code)


def print_environment(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A folder of the node's own, as /run/sosie: a short path."
        ),
    ],
    home: HomeOption = None,
) -> None:
    """Print the environment that `ray start` needs on each node of a cluster of your own.

    Writes into DIR what it names: eval "$(sosie ray-environment /run/sosie)".
    """
    from serving.cluster.environment import SHARED, USUAL, claim_folder, make_variables
    from serving.cluster.site import require_ray
    from serving.settings.settings import load_settings, require_home

    require_ray()
    site = require_home(home)
    settings = load_settings(site).serve
    place = claim_folder(folder)
    # Without a file the proxy's one warning goes where its own standard error goes.
    log = site / settings.log_file if settings.log_file else Path(os.devnull)
    variables = USUAL | SHARED | make_variables(settings, place, log)
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def print_application(
    home: HomeOption = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A settings file in place of the home's sosie.toml."),
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Of another environment with Sosie, for its replicas."),
    ] = None,
) -> None:
    """Print the file that `serve deploy` takes, made from the settings.

    Deploying it anew after a change of settings, or of Sosie, replaces the replicas one by one.
    """
    from serving.cluster.site import Site, require_ray
    from serving.settings.settings import require_home

    require_ray()
    # They come with the extra.
    import yaml

    from serving.cluster.application import describe

    described = describe(Site.of(require_home(home), config), python)
    typer.echo(yaml.safe_dump(described, sort_keys=False), nl=False)


def drain(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="This node's proxy alone: the folder that ray-environment was given.",
        ),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Refuse new requests, wait for running ones, and end the application on its Ray cluster.

    With DIR one node's proxy refuses and waits, and nothing ends: before its node is taken away.
    Exit code 1 where requests still run after `[serve] drain_s`.
    """
    from serving.cluster.haproxy import PLACE
    from serving.cluster.site import require_ray
    from serving.errors import ExitCode
    from serving.settings.settings import load_settings, require_home

    require_ray()
    # It comes with the extra.
    from serving.cluster.node import drain_proxies, end_application

    settings = load_settings(require_home(home)).serve
    if folder is None:
        has_drained = end_application(settings.ray_address or "auto", settings.drain_s)
    else:
        has_drained = drain_proxies(folder / PLACE, settings.drain_s)
    if not has_drained:
        print_line(f"Requests still ran after {settings.drain_s:g} s.", is_notice=True)
        raise typer.Exit(ExitCode.NEGATIVE)


def _validate(site: Site, host: str | None, port: int | None) -> Order:
    """Says before the start what is wrong with settings, keys, registry, models or calibration."""
    from engine.models.catalog import locate
    from serving.cluster.supervisor import Order
    from serving.deployment.models import detector_card, embedder_card, second_settings
    from serving.telemetry.traces import open_tracer

    settings = site.load()
    # Refuses traces that nothing here could send.
    open_tracer(settings.serve, "serve").close()
    second = second_settings(settings)
    for card in (detector_card(settings), *map(embedder_card, filter(None, (settings, second)))):
        locate(card)
    with site.open(settings) as deployment:
        _ = deployment.thresholds, deployment.second
    given = {"host": host, "port": port}
    chosen = {name: value for name, value in given.items() if value is not None}
    return Order(site, settings.serve.model_copy(update=chosen))


def _print_event_json(event: str, details: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps({"event": event, **details}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _print_event(event: str, details: Mapping[str, Any]) -> None:
    line = {
        "starting": "Starting for {url} …",
        "ready": "[green]Ready[/] at [bold]{url}[/] after {after_s} s; home {home}.",
        "unready": "[yellow]Not ready[/]: a part was lost or stops.",
        "lost": "[red]Lost the node[/] ({times} times lately). {detail}",
        "stopping": "Stopping: waits up to {drain_s:g} s for what runs.",
        "stopped": "Stopped.",
    }.get(event)
    if line is not None:
        shown = {
            key: escape(value) if isinstance(value, str) else value
            for key, value in details.items()
        }
        # Standard output is for the log's lines.
        print_line(line.format(**shown), is_notice=True)
