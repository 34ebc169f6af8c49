"""One import from the first row to the last: faces, 1:1, chunks, and where it may stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from engine.imports.faces import FaceTaker, group_rows
from engine.imports.judging import JudgedRow, judge_row
from engine.imports.keeping import Keeper
from engine.imports.rows import Row, RowReader
from engine.imports.source import RawRow

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
