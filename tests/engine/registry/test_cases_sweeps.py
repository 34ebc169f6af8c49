"""Sweeps: kept, replaced, listed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from engine.errors import NotFound
from engine.registry.records import AuditEntry, Changes, new_id, utc_now
from engine.sweeps.sweep_model import Scope, SweepProgress, SweepRecord, SweepState, SweepTerms

ENTRY = AuditEntry("test", "test.done", "x")


@pytest.fixture
def keep(writer):
    """`keep(*sweeps)`: one transaction with them."""

    def write(*sweeps: SweepRecord) -> None:
        writer.commit(Changes(sequence=writer.sequence, audit=[ENTRY], sweeps=sweeps))

    return write


def make_sweep(seconds: int = 0) -> SweepRecord:
    return SweepRecord(
        id=new_id(),
        state=SweepState.QUEUED,
        terms=SweepTerms(threshold=0.5123456789012345, scope=Scope.NEW),
        requested_by="key:anna",
        created_at=utc_now() + timedelta(seconds=seconds),
    )


def test_a_sweep_is_read_as_it_was_written_last(store, keep) -> None:
    queued = make_sweep()
    keep(queued)
    assert store.sweeps.get(queued.id) == queued
    now = utc_now()
    done = replace(
        queued,
        state=SweepState.DONE,
        started_at=now,
        ended_at=now,
        sequence=2**40,
        progress=SweepProgress(
            comparisons=2**50, comparisons_total=2**50, pairs=7, remaining_s=0.5
        ),
        summary={"groups": 3, "by_outlet": [{"outlet": "r1", "share": 0.25}]},
    )
    other = make_sweep(seconds=1)
    keep(done, replace(other, state=SweepState.FAILED, fault="no room: " + "x" * 1000))
    assert store.sweeps.get(queued.id) == done
    assert store.sweeps.get(other.id).fault.startswith("no room")


def test_sweeps_are_listed_newest_first(store, keep) -> None:
    sweeps = [make_sweep(seconds) for seconds in (0, 2, 1)]
    keep(*sweeps)
    assert store.sweeps.newest() == [sweeps[1], sweeps[2], sweeps[0]]
    assert store.sweeps.newest(limit=1) == [sweeps[1]]


def test_the_sweep_that_was_done_last_is_known(store, keep) -> None:
    assert store.sweeps.last_done() is None
    first, second, third = (make_sweep() for _ in range(3))
    now = utc_now()
    keep(
        replace(first, state=SweepState.DONE, ended_at=now + timedelta(seconds=2)),
        replace(second, state=SweepState.DONE, ended_at=now + timedelta(seconds=1)),
        replace(third, state=SweepState.CANCELLED, ended_at=now + timedelta(seconds=3)),
    )
    assert store.sweeps.last_done().id == first.id


def test_an_unknown_sweep_is_not_found(store) -> None:
    for unknown in (new_id(), "../../etc", "a\0"):
        with pytest.raises(NotFound):
            store.sweeps.get(unknown)
