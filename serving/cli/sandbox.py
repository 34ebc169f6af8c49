"""A sandbox for those who build against the interface: `sandbox`."""

from __future__ import annotations

import signal
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.cli.output import DEPLOYMENT, escape, print_json, print_line

LOOK_EVERY_S = 0.2
"""Between two looks at signals."""


def register(app: typer.Typer) -> None:
    app.command("sandbox", rich_help_panel=DEPLOYMENT)(serve_sandbox)


def serve_sandbox(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", help="Where it is kept, with its keys; without one it is thrown away."
        ),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0: any.")] = 8700,
    numbers: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Print the document numbers of this type, and end."),
    ] = None,
    collection: Annotated[
        bool,
        typer.Option("--collection", help="Print a collection of requests (Postman), and end."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print address and keys as one JSON document.")
    ] = False,
    until_stdin_closes: Annotated[
        bool, typer.Option(hidden=True, help="Stop with whoever started it, however that ends.")
    ] = False,
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
    from serving.cluster.processes import end_with_starter
    from serving.sandbox.sandbox_service import PICTURE_FOLDER, WARNING, open_sandbox, prepare

    stop = threading.Event()
    if until_stdin_closes:
        end_with_starter()
    with ExitStack() as stack:
        for name in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(name, lambda *_: stop.set())
            stack.callback(signal.signal, name, before)
        if folder is None:
            parent = stack.enter_context(tempfile.TemporaryDirectory(prefix="sosie-sandbox-"))
            folder = Path(parent) / "home"
        home = folder
        keys = prepare(home)
        sandbox = stack.enter_context(open_sandbox(home))

        def tell(url: str) -> None:
            pictures = str((home / PICTURE_FOLDER).resolve())
            if as_json:
                print_json({"url": url, "keys": keys, "pictures": pictures, "warning": WARNING})
                return
            print_line(f"[green]Ready[/] at [bold]{url}[/]: {WARNING}.")
            for name, key in keys.items():
                print_line(f"  {name:9} {key}")
            print_line(f"Pictures are in {escape(pictures)}; `sosie sandbox --numbers cn-ric`")
            print_line("prints the document numbers. Ctrl-C ends it.")

        # In a thread: uvicorn takes the signals of a main thread for itself.
        served = stack.enter_context(ThreadPoolExecutor(1)).submit(
            sandbox.run, host, port, tell, stop
        )
        while not wait([served], LOOK_EVERY_S).done:
            pass
        served.result()


def _print_numbers(document_type: str, *, as_json: bool) -> None:
    from serving.sandbox.outcomes import APPROVED, OUTCOMES, make_number

    found: list[dict[str, Any]] = [
        {
            "serial": f"{one.serial:03d}",
            "number": make_number(document_type, one.serial),
            "status": one.status,
            "answer": f"{one.status} {one.code}" if one.code else str(one.decision),
            "reason": one.reason and str(one.reason),
            "what": one.what,
            "needs": one.needs or None,
        }
        for one in (APPROVED, *OUTCOMES.values())
    ]
    if as_json:
        print_json({"numbers": found})
        return
    # No table, which would cut a passport's zone in two.
    width = max(len(one["number"]) for one in found)
    for one in found:
        answer = " ".join(filter(None, (one["answer"], one["reason"])))
        needs = f" (with `{one['needs']}`)" if one["needs"] else ""
        print_line(f"{one['serial']}  {one['number']:{width}}  {answer}{needs}: {one['what']}")
