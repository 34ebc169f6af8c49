"""One run of an import: rows are read, their faces loaded and judged, and chunks of them written,
as `chunks` does."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import file_errors
from engine.imports.chunks import ChunkWriter
from engine.imports.import_report import Tally
from engine.imports.row_faces import FaceLoader, JudgedRow, group_rows, judge_row
from engine.imports.row_parser import RawRow, RowReader
from indexes.atomic_files import replacing
from schema import frozen

READ_ROWS = 256
"""Rows parsed at once."""


class Ending(StrEnum):
    """The way in which an import ended."""

    DONE = "done"
    STOPPED = "stopped"
    """By too many failures: the same command continues."""
    INTERRUPTED = "interrupted"


@frozen(kw_only=True)
class ImportTerms:
    """Parameters of a run.

    `verify`: threshold of the 1:1. About `chunk_rows` share a transaction, and about
    `photographs_at_once` are extracted together. After `stop_after_failures` failed rows the run
    stops at the end of a chunk.
    """

    verify: float
    chunk_rows: int = 512
    photographs_at_once: int = 32
    stop_after_failures: int | None = None


def import_rows(
    raws: Iterable[RawRow],
    reader: RowReader,
    loader: FaceLoader,
    chunk_writer: ChunkWriter,
    terms: ImportTerms,
    report: Callable[[int], None] | None = None,
) -> Ending:
    """Write rows in chunks, in order, while the faces of the next chunk are loaded.

    `report` gets the number of the last row whose faces are loaded. Any exception, interrupts
    included, waits for the chunk that is being written.
    """
    failed_before = chunk_writer.tally.failed
    writing: Future[None] | None = None
    try:
        for chunk in _judge_chunks(raws, reader, loader, terms, report):
            if writing is not None:
                writing.result()
            failed = chunk_writer.tally.failed - failed_before
            if terms.stop_after_failures is not None and failed >= terms.stop_after_failures:
                return Ending.STOPPED
            writing = chunk_writer.write(chunk)
        if writing is not None:
            writing.result()
    finally:
        if writing is not None and not writing.done():
            writing.exception()
    return Ending.DONE


def _judge_chunks(
    raws: Iterable[RawRow],
    reader: RowReader,
    loader: FaceLoader,
    terms: ImportTerms,
    report: Callable[[int], None] | None,
) -> Iterator[list[JudgedRow]]:
    source = iter(raws)
    batches = iter(lambda: list(islice(source, READ_ROWS)), [])
    rows = (row for batch in batches for row in reader.read(batch))
    groups = group_rows(rows, terms.photographs_at_once, terms.chunk_rows)
    chunk: list[JudgedRow] = []
    for faces in loader.stream(groups):
        chunk += [judge_row(one, terms.verify) for one in faces]
        if report is not None:
            report(chunk[-1].number)
        if len(chunk) >= terms.chunk_rows:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@frozen(kw_only=True)
class Summary:
    """Result of an import: `tally` over all its runs, `seconds` and `photographs_now` of this run,
    which began after row `resumed_after`."""

    ending: Ending
    is_check: bool
    rows_total: int
    tally: Tally
    seconds: float
    photographs_now: int
    resumed_after: int
    report: Path
    source_digest: str

    @property
    def photographs_per_second(self) -> float:
        return self.photographs_now / self.seconds if self.seconds else 0.0

    @property
    def is_clean(self) -> bool:
        """True where every row of the file was imported, or would be."""
        return self.ending is Ending.DONE and not self.tally.failed

    def to_dict(self) -> dict[str, Any]:
        return {
            "ending": self.ending.value,
            "check": self.is_check,
            "rows_total": self.rows_total,
            **msgspec.to_builtins(self.tally),
            # A dry run stores no reference to compare a later face with.
            "look_alikes": None if self.is_check else self.tally.look_alikes,
            "resumed_after": self.resumed_after,
            "seconds": round(self.seconds, 3),
            "photographs_per_second": round(self.photographs_per_second, 1),
            "report": str(self.report),
            "source_sha256": self.source_digest,
        }

    def write(self, path: Path) -> None:
        """Replace the file atomically; only its owner can read it."""
        with file_errors(f"{path} cannot be written"), replacing(path) as beside:
            beside.write_text(json.dumps(self.to_dict(), indent=2) + "\n", "utf-8")
