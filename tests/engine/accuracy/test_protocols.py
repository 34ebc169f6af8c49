"""Evaluation by a protocol: only what it names is compared, and what is sent back has failed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.accuracy.bootstrap import draw_people
from engine.accuracy.dataset import (
    QUALITIES,
    Embeddings,
    LabelledFolder,
    Labels,
    has_sides,
    read_pairs,
)
from engine.accuracy.evaluation_report import write_protocol, write_protocol_folder
from engine.accuracy.protocols import (
    attempt_all,
    attempt_pairs,
    compare_labels,
    evaluate_protocol,
    find_thresholds,
    measure_rates,
)
from engine.errors import RequestError
from engine.faces.extractor import Extractor

THRESHOLD = 0.5


def embed(
    people: list[int], sides: list[str], vectors: np.ndarray, unfit: tuple[int, ...] = ()
) -> Embeddings:
    root = Path("/faces")
    paths = tuple(
        root / f"{p}" / side / f"{i}.jpg"
        for i, (p, side) in enumerate(zip(people, sides, strict=True))
    )
    names = tuple(map(str, range(max(people) + 1)))
    folder = LabelledFolder(root, names, paths, np.array(people))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    reasons = tuple(("POSE",) if i in unfit else () for i in range(len(people)))
    qualities = np.zeros((len(people), len(QUALITIES)), np.float32)
    return Embeddings(folder, vectors, np.empty(0, np.int64), reasons, qualities)


@pytest.fixture(scope="module")
def drawn() -> Embeddings:
    """Forty people, each with two live photographs and a portrait; the first has eight live ones,
    and one live photograph of every tenth person is sent back."""
    rng = np.random.default_rng(5)
    counts = [8, *([2] * 39)]
    people = [p for p, count in enumerate(counts) for _ in range(count + 1)]
    sides = [side for count in counts for side in (*["live"] * count, "portrait")]
    vectors = rng.standard_normal((40, 12))[people] + 0.6 * rng.standard_normal((len(people), 12))
    unfit = tuple(people.index(p) for p in range(5, 40, 10))
    return embed(people, sides, vectors, unfit)


def test_live_photographs_meet_portraits_alone_and_two_people_weigh_one(drawn: Embeddings) -> None:
    attempts = attempt_all(drawn)
    people, paths = drawn.folder.people, drawn.folder.paths
    assert len(attempts.scores) == (8 + 39 * 2) * 40
    assert {paths[i].parent.name for i in attempts.left} == {"live"}
    assert {paths[i].parent.name for i in attempts.right} == {"portrait"}
    found = measure_rates(attempts, THRESHOLD, draw_people(people, 40))
    fails, passes = [[] for _ in range(40)], {}
    for i, j, score in zip(attempts.left, attempts.right, attempts.scores, strict=True):
        assert score == pytest.approx(float(drawn.vectors[i] @ drawn.vectors[j]), abs=1e-6)
        is_passed = score >= THRESHOLD and not drawn.reasons[i]
        if people[i] == people[j]:
            fails[people[i]].append(not is_passed)
        else:
            passes.setdefault((people[i], people[j]), []).append(is_passed)
    assert found.generalised_fnmr is not None
    assert found.generalised_fmr is not None
    honest = np.mean([np.mean(own) for own in fails])
    assert found.generalised_fnmr.value == pytest.approx(honest)
    strangers = np.mean([np.mean(own) for own in passes.values()])
    assert found.generalised_fmr.value == pytest.approx(strangers)
    for one in (found.fnmr, found.fmr, found.generalised_fnmr, found.generalised_fmr):
        assert one is not None
        assert one.low <= one.value <= one.high
    assert found.fnmr is not None
    assert found.fnmr.value < found.generalised_fnmr.value, "who is sent back has failed too"


def test_a_threshold_keeps_the_rate_among_the_protocols_own_strangers(drawn: Embeddings) -> None:
    attempts = attempt_all(drawn)
    weights = draw_people(drawn.folder.people, 40)
    threshold = find_thresholds(attempts)["1e-2"]
    assert threshold is not None
    found = measure_rates(attempts, threshold, weights).fmr
    assert found is not None
    assert 0.008 < found.value <= 0.01
    assert find_thresholds(attempts)["1e-5"] is None


def test_a_group_has_the_attempts_of_its_labelled_photographs(drawn: Embeddings) -> None:
    people = drawn.folder.people
    labels = Labels("site", ("few", "most"), (people >= 3).astype(np.int64))
    few, most = compare_labels(attempt_all(drawn), labels, THRESHOLD, draw_people(people, 40))
    assert (few.people, few.mated, few.generalised_fnmr) == (3, 12, None)
    assert few.refused == "3 people with an honest attempt, 30 are needed"
    assert (most.people, most.mated, most.nonmated) == (37, 74, 74 * 36)
    assert most.generalised_fnmr is not None


def test_of_a_file_the_pairs_alone_are_compared(drawn: Embeddings, tmp_path: Path) -> None:
    folder, people = drawn.folder, drawn.folder.people
    names = [path.relative_to(folder.root).as_posix() for path in folder.paths]
    table = tmp_path / "pairs.csv"
    table.write_text(f"photograph,other\n{names[0]},{names[8]}\n{names[0]},{names[9]}\n")
    pairs = read_pairs(table, folder)
    assert pairs.tolist() == [[0, 8], [0, 9]]
    found = measure_rates(attempt_pairs(drawn, pairs), -1, draw_people(people, 40))
    assert found.generalised_fnmr is not None
    assert found.generalised_fmr is not None
    assert (found.generalised_fnmr.value, found.generalised_fmr.value) == (0, 1)
    for text, message in (
        ("photograph,another\na,b\n", "needs the columns `photograph` and `other`"),
        (f"photograph,other\n{names[0]},nobody.jpg\n", "line 2: give two different photographs"),
        (f"photograph,other\n{names[0]},{names[0]}\n", "line 2: give two different photographs"),
        ("photograph,other\n", "has no pairs"),
    ):
        table.write_text(text)
        with pytest.raises(RequestError, match=message):
            read_pairs(table, folder)


def test_a_folder_of_live_photographs_and_portraits_is_evaluated(
    faces: Path, extractor: Extractor, tmp_path: Path
) -> None:
    root = tmp_path / "faces"
    for person in sorted(faces.iterdir()):
        for number, path in enumerate(sorted(person.iterdir())):
            side = root / person.name / ("portrait" if number == 0 else "live")
            side.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, side)
    assert has_sides(root)
    assert not has_sides(faces)
    (root / "Person_0" / "live" / "Person_0_0002.png").write_bytes(b"")
    measured = evaluate_protocol(root, extractor, verify=(0.418, "`verify`"))
    assert (measured.protocol, measured.people, measured.photographs) == ("live_portrait", 6, 24)
    assert (measured.mated, measured.nonmated) == (18, 18 * 5)
    assert measured.sent_back["live"].events >= 1
    general = measured.rates.generalised_fnmr
    assert general is not None
    assert general.value >= 1 / 18
    page = write_protocol(measured.to_dict())
    assert "The threshold is 0.4180: `verify`." in page
    assert "Person_" not in page
    write_protocol_folder(measured, tmp_path / "report")
    assert (tmp_path / "report" / "report.md").read_text() == page
    shutil.copy(root / "Person_1" / "live" / "Person_1_0002.png", root / "Person_1")
    with pytest.raises(RequestError, match="sort all of them the same way"):
        evaluate_protocol(root, extractor)
