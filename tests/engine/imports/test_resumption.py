"""Stopped, killed or changed: where the next start goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import engine.imports.chunk_writer as keeping
from engine.errors import RequestError
from engine.imports.import_run import Ending
from engine.registry.audit import verify_chain


def test_too_many_failures_stop_it_and_it_goes_on_where_it_stopped(office: Any, base: Any) -> None:
    for serial in range(20):
        base.add(serial, **({"live": "none.jpg"} if serial % 2 else {}))
    path = base.write()
    ending, tally = office.run(path, stop_after_failures=3)
    assert ending is Ending.STOPPED
    assert 3 <= tally.failed < 10
    assert tally.rows < 20
    ending, tally = office.run(path, stop_after_failures=9)
    assert ending is Ending.DONE
    assert (tally.rows, tally.failed, tally.admitted) == (20, 10, 10)
    assert len(office.faults(path)) == 10


def test_progress_names_the_rows_in_their_order(office: Any, base: Any) -> None:
    for serial in range(10):
        base.add(serial)
    seen: list[int] = []
    office.run(base.write(), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 10


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_kill_before_or_after_a_commit_changes_nothing_in_the_end(
    chunk: int, is_kept: bool, office: Any, base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for serial in range(14):
        base.add(serial, **({"live": "none.jpg"} if serial % 5 == 0 else {}))
    path = base.write()
    admit = keeping.admit_planned
    calls = 0

    def die(*arguments: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == chunk and not is_kept:
            raise MemoryError
        admit(*arguments, **named)
        if calls == chunk:
            raise MemoryError

    monkeypatch.setattr(keeping, "admit_planned", die)
    with pytest.raises(MemoryError):
        office.run(path)
    monkeypatch.setattr(keeping, "admit_planned", admit)
    kept = office.store.counts()["references"]
    ending, tally = office.run(path)
    assert ending is Ending.DONE
    assert (tally.rows, tally.admitted, tally.lines, tally.failed) == (14, 11, 11, 3)
    assert tally.present == 0, "no chunk is repeated that was kept"
    assert [row for row, *_ in office.faults(path)] == [1, 6, 11]
    assert office.store.counts()["live_references"] == 11
    assert kept <= 11
    assert verify_chain(office.store).intact


def test_a_finished_import_has_nothing_left_to_do(office: Any, base: Any) -> None:
    base.add(1)
    path = base.write()
    first = office.run(path)
    head = office.store.audit_head()
    assert office.run(path) == first
    assert office.store.audit_head() == head


def test_a_registry_that_was_set_back_gets_its_rows_again(
    office: Any, base: Any, tmp_path: Path
) -> None:
    """The journal says more than an older backup holds: the audit chain decides."""
    for serial in range(8):
        base.add(serial)
    path = base.write()
    office.run(path, chunk_rows=4)
    lines = office.journal(path).read_text().splitlines(keepends=True)
    forged = [line.replace('"audit_number":', '"audit_number":9') for line in lines[2:]]
    office.journal(path).write_text("".join([*lines[:2], *forged]))
    _, tally = office.run(path)
    assert (tally.rows, tally.admitted) == (8, 4)
    assert tally.present == 4, "those rows were there, and are recognised"


def test_data_that_has_changed_is_not_gone_on_with(office: Any, base: Any) -> None:
    base.add(1)
    path = base.write()
    office.run(path)
    base.add(2)
    base.write()
    with pytest.raises(RequestError, match="--no-resume"):
        office.run(path)
    _, tally = office.run(path, resumes=False)
    assert (tally.present, tally.admitted) == (1, 1)
