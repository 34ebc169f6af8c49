"""Lines of a carrier in a registry, and a clock that a test sets."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.lifecycle.reverification import LifeBatch, carry_out, report_event
from engine.lifecycle.rules import LineRules, load_rules
from engine.matching.lines import close_line
from engine.registry.database import new_id
from engine.registry.lines import LineRecord
from engine.registry.store import Store
from engine.registry.writer import Writer
from engine.retention.job import DirectRunner
from schema.lines import LineEventKind
from tests.engine.matching.conftest import lab, make_lab, people
from tests.engine.records import ENTRY, make_document, make_line

__all__ = ["lab", "make_lab", "people"]

START = datetime(2026, 7, 1, tzinfo=UTC)


@dataclass
class Lines:
    """A registry with lines of the carrier `red`, under the rules of a country."""

    store: Store
    writer: Writer
    rules: LineRules = field(default_factory=lambda: LineRules(load_rules("vietnam")))
    now: datetime = START

    @property
    def runner(self) -> DirectRunner:
        return DirectRunner(self.writer, lambda: self.now)

    def open(self, count: int, outlet: str = "r1", carrier: str = "red") -> list[str]:
        """New lines, opened at the start; their ids."""
        vault, document = self.store.vault, new_id()
        first, place = int(document[-8:], 16) % 90_000_000, {"carrier": carrier, "outlet": outlet}
        numbers = [f"+849{first + serial:08d}" for serial in range(count)]
        lines = [make_line(vault, one, document, opened_at=START, **place) for one in numbers]
        held = make_document(vault, document[-12:], id=document)
        self.writer.commit([ENTRY, held, *lines])
        return [one.id for one in lines]

    def happen(self, moments: dict[str, datetime], kind: LineEventKind) -> None:
        """An event of each of these lines."""
        found = self.store.lines_by_id(list(moments)).values()
        batch = LifeBatch(self.store, self.rules, found, self.now, "test")
        for key, at in moments.items():
            batch.happen(key, kind, at)
        self.writer.commit(batch.writes())

    def advance(self, by: timedelta) -> int:
        """Moves the clock on and does what is due; how many steps."""
        self.now += by
        done = 0
        while more := carry_out(self.runner, self.store, self.rules):
            done += more
        return done

    def report(
        self, line: str, kind: LineEventKind, at: datetime | None = None, **more: Any
    ) -> Any:
        """An event that the carrier reports, by now where no time is given."""
        given = {"line_text": line, "kind": kind, "at": at or self.now, "actor": "key:k"} | more
        return report_event(self.runner, self.store, self.rules, **given)

    def close(self, line: str) -> None:
        close_line(self.runner, self.store, line, "key:k")  # type: ignore[arg-type]

    def line(self, line_id: str) -> LineRecord:
        return self.store.lines_by_id([line_id])[line_id]

    def story(self, line_id: str) -> list[tuple[str, datetime]]:
        return [(one.kind.value, one.at) for one in self.store.events_of_line(line_id)]


@pytest.fixture
def lines(store, writer) -> Lines:
    return Lines(store, writer)
