"""`evaluate` with the real extractor, on free faces and on a part of LFW."""

import json
import shutil

import pytest

from engine.accuracy.evaluate import evaluate


def test_variants_of_one_photograph_are_told_from_other_people(faces_folder, extractor) -> None:
    progress: list[tuple[int, int]] = []
    found = evaluate(faces_folder, extractor, lambda done, total: progress.append((done, total)))
    assert (found.people, found.photographs) == (6, 24)
    assert (found.mated_pairs, found.nonmated_pairs) == (6 * 6, 15 * 16)
    assert found.points[0].fmr == 0.1
    assert found.points[0].fnmr == 0
    assert found.points[0].fnmr_high == 3 / 6
    assert found.fta == 0
    assert found.model_digest == extractor.model_digest
    assert progress[-1] == (24, 24)


def test_a_folder_too_small_for_any_rate_still_has_its_counts(faces_folder, extractor) -> None:
    for number in range(2, 6):
        shutil.rmtree(faces_folder / f"Person_{number}")
    found = evaluate(faces_folder, extractor)
    assert (found.mated_pairs, found.nonmated_pairs) == (12, 16)
    assert found.points == ()
    assert found.to_dict()["lowest_fmr"] is None


def test_photographs_that_give_no_face_are_counted_and_not_named(faces_folder, extractor) -> None:
    one, other, plain = (faces_folder / f"Person_{k}" / f"Person_{k}_0001.png" for k in range(3))
    one.write_bytes(b"")
    other.write_bytes(other.read_bytes()[:500])
    shutil.copy(faces_folder / "Person_3" / "Person_3_0001.png", plain)
    found = evaluate(faces_folder, extractor)
    assert found.fta == 2 / 24
    assert sum(found.embeddings.failures.values()) == 2
    assert set(found.embeddings.failures) == {"IMAGE.DAMAGED"}
    assert found.acquisition.failed.low < found.fta < found.acquisition.failed.high
    assert "Person" not in json.dumps(found.to_dict())
    assert found.to_dict(with_failed=True)["failed_photographs"] == [
        "Person_0/Person_0_0001.png",
        "Person_1/Person_1_0001.png",
    ]


@pytest.mark.lfw
def test_a_part_of_lfw_reaches_what_the_whole_does(lfw, extractor, tmp_path) -> None:
    """The first 64 people with 3 to 8 photographs, some 250 of them."""
    chosen = [p for p in sorted((lfw / "images").iterdir()) if 3 <= len(list(p.iterdir())) <= 8]
    for person in chosen[:64]:
        (tmp_path / person.name).symlink_to(person)
    found = evaluate(tmp_path, extractor)
    assert found.fta == 0
    at_1e_3 = found.point_at(1e-3)
    assert at_1e_3.fnmr <= 0.02
    assert at_1e_3.threshold == pytest.approx(0.29, abs=0.03)
