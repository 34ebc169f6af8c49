"""The layout as a newcomer meets it: few modules, no import circle, one subject to a name."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("indexes", "engine", "serving", "bench", "loadtest")
# 380 when the layout was made, and subjects that came since.
MOST_MODULES = 444
MOST_LINES = 800
# One subject in several layers: the thing itself, its route, its wire types, its command, its
# benchmark.
SHARED_NAMES = {
    *(
        "__main__",
        "accuracy",
        "audit",
        "backups",
        "cases",
        "cli",
        "deployment",
        "enrollments",
        "embedding",
        "errors",
        "events",
    ),
    *("gallery", "imports", "join", "kernels", "lines", "matching", "models", "people", "plan"),
    *("campaigns", "line_life", "sim_swaps"),
    *("outlets", "registrar", "retention", "rotation", "shards", "sweeps", "webhooks"),
}


@pytest.fixture(scope="module")
def modules() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", *(f"{package}/*.py" for package in PACKAGES), "serving/*.js"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [ROOT / name for name in listed if not name.endswith("__init__.py")]


def test_there_are_few_enough_modules_to_find_ones_way(modules: list[Path]) -> None:
    assert 100 < len(modules) <= MOST_MODULES


def test_no_module_holds_more_than_one_can_read(modules: list[Path]) -> None:
    long = [path for path in modules if len(path.read_text("utf-8").splitlines()) > MOST_LINES]
    assert long == []


def test_two_modules_of_one_name_have_one_subject(modules: list[Path]) -> None:
    places = defaultdict(list)
    for path in modules:
        if path.suffix == ".py" and not re.match(r"\d{4}_", path.stem):
            places[path.stem].append(path)
    twice = {name for name, found in places.items() if len(found) > 1}
    # An exception that nothing needs any more goes, too.
    assert twice == SHARED_NAMES


def test_no_import_goes_in_a_circle() -> None:
    graph = grimp.build_graph(*PACKAGES)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()
