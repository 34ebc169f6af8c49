"""Reads the cases that people are to decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, select, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from engine.registry import tables
from engine.registry.database import reading
from engine.registry.records import CaseRecord, CaseState
from engine.registry.rows import case_of
from engine.registry.source import KEYS, Source


class _Elements(FunctionElement[Any]):
    """The texts of a JSON array, as a table with the column `value`."""

    inherit_cache = True


@compiles(_Elements, "sqlite")
def _write_sqlite(elements: _Elements, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(elements.clauses, **options)})"


@compiles(_Elements, "postgresql")
def _write_postgresql(elements: _Elements, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_array_elements_text({compiler.process(elements.clauses, **options)})"


_cases = tables.cases
_named = _Elements(_cases.c.document_ids).table_valued("value", name="named")
_IS_OPEN = _cases.c.state == CaseState.OPEN.value
_NEWEST = select(_cases).order_by(_cases.c.opened_at.desc(), _cases.c.id)
_OPEN_OF_LINE = select(_cases).where(
    _cases.c.line_id == bindparam("line"), _cases.c.kind == bindparam("kind"), _IS_OPEN
)
_OPEN_OF_DOCUMENTS = (
    _NEWEST.add_columns(_named.c.value.label("named_id"))
    .select_from(_cases.join(_named, true()))
    .where(_IS_OPEN, _named.c.value.in_(KEYS))
)


class CaseReader(Source):
    """The cases of a deployment."""

    def cases(self, state: CaseState | None = CaseState.OPEN, limit: int = 100) -> list[CaseRecord]:
        """The newest cases, of one state or of all."""
        query = _NEWEST if state is None else _NEWEST.where(_cases.c.state == state.value)
        with reading(self._engine) as connection:
            return [case_of(row) for row in connection.execute(query.limit(limit))]

    def open_case_of(self, line_id: str, kind: str) -> CaseRecord | None:
        """The open case of one kind about a line; `None` where there is none."""
        with reading(self._engine) as connection:
            row = connection.execute(_OPEN_OF_LINE, {"line": line_id, "kind": kind}).one_or_none()
        return None if row is None else case_of(row)

    def open_cases_of(self, document_ids: Sequence[str]) -> dict[str, list[CaseRecord]]:
        """The open cases that name each document, the newest first; no document is left out."""
        found: dict[str, list[CaseRecord]] = {key: [] for key in document_ids}
        for row in self._rows_of(_OPEN_OF_DOCUMENTS, document_ids):
            found[row.named_id].append(case_of(row))
        return found
