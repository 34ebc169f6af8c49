"""What an import tells at its end, for people and for the program that started it."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import RequestError
from engine.imports.importing import Ending
from engine.imports.tally import Tally


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
