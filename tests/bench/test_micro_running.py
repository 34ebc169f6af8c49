"""Actions that raise: pytest-benchmark leaves them out of its JSON, and a suite must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.micro.micro_runner import count_wrong, time_actions
from engine.errors import RequestError

pytest.importorskip("pytest_benchmark")

CONFTEST = "from bench.micro.conftest import *\n"
ACTIONS = """
from bench.micro.micro_runner import Action, measure

def prepare(answer):
    def act():
        if answer is None:
            raise ValueError("no answer")
        return answer
    return lambda: (act, judge)

def judge(answer):
    if answer == "unjudged":
        raise ValueError("not to be judged")
    return answer == "right"

def list_actions(sizes):
    return [Action(result="One", who=who, prepare=prepare(who)) for who in {who}]

def test_action(benchmark, action, block):
    measure(benchmark, action, block)
"""


def write_actions(folder: Path, who: list[str | None]) -> str:
    (folder / "conftest.py").write_text(CONFTEST, "utf-8")
    path = folder / "test_some.py"
    path.write_text(ACTIONS.replace("{who}", repr(who)), "utf-8")
    return str(path)


@pytest.mark.parametrize("bad", [None, "unjudged"])
def test_an_action_that_raises_is_told_and_not_left_out(tmp_path: Path, bad: str | None) -> None:
    file = write_actions(tmp_path, ["right", bad])
    with pytest.raises(RequestError, match=rf"2 of 4 actions raised, first .*{bad}"):
        time_actions(file, 0.002, blocks=2)


def test_where_every_action_raises_nothing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="pytest ended with 1"):
        time_actions(write_actions(tmp_path, [None]), 0.002, blocks=1)


def test_a_wrong_answer_is_timed_and_counted(tmp_path: Path) -> None:
    timings = time_actions(write_actions(tmp_path, ["right", "wrong"]), 0.002, blocks=2)
    assert [one.who for one in timings] == ["right", "wrong"] * 2
    assert count_wrong(timings) == 2
