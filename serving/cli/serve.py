"""What is started: the service, `serve`, a sandbox for those who build against it, `sandbox`, and
`demo`, `bench`, `loadtest`."""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from serving.cli.inputs import CONFIG_OPTION, HOME_OPTION, argument, option
from serving.cli.output import JsonFlag, command, escape, print_fault, print_json, print_line
from serving.cluster.processes import end_with_starter
from serving.errors import ExitCode
from serving.operator_client import leave_address
from serving.settings.settings import load_settings, require_home, require_no_sandbox

UNTIL_FLAG = option("Stop with whoever started it, however that ends.", hidden=True)


@command("serve")
def serve(
    home: Path | None = HOME_OPTION,
    config: Path | None = CONFIG_OPTION,
    host: str | None = option("Where to listen, for this run.", "ADDRESS"),
    port: int | None = option("The same.", "PORT", min=1, max=65535),
    as_json: bool = option("Print one JSON object a line for whatever happens.", None, "--json"),
    until_stdin_closes: bool = UNTIL_FLAG,
) -> None:
    """Serve the HTTP interface until stopped (Ctrl-C, SIGTERM); starts Ray where needed.

    Parts that die are started again. Exit code 3 where the service dies over and over.
    """
    from serving.cluster.environment import Site, require_ray

    require_ray()
    from serving.cluster.supervisor import NodeRefused, Order, Supervisor, claim, require_port
    from serving.telemetry.traces import open_tracer

    if until_stdin_closes:
        end_with_starter()
    folder = require_home(home)
    require_no_sandbox(folder)
    site = Site.of(folder, config)
    settings = site.load().serve
    # Refuses traces that nothing here could send.
    open_tracer(settings, "serve").close()
    given = {"host": host, "port": port}
    chosen = {name: value for name, value in given.items() if value is not None}
    order = Order(site, settings.model_copy(update=chosen))
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


@command("ray-environment")
def print_environment(
    folder: Path = argument("A folder of the node's own, as /run/sosie: a short path.", "DIR"),
    home: Path | None = HOME_OPTION,
) -> None:
    """Print the environment that `ray start` needs on each node of a cluster of your own.

    Writes into DIR what it names: eval "$(sosie ray-environment /run/sosie)".
    """
    from serving.cluster.environment import SHARED, USUAL, claim_folder, make_variables, require_ray

    require_ray()
    site = require_home(home)
    settings = load_settings(site).serve
    place = claim_folder(folder)
    # Without a file the proxy's one warning goes where its own standard error goes.
    log = site / settings.log_file if settings.log_file else Path(os.devnull)
    variables = USUAL | SHARED | make_variables(settings, place, log)
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@command("serve-config")
def print_application(
    home: Path | None = HOME_OPTION,
    config: Path | None = CONFIG_OPTION,
    python: Path | None = option("Of another environment with Sosie, for its replicas.", "PATH"),
) -> None:
    """Print the file that `serve deploy` takes, made from the settings.

    Deploying it anew after a change of settings, or of Sosie, replaces the replicas one by one.
    """
    from serving.cluster.environment import Site, require_ray

    require_ray()
    # They come with the extra.
    import yaml

    from serving.cluster.application import describe

    described = describe(Site.of(require_home(home), config), python)
    typer.echo(yaml.safe_dump(described, sort_keys=False), nl=False)


@command("drain")
def drain(
    folder: Path | None = argument(
        "This node's proxy alone: the folder that ray-environment was given.", "[DIR]", default=None
    ),
    home: Path | None = HOME_OPTION,
) -> None:
    """Refuse new requests, wait for running ones, and end the application on its Ray cluster.

    With DIR one node's proxy refuses and waits, and nothing ends: before its node is taken away.
    Exit code 1 where requests still run after `[serve] drain_s`.
    """
    from serving.cluster.environment import require_ray

    require_ray()
    # It comes with the extra.
    from serving.cluster.haproxy import PLACE
    from serving.cluster.node import drain_proxies, end_application

    settings = load_settings(require_home(home)).serve
    if folder is None:
        has_drained = end_application(settings.ray_address or "auto", settings.drain_s)
    else:
        has_drained = drain_proxies(folder / PLACE, settings.drain_s)
    if not has_drained:
        print_line(f"Requests still ran after {settings.drain_s:g} s.", is_notice=True)
        raise typer.Exit(ExitCode.NEGATIVE)


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


@command("sandbox")
def run_sandbox(
    folder: Path | None = argument(
        "Where it is kept, with its keys; without one it is thrown away.", "[DIR]", default=None
    ),
    host: str = option("Where to listen.", "ADDRESS", default="127.0.0.1"),
    port: int = option("0: any.", "PORT", default=8700, min=0, max=65535),
    numbers: str | None = option("Print the document numbers of this type, and end.", "TYPE"),
    collection: bool = option("Print a collection of requests (Postman), and end."),
    as_json: bool = option("Print address and keys as one JSON document.", None, "--json"),
    until_stdin_closes: bool = UNTIL_FLAG,
) -> None:
    """Serve the interface without faces: document numbers say how an enrollment ends.

    For tests of what calls it. Never over a home with people in it.
    """
    if numbers is not None:
        _print_numbers(numbers, as_json=as_json)
        return
    if collection:
        from importlib.metadata import version

        from serving.sandbox.collection import build_collection

        print_json(build_collection(version("sosie")))
        return
    from serving.sandbox.sandbox_service import PICTURE_FOLDER, WARNING, serve_sandbox

    def tell(url: str, home: Path, keys: Mapping[str, str]) -> None:
        pictures = str((home / PICTURE_FOLDER).resolve())
        if as_json:
            print_json({"url": url, "keys": keys, "pictures": pictures, "warning": WARNING})
            return
        print_line(f"[green]Ready[/] at [bold]{url}[/]: {WARNING}.")
        for name, key in keys.items():
            print_line(f"  {name:9} {key}")
        print_line(f"Pictures are in {escape(pictures)}; `sosie sandbox --numbers cn-ric`")
        print_line("prints the document numbers. Ctrl-C ends it.")

    if until_stdin_closes:
        end_with_starter()
    serve_sandbox(folder, host, port, tell)


def _print_numbers(document_type: str, *, as_json: bool) -> None:
    from serving.sandbox.outcomes import list_numbers

    found = list_numbers(document_type)
    if as_json:
        print_json({"numbers": found})
        return
    # No table, which would cut a passport's zone in two.
    width = max(len(one["number"]) for one in found)
    for one in found:
        answer = " ".join(filter(None, (one["answer"], one["reason"])))
        needs = f" (with `{one['needs']}`)" if one["needs"] else ""
        print_line(f"{one['serial']}  {one['number']:{width}}  {answer}{needs}: {one['what']}")


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@command("bench", context_settings=PASSED_ON)
def bench(
    context: typer.Context,
    suite: str = argument(
        "kernels, search, join, gallery, registrar, shards, extract, accuracy, import, sweep, "
        "serve; report, docs.",
        "SUITE",
    ),
) -> None:
    """Run a benchmark suite; `report` runs all of them, `pytest-benchmark compare` compares runs.

    Options after its name are its own: --json, --quick for small sizes; for kernels, search, join
    and gallery, --n rows of --dim dimensions; for serve and sweep, --only its PARTS; for
    report, --output DIR; and, for extract, --deepface-python, the PATH of another venv's Python to
    compare with. `sosie bench SUITE -- --help` lists them all.
    """
    from serving.settings.settings import benchmark_environment

    # Anew: what tunes numpy's BLAS is read when numpy is loaded. -P: a folder named bench where the
    # command happens to run is not ours.
    words = [sys.executable, "-P", "-m", "bench", suite, *context.args]
    os.execve(sys.executable, words, benchmark_environment())  # noqa: S606 - our own interpreter


@command("demo")
def demo(
    faces: Path | None = option("Your own photographs: a folder per person.", "DIR"),
    gallery_size: int = option(
        "Synthetic references that the faces are searched among.",
        None,
        "--gallery",
        default=100_000,
        min=0,
        max=1_000_000,
    ),
    as_json: JsonFlag = False,
) -> None:
    """Show every kind of decision on real photographs."""
    from serving.demo.demo_run import run_demo

    raise typer.Exit(run_demo(faces=faces, gallery_size=gallery_size, as_json=as_json))


@command("loadtest", context_settings=PASSED_ON)
def loadtest(
    context: typer.Context, shape: str = argument("smoke, steady, spike, knee, soak.", "SHAPE")
) -> None:
    """Load a service, and compare every decision with the planned one.

    Without --url it starts a service of its own over a temporary home. Fails on latency, on errors
    and on a wrong decision. Options after the shape: --rate, --seconds, --class, --p99-ms, --html
    FILE, --json; `sosie loadtest SHAPE -- --help` lists them all.
    """
    # Anew: gevent replaces sockets and threads of the whole interpreter. -P: a folder named
    # loadtest where the command happens to run is not ours.
    words = [sys.executable, "-P", "-m", "loadtest", shape, *context.args]
    os.execv(sys.executable, words)  # noqa: S606 - our own interpreter
