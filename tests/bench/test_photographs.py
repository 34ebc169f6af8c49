import bench.datasets
from bench.datasets import open_pairs
from engine.faces.extractor import Extraction, open_extractor


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
