"""Tables of reports: units, and what a ratio is to."""

from bench.core.machine import look
from bench.core.render import tabulate_promises
from bench.core.reports import Check, Report


def test_a_promise_that_never_came_is_said_to_be_missed() -> None:
    check = Check("match_recovery_over_storm", None, 1.0, False)
    table = tabulate_promises({"serve": Report(look(), (), (check,), "serve")})
    assert "| never | ≤ 1 | **✗** |" in table
