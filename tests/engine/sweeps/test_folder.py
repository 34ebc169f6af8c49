"""What a sweep leaves on disk for itself and for the next."""

import stat

import numpy as np
import pytest

from engine.errors import RegistryError
from engine.registry.database import new_id
from engine.sweeps.folder import Covered, SweepFolder, SweepStatus
from indexes.atomic_files import replacing
from indexes.joining import RECORD
from schema.sweeps import SweepProgress


@pytest.fixture
def folder(tmp_path) -> SweepFolder:
    made = SweepFolder.of(tmp_path / "sweeps", new_id())
    made.make()
    return made


def covered() -> Covered:
    pairs = np.array([(1, 2, 0.5), (3, 9, 0.75)], RECORD)
    return Covered(np.array([1, 2, 3, 9]), pairs)


def test_covered_references_are_loaded_as_saved(folder) -> None:
    assert folder.load_covered() is None
    folder.save_covered(covered())
    again = folder.load_covered()
    np.testing.assert_array_equal(again.ids, covered().ids)
    np.testing.assert_array_equal(again.pairs, covered().pairs)


@pytest.mark.parametrize("name", ["covered.bin", "found.bin"])
def test_a_truncated_file_is_ignored(folder, name: str) -> None:
    folder.save_covered(covered())
    path = folder.path / name
    path.write_bytes(path.read_bytes()[:-1])
    assert folder.load_covered() is None


def test_only_the_owner_reads_it_and_only_results_are_listed(folder) -> None:
    folder.save_covered(covered())
    folder.save_status(SweepStatus())
    folder.checkpoint.mkdir()
    (folder.path / "report.html").touch()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.path / "covered.bin").stat().st_mode) == 0o600
    assert [path.name for path in folder.files()] == ["report.html"]


def test_the_status_survives_a_crash_and_goes_with_the_checkpoint(folder) -> None:
    assert folder.load_status() == SweepStatus()
    status = SweepStatus(SweepProgress(comparisons=3, comparisons_total=9), 1.5, 2)
    folder.save_status(status)
    folder.checkpoint.mkdir()
    assert SweepFolder(folder.path).load_status() == status
    folder.drop_checkpoint()
    assert folder.load_status() == SweepStatus()
    assert not folder.checkpoint.exists()


def test_a_damaged_status_is_ignored(folder) -> None:
    for text in ("", "[]", '{"progress": 1}', '{"progress": {}, "more": 1}'):
        (folder.path / "standing.json").write_text(text)
        assert folder.load_status() == SweepStatus()


def test_half_written_files_of_a_crash_are_removed(folder) -> None:
    (folder.path / ".report.html.0a1b").touch()
    folder.make()
    assert list(folder.path.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(tmp_path) -> None:
    (tmp_path / "sweeps").touch()
    with pytest.raises(RegistryError, match="cannot be created"):
        SweepFolder.of(tmp_path / "sweeps", new_id()).make()


def test_a_file_is_replaced_whole_and_only_its_owner_reads_it(tmp_path) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")
    with replacing(path) as beside:
        beside.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")

    def write_half() -> None:
        with replacing(path) as beside:
            beside.write_text("half of it")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
