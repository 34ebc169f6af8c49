"""Tables of reports: units, and what a ratio is to."""

from bench.core.machine import look
from bench.core.render import name_base, tabulate_promises
from bench.core.reports import Check, Figure, Report, Result


def test_a_column_of_ratios_names_its_base_wherever_that_stands() -> None:
    ours, other = Figure("ours", "ms", 1.0, ratio=3.0), Figure("theirs", "ms", 3.0, ratio=1.0)
    assert name_base(Result("A", {}, (ours, other))) == "times as good as theirs"
    assert name_base(Result("A", {}, (ours,))) == "times as good as a row of another table"


def test_a_promise_that_never_came_is_said_to_be_missed() -> None:
    check = Check("match_recovery_over_storm", None, 1.0, False)
    table = tabulate_promises({"serve": Report(look(), (), (check,), "serve")})
    assert "| never | ≤ 1 | **✗** |" in table
