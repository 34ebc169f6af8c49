"""Where the next run continues after a stop, a kill or a change."""

from typing import Any

import pytest

from engine.errors import RequestError
from engine.imports import chunks
from engine.imports.import_run import Ending
from engine.registry.audit import verify_chain


def test_too_many_failures_stop_it_and_the_next_run_continues(importer, base) -> None:
    for serial in range(20):
        base.add(serial, **({"live": "none.jpg"} if serial % 2 else {}))
    path = base.write()
    ending, tally = importer.run(path, stop_after_failures=3)
    assert ending is Ending.STOPPED
    assert 3 <= tally.failed < 10
    assert tally.rows < 20
    ending, tally = importer.run(path, stop_after_failures=9)
    assert ending is Ending.DONE
    assert (tally.rows, tally.failed, tally.admitted) == (20, 10, 10)
    assert len(importer.faults(path)) == 10


def test_progress_names_the_rows_in_their_order(importer, base) -> None:
    for serial in range(10):
        base.add(serial)
    seen: list[int] = []
    importer.run(base.write(), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 10


@pytest.mark.parametrize("is_committed", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_kill_before_or_after_a_commit_changes_nothing_in_the_end(
    chunk: int, is_committed: bool, importer, base, monkeypatch
) -> None:
    for serial in range(14):
        base.add(serial, **({"live": "none.jpg"} if serial % 5 == 0 else {}))
    path = base.write()
    admit = chunks.admit_planned
    calls = 0

    def die(*arguments: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == chunk and not is_committed:
            raise MemoryError
        admit(*arguments, **named)
        if calls == chunk:
            raise MemoryError

    monkeypatch.setattr(chunks, "admit_planned", die)
    with pytest.raises(MemoryError):
        importer.run(path)
    monkeypatch.setattr(chunks, "admit_planned", admit)
    committed = importer.store.counts()["references"]
    ending, tally = importer.run(path)
    assert ending is Ending.DONE
    assert (tally.rows, tally.admitted, tally.lines, tally.failed) == (14, 11, 11, 3)
    assert tally.present == 0, "no committed chunk is repeated"
    assert [row for row, *_ in importer.faults(path)] == [1, 6, 11]
    assert importer.store.counts()["live_references"] == 11
    assert committed <= 11
    assert verify_chain(importer.store).intact


def test_a_finished_import_has_nothing_left_to_do(importer, base) -> None:
    base.add(1)
    path = base.write()
    first = importer.run(path)
    head = importer.store.audit_head()
    assert importer.run(path) == first
    assert importer.store.audit_head() == head


def test_a_restored_registry_gets_its_rows_again(importer, base, tmp_path) -> None:
    """The journal says more than an older backup holds: the audit chain decides."""
    for serial in range(8):
        base.add(serial)
    path = base.write()
    importer.run(path, chunk_rows=4)
    lines = importer.journal(path).read_text().splitlines(keepends=True)
    forged = [line.replace('"audit_number":', '"audit_number":9') for line in lines[2:]]
    importer.journal(path).write_text("".join([*lines[:2], *forged]))
    _, tally = importer.run(path)
    assert (tally.rows, tally.admitted) == (8, 4)
    assert tally.present == 4, "the rows that were there are recognised"


def test_changed_data_is_not_continued(importer, base) -> None:
    base.add(1)
    path = base.write()
    importer.run(path)
    base.add(2)
    base.write()
    with pytest.raises(RequestError, match="--no-resume"):
        importer.run(path)
    _, tally = importer.run(path, resumes=False)
    assert (tally.present, tally.admitted) == (1, 1)
