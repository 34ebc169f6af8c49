"""A small deployment, and photographs that are files with the name of a person."""

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import ImageDamaged, ImageError
from engine.imports.chunks import (
    ChunkPlanner,
    ChunkWriter,
    DryRunWriter,
    LocalAdmission,
    RegistryWriter,
    was_committed,
)
from engine.imports.import_report import FaultReport, Identity, Journal, Tally
from engine.imports.import_run import Ending, ImportTerms, import_rows
from engine.imports.row_faces import FaceLoader, PhotographFolder
from engine.imports.row_parser import ColumnMapping, ReadingTerms, RowReader
from engine.imports.sources import CsvForm, open_source
from engine.matching.registrar import Registrar
from engine.matching.samples import Sample, seal_crop
from engine.registry.store import Store
from engine.registry.vault import Vault
from schema.options import NO_CROPS, CropPolicy
from schema.reasons import PhotographKind, Reason
from tests.engine.matching.conftest import THRESHOLDS, Lab, People, resident_number

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
NOISE = 0.3
"""Two photographs of one person score about 0.9."""
COLUMNS = ("document_type", "document_number", "name", "msisdn", "outlet", "opened_at", "live")


def draw_face(text: str, dim: int) -> NDArray[np.float32]:
    """The unit vector float32[dim] of a text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).standard_normal(dim)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def draw_photograph(person: str, variant: str, dim: int) -> NDArray[np.float32]:
    mixed = draw_face(person, dim) + NOISE * draw_face(f"{person}/{variant}", dim)
    return (mixed / np.linalg.norm(mixed)).astype(np.float32)


@dataclass
class Base:
    """An operator's folder: data and photographs."""

    folder: Path
    dim: int
    columns: Sequence[str] = COLUMNS
    rows: list[dict[str, str]] = field(default_factory=list)

    def photograph(self, person: str, variant: str = "1", problem: str = "") -> str:
        """The path of a new photograph of a person, by default one without a problem."""
        path = self.folder / f"{person}-{variant}{'-' if problem else ''}{problem}.jpg"
        path.write_text(f"{person}|{variant}|{problem}")
        return path.name

    def add(self, serial: int, person: str | None = None, **changes: str) -> dict[str, str]:
        """Add a row of a person with a document and a line of their own, but for `changes`."""
        row = {
            "document_type": "cn-ric",
            "document_number": resident_number(serial),
            "name": f"Holder {serial}",
            "msisdn": f"+8613{serial:09d}",
            "outlet": "r1",
            "opened_at": "2020-05-01T08:00:00Z",
        }
        if "live" not in changes:
            row["live"] = self.photograph(person or f"person{serial}")
        self.rows.append(row | changes)
        return self.rows[-1]

    def write(self, name: str = "base.csv", encoding: str = "utf-8") -> Path:
        path = self.folder / name
        names = list(dict.fromkeys([*self.columns, *(key for row in self.rows for key in row)]))
        with path.open("w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        return path


@dataclass
class Importer:
    """Imports into one registry."""

    store: Store
    vault: Vault
    folder: Path
    crops: CropPolicy = NO_CROPS

    def extract(
        self, images: Sequence[bytes], _: Sequence[PhotographKind | None] = ()
    ) -> list[Sample | ImageError]:
        return [self._extract_one(data) for data in images]

    def _extract_one(self, data: bytes) -> Sample | ImageError:
        person, variant, problem = data.decode().split("|")
        if problem == "damaged":
            return ImageDamaged("the image is truncated or damaged; send it again")
        digest = hashlib.sha256(data).digest()
        if problem == Reason.NO_FACE:
            return Sample(None, digest, (Reason.NO_FACE,))
        vector = draw_photograph(person, variant, self.vault.dim)
        rotated = self.vault.rotate(vector[None])[0]
        problems = (Reason(problem),) if problem else ()
        crop = None
        if self.crops.keeps_any:
            crop = seal_crop(self.vault, digest, np.zeros((112, 112, 3), np.uint8))
        return Sample(rotated, digest, problems, {"sharpness": 123.0}, crop)

    def registrar(self) -> AbstractContextManager[Registrar]:
        lab = Lab(self.store, self.vault, People(), self.folder / "gallery")
        return lab.registrar(clock=lambda: NOW)

    def run(
        self,
        path: Path,
        *,
        mapping: ColumnMapping | None = None,
        form: CsvForm | None = None,
        allows_outside: bool = False,
        is_check: bool = False,
        resumes: bool = True,
        chunk_rows: int = 4,
        stop_after_failures: int | None = None,
        zone: Any = UTC,
        country: str | None = None,
        progress: Callable[[int], None] | None = None,
        root: Path | None = None,
    ) -> tuple[Ending, Tally]:
        """One run of an import; the report is `path` with the suffix `.report.csv`."""
        mapping = mapping or ColumnMapping()
        source = open_source(path, mapping, form or CsvForm())
        identity = Identity(self.vault.deployment_id, source.digest, "terms")
        reader = RowReader(
            ReadingTerms(
                outlets={one.code: one for one in self.store.all_outlets()},
                now=NOW,
                defaults=mapping.defaults,
                zone=zone,
                country=country,
            )
        )
        folder = PhotographFolder(root or path.parent, allows_outside=allows_outside)
        with self.registrar() as registrar, FaceLoader(folder, self.extract, self.vault) as loader:
            journal = Journal.resume(self.journal(path), identity) if resumes else None
            if journal is None:
                journal = Journal.begin(self.journal(path), identity)
            else:
                import_id = journal.import_id
                journal.drop_uncommitted(
                    lambda entry: was_committed(
                        self.store, import_id, entry.chunk, entry.audit_number
                    )
                )
            last = journal.entry
            size = None if last is None else last.report_bytes
            report = FaultReport(self.report(path), source.columns, size)
            planner = ChunkPlanner(replace(registrar._judge, crops=self.crops), "test")
            chunk_writer: ChunkWriter
            if is_check:
                chunk_writer = DryRunWriter(planner, report)
            else:
                admit = LocalAdmission(registrar, planner)
                chunk_writer = RegistryWriter(admit, self.store, report, journal)
            after = 0 if last is None else last.last_row
            try:
                ending = import_rows(
                    (raw for raw in source.rows() if raw.number > after),
                    reader,
                    loader,
                    chunk_writer,
                    ImportTerms(
                        verify=THRESHOLDS.verify,
                        chunk_rows=chunk_rows,
                        photographs_at_once=2,
                        stop_after_failures=stop_after_failures,
                    ),
                    progress,
                )
            finally:
                if isinstance(chunk_writer, RegistryWriter):
                    chunk_writer.close()
            return ending, chunk_writer.tally

    def report(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.report.csv")

    def journal(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.journal")

    def faults(self, path: Path) -> list[tuple[int, str, str, str]]:
        """(row, severity, column, code) of the report."""
        with self.report(path).open(newline="", encoding="utf-8") as file:
            rows: list[Mapping[str, str]] = list(csv.DictReader(file))
        return [(int(one["row"]), one["severity"], one["column"], one["code"]) for one in rows]

    def failures(self, path: Path) -> dict[int, list[str]]:
        """Fault codes by failed row."""
        found: dict[int, list[str]] = {}
        for row, severity, _, code in self.faults(path):
            if severity == "failure":
                found.setdefault(row, []).append(code)
        return found


@pytest.fixture
def importer(store, vault, tmp_path) -> Importer:
    return Importer(store, vault, tmp_path)


@pytest.fixture
def base(tmp_path, vault) -> Base:
    folder = tmp_path / "base"
    folder.mkdir()
    return Base(folder, vault.dim)
