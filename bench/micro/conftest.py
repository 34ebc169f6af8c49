"""Sizes of the micro-benchmarks, and their order: block after block, all of them in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import pytest

from bench.micro.micro_runner import PLANNED, Sizes

_OPTIONS: dict[str, tuple[Any, str]] = {
    "rows": (262_144, "Rows of the largest scan; searches have a quarter of it."),
    "queries": (256, "Queries of a batch."),
    "dim": (128, "Dimensions, a multiple of 64."),
    "blocks": (3, "Times that everything is measured, one after the other."),
    "seed": (0, "Of the data."),
}

_NAMES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sosie", "sizes of Sosie's micro-benchmarks")
    for name, (default, text) in _OPTIONS.items():
        group.addoption(f"--{name}", type=type(default), default=default, help=text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # With the default where pytest was started in a folder above, and has not read the options.
    given = {name: metafunc.config.getoption(name, one) for name, (one, _) in _OPTIONS.items()}
    blocks = given.pop("blocks")
    actions = metafunc.module.list_actions(Sizes(**given))
    metafunc.parametrize("action", actions, ids=str)
    metafunc.parametrize("block", range(blocks))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Everything once, then everything again: what a block has in common is its time."""
    items.sort(key=lambda item: item.callspec.params["block"])  # type: ignore[attr-defined]
    config.stash[_NAMES] = [item.nodeid for item in items]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Adds what was to be timed: pytest-benchmark leaves out whatever raised."""
    output_json[PLANNED] = config.stash[_NAMES]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """An action is compared with what one core can do."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)
