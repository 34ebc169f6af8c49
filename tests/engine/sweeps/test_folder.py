"""What a sweep leaves on disk for itself and for the next."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from engine.errors import RegistryError
from engine.registry.records import new_id
from engine.sweeps.folder import Covered, Standing, SweepFolder, place
from engine.sweeps.sweep_model import PairTable, SweepProgress


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    made = SweepFolder.of(tmp_path / "sweeps", new_id())
    made.make()
    return made


def covered() -> Covered:
    pairs = PairTable(np.array([1, 3]), np.array([2, 9]), np.array([0.5, 0.75], np.float32))
    return Covered(np.array([1, 2, 3, 9]), pairs)


def test_what_was_covered_comes_back_as_it_was(folder: SweepFolder) -> None:
    assert folder.covered() is None
    folder.keep_covered(covered())
    again = folder.covered()
    assert again is not None
    np.testing.assert_array_equal(again.ids, covered().ids)
    np.testing.assert_array_equal(again.pairs.left, covered().pairs.left)
    np.testing.assert_array_equal(again.pairs.right, covered().pairs.right)
    np.testing.assert_array_equal(again.pairs.scores, covered().pairs.scores)


@pytest.mark.parametrize("name", ["covered.bin", "found.bin"])
def test_a_file_that_was_cut_short_says_nothing(folder: SweepFolder, name: str) -> None:
    folder.keep_covered(covered())
    path = folder.path / name
    path.write_bytes(path.read_bytes()[:-1])
    assert folder.covered() is None


def test_only_the_owner_reads_it_and_only_results_are_listed(folder: SweepFolder) -> None:
    folder.keep_covered(covered())
    folder.keep_standing(Standing())
    folder.checkpoint.mkdir()
    (folder.path / "report.html").touch()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.path / "covered.bin").stat().st_mode) == 0o600
    assert [path.name for path in folder.files()] == ["report.html"]


def test_its_standing_outlives_a_crash_and_ends_with_the_checkpoint(folder: SweepFolder) -> None:
    assert folder.standing() == Standing()
    standing = Standing(SweepProgress(comparisons=3, comparisons_total=9), 1.5, 2)
    folder.keep_standing(standing)
    folder.checkpoint.mkdir()
    assert SweepFolder(folder.path).standing() == standing
    folder.drop_checkpoint()
    assert folder.standing() == Standing()
    assert not folder.checkpoint.exists()


def test_a_damaged_standing_is_none(folder: SweepFolder) -> None:
    for text in ("", "[]", '{"progress": 1}', '{"progress": {}, "more": 1}'):
        (folder.path / "standing.json").write_text(text)
        assert folder.standing() == Standing()


def test_what_a_crash_left_half_written_goes(folder: SweepFolder) -> None:
    (folder.path / ".report.html.0a1b").touch()
    folder.make()
    assert list(folder.path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "sweeps").touch()
    with pytest.raises(RegistryError, match="cannot be made"):
        SweepFolder.of(tmp_path / "sweeps", new_id()).make()


def test_what_was_written_takes_its_place_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")
    with place(path) as beside:
        beside.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")

    def write_half() -> None:
        with place(path) as beside:
            beside.write_text("half of it")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
