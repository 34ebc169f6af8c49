"""Suite `import`: an existing base taken in, photographs and vectors, by the command as it is."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from bench.core.machine import DISK, clock, cores, filesystem_of, open_folder
from bench.core.reports import Figure, Result, Setup, Skipped, SuiteOutput
from bench.data.photographs import find_faces
from bench.suites.workload import OUTLET, make_document, make_home, make_msisdn
from engine.accuracy.dataset import LabelledFolder
from engine.accuracy.population import Population
from engine.errors import RequestError
from engine.faces.extractor import open_extractor
from engine.models.session import SessionOptions
from serving.deployment.deployment import Deployment
from serving.settings.settings import Settings

COLUMNS = (
    "document_type",
    "document_number",
    "name",
    "msisdn",
    "outlet",
    "opened_at",
    "live",
    "portrait",
)
QUICK = {"people": 50, "vectors": 2_000}
WARM_UP = 64
"""Photographs before the clocks run: the graphs are rewritten then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`people` of the folder, all of them if None; `vectors` synthetic ones besides."""

    people: int | None = None
    vectors: int = 50_000
    faces: Path | None = None
    seed: int = 0
    folder: Path = DISK


@dataclass(frozen=True, slots=True)
class _Imported:
    """What the command said, and how long it took from its start to its end."""

    summary: dict[str, Any]
    seconds: float


def run(config: Config) -> SuiteOutput:
    faces = LabelledFolder.open(find_faces(config.faces))
    with open_folder(config.folder) as folder:
        photographs = write_base(folder / "base.csv", faces, config.people)
        alone = _extract_alone(photographs)
        options = ("--images", str(faces.root))
        make_home(folder / "photographs")
        imported = _import(folder / "photographs", folder / "base.csv", options)
        vectors = _import_vectors(folder, config)
    setup: Setup = {
        "photographs": f"{faces.root.parent.name}/{faces.root.name}",
        "seed": config.seed,
        "threads": cores(),
        "filesystem": filesystem_of(config.folder),
        "database": "SQLite",
    }
    rate = len(photographs) / imported.seconds
    results = (
        _list_photographs(imported, len(photographs), alone, setup),
        _list_vectors(vectors, config, setup),
    )
    partly = Skipped("promised for all people, not for some")
    return results, {"photographs_per_second": rate if config.people is None else partly}


def write_base(path: Path, faces: LabelledFolder, people: int | None) -> list[Path]:
    """A base of the folder's people: a document each, a row and a line for every two photographs,
    and for one that is left over. The photographs in the order of the rows."""
    written: list[Path] = []
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for serial, (person, pair) in enumerate(_pair_up(faces, people)):
            document = make_document(person)
            paths = [str(one.relative_to(faces.root)) for one in pair]
            rows.writerow(
                [
                    document.type,
                    document.number,
                    faces.names[person].replace("_", " "),
                    make_msisdn(serial),
                    OUTLET,
                    f"{2000 + serial % 25}-01-31T12:00:00Z",
                    *paths,
                    *[""] * (2 - len(paths)),
                ]
            )
            written += pair
    return written


def _pair_up(faces: LabelledFolder, people: int | None) -> Iterator[tuple[int, Sequence[Path]]]:
    for person in range(len(faces.names) if people is None else people):
        mine = [faces.paths[place] for place in np.flatnonzero(faces.people == person)]
        for start in range(0, len(mine), 2):
            yield person, mine[start : start + 2]


def _extract_alone(photographs: Sequence[Path]) -> float:
    """Photographs a second of the extractor, given all at once: what an import cannot exceed."""
    files = [path.read_bytes() for path in photographs]
    with open_extractor(session=SessionOptions()) as extractor:
        extractor.extract(files[:WARM_UP])
        return len(files) / clock(lambda: extractor.extract(files))[1]


def _import_vectors(folder: Path, config: Config) -> _Imported:
    """Synthetic people, a line each, from Parquet."""
    faces = Population.load("sface").references(config.vectors, config.seed)
    documents = [make_document(serial) for serial in range(len(faces))]
    rows, dim = faces.shape
    table = pa.table(
        {
            "document_type": [one.type for one in documents],
            "document_number": [one.number for one in documents],
            "name": [one.name for one in documents],
            "msisdn": [make_msisdn(serial) for serial in range(rows)],
            "outlet": [OUTLET] * rows,
            "template": pa.FixedSizeListArray.from_arrays(pa.array(faces.ravel()), dim),
        }
    )
    path = folder / "base.parquet"
    parquet.write_table(table, path)
    home = folder / "vectors"
    make_home(home)
    with Deployment(home, Settings()) as deployment:
        digest = deployment.store.model_digest
    options = ("--model-digest", digest, "--set", "opened_at=2020-01-31")
    return _import(home, path, options)


def _import(home: Path, base: Path, options: Sequence[str]) -> _Imported:
    command = [sys.executable, "-P", "-m", "serving.cli.main", "import", str(base)]
    command += ["--home", str(home), "--json", *options]
    done, seconds = clock(lambda: subprocess.run(command, capture_output=True, check=False))
    # 1: some photographs show no face, or another person's.
    if done.returncode not in (0, 1):
        raise RequestError(f"`sosie import` ended with status {done.returncode}: run it by hand")
    return _Imported(json.loads(done.stdout), seconds)


def _list_photographs(imported: _Imported, count: int, alone: float, setup: Setup) -> Result:
    rate = count / imported.seconds
    figures = (
        Figure("the extractor alone", "photographs/s", alone, ratio=1.0),
        Figure("sosie import, start to end", "photographs/s", rate, ratio=rate / alone),
        Figure("sosie import", "s", imported.seconds),
    )
    return Result("Photographs", setup | {"count": count}, figures)


def _list_vectors(imported: _Imported, config: Config, setup: Setup) -> Result:
    rate = config.vectors / imported.seconds
    figures = (
        Figure("vectors with a line each", "rows/s", rate),
        Figure("failed", "rows", float(imported.summary["failed"])),
    )
    return Result("Vectors", setup | {"rows": config.vectors}, figures)
