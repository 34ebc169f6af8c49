from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.checks import Skipped
from bench.contenders import Contender, Unavailable
from bench.pairs import SOSIE, Interpreters, PairSizes, compare_pairs
from bench.photographs import PhotographPairs
from engine.errors import RequestError
from engine.faces.extractor import open_extractor
from engine.models.session import available_providers

HERE = Path(sys.executable)
CPU = {"provider": "cpu", "precision": "float32", "threads": 2}


def test_a_worker_gives_the_scores_that_this_process_would(
    photographs: PhotographPairs, cache: Path
) -> None:
    with open_extractor(cache) as extractor:
        found = extractor.extract([path.read_bytes() for path in photographs.photographs])
    vectors = [one.vector for one in found]
    expected = [float(a @ b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    with Contender(HERE, "sosie", photographs, cache=str(cache), **CPU) as contender:
        assert contender.runtime.startswith("onnxruntime ")
        together = contender.match(3)
        singly = contender.match(2, singly=True)
    assert together.scores == pytest.approx(expected, abs=1e-5)
    assert singly.scores == pytest.approx(expected[:2], abs=1e-5)
    assert together.seconds > 0
    assert set(together.stages) == {
        "decode_ms",
        "detect_ms",
        "align_ms",
        "quality_ms",
        "embed_ms",
    }


@pytest.mark.skipif(find_spec("deepface") is not None, reason="deepface is installed here")
def test_a_contender_whose_package_is_missing_says_so(photographs: PhotographPairs) -> None:
    with pytest.raises(Unavailable, match="No module named 'deepface'"):
        Contender(HERE, "deepface", photographs, home="/nowhere")


def test_a_contender_that_fails_on_a_photograph_says_on_what(
    photographs: PhotographPairs, cache: Path
) -> None:
    missing = (Path("/no/such/photograph"),) * 2
    broken = PhotographPairs((photographs.pairs[0], missing), "one of them is missing")
    with Contender(HERE, "sosie", broken, cache=str(cache), **CPU) as contender:
        assert len(contender.match(1).scores) == 1
        with pytest.raises(Unavailable, match="FileNotFoundError"):
            contender.match(2)


def test_a_worker_that_dies_is_unavailable(photographs: PhotographPairs, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 7\n")
    python.chmod(0o755)
    with pytest.raises(Unavailable, match="ended with status 7"):
        Contender(python, "sosie", photographs, cache="", **CPU)


def test_what_is_no_python_is_refused(photographs: PhotographPairs, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not start as a Python"):
        Contender(tmp_path / "none", "sosie", photographs)


def test_who_cannot_run_is_skipped_with_the_reason_and_the_others_are_measured(
    photographs: PhotographPairs, cache: Path, tmp_path: Path
) -> None:
    # This interpreter's own path under another name: it has neither of the two peers.
    sizes = PairSizes(pairs=3, peer_pairs=1, single_pairs=1, rounds=1, threads=2)
    interpreters = Interpreters(deepface=HERE)
    results, measured = compare_pairs(photographs, sizes, interpreters, cache)
    rates = {figure.name: figure for figure in results[0].figures}
    assert rates[SOSIE].value > 0
    assert rates[SOSIE].ratio == 1
    assert measured["pairs_per_second"] == rates[SOSIE].value
    if find_spec("deepface") is None:
        assert "No module named 'deepface'" in rates["deepface"].skipped
        assert measured["deepface_speedup"] == Skipped(rates["deepface"].skipped)
    if find_spec("face_recognition") is None:
        assert "--face-recognition-python" in rates["face_recognition"].skipped
    if "openvino" not in available_providers():
        assert isinstance(measured["openvino_speedup"], Skipped)
    assert results[0].setup["pairs"] == 3
