"""Labelled folders, attributes: read, or refused with the wrong line."""

from pathlib import Path

import pytest

from engine.accuracy.dataset import LabelledFolder, read_attributes
from engine.errors import RequestError


def open_folder(parent: Path, *names: str) -> LabelledFolder:
    """Names are all that is read here: the files are empty."""
    for name in names:
        path = parent / "people" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return LabelledFolder.open(parent / "people")


def test_each_folder_with_photographs_is_a_person(tmp_path) -> None:
    (tmp_path / "people" / "Nobody").mkdir(parents=True)
    photographs = ("Ann/Ann_0001.jpg", "Ann/Ann_0002.JPG", "Bob/Bob_0001.png", "Bob/Bob_0003.webp")
    folder = open_folder(tmp_path, *photographs, "Ann/notes.txt", "readme.jpg")
    assert folder.names == ("Ann", "Bob")
    assert [path.name for path in folder.paths] == [Path(one).name for one in photographs]
    assert folder.people.tolist() == [0, 0, 1, 1]


def test_a_folder_with_nothing_to_compare_is_refused(tmp_path) -> None:
    with pytest.raises(RequestError, match="is not a folder"):
        LabelledFolder.open(tmp_path / "missing")
    with pytest.raises(RequestError, match="0 people found"):
        LabelledFolder.open(tmp_path)
    with pytest.raises(RequestError, match="1 people found"):
        open_folder(tmp_path, "Ann/1.jpg")


@pytest.fixture
def labelled(tmp_path) -> LabelledFolder:
    return open_folder(tmp_path, "Ann/a.jpg", "Ann/b.jpg", "Bob/a.jpg", "Bob/b.jpg")


def write_labels(labelled: LabelledFolder, text: str) -> Path:
    path = labelled.root.parent / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_of_photographs_stand_at_their_places(labelled) -> None:
    text = "\ufeffphotograph,camera\nBob/a.jpg, red \nAnn/b.jpg,\n"
    (camera,) = read_attributes(write_labels(labelled, text), labelled)
    assert (camera.column, camera.names) == ("camera", ("red",))
    assert camera.codes.tolist() == [-1, -1, 0, -1]


def test_labels_of_people_are_those_of_all_their_photographs(labelled) -> None:
    found = read_attributes(write_labels(labelled, "person,skin\nBob,dark\nAnn,light\n"), labelled)
    assert found[0].codes.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,group\nAnn,1\n", "needs a column `photograph`"),
        ("person\nAnn\n", "a first line that names two columns"),
        ("person,a,a\nAnn,1,2\n", "a first line that names two columns"),
        ("", "a first line that names two columns"),
        ("person,group\nAnn,1\nCy,2\n", "line 3: the folder has no such person"),
        ("person,group\nAnn,1\nAnn,1\n", "line 3: this person appears twice"),
        ("person,group\nAnn\n", "line 2: 1 cells, the header has 2"),
        ("person,group\n", "`group` has no labels"),
    ],
)
def test_a_wrong_file_is_refused_without_a_name_in_the_message(
    labelled, text: str, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        read_attributes(write_labels(labelled, text), labelled)
    assert not {"Ann", "Cy"} & set(str(refused.value).replace("/", " ").split())


def test_a_column_of_as_many_labels_as_people_is_no_grouping(tmp_path) -> None:
    labelled = open_folder(tmp_path, *(f"{number}/a.jpg" for number in range(41)))
    rows = "".join(f"{number},label {number}\n" for number in range(41))
    with pytest.raises(RequestError, match="41 different labels: gather them"):
        read_attributes(write_labels(labelled, f"person,name\n{rows}"), labelled)
