"""When a number got its SIM: known as far back as its carrier reports, and no further."""

from datetime import timedelta

import pytest

from engine.errors import NotFound, NotReported
from engine.lifecycle.reverification import SimChangeTerms
from schema.lines import LineEventKind
from tests.engine.lifecycle.conftest import START

DAY = timedelta(days=1)
SINCE = {"red": START.date()}


def test_a_change_counts_and_a_change_of_device_does_not(lines) -> None:
    (line,) = lines.open(1)
    number = lines.store.numbers([line])[line]
    terms = SimChangeTerms(SINCE)

    def find(carrier: str | None = "red") -> object:
        return terms.find(lines.store, number, carrier, START + 20 * DAY).at

    assert find() == START
    lines.happen({line: START + 5 * DAY}, LineEventKind.DEVICE_CHANGE)
    assert find() == START
    for place, kind in enumerate(("sim_swap", "esim_download", "port_in"), 6):
        lines.happen({line: START + place * DAY}, LineEventKind(kind))
        assert find() == START + place * DAY
    with pytest.raises(NotFound):
        find("blue")


def test_what_is_not_known_is_not_told_as_never(lines) -> None:
    (line,) = lines.open(1)
    number, now = lines.store.numbers([line])[line], START + 100 * DAY
    later = SimChangeTerms({"red": (START + 90 * DAY).date()})
    found = later.find(lines.store, number, None, now)
    assert (found.at, found.monitored) == (None, 10 * DAY)
    kept = SimChangeTerms(SINCE, kept=30 * DAY)
    lines.happen({line: START + 60 * DAY}, LineEventKind.SIM_SWAP)
    found = kept.find(lines.store, number, None, now)
    assert (found.at, found.monitored) == (None, 30 * DAY)
    assert SimChangeTerms(SINCE).find(lines.store, number, None, now).at is not None
    with pytest.raises(NotReported):
        SimChangeTerms().find(lines.store, number, None, now)
