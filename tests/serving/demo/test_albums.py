from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import RequestError
from serving.demo.albums import MOST_PHOTOGRAPHS, open_folder, open_wheel


def test_the_wheel_brings_every_face_once(wheel: Any) -> None:
    labels = [picture.label for album in wheel.albums for picture in album.pictures]
    assert len(labels) == len(set(labels)) == 101
    assert [len(album.pictures) for album in wheel.albums[:4]] == [4, 2, 1, 1]


def test_without_scikit_image_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(RequestError, match=r"sosie\[demo\]"):
        open_wheel()


def test_people_with_most_photographs_come_first_and_no_more_than_four_are_read(
    make_folder: Callable[..., Path],
) -> None:
    four = "face 0, face 90, face 36, face 73"
    folder = make_folder(
        {"ann": "face 1", "bob": four, "cat": f"{four}, face 2", "d.png": "face 3"}
    )
    albums = open_folder(folder).albums
    assert [(album.label, len(album.pictures)) for album in albums] == [
        ("bob", 4),
        ("cat", 4),
        ("ann_0001", 1),
        ("d", 1),
    ]


def test_of_a_large_folder_no_more_than_a_hundred_photographs_are_read(tmp_path: Path) -> None:
    for number in range(MOST_PHOTOGRAPHS + 5):
        (tmp_path / f"{number}.png").write_bytes(b"any")
    albums = open_folder(tmp_path).albums
    assert sum(len(album.pictures) for album in albums) == MOST_PHOTOGRAPHS


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no photograph in"):
        open_folder(tmp_path)
    with pytest.raises(RequestError, match="is not a folder"):
        open_folder(tmp_path / "missing")
