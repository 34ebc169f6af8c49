"""Commands of the suites that need a home: registrar, serve, sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from bench.commands.shared import Chosen, Faces, Folder, add_suite, keep_given, run_suite


def register(app: typer.Typer) -> None:
    add_suite(app, "registrar", registrar)
    add_suite(app, "serve", serve)
    add_suite(app, "sweep", sweep)


def registrar(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1, help="References enrolled before.")] = None,
    decisions: Annotated[int | None, typer.Option(min=1, help="Decided in full batches.")] = None,
    folder: Folder = None,
) -> None:
    """Decisions a second, durable and right, with a gallery of 100,000 references."""
    from bench.registrar import QUICK, RegistrarConfig, run

    sizes = chosen.sizes(QUICK, references=n, decisions=decisions, folder=folder)
    run_suite(chosen, "registrar", lambda: run(RegistrarConfig(seed=chosen.seed, **sizes)))


def serve(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=256, help="References enrolled before.")] = None,
    only: Annotated[
        str, typer.Option(metavar="PARTS", help="Of throughput,overload,start,kills,soak.")
    ] = "",
    soak_s: Annotated[float | None, typer.Option(min=2, help="Seconds of the soak.")] = None,
    kills: Annotated[int | None, typer.Option(min=1, help="How often something is killed.")] = None,
    million: Annotated[
        int | None, typer.Option(min=256, help="References of the large start; loading takes long.")
    ] = None,
    faces: Faces = None,
    folder: Folder = None,
) -> None:
    """The service over HTTP: rates, latency, overload, starts, kills and memory."""
    from bench.serve import ServeConfig, read_parts, run
    from bench.serving.sizes import QUICK, Sizes

    given = keep_given(references=n, soak_s=soak_s, kills=kills, million=million)
    config = ServeConfig(
        sizes=replace(QUICK if chosen.quick else Sizes(), **given),
        parts=read_parts(only),
        faces=faces,
        seed=chosen.seed,
        **keep_given(folder=folder),
    )
    run_suite(chosen, "serve", lambda: run(config))


def sweep(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1_000, help="References in the gallery.")] = None,
    only: Annotated[
        str, typer.Option(metavar="PARTS", help="Of million,flood,deployment,lfw.")
    ] = "",
    registered: Annotated[
        int | None, typer.Option(min=1_000, help="References of the deployment.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.3, max=0.7, help="Score; 0.62 if none.")
    ] = None,
    faces: Faces = None,
    folder: Folder = None,
) -> None:
    """Rings hidden in a million references: found, grouped, and told from chains."""
    from bench.sweep import QUICK, SweepConfig, read_parts, run

    sizes = chosen.sizes(
        QUICK,
        references=n,
        registered=registered,
        threshold=threshold,
        faces=faces,
        folder=folder,
    )
    config = SweepConfig(parts=read_parts(only), seed=chosen.seed, **sizes)
    run_suite(chosen, "sweep", lambda: run(config))
