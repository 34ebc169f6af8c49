"""What an import has come to, in counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from engine.imports.faults import RowFault
from engine.imports.judging import JudgedRow
from engine.matching.subscribers import Admission


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts of rows, but for the faults, which are counted by code: a row may have several.

    `admitted` rows brought a reference, `lines` a line, `present` nothing that was not there;
    `failed` ones left nothing. `fused` references are of two photographs. `look_alikes` are taken
    in, and a face of another document is like theirs.
    """

    rows: int = 0
    admitted: int = 0
    lines: int = 0
    present: int = 0
    failed: int = 0
    warned: int = 0
    photographs: int = 0
    fused: int = 0
    expired: int = 0
    look_alikes: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            **{
                one.name: _add(getattr(self, one.name), getattr(other, one.name))
                for one in fields(self)
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            one.name: value if isinstance(value, int) else dict(value)
            for one in fields(self)
            for value in (getattr(self, one.name),)
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        return cls(**written)


def count_chunk(
    rows: Sequence[JudgedRow],
    admissions: Sequence[Admission | None],
    faults: Sequence[Sequence[RowFault]],
    look_alikes: int,
) -> Tally:
    """The counts of a chunk: what was decided on each row (None: it had failed before), and all
    faults of each."""
    taken = [one for one in admissions if one is not None and one.refusal is None]
    warnings = Counter(_codes(faults, failures=False))
    return Tally(
        rows=len(rows),
        admitted=sum(one.adds_reference for one in taken),
        lines=sum(one.adds_line for one in taken),
        present=sum(not (one.adds_reference or one.adds_line) for one in taken),
        failed=len(rows) - len(taken),
        warned=sum(any(not one.is_failure for one in some) for some in faults),
        photographs=sum(row.photographs for row in rows),
        fused=sum(
            row.is_fused and one is not None and one.adds_reference
            for row, one in zip(rows, admissions, strict=True)
        ),
        expired=sum(
            row.is_expired and one is not None and one.refusal is None
            for row, one in zip(rows, admissions, strict=True)
        ),
        look_alikes=look_alikes,
        failures=Counter(_codes(faults, failures=True)),
        warnings=warnings,
    )


def _codes(faults: Sequence[Sequence[RowFault]], *, failures: bool) -> Iterable[str]:
    return (str(one.code) for some in faults for one in some if one.is_failure is failures)


def _add(one: Any, other: Any) -> Any:
    return one + other if isinstance(one, int) else dict(Counter(one) + Counter(other))
