"""Files of attributes and dates: read, or refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.accuracy.dataset import LabelledFolder, read_attributes, read_dates
from engine.errors import RequestError


@pytest.fixture
def folder(tmp_path: Path) -> LabelledFolder:
    for name in ("Ann/a.jpg", "Ann/b.jpg", "Bob/a.jpg", "Bob/b.jpg"):
        path = tmp_path / "people" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return LabelledFolder.open(tmp_path / "people")


def write(folder: LabelledFolder, text: str) -> Path:
    path = folder.root.parent / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_of_photographs_stand_at_their_places(folder: LabelledFolder) -> None:
    text = "\ufeffphotograph,camera,captured_at\nBob/a.jpg, red ,2003\nAnn/b.jpg,,2001-05-09\n"
    found = read_attributes(write(folder, text), folder)
    (camera,) = found.columns
    assert (camera.column, camera.names) == ("camera", ("red",))
    assert camera.codes.tolist() == [-1, -1, 0, -1]
    assert found.captured_at is not None
    assert np.isnat(found.captured_at).tolist() == [True, False, False, True]
    assert str(found.captured_at[1]) == "2001-05-09"


def test_labels_of_people_are_those_of_all_their_photographs(folder: LabelledFolder) -> None:
    found = read_attributes(write(folder, "person,skin\nBob,dark\nAnn,light\n"), folder)
    assert found.columns[0].codes.tolist() == [1, 1, 0, 0]
    assert found.captured_at is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,group\nAnn,1\n", "needs a column `photograph`"),
        ("person\nAnn\n", "a first line that names two columns"),
        ("person,a,a\nAnn,1,2\n", "a first line that names two columns"),
        ("", "a first line that names two columns"),
        ("person,group\nAnn,1\nCy,2\n", "line 3: the folder has no such person"),
        ("person,group\nAnn,1\nAnn,1\n", "line 3: this person stands there twice"),
        ("person,group\nAnn\n", "line 2: 1 cells, the header has 2"),
        ("person,captured_at\nAnn,2001\n", "is of a photograph"),
        ("photograph,captured_at\nAnn/a.jpg,soon\n", "line 2: `captured_at` holds what is no date"),
        ("photograph,captured_at\nAnn/a.jpg,\nAnn/b.jpg,2001-13\n", "line 3: `captured_at` holds"),
        ("person,group\n", "`group` labels nothing"),
    ],
)
def test_a_wrong_file_is_refused_without_a_name_in_the_message(
    folder: LabelledFolder, text: str, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        read_attributes(write(folder, text), folder)
    assert not {"Ann", "Cy", "soon"} & set(str(refused.value).replace("/", " ").split())


def test_a_column_of_as_many_labels_as_people_is_no_grouping(tmp_path: Path) -> None:
    for number in range(41):
        (tmp_path / "people" / f"{number}").mkdir(parents=True)
        (tmp_path / "people" / f"{number}" / "a.jpg").touch()
    folder = LabelledFolder.open(tmp_path / "people")
    rows = "".join(f"{number},label {number}\n" for number in range(41))
    with pytest.raises(RequestError, match="41 different labels: gather them"):
        read_attributes(write(folder, f"person,name\n{rows}"), folder)


def test_dates_must_be_there_where_they_are_asked_for(folder: LabelledFolder) -> None:
    with pytest.raises(RequestError, match="needs the columns `photograph` and `captured_at`"):
        read_dates(write(folder, "photograph,camera\nAnn/a.jpg,red\n"), folder)
    with pytest.raises(RequestError, match=r"none\.csv can't be read: No such file"):
        read_dates(folder.root.parent / "none.csv", folder)
