"""A deployment in one process: parts that it rebuilds, and files that it leaves."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import RegistryError, WriterBusy
from engine.matching import holders, recovery
from engine.matching.bulk_enrollment import Subscriber
from engine.matching.calibration import ThresholdRates
from engine.matching.documents import check_document
from engine.matching.lines import close_line
from engine.matching.requests import Answer, EnrollmentRequest
from engine.models.catalog import CARDS_FOLDER
from engine.registry.audit import AuditEntry
from engine.registry.backup import make_backup, restore_backup
from engine.registry.database import utc_now
from engine.registry.references import FilledReference, SecondTemplate
from engine.registry.writer import Writer
from indexes.errors import ShardLost
from indexes.gallery import Gallery
from indexes.joining.join import join_gallery
from indexes.segmented.merging import Rewrite
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardPlan
from indexes.snapshots import snapshot
from indexes.snapshots.manifest import segment_file
from schema.documents import Document, ErasureCertificate, ErasureScope
from schema.reasons import Reason
from serving.deployment import deployment as opened
from serving.deployment import snapshots
from serving.deployment.deployment import Deployment, registry_url
from serving.deployment.models import threshold_rates
from serving.deployment.snapshots import OpenIndex, gallery_config
from serving.jobs import periodic
from serving.jobs.periodic import expire_faces
from serving.settings.sections import ModelSettings, ThresholdSettings
from serving.settings.settings import Settings, load_settings, make_settings
from tests.engine.matching.conftest import NOW, People
from tests.engine.matching.test_bulk_enrollment import admit
from tests.indexes.sharding.local_shards import LocalShard, open_local
from tests.waiting import wait_until

NUMBER = "110105199003071239"
DOCUMENT = Document(type="cn-ric", number=NUMBER, name="any holder")
STEPS = (opened, "withdraw_consent"), (opened, "erase_holder"), (periodic, "expire_face")
WHOLE = (
    *("before the withdraw_consent", "after the withdraw_consent"),
    *("before the erase_holder", "before the expire_face"),
)
ERASE = ("erase", "--document-type", "cn-ric", "--document-number", NUMBER, "--yes")

Open = Callable[..., Deployment]


@pytest.fixture
def open_home(full_home, tmp_path) -> Open:
    """`open_home(warn, open_index)` opens the deployment with one person."""

    def build(
        warn: Callable[[str], None] = opened.warn_on_stderr, open_index: OpenIndex | None = None
    ) -> Deployment:
        settings = load_settings(full_home)
        return Deployment(full_home, settings, warn, open_index)

    return build


@pytest.fixture
def _always_save(monkeypatch) -> None:
    monkeypatch.setattr(opened, "SNAPSHOT_AFTER", -1)


def test_a_watch_that_another_process_added_is_seen_once_the_lease_is_taken(
    open_home, full_home, sosie, photographs
) -> None:
    with open_home() as deployment:
        assert len(deployment.judge.watch) == 0
        watch = ("watch", "add", photographs.stranger, "--reason", "a case")
        assert sosie(*watch, "--home", full_home).code == 0
        assert len(deployment.registrar.watchlist) == 1
        assert deployment.registrar.watchlist is deployment.judge.watch


@pytest.mark.usefixtures("_always_save")
def test_a_snapshot_is_saved_under_the_lease(open_home, full_home, monkeypatch) -> None:
    refused = []

    def save(*arguments: Any) -> None:
        with open_home() as other, pytest.raises(WriterBusy):
            other.store.writer()
        refused.append(True)
        recovery.save_snapshot(*arguments)

    monkeypatch.setattr(snapshots, "save_snapshot", save)
    with open_home() as deployment:
        assert deployment.registrar is not None
    assert refused == [True]
    assert (full_home / "gallery" / "manifest").is_file()


def test_what_was_erased_meanwhile_is_not_left_by_a_late_save(open_home, full_home, sosie) -> None:
    with open_home() as deployment:
        assert len(deployment.restored.gallery) == 1
        assert sosie(*ERASE, "--home", full_home).code == 0
        deployment.save_snapshot()
    assert not (full_home / "gallery").exists()


def test_an_erasure_leaves_no_snapshot_that_was_saved_meanwhile(
    open_home, full_home, monkeypatch
) -> None:
    def erase(*arguments: Any) -> ErasureCertificate:
        # A process that has lost the lease, and does not know it yet.
        with open_home() as other:
            other.save_snapshot()
        return holders.erase_holder(*arguments)

    monkeypatch.setattr(opened, "erase_holder", erase)
    with open_home() as deployment:
        assert deployment.erase(DOCUMENT, "test").references == 1
    assert not (full_home / "gallery").exists()


def test_the_registrar_does_not_wait_while_a_snapshot_is_sealed_after_an_erasure(
    open_home, full_home, monkeypatch
) -> None:
    begun, released = threading.Event(), threading.Event()

    def save(*arguments: Any) -> None:
        begun.set()
        assert released.wait(120)
        recovery.save_snapshot(*arguments)

    with open_home() as deployment:
        deployment.save_snapshot()
    monkeypatch.setattr(snapshots, "save_snapshot", save)
    with open_home() as deployment:
        assert deployment.erase(DOCUMENT, "test").references == 1
        assert begun.wait(120)
        # No file is left of the face, and none is used, until the new snapshot is whole.
        assert list((full_home / "gallery").iterdir()) == []
        assert deployment.registrar.run(lambda writer, _: writer.sequence) > 0
        released.set()
    assert (full_home / "gallery" / "manifest").is_file()
    with open_home() as deployment:
        assert (len(deployment.restored.gallery), deployment.restored.replayed) == (0, 0)
        assert deployment.restored.fault is None


@pytest.mark.parametrize("step", ["compact", "pin"])
@pytest.mark.parametrize("has_snapshot", [True, False])
def test_what_fails_after_an_erasure_is_told_and_tried_again_until_it_is_done(
    open_home, full_home, monkeypatch, step: str, has_snapshot: bool
) -> None:
    monkeypatch.setattr(opened, "ERASURES_GATHER_S", 0)
    monkeypatch.setattr(opened, "RESEAL_AGAIN_S", 0.01)
    manifest, told, faults = full_home / "gallery" / "manifest", [], []
    whole = getattr(Gallery, step)
    if has_snapshot:
        with open_home() as deployment:
            deployment.save_snapshot()
    with open_home(told.append) as deployment:

        def fail(gallery: Gallery, *arguments: Any) -> Any:
            # What is not certain to be without the face is not used meanwhile.
            assert not manifest.exists()
            faults.append(deployment.upkeep_fault)
            if len(faults) <= 2:
                raise RuntimeError("row 7 of /secret/path")
            return whole(gallery, *arguments)

        assert deployment.registrar is not None
        monkeypatch.setattr(Gallery, step, fail)
        assert deployment.erase(DOCUMENT, "test").references == 1
        # After what the erasure has left to its thread.
        deployment._resealing.submit(int).result()
        if step == "pin" and not has_snapshot:
            assert (told, faults) == ([], [])
        else:
            assert [line[-14:] for line in told] == ["(RuntimeError)"] * 2
            assert faults[0] is None
            assert faults[1] == faults[2].replace("0.02", "0.01")
            assert "since an erasure" in faults[1]
        assert "secret" not in f"{told} {faults}"
        assert deployment.upkeep_fault is None
        assert manifest.exists() == has_snapshot
    with open_home() as deployment:
        assert (len(deployment.restored.gallery), deployment.restored.fault) == (0, None)


@pytest.mark.usefixtures("_always_save")
def test_an_erasure_beside_the_end_of_a_deployment_leaves_no_snapshot_with_the_face(
    open_home, monkeypatch
) -> None:
    begun, at_snapshot, lock = threading.Event(), threading.Event(), threading.Lock()
    erase_holder, save_snapshot = opened.erase_holder, snapshots.save_snapshot

    class Erasing:
        def __enter__(self) -> None:
            if not lock.acquire(blocking=False):
                at_snapshot.set()
                lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    def erase(*given: Any) -> Any:
        begun.set()
        # The end of the deployment saves its snapshot now, or waits for this erasure.
        assert at_snapshot.wait(120)
        return erase_holder(*given)

    def save(*given: Any) -> None:
        save_snapshot(*given)
        at_snapshot.set()

    with ThreadPoolExecutor(1) as pool, open_home() as deployment:
        assert deployment.registrar is not None
        monkeypatch.setattr(deployment, "erasing", Erasing())
        monkeypatch.setattr(opened, "erase_holder", erase)
        monkeypatch.setattr(snapshots, "save_snapshot", save)
        erased = pool.submit(deployment.erase, DOCUMENT, "test")
        assert begun.wait(120)
    assert erased.result().references == 1
    monkeypatch.undo()
    with open_home() as deployment:
        assert (deployment.restored.loaded, len(deployment.restored.gallery)) == (0, 0)


def test_what_fails_after_an_erasure_does_not_keep_a_deployment_from_closing(
    open_home, full_home, monkeypatch
) -> None:
    monkeypatch.setattr(opened, "ERASURES_GATHER_S", 0)
    attempts, told = threading.Semaphore(0), []

    def fail(*_: Any) -> None:
        attempts.release()
        raise MemoryError

    with open_home() as deployment:
        deployment.save_snapshot()
    with open_home(told.append) as deployment:
        monkeypatch.setattr(snapshots, "save_snapshot", fail)
        assert deployment.erase(DOCUMENT, "test").references == 1
        assert attempts.acquire(timeout=120)
    # A last time, at its end.
    assert attempts.acquire(timeout=120)
    assert told == ["the gallery's snapshot was not saved: too little memory"] * 2
    assert not (full_home / "gallery").exists()


def test_a_gallery_that_cannot_be_rewritten_is_told_and_so_is_a_deadline_that_has_passed(
    full_home, monkeypatch
) -> None:
    failed = threading.Event()

    def fail(*_: Any) -> None:
        failed.set()
        raise MemoryError

    monkeypatch.setattr(opened, "OVERDUE_S", 0)
    settings = make_settings({"gallery": {"head_rows": 64, "erasure_deadline_h": 0}})
    people = People(seed=4, dim=128, outlet="b1")
    asked = [people.request() for _ in range(64)]
    with Deployment(full_home, settings) as deployment:
        assert all(isinstance(one, Answer) for one in deployment.registrar.enroll(asked))
        deployment.registrar.gallery.settle()
        assert (deployment.upkeep_fault, deployment.overdue_s) == (None, 0)
        with monkeypatch.context() as patched:
            patched.setattr(Rewrite, "build", fail)
            assert deployment.erase(asked[5].document, "test").references == 1
            assert failed.wait(120)
            wait_until(lambda: "(MemoryError)" in (deployment.upkeep_fault or ""))
            assert "beyond erasure_deadline_h" in (deployment.upkeep_fault or "")
            assert deployment.overdue_s > 0


GONE = (Reason.CONSENT_WITHDRAWN, 0, 0, (Reason.CONSENT_WITHDRAWN,))
FOUND = (None, 1, 1, (Reason.DUPLICATE_IDENTITY,))


def meet_again(deployment: Deployment, one: EnrollmentRequest, reference: int) -> tuple[Any, ...]:
    """What a holder is told who comes again, by a base that is imported and in person; how many
    pairs a sweep finds, once the base has their face under another document, too; and how many
    templates of theirs a second model has then."""
    registrar, store, gallery = deployment.registrar, deployment.store, deployment.restored.gallery
    shown = one.document, Document("id-kitas", "2C1100000001", one.document.name)
    base = [Subscriber("", check_document(it, NOW.date()), one.live.vector) for it in shown]
    second = SecondTemplate("another", np.eye(1, 4, dtype=np.float32)[0])

    def take(writer: Writer, _: datetime) -> list[Any]:
        filled = FilledReference(reference, second)
        writer.commit([AuditEntry("test", "test.done", str(reference)), filled])
        return admit(store, gallery, writer, base)

    imported = registrar.run(take)[0].refusal
    (told,) = registrar.enroll([replace(one, idempotency_key="again", msisdn="+8613999999999")])
    templates = store.second_templates([reference], second.digest, 4)
    return imported, len(join_gallery(gallery, 0.8).pairs), len(templates), told.reasons


@pytest.mark.parametrize("scope", [*ErasureScope, None])
def test_an_erasure_in_the_middle_of_a_merge_leaves_no_face_wherever_it_is_killed(
    full_home, tmp_path, monkeypatch, scope: ErasureScope | None
) -> None:
    """A copy of the home is what a process that is killed at that moment leaves."""
    merging, released = threading.Event(), threading.Event()
    killed: dict[str, Path] = {}
    people, asked = People(seed=4, dim=128, outlet="b1"), []
    late = utc_now() + timedelta(days=31)
    settings = make_settings({"gallery": {"head_rows": 64}, "retention": {"faces_days": 30}})

    def kill(step: str) -> None:
        assert step not in killed
        killed[step] = Path(shutil.copytree(full_home, tmp_path / step.replace(" ", "-")))

    def merge(rewrite: Rewrite, *arguments: Any) -> Any:
        product = build(rewrite, *arguments)
        if len(rewrite.sealed) > 1:
            merging.set()
            # With the face in it, and in no list of what the gallery holds.
            assert released.wait(120)
        return product

    def around(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def perform(*arguments: Any, **given: Any) -> Any:
            kill(f"before the {name}")
            made = function(*arguments, **given)
            kill(f"after the {name}")
            return made

        return perform

    def enroll(deployment: Deployment, count: int) -> None:
        requests = [people.request() for _ in range(count)]
        asked.extend(requests)
        assert all(isinstance(one, Answer) for one in deployment.registrar.enroll(requests))

    build = Rewrite.build
    with Deployment(full_home, settings) as deployment:
        for _ in range(3):
            enroll(deployment, 64)
            deployment.registrar.gallery.settle()
        assert deployment.save_snapshot()
        gallery = deployment.restored.gallery
        known = gallery.search(asked[5].live.vector[None], 1).hits.ids
        (segment,) = [one for one in gallery.segments if one.find(known)[1].any()]
        origin = recovery.origin_of(deployment.store)
        entries = snapshot.in_force(full_home / "gallery", origin, deployment.vault.sealer())
        (holding,) = [one.file.name for one in entries if one.segment == segment.name]
        assert (full_home / "gallery" / segment_file(holding)).exists()
        close_line(deployment.registrar, deployment.store, asked[5].msisdn, "test")
        monkeypatch.setattr(Rewrite, "build", merge)
        for _ in range(10):
            enroll(deployment, 64)
            # How many make a segment depends on when the thread of upkeep looks.
            if merging.wait(1):
                break
        assert merging.is_set()
        given = registry_url(full_home, settings), deployment.vault, tmp_path / "backup"
        make_backup(deployment.store, deployment.writer, given[-1], actor="test")
        model = deployment.store.model_digest
        for module, name in STEPS:
            monkeypatch.setattr(module, name, around(name, getattr(module, name)))
        monkeypatch.setattr(snapshots, "save_snapshot", around("save", recovery.save_snapshot))
        monkeypatch.setattr(snapshot, "publish", around("publication", snapshot.publish))
        monkeypatch.setattr(opened, "ERASURES_GATHER_S", 0)
        if scope is None:
            (made,) = expire_faces(deployment, "test", late)
        else:
            made = deployment.erase(asked[5].document, "test", scope=scope)
        assert made.references == 1
        kill("before the merge ends")
        released.set()
        deployment._resealing.submit(int).result()
    monkeypatch.undo()
    assert len(killed) == (9 if scope is ErasureScope.FACE else 7)
    for step, home in killed.items():
        has_file = (home / "gallery" / segment_file(holding)).exists()
        assert has_file == (step in WHOLE[:2]), step
        with Deployment(home, settings) as deployment:
            is_erased = step not in WHOLE
            faces = np.stack([request.live.vector for request in asked])
            found = deployment.restored.gallery.range_search(faces, 0.8)
            assert found.searched == len(asked) + 1 - is_erased, step
            has_any = np.diff(found.hits.offsets) > 0
            assert has_any[5] != is_erased, step
            assert deployment.restored.fault is None, step
            # A withdrawal that was acknowledged is gone on with.
            is_due = scope is ErasureScope.FACE and step in WHOLE[1:]
            assert len(deployment.finish_erasures("test")) == is_due, step
            if scope is ErasureScope.FACE:
                expected = FOUND if step == WHOLE[0] else GONE
                assert meet_again(deployment, asked[5], int(known[0])) == expected, step
            # A face whose time is over is due as long as it is there.
            if scope is None:
                assert len(expire_faces(deployment, "test", late)) == (not is_erased), step
    # An older backup has the face, says so when it is restored, and lets it go again.
    if scope is ErasureScope.FACE:
        done = restore_backup(*given, model_digest=model, actor="test", replaces=True)
        assert done.lost.withdrawn == ((made.document_id, ""),)
        with Deployment(full_home, settings) as deployment:
            assert deployment.erase(asked[5].document, "test", scope=scope).references == 1
            assert meet_again(deployment, asked[5], int(known[0])) == GONE


def test_nothing_is_erased_where_the_snapshot_cannot_be_removed(open_home, full_home) -> None:
    (full_home / "gallery").write_text("no folder")
    with open_home() as deployment:
        with pytest.raises(RegistryError, match="nothing was erased"):
            deployment.erase(DOCUMENT, "test")
        assert deployment.store.counts()["live_references"] == 1


@pytest.mark.usefixtures("_always_save")
def test_a_save_that_fails_leaves_the_snapshot_before_it(open_home, monkeypatch) -> None:
    def fill_the_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open_home() as deployment:
        deployment.save_snapshot()
    monkeypatch.setattr("indexes.snapshots.snapshot.publish", fill_the_disk)
    warnings: list[str] = []
    with open_home(warnings.append) as deployment:
        assert deployment.registrar is not None
    assert warnings == ["the gallery's snapshot was not saved: No space left on device"]
    with open_home() as deployment:
        assert (deployment.restored.loaded, deployment.restored.fault) == (1, None)


@pytest.mark.usefixtures("_always_save")
def test_a_failed_save_of_the_snapshot_loses_no_answer(
    full_home, sosie, photographs, request_of
) -> None:
    # No snapshot can be saved in it: its folder's name leads nowhere.
    (full_home / "gallery").symlink_to("nowhere")
    request = request_of(
        full_home, live=photographs.later, msisdn="+8613800138001", idempotency_key="k-1"
    )
    enrolled = sosie(*request, "--json")
    assert (enrolled.code, enrolled.json["decision"]) == (0, "approved")
    assert enrolled.err.startswith("sosie: warning: the gallery's snapshot was not saved")
    assert enrolled.err.count("\n") == 1
    erased = sosie(*ERASE, "--home", full_home, "--json")
    assert (erased.code, erased.json["references"]) == (0, 1)
    assert erased.err.startswith("sosie: warning: ")


@pytest.mark.usefixtures("_always_save")
def test_a_refused_snapshot_is_reported_and_removed_by_the_writer(
    open_home, full_home, monkeypatch, caplog
) -> None:
    with open_home() as deployment:
        assert deployment.registrar is not None
    data = next((full_home / "gallery").glob("state-*"))
    data.write_bytes(data.read_bytes()[:-1])
    monkeypatch.setattr(opened, "SNAPSHOT_AFTER", 1_000)
    with open_home() as deployment:
        assert len(deployment.registrar.gallery) == 1
        assert not (full_home / "gallery").exists()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "rebuilt from the store" in said[0]


def test_the_settings_say_what_gallery_is_opened() -> None:
    chosen = {
        "rows": "float16",
        "mapped": True,
        "head_rows": 100,
        "segment_rows": 2_000_000,
        "erasure_deadline_h": 2,
    }
    config = gallery_config(make_settings({"gallery": chosen}))
    assert config.mapped
    assert (config.segments.rows, config.segments.head_rows) == ("float16", 100)
    assert config.segments.segment_rows == 2_000_000
    assert config.segments.erasure_deadline_s == 7200


def test_what_was_removed_leaves_the_snapshot_when_the_writer_closes(
    full_home, open_home, monkeypatch
) -> None:
    with open_home() as deployment:
        deployment.save_snapshot()
    before = {path.name for path in (full_home / "gallery").iterdir()}
    with open_home() as deployment:
        assert deployment.registrar.gallery.deadline_s() is None
        # As a removal that was replayed over a segment leaves it.
        monkeypatch.setattr(deployment.restored.gallery, "deadline_s", lambda: 0.0)
    after = {path.name for path in (full_home / "gallery").iterdir()}
    assert after & before == {"manifest"}


def test_a_removal_that_was_replayed_and_compacted_leaves_the_disk_too(
    full_home, open_home, tmp_path
) -> None:
    folder = full_home / "gallery"
    with open_home() as deployment:
        deployment.save_snapshot()
    shutil.copytree(folder, tmp_path / "older")
    with open_home() as deployment:
        assert deployment.erase(DOCUMENT, "test").references == 1
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "older", folder)
    with open_home() as deployment:
        gallery = deployment.registrar.gallery
        assert deployment.restored.loaded == 1
        gallery.compact()
        assert gallery.deadline_s() is None
    older = {path.name for path in (tmp_path / "older").iterdir()}
    assert {path.name for path in folder.iterdir()} & older <= {"manifest"}


class ShardNode:
    """Where shards keep their snapshots, and with them a home's settings."""

    def __init__(self, home: Path, places: Path) -> None:
        self.home, self.places = home, places

    def open(self, open_index: OpenIndex, warn: Callable[[str], None] = print) -> Deployment:
        settings = load_settings(self.home)
        chosen = {"shard_folder": str(self.places), "erasure_deadline_h": 2}
        gallery = settings.gallery.model_copy(update=chosen)
        settings = settings.model_copy(update={"gallery": gallery})
        return Deployment(self.home, settings, warn, open_index)

    def read(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.places.rglob("*") if path.is_file()}

    def put_back(self, files: dict[Path, bytes]) -> None:
        """It comes back with what it had."""
        shutil.rmtree(self.places)
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@pytest.fixture
def node(full_home, tmp_path, monkeypatch) -> ShardNode:
    """A node for shards of the home, where what was erased is sealed anew at once."""
    monkeypatch.setattr(opened, "ERASURES_GATHER_S", 0)
    return ShardNode(full_home, tmp_path / "node")


def shards_in(opened: list[ShardedIndex]) -> OpenIndex:
    """Opens two shards in this process, and keeps each gallery in the list."""

    def open_index(plan: ShardPlan) -> ShardedIndex:
        opened.append(open_local(plan, 2))
        return opened[-1]

    return open_index


@pytest.mark.usefixtures("_always_save")
def test_a_gallery_on_shards_comes_from_the_store_and_leaves_nothing_on_the_disk(
    open_home, full_home
) -> None:
    with open_home() as deployment:
        assert len(deployment.registrar.gallery) == 1
    assert (full_home / "gallery").is_dir()
    opened: list[ShardedIndex] = []
    with open_home(open_index=shards_in(opened)) as deployment:
        assert deployment.registrar.gallery.kind == "exact8 x 2"
        assert (deployment.restored.loaded, deployment.restored.replayed) == (0, 1)
        # At the start, or a crash would leave the faces that are erased from now on.
        assert not (full_home / "gallery").exists()
        assert not deployment.save_snapshot()
    assert not (full_home / "gallery").exists()
    assert [index.shards[0].lost is None for index in opened] == [False]


def test_an_erased_face_leaves_the_shards_and_no_snapshot_comes_of_it(
    open_home, full_home, monkeypatch
) -> None:
    monkeypatch.setattr("serving.deployment.deployment.ERASURES_GATHER_S", 0)
    opened: list[ShardedIndex] = []
    with open_home(open_index=shards_in(opened)) as deployment:
        assert deployment.registrar is not None
        # As a process that has lost the lease may leave it.
        with open_home() as other:
            other.save_snapshot()
        assert deployment.erase(DOCUMENT, "test").references == 1
        # After what the erasure has left to its thread.
        deployment._resealing.submit(int).result()
        assert opened[0].account().references == 0
    # The rest of the folder goes in the background, at the latest before the lease ends.
    assert not (full_home / "gallery").exists()


@pytest.mark.usefixtures("_always_save")
def test_a_shard_starts_from_its_snapshot_and_never_from_one_of_before_an_erasure(
    full_home, node
) -> None:
    with node.open(shards_in([])) as deployment:
        assert (deployment.registrar.gallery.sequence, deployment.restored.loaded) == (1, 0)
    before, keys = node.read(), {path.name for path in (full_home / "shards").iterdir()}
    assert keys == {"shard-0", "shard-1"}
    with node.open(shards_in([])) as deployment:
        assert deployment.registrar is not None
        assert (deployment.restored.loaded, deployment.restored.replayed) == (1, 0)
        assert deployment.erase(DOCUMENT, "test").references == 1
        # Saved again, without it.
        deployment._resealing.submit(int).result()
        assert {path.name for path in (full_home / "shards").iterdir()} == keys
        after = node.read()
    node.put_back(before)
    with node.open(shards_in([])) as deployment:
        assert len(deployment.registrar.gallery) == 0
        assert deployment.restored.loaded == 0
    assert before.keys() != after.keys()
    # What no erasure would find any more is destroyed.
    with Deployment(full_home, load_settings(full_home)) as deployment:
        assert deployment.registrar is not None
        assert not list((full_home / "shards").iterdir())


@pytest.mark.usefixtures("_always_save")
def test_a_shard_that_could_not_save_its_snapshot_after_an_erasure_does_so_later(
    node, monkeypatch
) -> None:
    monkeypatch.setattr(opened, "RESEAL_AGAIN_S", 0.01)
    told: list[str] = []
    save, failing = snapshots.ShardManager.save, iter([MemoryError, MemoryError])

    def fail(manager: snapshots.ShardManager, gallery: Gallery) -> bool:
        if (error := next(failing, None)) is not None:
            raise error
        return save(manager, gallery)

    with node.open(shards_in([]), told.append) as deployment:
        assert deployment.registrar is not None
        deployment._resealing.submit(int).result()
        told.clear()
        with monkeypatch.context() as patched:
            patched.setattr(snapshots.ShardManager, "save", fail)
            deployment._ask_save()
            assert deployment.erase(DOCUMENT, "test").references == 1
            deployment._resealing.submit(int).result()
        assert told == [
            "the shards' snapshots were not saved (MemoryError)",
            "after an erasure the gallery has no snapshot for now (MemoryError)",
        ]
        assert deployment.upkeep_fault is None
    with node.open(shards_in([]), told.append) as deployment:
        assert deployment.registrar is not None
        assert (len(deployment.restored.gallery), deployment.restored.replayed) == (0, 0)


@pytest.mark.usefixtures("_always_save")
def test_another_number_of_shards_is_reached_while_serving_and_no_snapshot_keeps_what_was_moved(
    full_home, node, monkeypatch
) -> None:
    monkeypatch.setattr(snapshots, "LOOK_AT_SETTINGS_S", 0)
    monkeypatch.setattr(snapshots, "LOOK_AT_SHARDS_S", 0.01)
    opened: list[ShardedIndex] = []
    wanted = [2]

    def open_index(plan: ShardPlan) -> ShardedIndex:
        assert plan.config.erasure_deadline_s == 7200
        plan = replace(plan, virtual_shards=8)
        shards = [LocalShard(plan) for _ in range(wanted[0])]
        opened.append(ShardedIndex(plan, shards, open_copy=lambda _: LocalShard(plan)))
        opened[-1].read_wanted = lambda: wanted[0]
        return opened[-1]

    def reach(deployment: Deployment, number: int) -> None:
        wanted[0] = number
        index = opened[-1]
        wait_until(lambda: len(set(index.placement.owners.tolist())) == number)
        wait_until(lambda: not deployment.snapshots.moves_wanting)
        assert np.bincount(index.placement.owners).tolist() == [8 // number] * number
        # What it has had saved is saved.
        names = {f"shard-{at}" for at in range(number)}
        wait_until(lambda: {one.name for one in (full_home / "shards").iterdir()} == names)
        deployment._resealing.submit(int).result()

    def find(deployment: Deployment) -> int:
        gallery = deployment.registrar.gallery
        return len(gallery.search(np.eye(1, gallery.dim, dtype=np.float32), 9).hits.ids)

    with node.open(open_index) as deployment:
        assert find(deployment) == 1
        deployment._resealing.submit(int).result()
        assert opened[0].shards[1].count().result() == 1
        of_two = node.read()
        reach(deployment, 1)
        assert not list(node.places.rglob("shard-1/*"))
        assert find(deployment) == 1
    # With two again the snapshot of one is taken, and shared again.
    wanted[0] = 2
    with node.open(open_index) as deployment:
        assert find(deployment) == 1
        assert (deployment.restored.loaded, deployment.restored.replayed) == (1, 0)
        reach(deployment, 2)
        assert deployment.erase(DOCUMENT, "test").references == 1
        deployment._resealing.submit(int).result()
    node.put_back(of_two)
    with node.open(open_index) as deployment:
        assert (find(deployment), deployment.restored.loaded) == (0, 0)


@pytest.mark.usefixtures("_always_save")
def test_a_snapshot_that_was_away_is_of_no_use_once_its_shard_is_built_from_the_store(
    full_home, node, tmp_path
) -> None:
    """What it holds may be another shard's by then, and an erasure there would not find it."""

    def open_on_shards(number: int) -> Deployment:
        return node.open(lambda plan: open_local(plan, number))

    with open_on_shards(2) as deployment:
        assert deployment.registrar is not None
    before = [(full_home / "shards" / f"shard-{at}").read_bytes() for at in range(2)]
    node.places.rename(tmp_path / "away")
    with open_on_shards(3) as deployment:
        assert (len(deployment.registrar.gallery), deployment.restored.loaded) == (1, 0)
    shutil.copytree(tmp_path / "away", node.places, dirs_exist_ok=True)
    with open_on_shards(2) as deployment:
        assert len(deployment.registrar.gallery) == 1
    after = [(full_home / "shards" / f"shard-{at}").read_bytes() for at in range(2)]
    assert not set(before) & set(after)


def test_a_deployment_whose_shard_is_lost_decides_nothing_closes_and_opens_again(open_home) -> None:
    opened: list[ShardedIndex] = []
    with open_home(open_index=shards_in(opened)) as deployment:
        gallery = deployment.registrar.gallery
        opened[0].shards[1].close()
        with pytest.raises(ShardLost):
            gallery.range_search(np.eye(1, gallery.dim, dtype=np.float32), 0.5)
        with pytest.raises(RegistryError):
            deployment.erase(DOCUMENT, "test")
    with open_home(open_index=shards_in(opened)) as deployment:
        # The erasure was durable, and was not confirmed.
        assert len(deployment.registrar.gallery) == 0


def test_settings_override_the_card_and_the_card_the_defaults(tmp_path) -> None:
    assert threshold_rates(Settings()) == ThresholdRates()
    card = tmp_path / "own.toml"
    card.write_text(
        (CARDS_FOLDER / "sface.toml").read_text("utf-8")
        + "\n[thresholds]\nreview_fmr = 1e-5\ncertain_margin = 0\n"
    )
    models = ModelSettings(embedder=str(card))
    usual = ThresholdRates()
    assert threshold_rates(Settings(models=models)) == ThresholdRates(
        verify=usual.verify, same_document=usual.same_document, review=1e-5, certain_margin=0.0
    )
    given = ThresholdSettings(review_fmr=usual.review, verify_fmr=1e-3)
    chosen = threshold_rates(Settings(models=models, thresholds=given))
    # A default that is written down is chosen, too.
    assert (chosen.review, chosen.verify, chosen.certain_margin) == (usual.review, 1e-3, 0.0)
