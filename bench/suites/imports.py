"""Suite `import`: an existing base taken in, photographs and vectors, by the command as it is."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.machine import DISK, clock, open_folder
from bench.core.reports import Figure, Result, Setup, SuiteOutput
from bench.datasets import find_faces
from bench.suites.workload import OUTLET, make_document, make_home, make_msisdn
from engine.accuracy.dataset import LabelledFolder
from engine.errors import RequestError
from engine.faces.extractor import open_extractor
from engine.models.onnx_sessions import SessionOptions
from schema import frozen

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
QUICK = {"people": 50}
WARM_UP = 64
"""Photographs before the clocks run: the graphs are rewritten then."""


@frozen(kw_only=True)
class ImportConfig:
    """`people` of the folder, all of them if None."""

    people: int | None = None
    faces: Path | None = None
    seed: int = 0
    folder: Path = DISK


def run(config: ImportConfig) -> SuiteOutput:
    faces = LabelledFolder.open(find_faces(config.faces))
    with open_folder(config.folder) as folder:
        photographs = write_base(folder / "base.csv", faces, config.people)
        count, alone = len(photographs), _extract_alone(photographs)
        options = ("--images", str(faces.root))
        _, seconds = _import(folder / "photographs", folder / "base.csv", options)
    setup: Setup = {"database": "SQLite"}
    rate = count / seconds
    imported = (
        Figure("the extractor alone", "photographs/s", alone, ratio=1.0),
        Figure("sosie import, start to end", "photographs/s", rate, ratio=rate / alone),
    )
    source: Setup = {"photographs": f"{faces.root.parent.name}/{faces.root.name}", "count": count}
    results = (Result("Photographs", setup | source, imported),)
    return results, {"photographs_per_second": rate}


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


def _import(home: Path, base: Path, options: Sequence[str]) -> tuple[dict[str, Any], float]:
    """What the command says of a new home, and how long it took from its start to its end."""
    make_home(home)
    command = [sys.executable, "-P", "-m", "serving.cli.main", "import", str(base)]
    command += ["--home", str(home), "--json", *options]
    done, seconds = clock(lambda: subprocess.run(command, capture_output=True, check=False))
    # 1: some photographs show no face, or another person's.
    if done.returncode not in (0, 1):
        raise RequestError(f"`sosie import` ended with status {done.returncode}: run it by hand")
    return json.loads(done.stdout), seconds
