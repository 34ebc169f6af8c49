from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.imports.faults import Code
from engine.imports.photographs import PhotographFolder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a.jpg").write_bytes(b"inside")
    (tmp_path / "outside.jpg").write_bytes(b"outside")
    (tmp_path / "images-too").mkdir()
    (tmp_path / "images-too" / "a.jpg").write_bytes(b"beside")
    return folder


@pytest.mark.parametrize("text", ["below/a.jpg", "./below/../below/a.jpg", "below//a.jpg"])
def test_a_file_below_the_folder_is_read(text: str, root: Path) -> None:
    assert PhotographFolder(root).read(text) == b"inside"
    assert PhotographFolder(root).read(str(root / "below" / "a.jpg")) == b"inside"


@pytest.mark.parametrize(
    "text", ["../outside.jpg", "below/../../outside.jpg", "../images-too/a.jpg"]
)
def test_a_path_that_leads_out_is_refused_unless_allowed(text: str, root: Path) -> None:
    assert PhotographFolder(root).read(text) is Code.PATH_OUTSIDE
    assert PhotographFolder(root).read(str(root / text)) is Code.PATH_OUTSIDE
    assert isinstance(PhotographFolder(root, may_leave=True).read(text), bytes)


def test_a_link_that_leads_out_is_refused_unless_allowed(root: Path) -> None:
    (root / "file.jpg").symlink_to(root.parent / "outside.jpg")
    (root / "folder").symlink_to(root.parent)
    for text in ("file.jpg", "folder/outside.jpg"):
        assert PhotographFolder(root).read(text) is Code.PATH_OUTSIDE
        assert PhotographFolder(root, may_leave=True).read(text) == b"outside"


def test_a_link_within_the_folder_is_followed(root: Path) -> None:
    (root / "b.jpg").symlink_to("below/a.jpg")
    assert PhotographFolder(root).read("b.jpg") == b"inside"


def test_a_folder_that_is_a_link_itself_is_where_it_leads(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert PhotographFolder(tmp_path / "link").read("below/a.jpg") == b"inside"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("none.jpg", Code.FILE_MISSING),
        ("below/a.jpg/more", Code.FILE_MISSING),
        ("below", Code.FILE_UNREADABLE),
        ("loop", Code.FILE_UNREADABLE),
        ("a\0b", Code.PATH_INVALID),
        ("x" * 5000, Code.PATH_INVALID),
        ("\ud800", Code.PATH_INVALID),
    ],
)
def test_what_is_no_photograph_says_why(text: str, code: Code, root: Path) -> None:
    (root / "loop").symlink_to("loop")
    assert PhotographFolder(root).read(text) is code


def test_a_pipe_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert PhotographFolder(root).read("pipe") is Code.FILE_UNREADABLE


def test_no_more_than_a_photograph_may_have_is_read(root: Path) -> None:
    (root / "large").write_bytes(bytes(100))
    data = PhotographFolder(root, max_size_bytes=10).read("large")
    assert isinstance(data, bytes)
    assert len(data) == 11
