from __future__ import annotations

from engine.imports.tally import Tally


def test_counts_add_up() -> None:
    one = Tally(rows=2, failed=1, failures={"A": 1})
    other = Tally(rows=3, lines=1, failures={"A": 1, "B": 2}, warnings={"C": 1})
    both = one.plus(other)
    assert (both.rows, both.failed, both.lines) == (5, 1, 1)
    assert (both.failures, both.warnings) == ({"A": 2, "B": 2}, {"C": 1})
    assert Tally.from_dict(both.to_dict()) == both
