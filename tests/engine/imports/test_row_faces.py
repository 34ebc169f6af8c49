import os
import threading
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import ImageError
from engine.faces.extractor import Kinds
from engine.imports.row_faces import FaceLoader, PhotographFolder, RowFaces, group_rows, judge_row
from engine.imports.row_parser import Code, Field, Row, RowFault
from engine.matching.documents import CheckedDocument
from engine.matching.samples import Sample
from schema.reasons import Reason


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a.jpg").write_bytes(b"inside")
    (tmp_path / "outside.jpg").write_bytes(b"outside")
    (tmp_path / "images-too").mkdir()
    (tmp_path / "images-too" / "a.jpg").write_bytes(b"beside")
    return folder


@pytest.mark.parametrize("text", ["below/a.jpg", "./below/../below/a.jpg", "below//a.jpg"])
def test_a_file_below_the_folder_is_read(text: str, root) -> None:
    assert PhotographFolder(root).read(text) == b"inside"
    assert PhotographFolder(root).read(str(root / "below" / "a.jpg")) == b"inside"


@pytest.mark.parametrize(
    "text", ["../outside.jpg", "below/../../outside.jpg", "../images-too/a.jpg"]
)
def test_a_path_that_leads_out_is_refused_unless_allowed(text: str, root) -> None:
    assert PhotographFolder(root).read(text) is Code.PATH_OUTSIDE
    assert PhotographFolder(root).read(str(root / text)) is Code.PATH_OUTSIDE
    assert isinstance(PhotographFolder(root, allows_outside=True).read(text), bytes)


def test_a_link_that_leads_out_is_refused_unless_allowed(root) -> None:
    (root / "file.jpg").symlink_to(root.parent / "outside.jpg")
    (root / "folder").symlink_to(root.parent)
    for text in ("file.jpg", "folder/outside.jpg"):
        assert PhotographFolder(root).read(text) is Code.PATH_OUTSIDE
        assert PhotographFolder(root, allows_outside=True).read(text) == b"outside"


def test_a_link_within_the_folder_is_followed(root) -> None:
    (root / "b.jpg").symlink_to("below/a.jpg")
    assert PhotographFolder(root).read("b.jpg") == b"inside"


def test_a_folder_that_is_a_link_itself_is_where_it_leads(root, tmp_path) -> None:
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
def test_an_unreadable_path_has_its_code(text: str, code: Code, root) -> None:
    (root / "loop").symlink_to("loop")
    assert PhotographFolder(root).read(text) is code


def test_a_pipe_does_not_block(root) -> None:
    os.mkfifo(root / "pipe")
    assert PhotographFolder(root).read("pipe") is Code.FILE_UNREADABLE


def test_no_more_than_a_photograph_may_have_is_read(root) -> None:
    (root / "large").write_bytes(bytes(100))
    data = PhotographFolder(root, max_size_bytes=10).read("large")
    assert isinstance(data, bytes)
    assert len(data) == 11


VERIFY = 0.4
DOCUMENT = CheckedDocument(
    "cn-ric", "1", "name", date(2020, 1, 1), findings=(Reason.DOCUMENT_EXPIRED,)
)


def pair(score: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    one, other = np.eye(2, 8, dtype=np.float32)
    return one, (score * one + np.sqrt(1 - score**2) * other).astype(np.float32)


def judge(live: Any, portrait: Any, *faults: RowFault) -> Any:
    return judge_row(RowFaces(Row(1, faults, "Name", DOCUMENT), live, portrait, 2, {}), VERIFY)


@pytest.mark.parametrize(("score", "passes"), [(0.41, True), (0.39, False), (-0.5, False)])
def test_the_verify_threshold_decides(score: float, passes: bool) -> None:
    judged = judge(*pair(score))
    assert (judged.subscriber is not None) is passes
    assert [fault.code for fault in judged.faults] == ([] if passes else [Reason.FACE_MISMATCH])


def test_a_path_that_leads_out_fails_the_row_whatever_else_it_has() -> None:
    live, _ = pair(0.8)
    assert judge(live, (RowFault(Field.PORTRAIT, Code.PATH_OUTSIDE),)).subscriber is None


def test_a_fault_of_the_row_fails_it_and_its_faces_are_judged_all_the_same() -> None:
    bad = RowFault(Field.MSISDN, Code.NUMBER_INVALID)
    judged = judge(*pair(0.1), bad)
    assert judged.subscriber is None
    assert [fault.code for fault in judged.faults] == [Code.NUMBER_INVALID, Reason.FACE_MISMATCH]
    assert judged.is_expired


def rows_of(base: Any, count: int) -> list[Row]:
    return [
        Row(
            place, (), live=base.photograph(f"p{place}"), portrait=base.photograph(f"p{place}", "2")
        )
        for place in range(count)
    ]


def load_all(importer: Any, base: Any, rows: list[Row], **parts: Any) -> list[Any]:
    folder = PhotographFolder(base.folder)
    with FaceLoader(folder, importer.extract, importer.vault, **parts) as loader:
        return [one for group in loader.stream(group_rows(rows, 3, 100)) for one in group]


def test_every_row_gets_its_own_faces_in_order(importer, base) -> None:
    rows = rows_of(base, 25)
    faces = load_all(importer, base, rows)
    assert [one.row for one in faces] == rows
    for one in faces:
        live, portrait = importer.extract(
            [(base.folder / path).read_bytes() for path in (one.row.live, one.row.portrait)]
        )
        assert np.array_equal(one.live, live.vector)
        assert np.array_equal(one.portrait, portrait.vector)
        assert one.photographs == 2


def test_a_vector_is_normalised_and_rotated(importer, base) -> None:
    given = np.random.default_rng(0).standard_normal(importer.vault.dim).astype(np.float32)
    (one,) = load_all(importer, base, [Row(1, (), vector=given * 7)])
    unit = given / np.linalg.norm(given)
    assert np.allclose(one.live, importer.vault.rotate(unit[None])[0], atol=1e-6)
    assert abs(float(one.live @ unit)) < 0.9, "never in the clear"


@pytest.mark.parametrize("fault", ["short", "nan", "zero", "infinite"])
def test_a_vector_of_another_model_is_refused(fault: str, importer, base) -> None:
    vectors = {
        "short": np.ones(3),
        "nan": np.full(importer.vault.dim, np.nan),
        "zero": np.zeros(importer.vault.dim),
        "infinite": np.full(importer.vault.dim, np.inf),
    }
    row = Row(1, (), vector=vectors[fault].astype(np.float32))
    (one,) = load_all(importer, base, [row])
    assert one.live == (RowFault(Field.TEMPLATE, Code.VECTOR_INVALID),)


def test_a_template_opens_for_its_carrier_alone(importer, base) -> None:
    vector = importer.vault.rotate(np.eye(importer.vault.dim, dtype=np.float32)[:1])[0]

    def open_templates(
        tokens: Sequence[str], carriers: Sequence[str]
    ) -> list[NDArray[np.float32] | None]:
        known = {("token", "red"): vector}
        return [known.get(pair) for pair in zip(tokens, carriers, strict=True)]

    rows = [Row(1, (), template="token", carrier="red"), Row(2, (), template="token")]
    mine, foreign = load_all(importer, base, rows, open_templates=open_templates)
    assert np.array_equal(mine.live, vector)
    assert foreign.live == (RowFault(Field.TEMPLATE, Code.TEMPLATE_INVALID),)
    assert load_all(importer, base, rows)[0].live == foreign.live


def test_files_are_read_while_others_are_extracted(importer, base) -> None:
    """Two groups are extracted and two more are read; no further one is."""
    began, release, waiting = threading.Semaphore(0), threading.Event(), []

    def extract(images: Sequence[bytes], _: Kinds) -> list[Sample | ImageError]:
        began.release()
        assert release.wait(120)
        return importer.extract(images)

    def groups() -> Any:
        for row in rows_of(base, 12):
            waiting.append(row.number)
            yield [row]

    with FaceLoader(PhotographFolder(base.folder), extract, importer.vault) as loader:
        reader = threading.Thread(target=lambda: list(loader.stream(groups())))
        reader.start()
        assert began.acquire(timeout=120)
        assert began.acquire(timeout=120)
        while len(waiting) < 4:
            time.sleep(0.001)
        # Time for one more to be read or extracted; too short, it only hides that.
        time.sleep(0.05)
        assert len(waiting) == 4
        assert not began.acquire(blocking=False)
        release.set()
        reader.join(120)
    assert len(waiting) == 12


def test_an_extractor_that_fails_fails_the_import(importer, base) -> None:
    def extract(images: Sequence[bytes], _: Kinds) -> list[Sample | ImageError]:
        raise MemoryError

    folder = PhotographFolder(base.folder)
    with FaceLoader(folder, extract, importer.vault) as loader, pytest.raises(MemoryError):
        list(loader.stream([rows_of(base, 2)]))


def test_groups_are_bounded_by_photographs_and_by_rows(base) -> None:
    pairs = rows_of(base, 5)
    assert [len(group) for group in group_rows(pairs, 4, 100)] == [2, 2, 1]
    bare = [Row(place, ()) for place in range(5)]
    assert [len(group) for group in group_rows(bare, 4, 3)] == [3, 2]
