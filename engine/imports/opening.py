"""Opens the file of an existing base, whichever of the two forms it has."""

from __future__ import annotations

from pathlib import Path

from engine.imports.columns import Wording
from engine.imports.csv_source import CsvForm, CsvSource
from engine.imports.parquet_source import ParquetSource
from engine.imports.source import PARQUET_MAGIC, Source, survey_file


def open_source(path: Path, wording: Wording, form: CsvForm) -> Source:
    """Reads the file once; `RequestError` where it is neither, lacks a column, or is not in its
    encoding."""
    survey = survey_file(path)
    if survey.start.startswith(PARQUET_MAGIC):
        return ParquetSource(path, survey.digest, wording)
    return CsvSource(path, survey.digest, wording, form)
