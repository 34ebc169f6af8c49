"""Files of sweeps stay for their retention time, without erased people."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from engine.errors import NotFound, SweepOver
from engine.registry.audit import AuditEntry
from engine.registry.database import utc_now
from engine.registry.sweeps import SweepChange
from engine.sweeps import outputs
from engine.sweeps.estimate import SweepOrder
from engine.sweeps.folder import GroupFile, SweepFolder
from schema.sweeps import RiskTerm, SweepRecord, SweepScope, SweepState
from serving.deployment.deployment import Deployment
from serving.jobs.periodic import EXPIRED, retire_sweeps
from serving.settings.settings import load_settings
from serving.sweeps.manager import SweepManager
from serving.sweeps.sweep_views import SweepStates
from tests.serving.sweeps.synthetic_people import PEOPLE, TWICE, fill, second_documents, strangers

REQUEST = SweepOrder(threshold=0.47)
ACTOR = "key:fraud"


def sweep(manager: SweepManager, request: SweepOrder = REQUEST) -> SweepRecord:
    record = manager.start(request, ACTOR)
    assert manager.wait(120)
    return manager.status(record.id)


def folder_of(deployment: Deployment, record: SweepRecord) -> SweepFolder:
    return SweepFolder.of(deployment.sweep_folder, record.id)


def names_of(folder: SweepFolder) -> Iterator[str]:
    """Every document that any file for people names."""
    pairs = parquet.read_table(folder.pairs)
    yield from pairs["left_document"].to_pylist() + pairs["right_document"].to_pylist()
    for documents in parquet.read_table(folder.path / "groups.parquet")["documents"].to_pylist():
        yield from documents
    yield from (path.read_text("utf-8") for path in folder.files() if path.suffix != ".parquet")


@pytest.fixture(autouse=True)
def _no_hold(monkeypatch) -> None:
    """The cases that a sweep opens put off no erasure here."""
    monkeypatch.setenv("SOSIE_RETENTION__CASE_HOLD_DAYS", "0")


def test_an_erased_document_leaves_the_files_and_its_group_goes_on_without_it(
    manager, deployment
) -> None:
    # The first person is there under a third document.
    fill(deployment, second_documents(strangers(PEOPLE)[:1], seed=9), first=2000)
    done = sweep(manager)
    folder = folder_of(deployment, done)
    groups = GroupFile.open(folder.groups).page(PEOPLE)
    three = next(group for group in groups if len(group.identities) == 3)
    two = next(group for group in groups if len(group.identities) == 2)
    gone = [three.identities[0], two.identities[0]]
    for one in gone:
        deployment.erase(one.document_id, ACTOR)
    erased = {one.document_id for one in gone}
    assert not any(key in name for name in names_of(folder) for key in erased)
    # A member left alone by the erasure is in no group any more.
    page = manager.views.groups(done.id)
    assert page.total == TWICE - 1
    again = manager.views.group(done.id, three.key)
    assert len(again.identities) == 2
    assert len(again.links) == 1
    assert again.terms[0] == RiskTerm("identities", value=2.0, points=12.0)
    assert parquet.read_table(folder.pairs).num_rows == TWICE + 2 - 3
    covered = folder.load_covered()
    references = [key for one in gone for key in one.reference_ids]
    assert not np.isin([covered.pairs["left"], covered.pairs["right"]], references).any()
    with pytest.raises(Exception, match="no such group"):
        manager.views.group(done.id, two.key)
    assert manager.plan(SweepOrder(scope=SweepScope.NEW)).new_references == 0


def text_of(folder: SweepFolder) -> str:
    """All that any file of the folder says, hidden ones too, as one text."""
    found: list[Any] = []
    for path in sorted(path for path in folder.path.glob("*") if path.is_file()):
        if path.suffix == ".parquet" or ".parquet." in path.name:
            found.append(parquet.read_table(path).to_pylist())
        else:
            found.append(path.read_bytes())
    return repr(found)


class Killed:
    """Copies of a home before and after each step once `is_on`: what a process that is killed at
    that moment leaves, half-written files included."""

    def __init__(self, home: Path, copies: Path) -> None:
        self.is_on = False
        self.homes: list[Path] = []
        self._home, self._copies = home, copies

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def perform(*arguments: Any, **given: Any) -> Any:
            self._kill()
            done = step(*arguments, **given)
            self._kill()
            return done

        return perform

    def _kill(self) -> None:
        if self.is_on:
            copy = self._copies / f"killed-{len(self.homes)}"
            self.homes.append(Path(shutil.copytree(self._home, copy)))


@pytest.fixture
def killed(deployment, tmp_path, monkeypatch) -> Iterator[Killed]:
    made = Killed(deployment.home, tmp_path)
    steps = ((Path, "replace"), (SweepStates, "move"), (SweepFolder, "drop_checkpoint"))
    with monkeypatch.context() as patch:
        for owner, name in steps:
            patch.setattr(owner, name, made.around(getattr(owner, name)))
        yield made


def test_a_sweep_killed_at_any_step_of_its_end_names_nobody_who_was_erased_meanwhile(
    manager, deployment, killed, monkeypatch
) -> None:
    erased: list[str] = []

    def write_and_erase(swept: Any, *rest: Any) -> dict[str, Any]:
        summary = whole(swept, *rest)
        erased.append(swept.groups[0].identities[0].document_id)
        deployment.erase(erased[0], ACTOR)
        killed.is_on = True
        return summary

    whole = outputs.write_outputs
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_outputs", write_and_erase)
        done = sweep(manager)
    killed.is_on = False
    assert erased[0] not in text_of(folder_of(deployment, done))
    # Around the change of its state, each file that is written anew, and the checkpoint.
    assert len(killed.homes) > 20
    for home in killed.homes:
        with Deployment(home, load_settings(home)) as again, closing(SweepManager(again)) as later:
            later.open()
            assert later.wait(120)
            assert later.status(done.id).state is SweepState.DONE
            assert erased[0] not in text_of(folder_of(again, done)), home.name
            assert later.views.groups(done.id).total == TWICE - 1
            assert not folder_of(again, done).is_ending


def test_an_erasure_killed_at_any_file_of_a_sweep_leaves_none_when_it_is_done_again(
    manager, deployment, killed
) -> None:
    done = sweep(manager)
    [first] = GroupFile.open(folder_of(deployment, done).groups).page(1)
    document = first.identities[0].document_id
    killed.is_on = True
    deployment.erase(document, ACTOR)
    killed.is_on = False
    assert len(killed.homes) >= 20
    for home in killed.homes:
        with Deployment(home, load_settings(home)) as again, closing(SweepManager(again)) as later:
            later.open()
            # What is half written names others, whose erasure would not look there.
            assert not list(folder_of(again, done).path.glob(".*"))
            # As whoever got no certificate does.
            with suppress(NotFound):
                again.erase(document, ACTOR)
            assert document not in text_of(folder_of(again, done)), home.name


@pytest.mark.parametrize("missing", ["a table", "pyarrow", "matplotlib"])
def test_files_that_cannot_be_written_anew_are_removed(
    missing: str, manager, deployment, monkeypatch
) -> None:
    done = sweep(manager)
    folder = folder_of(deployment, done)
    [first] = GroupFile.open(folder.groups).page(1)
    document = first.identities[0].document_id
    if missing == "a table":
        folder.pairs.write_bytes(b"no table")
    else:
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.delitem(sys.modules, "engine.sweeps.outputs")
    deployment.erase(document, ACTOR)
    assert list(folder.files()) == []
    with pytest.raises(SweepOver, match="not kept any more"):
        manager.views.groups(done.id)


def test_an_erasure_of_another_holder_leaves_the_files_unchanged(manager, deployment) -> None:
    done = sweep(manager)
    named = {
        one.document_id
        for group in GroupFile.open(folder_of(deployment, done).groups).page(PEOPLE)
        for one in group.identities
    }
    references, _ = deployment.store.facts.document_owner_array()
    owners = deployment.store.documents_of(references.tolist())
    other = next(document for document in owners.values() if document not in named)
    before = {path: path.stat().st_mtime_ns for path in folder_of(deployment, done).files()}
    deployment.erase(other, ACTOR)
    after = {path: path.stat().st_mtime_ns for path in folder_of(deployment, done).files()}
    assert after == before


def age(deployment: Deployment, record: SweepRecord, days: int) -> None:
    assert record.ended_at is not None
    aged = replace(record, ended_at=record.ended_at - timedelta(days=days))
    entry = AuditEntry("test", "sweep.aged", record.id)
    deployment.registrar.run(lambda writer, _: writer.commit([entry, SweepChange(aged)]))


def test_files_expire_and_the_last_sweep_keeps_what_the_next_needs(manager, deployment) -> None:
    first, second = sweep(manager), sweep(manager)
    stay = deployment.settings.sweep.keep_days
    age(deployment, first, stay - 1)
    assert retire_sweeps(deployment, deployment.registrar, "test", utc_now()) == []
    age(deployment, first, stay + 2)
    age(deployment, second, stay + 1)
    left = retire_sweeps(deployment, deployment.registrar, "test", utc_now())
    assert sorted(left) == sorted([first.id, second.id])
    assert not folder_of(deployment, first).path.exists()
    assert list(folder_of(deployment, second).files()) == []
    assert manager.plan(SweepOrder(scope=SweepScope.NEW)).new_references == 0
    with pytest.raises(SweepOver, match="sweep again"):
        manager.views.groups(second.id)
    assert [record.id for record in manager.list()] == [second.id, first.id]
    audited = [record.entry for record in deployment.store.audit_entries()]
    assert sorted(one.subject for one in audited if one.action == EXPIRED) == sorted(left)
    assert retire_sweeps(deployment, deployment.registrar, "test", utc_now()) == []


def test_what_only_the_next_sweep_needs_is_kept_of_the_last_alone(manager, deployment) -> None:
    first, second = sweep(manager), sweep(manager)
    again = SweepManager(deployment)
    again.open()
    assert folder_of(deployment, first).load_covered() is None
    assert folder_of(deployment, first).groups.exists()
    assert folder_of(deployment, second).load_covered() is not None


def test_a_folder_of_another_registry_is_not_touched(manager, paused_join, deployment) -> None:
    foreign: Path = deployment.sweep_folder / "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
    foreign.mkdir(parents=True)
    (foreign / "groups.json").touch()
    record = manager.start(REQUEST, ACTOR)
    assert paused_join.reached.wait(120)
    manager.cancel(record.id, ACTOR)
    paused_join.opened.set()
    assert manager.wait(120)
    deployment.sweeps.expire(utc_now() + timedelta(days=4000))
    assert not folder_of(deployment, record).path.exists()
    assert (foreign / "groups.json").exists()
