"""Commands of the suites of photographs: accuracy, extract, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.commands.shared import Chosen, Faces, Folder, add_suite, run_suite
from serving.cli.output import show_progress

People = Annotated[int | None, typer.Option(min=2, help="Only the first N people.")]


def register(app: typer.Typer) -> None:
    add_suite(app, "accuracy", accuracy)
    add_suite(app, "extract", extract)
    add_suite(app, "import", import_base)


def _python(package: str) -> Any:
    """An option that names another interpreter."""
    return typer.Option(metavar="PATH", help=f"A Python of another venv that has {package}.")


def accuracy(
    chosen: Chosen,
    n: People = None,
    faces: Faces = None,
    pairs: Annotated[Path | None, typer.Option(metavar="FILE", help="LFW's pairs.txt.")] = None,
) -> None:
    """Error rates on photographs of known people; the gain of fused references."""
    from bench.accuracy import QUICK, AccuracyConfig, run

    sizes = chosen.sizes(QUICK, people=n)
    config = AccuracyConfig(faces=faces, pairs=pairs, seed=chosen.seed, **sizes)
    with show_progress("extract", is_shown=not chosen.as_json) as progress:
        run_suite(chosen, "accuracy", lambda: run(config, progress))


def extract(
    chosen: Chosen,
    n: Annotated[int | None, typer.Option(min=1, help="Pairs of photographs a round.")] = None,
    faces: Faces = None,
    openvino_python: Annotated[Path | None, _python("onnxruntime-openvino")] = None,
    deepface_python: Annotated[Path | None, _python("deepface")] = None,
    face_recognition_python: Annotated[Path | None, _python("face_recognition")] = None,
) -> None:
    """Photographs to vectors: the graph, pairs a second, the alternatives, start of a command."""
    from bench.extract import QUICK, ExtractConfig, run
    from bench.pairs import Interpreters

    interpreters = Interpreters(openvino_python, deepface_python, face_recognition_python)
    sizes = chosen.sizes(QUICK, pairs=n)
    config = ExtractConfig(faces=faces, seed=chosen.seed, interpreters=interpreters, **sizes)
    run_suite(chosen, "extract", lambda: run(config))


def import_base(
    chosen: Chosen,
    n: People = None,
    vectors: Annotated[int | None, typer.Option(min=1, help="Synthetic rows of vectors.")] = None,
    faces: Faces = None,
    folder: Folder = None,
) -> None:
    """An existing base taken in: photographs a second, vectors a second."""
    from bench.imports import QUICK, ImportConfig, run

    sizes = chosen.sizes(QUICK, people=n, vectors=vectors, folder=folder)
    config = ImportConfig(faces=faces, seed=chosen.seed, **sizes)
    run_suite(chosen, "import", lambda: run(config))
