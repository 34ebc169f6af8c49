"""One sweep at a time: started, paused, resumed, cancelled, and continued after a restart."""

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.cases.steps import close, propose
from engine.errors import NotInstalled, RegistryError, RequestError
from engine.sweeps import outputs
from engine.sweeps.estimate import SweepOrder
from engine.sweeps.folder import SweepFolder, SweepStatus
from indexes.errors import SearchInvalid
from schema.actors import Actor
from schema.cases import Outcome
from schema.sweeps import SweepRecord, SweepScope, SweepState
from serving.deployment.deployment import Deployment
from serving.sweeps import sweep_views
from serving.sweeps.manager import MOST_STARTS, SweepManager
from tests.engine.records import newest_cases
from tests.row_codes import alter, vouch
from tests.serving.sweeps.synthetic_people import PEOPLE, TWICE, fill, second_documents, strangers

REQUEST = SweepOrder(threshold=0.47)
ACTOR = "key:fraud"


def finish(manager: SweepManager, record: SweepRecord) -> SweepRecord:
    assert manager.wait(120)
    return manager.status(record.id)


def actions(deployment: Deployment) -> list[tuple[str, str]]:
    entries = [record.entry for record in deployment.store.audit_entries()]
    return [(one.action, one.actor) for one in entries if one.action.startswith("sweep.")]


def test_a_sweep_finds_people_enrolled_twice_and_states_what_it_covered(
    manager, deployment
) -> None:
    expectation = manager.plan(REQUEST)
    record = manager.start(REQUEST, ACTOR)
    assert record.state is SweepState.RUNNING
    done = finish(manager, record)
    assert (done.state, done.fault) == (SweepState.DONE, None)
    assert done.sequence == deployment.store.sequence()
    assert done.progress.comparisons == expectation.comparisons
    assert done.progress.share == 1
    found = done.summary
    assert (found["pairs"], found["groups"], found["identities"]) == (TWICE, TWICE, 2 * TWICE)
    assert found["references"] == PEOPLE + TWICE
    assert found["expected_false_pairs"]["value"] == expectation.false_pairs.value
    cases = newest_cases(deployment.store.cases, limit=100)
    assert {case.sweep_id for case in cases} == {record.id}
    assert len(cases) == found["cases"] == TWICE
    page = manager.views.groups(record.id, 0, 5)
    rest = manager.views.groups(record.id, page.next or 0)
    assert (page.total, len(page.groups), len(rest.groups)) == (TWICE, 5, TWICE - 5)
    assert rest.next is None
    keys = [group.key for group in (*page.groups, *rest.groups)]
    assert len(set(keys)) == TWICE
    assert manager.views.group(record.id, keys[3]).key == keys[3]
    names = {path.name for path in (deployment.sweep_folder / record.id).iterdir()}
    assert {"pairs.parquet", "groups.csv", "groups.json", "outlets.csv", "report.html"} <= names
    assert "checkpoint" not in names
    assert actions(deployment) == [("sweep.started", ACTOR), ("sweep.done", "sweep")]


def test_a_second_sweep_asks_nothing_that_was_decided(manager, deployment) -> None:
    finish(manager, manager.start(REQUEST, ACTOR))
    context = (deployment.registrar, deployment.store)
    opened = newest_cases(deployment.store.cases, limit=100)
    outcomes = [Outcome.FRAUD, Outcome.TWINS, Outcome.MISTAKE]
    for case, outcome in zip(opened, outcomes, strict=False):
        propose(*context, case.id, outcome, (), Actor("key:a", "a"))
        close(*context, case.id, outcome, (), Actor("key:b", "b"))
    again = finish(manager, manager.start(REQUEST, ACTOR))
    assert again.summary is not None
    # Twins and mistakes are no pairs any more; the fraud is one, with the case that decided it.
    assert (again.summary["groups"], again.summary["excepted_pairs"]) == (TWICE - 2, 2)
    assert {case.id for case in newest_cases(deployment.store.cases, limit=100)} == {
        case.id for case in opened[3:]
    }
    assert len(newest_cases(deployment.store.cases, None, limit=100)) == TWICE


def test_a_paused_sweep_goes_on_where_it_was(manager, paused_join, begun, deployment) -> None:
    paused = manager.pause(begun.id, ACTOR)
    assert paused.state is SweepState.PAUSED
    paused_join.opened.set()
    assert manager.wait(120)
    standing = manager.status(begun.id)
    assert standing.state is SweepState.PAUSED
    assert 0 < standing.progress.share < 1
    paused_join.tiles.clear()
    assert manager.resume(begun.id, "key:other").state is SweepState.RUNNING
    done = finish(manager, begun)
    assert done.state is SweepState.DONE
    assert paused_join.tiles[0] == 1
    assert done.summary["pairs"] == TWICE
    assert actions(deployment) == [
        ("sweep.started", ACTOR),
        ("sweep.paused", ACTOR),
        ("sweep.resumed", "key:other"),
        ("sweep.done", "sweep"),
    ]


def test_paused_and_resumed_before_it_has_stopped_it_ends_once(manager, paused_join, begun) -> None:
    manager.pause(begun.id, ACTOR)
    manager.resume(begun.id, ACTOR)
    paused_join.opened.set()
    assert finish(manager, begun).state is SweepState.DONE


def test_a_sweep_stopped_with_the_service_continues_at_the_next_start(
    manager, paused_join, begun, deployment
) -> None:
    paused_join.opened.set()
    manager.close()
    assert deployment.store.sweeps.get(begun.id).state is SweepState.RUNNING
    paused_join.tiles.clear()
    again = SweepManager(deployment)
    again.open()
    assert finish(again, begun).state is SweepState.DONE
    assert paused_join.tiles[0] >= 1


def test_a_sweep_that_ends_its_process_repeatedly_is_paused(
    manager, paused_join, begun, deployment
) -> None:
    paused_join.opened.set()
    manager.close()
    folder = SweepFolder.of(deployment.sweep_folder, begun.id)
    folder.save_status(replace(folder.load_status(), starts=MOST_STARTS))
    again = SweepManager(deployment)
    again.open()
    assert again.wait(0)
    paused = again.status(begun.id)
    assert paused.state is SweepState.PAUSED
    assert "3 times" in paused.fault
    again.resume(begun.id, ACTOR)
    assert finish(again, begun).fault is None


def test_starts_are_counted_until_a_tile_is_made(manager, paused_join, begun) -> None:
    # The first tile is made but not reported: a kill here would count.
    run = manager._run
    assert run.folder.load_status().starts == 1
    paused_join.opened.set()
    finish(manager, begun)
    assert run.folder.load_status() == SweepStatus()


def test_a_full_disk_pauses_a_sweep_and_says_what_to_do(manager, monkeypatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(outputs, "write_outputs", refuse)
        record = manager.start(REQUEST, ACTOR)
        paused = finish(manager, record)
    assert paused.state is SweepState.PAUSED
    assert "No space left" in paused.fault
    manager.resume(record.id, ACTOR)
    assert finish(manager, record).state is SweepState.DONE


TOO_MANY = "more than 5 pairs reach the threshold; raise it, or the limit"


@pytest.mark.parametrize(
    ("error", "told"),
    [(SearchInvalid(TOO_MANY), TOO_MANY), (KeyError("+8613800138000"), "KeyError")],
)
def test_a_sweep_that_cannot_be_done_fails_with_one_line_without_anything_personal(
    error: Exception, told: str, manager, deployment, monkeypatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(deployment.snapshots, "joiner", lambda *_: refuse)
    failed = finish(manager, manager.start(REQUEST, ACTOR))
    assert failed.state is SweepState.FAILED
    assert told in failed.fault
    assert "8613" not in failed.fault
    assert not (deployment.sweep_folder / failed.id / "checkpoint").exists()


@pytest.mark.parametrize("library", ["pyarrow", "matplotlib"])
def test_without_the_libraries_for_its_files_a_sweep_is_refused_and_the_service_starts(
    library: str, manager, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(NotInstalled, match=rf"needs {library}.* pip install -e '\.\[desk\]'"):
        manager.start(REQUEST, ACTOR)
    absent = f"import sys; sys.modules.update({library}=None);"
    subprocess.run([sys.executable, "-c", f"{absent} import serving.registrar.service"], check=True)


def test_a_sweep_of_new_references_finds_their_pairs_with_known_ones(manager, deployment) -> None:
    assert finish(manager, manager.start(REQUEST, ACTOR)).state is SweepState.DONE
    again = second_documents(strangers(PEOPLE)[:2], seed=2)
    fill(deployment, again, first=1000)
    request = SweepOrder(scope=SweepScope.NEW)
    expectation = manager.plan(request)
    assert expectation.new_references == 2
    assert expectation.comparisons == 2 * (PEOPLE + TWICE) + 1
    done = finish(manager, manager.start(request, ACTOR))
    assert done.terms.threshold >= REQUEST.threshold
    assert (done.summary["new_references"], done.summary["pairs"]) == (2, 4)
    assert (done.summary["groups"], done.summary["identities"]) == (2, 6)
    # Nothing is new after it.
    nothing = finish(manager, manager.start(request, ACTOR))
    assert (nothing.summary["pairs"], nothing.summary["groups"]) == (0, 0)


def test_a_sweep_of_what_is_new_needs_what_the_last_one_left(manager, deployment) -> None:
    first = finish(manager, manager.start(REQUEST, ACTOR))
    with pytest.raises(RequestError, match=r"from 0\.4700 on"):
        manager.start(SweepOrder(threshold=0.42, scope=SweepScope.NEW), ACTOR)
    Path(deployment.sweep_folder / first.id / "covered.bin").unlink()
    with pytest.raises(RegistryError, match="sweep all once"):
        manager.start(SweepOrder(threshold=0.475, scope=SweepScope.NEW), ACTOR)


def forget_model(deployment: Deployment) -> None:
    """Sweeps as a version before transforms recorded them; upgrades have converted references."""
    alter(deployment.home, "UPDATE sweeps SET terms = json_remove(terms, '$.model_digest')")
    vouch(deployment.store.engine, deployment.vault)


def test_a_sweep_from_before_a_conversion_does_not_go_on(
    manager, paused_join, begun, deployment
) -> None:
    manager.pause(begun.id, ACTOR)
    paused_join.opened.set()
    manager.close()
    forget_model(deployment)
    again = SweepManager(deployment)
    again.resume(begun.id, ACTOR)
    failed = finish(again, begun)
    assert failed.state is SweepState.FAILED
    assert failed.fault.endswith("start another sweep")
    assert not SweepFolder.of(deployment.sweep_folder, begun.id).path.exists()


def test_a_sweep_of_what_is_new_takes_nothing_from_before_a_conversion(manager, deployment) -> None:
    first = finish(manager, manager.start(REQUEST, ACTOR))
    forget_model(deployment)
    with pytest.raises(RegistryError, match=f"since sweep {first.id}: sweep all once"):
        manager.start(SweepOrder(threshold=0.475, scope=SweepScope.NEW), ACTOR)
    assert finish(manager, manager.start(REQUEST, ACTOR)).summary["pairs"] == TWICE


def test_a_plan_uses_the_pace_of_the_last_sweep(manager, monkeypatch) -> None:
    done = finish(manager, manager.start(REQUEST, ACTOR))
    assert done.summary["comparisons_per_s"] > 0
    monkeypatch.setattr(sweep_views, "REPRESENTATIVE_COMPARISONS", 1)
    monkeypatch.delattr(sweep_views, "measure_pace")
    expectation = manager.plan(REQUEST)
    pace = done.summary["comparisons_per_s"]
    assert expectation.duration_s == pytest.approx(expectation.comparisons / pace)
