"""The suite `extract` as a whole, as small as it can be."""

import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

import bench.datasets
from bench.core.reports import Skipped, load_goals
from bench.datasets import PhotographPairs, open_pairs
from bench.suites.extract import SOSIE, ExtractConfig, Peer, PeerMissing, compare_pairs, run
from engine.faces.extractor import Extraction, open_extractor


def test_every_goal_is_measured_or_skipped(faces) -> None:
    _, measured = run(ExtractConfig(faces=faces, pairs=1, rounds=1))
    assert set(measured) == {goal.name for goal in load_goals() if goal.suite == "extract"}
    skipped = {name for name, value in measured.items() if isinstance(value, Skipped)}
    assert skipped <= {"deepface_speedup"}


HERE = Path(sys.executable)
CPU = {"threads": 2}


def test_a_worker_gives_the_scores_that_this_process_would(photographs) -> None:
    with open_extractor() as extractor:
        found = extractor.extract([path.read_bytes() for path in photographs.photographs])
    vectors = [one.vector for one in found]
    expected = [float(a @ b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    with closing(Peer(HERE, SOSIE, photographs, **CPU)) as peer:
        assert peer.runtime.startswith("onnxruntime ")
        seconds, together = peer.match(3)
    assert together == pytest.approx(expected, abs=1e-5)
    assert seconds > 0


@pytest.mark.skipif(find_spec("deepface") is not None, reason="deepface is installed here")
def test_a_peer_whose_package_is_missing_says_so(photographs) -> None:
    with pytest.raises(PeerMissing, match="No module named 'deepface'"):
        Peer(HERE, "deepface", photographs, home="/nowhere")


def test_a_peer_that_fails_on_a_photograph_says_on_what(photographs) -> None:
    missing = (Path("/no/such/photograph"),) * 2
    broken = PhotographPairs((photographs.pairs[0], missing), "one of them is missing")
    with closing(Peer(HERE, SOSIE, broken, **CPU)) as peer:
        assert len(peer.match(1)[1]) == 1
        with pytest.raises(PeerMissing, match="FileNotFoundError"):
            peer.match(2)


def test_who_cannot_run_is_skipped_with_the_reason_and_the_others_are_measured(
    photographs, tmp_path
) -> None:
    # This interpreter's own path under another name: it lacks deepface.
    config = ExtractConfig(pairs=3, rounds=1, deepface_python=HERE)
    result, measured = compare_pairs(photographs, config, tmp_path)
    rates = {figure.name: figure for figure in result.figures}
    assert rates[SOSIE].value > 0
    assert rates[SOSIE].ratio == 1
    assert measured["pairs_per_second"] == rates[SOSIE].value
    if find_spec("deepface") is None:
        assert "No module named 'deepface'" in rates["deepface"].skipped
        assert measured["deepface_speedup"] == Skipped(rates["deepface"].skipped)
    assert result.setup["pairs"] == 3


def test_without_lfw_portraits_are_made_and_the_source_says_so(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(bench.datasets, "LFW", tmp_path / "none")
    with open_pairs(None, 4, seed=1) as made, open_extractor() as extractor:
        assert "LFW is not here" in made.source
        assert len(made.pairs) == 4
        files = [path.read_bytes() for path in made.photographs]
        found = extractor.extract(files)
    assert len(set(files)) == 8
    assert all(isinstance(one, Extraction) and one.vector is not None for one in found)
    assert not made.photographs[0].exists(), "the folder is gone afterwards"


def test_a_folder_gives_as_many_pairs_as_asked_for_and_the_same_by_seed(faces) -> None:
    drawn = []
    for seed in (1, 1, 2):
        with open_pairs(faces, 50, seed) as pairs:
            drawn.append(pairs.pairs)
    assert len(drawn[0]) == 50
    assert drawn[0] == drawn[1] != drawn[2]
