import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bench.core.reports import TARGETS

TINY = ("--quick", "--n", "300", "--decisions", "64")


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder on a disk: in memory, as /tmp may be, no rate of durable decisions is measured."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def promise(tmp_path, monkeypatch) -> Callable[[str, str], None]:
    """`promise(figure, goal)`: the project's targets with another goal, for any machine."""

    def change(wanted: str, goal: str) -> None:
        parts = TARGETS.read_text(encoding="utf-8").split("[[figure]]")
        for place, part in enumerate(parts):
            if f'name = "{wanted}"' in part:
                lines = [f"goal = {goal}" if x.startswith("goal") else x for x in part.split("\n")]
                parts[place] = "\n".join(x for x in lines if not x.startswith("kernel"))
        path = tmp_path / "targets.toml"
        path.write_text("[[figure]]".join(parts), encoding="utf-8")
        monkeypatch.setattr("bench.core.reports.TARGETS", path)

    return change


def test_a_missed_goal_ends_with_1_and_the_document_says_what_was_measured(
    disk, run_here, promise
) -> None:
    # It promises fewer wrong decisions than none.
    promise("wrong_decisions", "-1")
    status, out, err = run_here("registrar", *TINY, "--folder", str(disk), "--json")
    assert "sosie:" not in err
    assert status == 1
    document = json.loads(out)
    checks = {check["name"]: check for check in document["checks"]}
    missed = {"name": "wrong_decisions", "value": 0, "goal": -1, "holds": False}
    assert checks["wrong_decisions"] == missed
    assert "default sizes" in checks["decisions_per_second"]["skipped"]
    assert document["suite"] == "registrar"
    assert document["machine_info"]["packages"]["numpy"]
    for entry in document["benchmarks"]:
        setup = entry["extra_info"]["setup"]
        assert setup["references"] == 300
        assert setup["seed"] == 0
        assert setup["threads"] >= 1
    assert all(entry["extra_info"]["skipped"] for entry in document["skipped"])


def test_goals_that_hold_end_with_0_and_are_ticked(disk, run_here) -> None:
    status, out, err = run_here("registrar", *TINY, "--folder", str(disk))
    assert status == 0, out + err
    assert out.count("✓") == 2
    assert "✗" not in out
    assert "times as good" in out
    assert "references: 300" in out


def test_skipped_figures_are_shown_with_the_reason(faces, run_here) -> None:
    status, out, err = run_here("accuracy", "--quick", "--faces", str(faces))
    assert status == 0, out + err
    assert "skipped" in out
    assert "non-mated pairs are too few for this rate" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("nosuchsuite",),
        ("registrar", "--n", "many"),
        ("registrar", "--n", "0"),
        ("registrar", "--folder", "/no/such/folder"),
        ("registrar", "--n", "5"),
        ("accuracy", "--faces", "/no/such/folder"),
        ("shards", "--only", "nothing"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(arguments: tuple[str, ...], run_here) -> None:
    status, out, err = run_here(*arguments, "--quick")
    assert status == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    _, told, _ = run_here(*arguments, "--quick", "--json")
    assert json.loads(told)["error"]["code"]


def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(
    run_here, monkeypatch
) -> None:
    monkeypatch.setattr("bench.__main__.NEEDED", ("scipy", "no_such_package"))
    status, out, err = run_here("docs", "--check")
    assert (status, out) == (2, "")
    advice = "run pip install -e '.[bench]' in Sosie's folder"
    assert err == f"sosie: benchmarks need no_such_package: {advice}\n"
