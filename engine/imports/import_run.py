"""One import from the first row to the last: faces, 1:1, chunks, and where it may stop."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from engine.errors import RequestError
from engine.imports.chunk_writer import Keeper
from engine.imports.import_report import Tally
from engine.imports.row_faces import FaceTaker, JudgedRow, group_rows, judge_row
from engine.imports.row_parser import Row, RowReader
from engine.imports.sources import RawRow

READ_ROWS = 256
"""Rows whose values are read at once."""


class Ending(StrEnum):
    """How an import ended, as its summary says."""

    DONE = "done"
    STOPPED = "stopped"
    """By too many failures: the same command goes on."""
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportTerms:
    """`verify`: the score of the 1:1. `chunk_rows` or a few more are kept in one transaction,
    `photographs_at_once` or one more are extracted together. It stops where so many rows of this
    run have failed, at the end of a chunk."""

    verify: float
    chunk_rows: int = 512
    photographs_at_once: int = 32
    stop_after_failures: int | None = None


def import_rows(
    raws: Iterable[RawRow],
    reader: RowReader,
    taker: FaceTaker,
    keeper: Keeper,
    terms: ImportTerms,
    report: Callable[[int], None] | None = None,
) -> Ending:
    """Brings rows to the keeper in chunks, in their order; the faces of the next are taken
    meanwhile. `report` hears the number of each row up to which faces were taken.

    Whatever is raised, interrupts included, waits for the chunk that is being kept.
    """
    failed_before = keeper.tally.failed
    kept: Future[None] | None = None
    try:
        for chunk in _judge_chunks(raws, reader, taker, terms, report):
            if kept is not None:
                kept.result()
            if _has_failed(keeper.tally.failed - failed_before, terms):
                return Ending.STOPPED
            kept = keeper.keep(chunk)
        if kept is not None:
            kept.result()
    finally:
        if kept is not None and not kept.done():
            kept.exception()
    return Ending.DONE


def _has_failed(failed: int, terms: ImportTerms) -> bool:
    return terms.stop_after_failures is not None and failed >= terms.stop_after_failures


def _judge_chunks(
    raws: Iterable[RawRow],
    reader: RowReader,
    taker: FaceTaker,
    terms: ImportTerms,
    report: Callable[[int], None] | None,
) -> Iterator[list[JudgedRow]]:
    rows = _read_rows(raws, reader)
    groups = group_rows(rows, terms.photographs_at_once, terms.chunk_rows)
    chunk: list[JudgedRow] = []
    for faces in taker.stream(groups):
        chunk += [judge_row(one, terms.verify) for one in faces]
        if report is not None:
            report(chunk[-1].number)
        if len(chunk) >= terms.chunk_rows:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _read_rows(raws: Iterable[RawRow], reader: RowReader) -> Iterator[Row]:
    source = iter(raws)
    while batch := list(islice(source, READ_ROWS)):
        yield from reader.read(batch)


# What an import tells at its end, for people and for the program that started it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`tally` is of all runs of the import, `seconds` and `photographs_now` of this one, which went
    on after `resumed_after` rows."""

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
        """Whether every row of the file was taken in, or would be."""
        return self.ending is Ending.DONE and not self.tally.failed

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "ending": self.ending.value,
            "check": self.is_check,
            "rows_total": self.rows_total,
            **self.tally.to_dict(),
            # A rehearsal keeps no reference that a later face could be held against.
            "look_alikes": None if self.is_check else self.tally.look_alikes,
            "resumed_after": self.resumed_after,
            "seconds": round(self.seconds, 3),
            "photographs_per_second": round(self.photographs_per_second, 1),
            "report": str(self.report),
            "source_sha256": self.source_digest,
        }

    def write(self, path: Path) -> None:
        """Replaces the file as a whole; only its owner reads it."""
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(self.to_dict(), file, indent=2)
                file.write("\n")
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise RequestError(f"{path} cannot be written: {error.strerror}") from None
