"""`sosie index advise` measures kinds of index and takes limits seriously."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

FEW = ("index", "advise", "--n", "10000", "--seed", "5")


def test_the_exact_kind_is_advised_and_no_deployment_is_needed(
    sosie: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = sosie(*FEW, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    answer = outcome.json
    assert answer["pick"] == "exact8"
    assert answer["references"] == 10_000
    assert answer["threshold"] == pytest.approx(0.57, abs=0.01)
    kinds = {one["name"]: one for one in answer["figures"]}
    assert set(kinds) == {"exact8", "exact8 float16", "flat", "fastscan", "ivf", "hnsw"}
    assert not any(one["projected"] for one in kinds.values())
    assert kinds["exact8"]["missed"] == 0
    assert not os.listdir(tmp_path)


def test_the_table_says_what_is_projected_and_what_is_not_known(sosie: Any) -> None:
    outcome = sosie(
        "index", "advise", "--n", "2000000", "--at", "10000", "--threshold", "0.5",
        "--memory-gib", "1", "--latency-ms", "20000",
    )  # fmt: skip
    assert outcome.code == 0
    rows = [line for line in outcome.out.splitlines() if line.startswith("│")]
    assert all("~" in row for row in rows)
    assert ["none" in row for row in rows] == [True] * 3 + [False] * 3
    assert ["at 10,000" in row for row in rows] == [False] * 3 + [True] * 3
    assert "not known" in outcome.out
    assert "is a guess" in outcome.out
    assert "Limits: 1 GiB, 20000 ms a query." in outcome.out
    assert "Take exact8 float16: " in outcome.out
    assert "exact8: takes 1.22 GiB" in outcome.out


def test_where_nothing_is_within_the_limits_the_answer_is_no(sosie: Any) -> None:
    level = logging.getLogger("indexes.approximate.index").level
    outcome = sosie(*FEW, "--memory-gib", "0.001")
    assert outcome.code == 1
    assert "Take none: no kind is within the limits; exact8: takes 0.00" in outcome.out
    assert "is approximate" not in outcome.err
    assert logging.getLogger("indexes.approximate.index").level == level


@pytest.mark.parametrize(
    "wrong",
    [
        ("--n", "9999"),
        ("--n", "1e6"),
        ("--n", "10000", "--memory-gib", "-1"),
        ("--n", "10000", "--latency-ms", "-1"),
        ("--n", "10000", "--miss-rate", "1.5"),
        ("--n", "10000", "--threshold", "1"),
        ("--n", "10000", "--at", "10"),
        ("--n", "10000", "--seed", "-1"),
        ("--n", "10000", "--memory-gib", "nan"),
        ("--n", "10000", "--latency-ms", "inf"),
        ("--n", "10000", "--threshold", "nan"),
        (),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    wrong: tuple[str, ...], sosie: Any, assert_refused: Any
) -> None:
    assert_refused(sosie("index", "advise", *wrong), "--help`")
