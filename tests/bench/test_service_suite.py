"""The suite against the real service, with tiny sizes."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from bench.core.reports import Report
from bench.suites.serve.context import ServeConfig
from bench.suites.serve.service_suite import run
from engine.errors import RequestError

pytest.importorskip("ray")

RIGHT = {"wrong_searches", "lost_enrollments", "doubled_enrollments", "final_failures"}
"""What small sizes prove too; they prove no speed."""


@pytest.fixture(scope="module")
def document(tmp_path_factory, faces) -> dict[str, Any]:
    """Of two parts of the suite: services of its own, started, loaded, killed."""
    folder = tmp_path_factory.mktemp("serve")
    if "CI" in os.environ:
        # It has twenty minutes for everything; tests/loadtest and tests/serving/cluster load and
        # kill the same service.
        pytest.skip("two minutes and more of the service: run by hand")
    sizes = ("--quick", "--n", "400", "--kills", "2")
    places = ("--folder", str(folder), "--faces", str(faces))
    command = [sys.executable, "-m", "bench", "serve", "--json", "--only", "throughput,kills"]
    done = subprocess.run(
        [*command, *sizes, *places], capture_output=True, text=True, check=False, timeout=840
    )
    document: dict[str, Any] = json.loads(done.stdout)
    assert "error" not in document, document
    assert done.returncode == 0, document["checks"]
    assert not list(folder.iterdir()), "homes are gone afterwards"
    return document


def values(document: dict[str, Any], result: str) -> dict[str, float | None]:
    found = next(one for one in Report.from_dict(document).results if one.name == result)
    return {figure.name: figure.value for figure in found.figures}


@pytest.mark.slow
def test_what_small_sizes_prove_holds_and_all_else_is_skipped(document) -> None:
    checks = {check["name"]: check["holds"] for check in document["checks"]}
    assert {name for name, holds in checks.items() if holds} == RIGHT
    assert {name for name, holds in checks.items() if holds is None} == set(checks) - RIGHT


@pytest.mark.slow
def test_the_service_answers_as_brute_force_does_behind_either_proxy(document) -> None:
    matched = values(document, "Matches, one 1:1 item a request")
    assert matched["as it comes"] > 0
    assert matched["behind Serve's own proxy"] > 0
    enrolled = values(document, "Enrollments with two photographs")
    assert enrolled["over HTTP"] > 0


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_parts_are_killed(document) -> None:
    books = values(document, "Enrollments after all kills")
    assert books["acknowledged"] > 0
    assert len(values(document, "Recovery from SIGKILL")) >= 2


def test_a_missing_folder_is_refused_before_anything_starts(tmp_path, faces) -> None:
    with pytest.raises(RequestError, match="--folder"):
        run(ServeConfig(folder=tmp_path / "none", faces=faces))
