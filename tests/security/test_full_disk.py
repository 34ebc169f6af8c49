"""A disk that fills up, a real one: what was acknowledged stays, and it goes on when room is made.

Each test plays its part in a child process whose mount namespace has a small file system of its
own, which goes with the process.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
import pytest

from bench.suites.workload import add_outlet, admit_holders, make_document
from engine.errors import StorageFull
from engine.registry import backup
from engine.registry.audit import verify_chain
from engine.registry.backup import make_backup
from engine.registry.damage import find_damage
from serving.deployment import deployment as compose
from serving.deployment.deployment import Deployment
from serving.deployment.snapshots import SnapshotManager
from serving.registrar.protocol import CallContext
from serving.settings.settings import load_settings
from tests.engine.matching.conftest import People
from tests.engine.records import ENTRY
from tests.serving.api.conftest import make_activation, serving
from tests.serving.api.driver import to_json
from tests.waiting import wait_until

MOUNT = 'mount -t tmpfs -o "size=$1" none "$2" || exit 77; shift 2; exec "$@"'
CHILD = "import sys; from tests.security import test_full_disk as it; it.{part}(*sys.argv[1:])"


@pytest.fixture
def on_small_disk(tmp_path) -> Callable[..., None]:
    """`on_small_disk(part, size, *arguments)`: runs a function of this module in a child, on an
    empty disk of that size; what it raises fails the test."""

    def run(part: Callable[..., None], size: str, *arguments: object) -> None:
        if shutil.which("unshare") is None:
            pytest.skip("this machine has no unshare")
        disk = tmp_path / "disk"
        disk.mkdir()
        started = (sys.executable, "-W", "error", "-c", CHILD.format(part=part.__name__))
        private = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "-r", "--mount")
        done = subprocess.run(
            [*private, "sh", "-c", MOUNT, "sh", size, disk, *started, disk, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
            cwd=Path(__file__).parents[2],
        )
        if done.returncode == 77 or done.stderr.startswith("unshare:"):
            pytest.skip(
                f"this machine allows no file system of a test's own: {done.stderr.strip()}"
            )
        assert done.returncode == 0, done.stderr

    return run


def fill(disk: Path, left_bytes: int) -> Path:
    """A file that takes all room but so much."""
    path = disk / "filler"
    state = os.statvfs(disk)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - left_bytes)
    return path


def test_a_home_whose_disk_fills_up_keeps_what_it_acknowledged_and_goes_on(
    on_small_disk, keyed_home, faces, tmp_path
) -> None:
    for name, content in faces.items():
        (tmp_path / name).write_bytes(content)
    home, keys = keyed_home
    on_small_disk(fill_up_a_home, "8m", home, keys["b1"], tmp_path)


def fill_up_a_home(disk: str, base: str, key: str, pictures: str) -> None:
    home = Path(shutil.copytree(base, Path(disk) / "home"))
    with (
        Deployment(home, load_settings(home)) as deployment,
        serving(home, {"b1": key}, deployment.extractor) as start,
    ):
        service = start()
        people, kept = People(seed=3, dim=128, outlet="b1"), []
        context = CallContext(actor="key:tests", correlator="c-1", timeout_s=30)

        def enroll(request: Any) -> Any:
            return service.run(service.registrar.by(context).enroll(request))

        def read() -> Any:
            return service.read(service.ask("GET", "/health/ready"))

        filler = fill(Path(disk), 200_000)
        while True:
            request = people.request()
            try:
                kept.append((request, enroll(request).enrollment_id))
            except StorageFull:
                break
        assert len(kept) > 5
        names = {"live": "stranger", "portrait": "stranger_again"}
        body = make_activation(**{k: (Path(pictures) / v).read_bytes() for k, v in names.items()})

        def ask() -> Any:
            headers = {"idempotency-key": "k", "content-type": "application/json"}
            return service.ask(
                "POST", "/v1/enrollments", key="b1", content=to_json(body), headers=headers
            )

        service.assert_refused(ask(), 507, "REGISTRY.STORAGE_FULL")
        wait_until(lambda: read()["phase"] == "full")
        found = read()
        assert not found["is_ready"]
        assert "no room left" in found["checks"]["registrar"]["detail"]
        assert b'sosie_registrar_phase{phase="full"} 1.0' in service.parts.meter.render()[0]
        filler.unlink()
        wait_until(lambda: read()["is_ready"])
        answer = ask()
        assert answer.status_code == 201, answer.text
        # The one that was refused, and those that were not.
        assert not enroll(request).is_repeated
        for request, enrollment_id in kept:
            again = enroll(request)
            assert (again.is_repeated, again.enrollment_id) == (True, enrollment_id)
        store = deployment.store
        assert store.counts()["live_references"] == len(kept) + 3
        assert verify_chain(store).intact
        assert find_damage(store) == []


def test_a_backup_whose_disk_fills_up_leaves_nothing_and_the_registry_goes_on(
    on_small_disk, keyed_home, tmp_path
) -> None:
    home = Path(shutil.copytree(keyed_home[0], tmp_path / "home"))
    on_small_disk(fill_up_a_backup, "80m", home)


def fill_up_a_backup(disk: str, home: str) -> None:
    backup.PAGES_PER_STEP = 8
    fillers = []

    def look(_done: int, _total: int) -> None:
        if not fillers:
            fillers.append(fill(Path(disk), 8192))

    with Deployment(Path(home), load_settings(Path(home))) as deployment:
        store, writer = deployment.store, deployment.writer
        with pytest.raises(StorageFull):
            make_backup(store, writer, Path(disk) / "copy", actor="test", progress=look)
        assert [one.name for one in Path(disk).iterdir()] == ["filler"]
        writer.commit([ENTRY])
        fillers[0].unlink()
        manifest = make_backup(store, writer, Path(disk) / "copy", actor="test")
        assert manifest.sequence == writer.sequence


def test_a_disk_that_fills_up_while_a_snapshot_is_sealed_after_an_erasure_has_it_once_there_is_room(
    on_small_disk, keyed_home
) -> None:
    on_small_disk(fill_up_a_snapshot, "16m", keyed_home[0])


def fill_up_a_snapshot(disk: str, base: str) -> None:
    home = Path(shutil.copytree(base, Path(disk) / "home"))
    settings, people = load_settings(home), People(seed=5, dim=128)
    faces = np.stack([people.person() for _ in range(2_000)])
    with Deployment(home, settings) as deployment:
        add_outlet(deployment.store)
        admit_holders(deployment, faces)
        size = deployment.store.counts()["live_references"]
        assert deployment.save_snapshot()
    told: list[str] = []
    erase, fillers = compose.erase_holder, []

    def erase_and_fill(*arguments: Any) -> Any:
        made = erase(*arguments)
        # Others take what the withdrawn snapshot has left.
        fillers.append(fill(Path(disk), 100_000))
        return made

    with Deployment(home, settings, told.append) as deployment, pytest.MonkeyPatch.context() as now:
        now.setattr(compose, "ERASURES_GATHER_S", 0)
        now.setattr(compose, "RESEAL_AGAIN_S", 0.01)
        now.setattr(compose, "LONGEST_PAUSE_S", 0.01)
        now.setattr(compose, "erase_holder", erase_and_fill)
        has_room, looks = SnapshotManager.has_room, Semaphore(0)

        def look(*arguments: Any) -> bool:
            looks.release()
            return has_room(*arguments)

        now.setattr(SnapshotManager, "has_room", look)
        assert deployment.erase(make_document(7), "test").references == 1
        # Without room it is not begun again, or it would take what decisions need.
        for _ in range(3):
            assert looks.acquire(timeout=120)
        assert told == ["the gallery's snapshot was not saved: No space left on device"]
        assert "no snapshot" in str(deployment.upkeep_fault)
        assert not (home / "gallery").exists()
        fillers[0].unlink()
        # After what the erasure has left to its thread.
        deployment._resealing.submit(int).result()
        assert (len(told), deployment.upkeep_fault) == (1, None)
        assert (home / "gallery" / "manifest").exists()
    with Deployment(home, settings) as deployment:
        restored, faces = deployment.restored, deployment.vault.rotate(faces)
        assert (restored.loaded, len(restored.gallery), restored.fault) == (
            size - 1,
            size - 1,
            None,
        )
        found = restored.gallery.range_search(faces[:20], 0.99).hits
        assert np.diff(found.offsets).tolist() == [place != 7 for place in range(20)]
        assert verify_chain(deployment.store).intact
