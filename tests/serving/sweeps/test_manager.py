"""One sweep at a time: started, watched, paused, resumed, cancelled, and not lost."""

from __future__ import annotations

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import (
    NotFound,
    NotInstalled,
    RateUnsupported,
    RegistryError,
    RequestError,
    SweepBusy,
    SweepOver,
)
from engine.registry.records import new_id
from engine.sweeps import outputs
from engine.sweeps.estimate import SweepRequest
from engine.sweeps.folder import SweepFolder, SweepStatus
from engine.sweeps.sweep_model import Scope, SweepRecord, SweepState
from indexes.errors import SearchInvalid
from serving.compose import Deployment
from serving.settings import load_settings
from serving.sweeps import planning
from serving.sweeps.manager import MOST_STARTS, SweepDesk
from tests.serving.sweeps.synthetic_people import (
    PEOPLE,
    TWICE,
    Gate,
    fill,
    second_documents,
    strangers,
)

REQUEST = SweepRequest(threshold=0.55)
ACTOR = "key:fraud"


def finish(desk: SweepDesk, record: SweepRecord) -> SweepRecord:
    assert desk.wait(120)
    return desk.status(record.id)


def actions(deployment: Deployment) -> list[tuple[str, str]]:
    entries = [record.entry for record in deployment.store.audit_entries()]
    return [(one.action, one.actor) for one in entries if one.action.startswith("sweep.")]


def test_a_sweep_finds_who_is_enrolled_twice_and_says_what_it_covered(
    desk: SweepDesk, deployment: Deployment
) -> None:
    expectation = desk.plan(REQUEST)
    record = desk.start(REQUEST, ACTOR)
    assert record.state is SweepState.RUNNING
    done = finish(desk, record)
    assert (done.state, done.fault) == (SweepState.DONE, None)
    assert done.sequence == deployment.store.sequence()
    assert done.progress.comparisons == expectation.comparisons
    assert done.progress.share == 1
    found = done.summary
    assert found is not None
    assert (found["pairs"], found["groups"], found["identities"]) == (TWICE, TWICE, 2 * TWICE)
    assert found["references"] == PEOPLE + TWICE
    assert found["expected_false_pairs"]["value"] == expectation.false_pairs.value
    cases = deployment.store.cases.newest(limit=100)
    assert {case.sweep_id for case in cases} == {record.id}
    assert len(cases) == found["cases"] == TWICE
    page = desk.groups(record.id, limit=5)
    rest = desk.groups(record.id, after=page.next_after or 0)
    assert (page.total, len(page.groups), len(rest.groups)) == (TWICE, 5, TWICE - 5)
    assert rest.next_after is None
    keys = [group["key"] for group in (*page.groups, *rest.groups)]
    assert len(set(keys)) == TWICE
    assert desk.group(record.id, keys[3])["key"] == keys[3]
    names = {path.name for path in (deployment.sweep_folder / record.id).iterdir()}
    assert {"pairs.parquet", "groups.csv", "groups.json", "outlets.csv", "report.html"} <= names
    assert "checkpoint" not in names
    assert actions(deployment) == [("sweep.started", ACTOR), ("sweep.done", "sweep")]


def test_the_second_of_two_is_refused_and_the_first_is_named(desk: SweepDesk, gate: Gate) -> None:
    first = desk.start(REQUEST, ACTOR)
    assert gate.reached.wait(120)
    with pytest.raises(SweepBusy, match=f"sweep {first.id} is running"):
        desk.start(REQUEST, ACTOR)
    desk.pause(first.id, ACTOR)
    with pytest.raises(SweepBusy, match=f"sweep {first.id} is paused"):
        desk.start(REQUEST, ACTOR)
    desk.cancel(first.id, ACTOR)
    gate.opened.set()
    second = desk.start(REQUEST, ACTOR)
    assert finish(desk, second).state is SweepState.DONE
    assert [record.id for record in desk.list()] == [second.id, first.id]


def test_a_paused_sweep_goes_on_where_it_was(
    desk: SweepDesk, gate: Gate, deployment: Deployment
) -> None:
    record = desk.start(REQUEST, ACTOR)
    assert gate.reached.wait(120)
    paused = desk.pause(record.id, ACTOR)
    assert paused.state is SweepState.PAUSED
    gate.opened.set()
    assert desk.wait(120)
    standing = desk.status(record.id)
    assert standing.state is SweepState.PAUSED
    assert 0 < standing.progress.share < 1
    gate.tiles.clear()
    assert desk.resume(record.id, "key:other").state is SweepState.RUNNING
    done = finish(desk, record)
    assert done.state is SweepState.DONE
    assert gate.tiles[0] == 1
    assert done.summary is not None
    assert done.summary["pairs"] == TWICE
    assert actions(deployment) == [
        ("sweep.started", ACTOR),
        ("sweep.paused", ACTOR),
        ("sweep.resumed", "key:other"),
        ("sweep.done", "sweep"),
    ]


def test_paused_and_resumed_before_it_has_stopped_it_ends_once(desk: SweepDesk, gate: Gate) -> None:
    record = desk.start(REQUEST, ACTOR)
    assert gate.reached.wait(120)
    desk.pause(record.id, ACTOR)
    desk.resume(record.id, ACTOR)
    gate.opened.set()
    assert finish(desk, record).state is SweepState.DONE


def test_a_cancelled_sweep_leaves_nothing(
    desk: SweepDesk, gate: Gate, deployment: Deployment
) -> None:
    record = desk.start(REQUEST, ACTOR)
    assert gate.reached.wait(120)
    folder = deployment.sweep_folder / record.id
    assert folder.exists()
    cancelled = desk.cancel(record.id, ACTOR)
    assert (cancelled.state, cancelled.ended_at is None) == (SweepState.CANCELLED, False)
    gate.opened.set()
    assert finish(desk, record).state is SweepState.CANCELLED
    assert not folder.exists()
    assert deployment.store.cases.newest() == []
    with pytest.raises(SweepOver, match="cancelled"):
        desk.resume(record.id, ACTOR)
    with pytest.raises(SweepOver, match="cancelled"):
        desk.groups(record.id)


def test_a_sweep_that_has_ended_is_neither_paused_nor_cancelled(desk: SweepDesk) -> None:
    record = desk.start(REQUEST, ACTOR)
    finish(desk, record)
    for act in (desk.pause, desk.resume, desk.cancel):
        with pytest.raises(SweepOver, match="done"):
            act(record.id, ACTOR)
    for unknown in (new_id(), "../../etc"):
        for ask in (desk.status, desk.groups):
            with pytest.raises(NotFound):
                ask(unknown)
    with pytest.raises(NotFound):
        desk.group(record.id, "0" * 32)


def test_one_that_was_stopped_with_the_service_goes_on_at_the_next_start(
    desk: SweepDesk, gate: Gate, deployment: Deployment
) -> None:
    record = desk.start(REQUEST, ACTOR)
    assert gate.reached.wait(120)
    gate.opened.set()
    desk.close()
    assert deployment.store.sweeps.get(record.id).state is SweepState.RUNNING
    gate.tiles.clear()
    again = SweepDesk(deployment)
    again.open()
    assert finish(again, record).state is SweepState.DONE
    assert gate.tiles[0] >= 1


def test_a_paused_one_stays_paused_over_a_restart(
    desk: SweepDesk, gate: Gate, deployment: Deployment
) -> None:
    record = desk.start(REQUEST, ACTOR)
    assert gate.reached.wait(120)
    desk.pause(record.id, ACTOR)
    gate.opened.set()
    desk.close()
    again = SweepDesk(deployment)
    again.open()
    assert again.wait(0)
    assert again.status(record.id).state is SweepState.PAUSED
    again.resume(record.id, ACTOR)
    assert finish(again, record).state is SweepState.DONE


def test_one_that_ends_its_process_again_and_again_is_not_started_for_ever(
    desk: SweepDesk, gate: Gate, deployment: Deployment
) -> None:
    record = desk.start(REQUEST, ACTOR)
    assert gate.reached.wait(120)
    gate.opened.set()
    desk.close()
    folder = SweepFolder.of(deployment.sweep_folder, record.id)
    folder.save_status(replace(folder.load_status(), starts=MOST_STARTS))
    again = SweepDesk(deployment)
    again.open()
    assert again.wait(0)
    paused = again.status(record.id)
    assert paused.state is SweepState.PAUSED
    assert paused.fault is not None
    assert "3 times" in paused.fault
    again.resume(record.id, ACTOR)
    assert finish(again, record).fault is None


def test_starts_are_counted_until_a_tile_is_made(desk: SweepDesk, gate: Gate) -> None:
    record = desk.start(REQUEST, ACTOR)
    assert gate.reached.wait(120)
    # The first tile is made but not told: a kill here would count.
    run = desk._run
    assert run is not None
    assert run.folder.load_status().starts == 1
    gate.opened.set()
    finish(desk, record)
    assert run.folder.load_status() == SweepStatus()


def test_a_full_disk_pauses_it_with_a_word_on_what_to_do(
    desk: SweepDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(outputs, "write_outputs", refuse)
        record = desk.start(REQUEST, ACTOR)
        paused = finish(desk, record)
    assert paused.state is SweepState.PAUSED
    assert paused.fault is not None
    assert "No space left" in paused.fault
    desk.resume(record.id, ACTOR)
    assert finish(desk, record).state is SweepState.DONE


def test_a_sweep_that_cannot_be_done_fails_with_one_line(
    desk: SweepDesk, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise SearchInvalid("more than 5 pairs reach the threshold; raise it, or the limit")

    monkeypatch.setattr(deployment, "joiner", lambda _: refuse)
    failed = finish(desk, desk.start(REQUEST, ACTOR))
    assert failed.state is SweepState.FAILED
    assert failed.fault == "more than 5 pairs reach the threshold; raise it, or the limit"
    assert not (deployment.sweep_folder / failed.id / "checkpoint").exists()


def test_an_unforeseen_error_shows_its_type_and_nothing_else(
    desk: SweepDesk, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise KeyError("+8613800138000")

    monkeypatch.setattr(deployment, "joiner", lambda _: refuse)
    failed = finish(desk, desk.start(REQUEST, ACTOR))
    assert failed.state is SweepState.FAILED
    assert failed.fault is not None
    assert "KeyError" in failed.fault
    assert "8613" not in failed.fault


def test_without_the_libraries_for_its_files_a_sweep_is_refused_and_the_service_starts(
    desk: SweepDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NotInstalled, match=r"pip install 'sosie\[desk\]'"):
        desk.start(REQUEST, ACTOR)
    absent = "import sys; sys.modules.update(pyarrow=None, jinja2=None);"
    subprocess.run([sys.executable, "-c", f"{absent} import serving.registrar.service"], check=True)


def test_what_the_calibration_cannot_support_is_refused_or_allowed_by_name(
    desk: SweepDesk, deployment: Deployment
) -> None:
    beyond = SweepRequest(threshold=0.9)
    assert not desk.plan(beyond).is_supported
    with pytest.raises(RateUnsupported, match="beyond the calibration"):
        desk.start(beyond, ACTOR)
    with pytest.raises(RateUnsupported, match="not supported"):
        desk.start(SweepRequest(fmr=1e-12), ACTOR)
    assert deployment.store.sweeps.newest() == []
    record = desk.start(replace(beyond, is_unsupported_allowed=True), ACTOR)
    done = finish(desk, record)
    assert done.summary is not None
    assert done.summary["expected_false_pairs"]["is_bound"]


def test_without_a_threshold_the_proposed_one_is_taken(desk: SweepDesk) -> None:
    record = desk.start(SweepRequest(), ACTOR)
    assert record.terms.threshold == desk.plan(SweepRequest()).proposal.threshold
    done = finish(desk, record)
    assert done.summary is not None
    assert done.summary["pairs"] == TWICE


def test_what_is_new_since_the_last_sweep_is_found_with_whom_it_joins(
    desk: SweepDesk, deployment: Deployment
) -> None:
    assert finish(desk, desk.start(REQUEST, ACTOR)).state is SweepState.DONE
    again = second_documents(strangers(PEOPLE)[:2], seed=2)
    fill(deployment, again, first=1000)
    request = SweepRequest(scope=Scope.NEW)
    expectation = desk.plan(request)
    assert expectation.new_references == 2
    assert expectation.comparisons == 2 * (PEOPLE + TWICE) + 1
    done = finish(desk, desk.start(request, ACTOR))
    assert done.terms.threshold >= REQUEST.threshold
    assert done.summary is not None
    assert (done.summary["new_references"], done.summary["pairs"]) == (2, 4)
    assert (done.summary["groups"], done.summary["identities"]) == (2, 6)
    # Nothing is new after it.
    nothing = finish(desk, desk.start(request, ACTOR))
    assert nothing.summary is not None
    assert (nothing.summary["pairs"], nothing.summary["groups"]) == (0, 0)


def test_a_sweep_of_what_is_new_needs_what_the_last_one_left(
    desk: SweepDesk, deployment: Deployment
) -> None:
    first = finish(desk, desk.start(REQUEST, ACTOR))
    with pytest.raises(RequestError, match=r"from 0\.5500 on"):
        desk.start(SweepRequest(threshold=0.5, scope=Scope.NEW), ACTOR)
    Path(deployment.sweep_folder / first.id / "covered.bin").unlink()
    with pytest.raises(RegistryError, match="sweep all once"):
        desk.start(SweepRequest(threshold=0.56, scope=Scope.NEW), ACTOR)


def test_the_next_plan_goes_by_the_pace_of_the_last_sweep(
    desk: SweepDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = finish(desk, desk.start(REQUEST, ACTOR))
    assert done.summary is not None
    assert done.summary["comparisons_per_s"] > 0
    monkeypatch.setattr(planning, "TELLING_COMPARISONS", 1)
    monkeypatch.delattr(planning, "measure_pace")
    expectation = desk.plan(REQUEST)
    pace = done.summary["comparisons_per_s"]
    assert expectation.duration_s == pytest.approx(expectation.comparisons / pace)


def test_an_empty_gallery_is_swept_in_no_time(home: Path) -> None:
    with Deployment(home, load_settings(home), home / "cache") as deployment:
        desk = SweepDesk(deployment)
        for scope in Scope:
            done = finish(desk, desk.start(SweepRequest(scope=scope), ACTOR))
            assert done.state is SweepState.DONE
            assert done.summary is not None
            assert (done.summary["references"], done.summary["groups"]) == (0, 0)
        desk.close()
