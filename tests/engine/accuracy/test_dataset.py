"""Folders of known people and LFW's pairs file: read, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.accuracy.dataset import LabelledFolder, PairFolds
from engine.errors import RequestError

PAIRS = """2\t1
Ann\t1\t2
Ann\t1\tBob\t1
Bob\t1\t3
Bob\t3\tAnn\t2
"""


@pytest.fixture
def folder(tmp_path: Path) -> LabelledFolder:
    """Names are all that is read here: the files are empty."""
    for name in ("Ann/Ann_0001.jpg", "Ann/Ann_0002.JPG", "Bob/Bob_0001.png", "Bob/Bob_0003.webp"):
        path = tmp_path / "people" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "people" / "Ann" / "notes.txt").touch()
    (tmp_path / "people" / "readme.jpg").touch()
    (tmp_path / "people" / "Nobody").mkdir()
    return LabelledFolder.open(tmp_path / "people")


@pytest.fixture
def write(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text(PAIRS)
    return path


def test_each_folder_with_photographs_is_a_person(folder: LabelledFolder) -> None:
    assert folder.names == ("Ann", "Bob")
    assert [path.name for path in folder.paths] == [
        "Ann_0001.jpg",
        "Ann_0002.JPG",
        "Bob_0001.png",
        "Bob_0003.webp",
    ]
    assert folder.people.tolist() == [0, 0, 1, 1]


def test_pairs_are_found_by_name_and_number(folder: LabelledFolder, write: Path) -> None:
    folds = PairFolds.read(write, folder)
    assert folds.photographs.tolist() == [[0, 1], [0, 2], [2, 3], [3, 1]]
    assert folds.is_mated.tolist() == [True, False, True, False]
    assert folds.fold.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2\t1\n", "", "must begin with the number of folds"),
        ("2\t1\n", "1\t2\n", "two folds or more"),
        ("2\t1\n", "2\t300\n", "2 folds of 300 mated and 300 non-mated pairs, but holds 4"),
        ("Ann\t1\t2", "Ann\t1\t7", "pair 1: the folder has no such photograph"),
        ("Bob\t1\t3", "Cy\t1\t3", "pair 3: the folder has no such photograph"),
        ("Bob\t3\tAnn\t2", "Bob\tx\tAnn\t2", "pair 4: expected `name i j`"),
        ("Ann\t1\tBob\t1", "Ann", "pair 2: expected `name i j`"),
    ],
)
def test_a_wrong_pairs_file_is_refused_with_its_place(
    folder: LabelledFolder, write: Path, old: str, new: str, message: str
) -> None:
    write.write_text(PAIRS.replace(old, new))
    with pytest.raises(RequestError, match=message) as refused:
        PairFolds.read(write, folder)
    assert not {"Ann", "Bob", "Cy"} & set(str(refused.value).split()), "no name in a message"


def test_a_pairs_file_that_is_not_text_is_refused(folder: LabelledFolder, write: Path) -> None:
    write.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="can't be read as text"):
        PairFolds.read(write, folder)
    with pytest.raises(RequestError, match="can't be read as text"):
        PairFolds.read(write.with_name("none.txt"), folder)


def test_a_folder_with_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not a folder"):
        LabelledFolder.open(tmp_path / "missing")
    with pytest.raises(RequestError, match="0 people found"):
        LabelledFolder.open(tmp_path)
    (tmp_path / "Ann").mkdir()
    (tmp_path / "Ann" / "1.jpg").touch()
    with pytest.raises(RequestError, match="1 people found"):
        LabelledFolder.open(tmp_path)
