import json
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import psutil
import pytest

from bench.core.reports import Figure, Skipped, load_goals
from bench.suites.serve.chaos import Target, _draw_targets
from bench.suites.serve.context import OverloadPlan, require_good
from bench.suites.serve.load_generator import OVERDUE, ROW, Load, Record
from bench.suites.serve.process import read_pss
from bench.suites.serve.service_suite import PARTS, find_growth
from bench.suites.serve.throughput import OverloadRun, run_overload
from engine.errors import RequestError
from serving.cluster.processes import kill_hard, list_family

NAN = float("nan")


def make_record(
    statuses: list[int], latency_ms: list[float], *, gap_s: float = 0.1, retry_s: float = NAN
) -> Record:
    """A record of requests that were due every `gap_s`."""
    due_s = np.arange(len(statuses)) * gap_s
    rows = [
        (due, due, due + taken / 1e3, status, retry_s if status == 429 else NAN, 0, serial)
        for serial, (due, status, taken) in enumerate(zip(due_s, statuses, latency_ms, strict=True))
    ]
    return Record(np.array(rows, ROW).view(np.recarray), (), len(rows) * gap_s)


def make_overload(storm: Record, after: Record | None = None) -> OverloadRun:
    calm = make_record([200] * 100, [10.0] * 100)
    return OverloadRun(20.0, 10.0, idle=calm, calm=calm, storm=storm, after=after or calm)


def test_each_part_names_its_figures_and_each_figure_has_a_goal() -> None:
    goals = {goal.name for goal in load_goals() if goal.suite == "serve"}
    assert goals == {name for _, names in PARTS.values() for name in names}


def test_refused_requests_are_neither_accepted_latency_nor_unexpected() -> None:
    storm = make_record([200, 429] * 50, [15.0, 2.0] * 50, retry_s=1)
    figures = make_overload(storm).measure("match")
    assert figures["match_storm_p99_over_calm"] == pytest.approx(1.5)
    assert figures["match_refusal_over_calm"] == pytest.approx(0.2)
    assert figures["match_storm_goodput"] == pytest.approx(0.5)
    assert figures["match_unexpected"] == 0


@pytest.mark.parametrize("status", [500, 503, 0, OVERDUE, 429])
def test_anything_but_an_answer_or_a_polite_refusal_is_unexpected(status: int) -> None:
    """A 429 is polite with Retry-After only."""
    storm = make_record([200] * 99 + [status], [10.0] * 100)
    assert make_overload(storm).measure("match")["match_unexpected"] == 1
    # In calm no refusal is.
    after = make_record([200] * 99 + [429], [10.0] * 100, retry_s=1)
    fine = make_record([200] * 10, [10.0] * 10)
    assert make_overload(fine, after).measure("match")["match_unexpected"] == 1


def test_recovery_is_the_moment_from_which_on_the_p99_is_back() -> None:
    slow, quick = [80.0] * 40, [10.0] * 110
    after = make_record([200] * 150, slow + quick)
    # The slow ones are due in the first four seconds.
    run = make_overload(after, after)
    assert run.find_recovery_s() == pytest.approx(4.0, abs=0.5)
    share = run.measure("match")["match_recovery_over_storm"]
    assert share == pytest.approx(run.find_recovery_s() / 15)


class Answering:
    """A generator beside a service that answers `capacity` a second in time, and all above late."""

    def __init__(self, capacity: float) -> None:
        self.capacity, self.serials = capacity, list[range]()

    def run(self, load: Load) -> Record:
        count = len(load.schedule())
        self.serials.append(range(load.serial, load.serial + count))
        late_ms = 10.0 if load.rate <= self.capacity else 900.0
        return make_record([200] * count, [late_ms] * count, gap_s=1 / load.rate)


def test_the_capacity_is_what_may_arrive_and_no_serial_number_is_sent_twice() -> None:
    service = Answering(130.0)
    load = Load(host="", port=0, requests=(), connections=4)
    run = run_overload(service, load, 200.0, OverloadPlan())
    assert 130 - 200 / 30 < run.capacity <= 130
    assert len(run.calm) == pytest.approx(0.7 * run.capacity * 20, abs=2)
    assert all(one.stop <= two.start for one, two in pairwise(service.serials))


def delay(record: Record, late_s: list[float]) -> Record:
    """The same requests, each sent so late."""
    rows = record.rows.copy()
    rows.sent_s += np.array(late_s)
    return replace(record, rows=rows)


def test_a_storm_that_was_not_sent_proves_nothing_but_its_faults() -> None:
    # Due every 0.1 s: the last six of a hundred are not sent before the ten seconds are over.
    fine = make_record([200] * 99 + [500], [10.0] * 100)
    late = make_overload(delay(fine, [0.0] * 94 + [0.7] * 6)).measure("match")
    skipped = {name: value.reason for name, value in late.items() if isinstance(value, Skipped)}
    ratios = ("storm_p99_over_calm", "refusal_over_calm", "recovery_over_storm", "storm_goodput")
    assert set(skipped) == {f"match_{name}" for name in ratios}
    assert all("94%" in reason for reason in skipped.values())
    assert late["match_unexpected"] == 1
    in_time = make_overload(delay(fine, [0.0] * 96 + [0.7] * 4)).measure("match")
    assert not any(isinstance(value, Skipped) for value in in_time.values())


def test_a_load_that_was_refused_or_answered_wrongly_is_no_figure() -> None:
    require_good(make_record([200] * 199 + [429], [10.0] * 200, retry_s=1))
    for statuses, retry_s in (([200] * 97 + [429] * 3, 1), ([200] * 199 + [429], NAN), ([], NAN)):
        with pytest.raises(RequestError, match="did not answer well"):
            require_good(make_record(statuses, [10.0] * len(statuses), retry_s=retry_s))


def test_flat_memory_has_no_growth_and_a_leak_has() -> None:
    moments = np.arange(0, 600, 5.0)
    noise = np.random.default_rng(0).normal(0, 2, len(moments))
    warming = np.where(moments < 50, moments, 50.0)
    flat = 1000 + warming + noise
    assert abs(find_growth(moments, flat)) < 0.005
    assert find_growth(moments, flat + moments / 10) == pytest.approx(0.051, abs=0.005)


def test_every_kind_of_target_dies_and_every_other_node_with_its_supervisor() -> None:
    drawn = _draw_targets(np.random.default_rng(1), 50)
    assert len(drawn) == 50
    assert set(drawn) == set(Target)
    nodes = [target for target in drawn if target in (Target.NODE, Target.EVERYTHING)]
    assert all(one is not two for one, two in pairwise(nodes))


def test_memory_and_death_of_a_family_of_processes() -> None:
    child = "import subprocess,sys; subprocess.run([sys.executable, '-c', 'input()'])"
    parent = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE)
    try:
        family: list[psutil.Process] = []
        while len(family) < 2:
            family = list_family(parent.pid)
        assert sum(read_pss(one.pid) for one in family) > read_pss(parent.pid) > 1 << 20
        kill_hard(family)
        parent.wait(120)
        assert psutil.wait_procs(family, 10)[1] == []
        kill_hard(family)
        assert not any(read_pss(one.pid) for one in family)
    finally:
        parent.kill()
        parent.stdin.close()
        parent.wait()


def tell(overload_run: OverloadRun) -> dict[str, Figure]:
    """JSON has neither NaN nor infinity."""
    figures = overload_run.list_figures()
    json.dumps([asdict(one) for one in figures], allow_nan=False)
    return {one.name: one for one in figures}


def test_a_p99_that_never_came_back_and_a_storm_without_refusals_are_skipped_by_name() -> None:
    calm, slow = make_record([200] * 100, [10.0] * 100), make_record([200] * 150, [80.0] * 150)
    figures = tell(make_overload(calm, slow))
    back = figures["afterwards: p99 is back after"]
    assert (back.value, back.skipped) == (None, "never within 15 s")
    refused = figures["3 times the load: refused, p99"]
    assert (refused.value, refused.skipped) == (None, "none was refused")
    assert figures["3 times the load: refused (429)"].value == 0


def test_a_storm_that_refuses_everybody_has_no_latency_of_the_accepted() -> None:
    figures = tell(make_overload(make_record([429] * 100, [2.0] * 100, retry_s=1)))
    assert figures["3 times the load: accepted, p99"].skipped == "none was accepted"
    assert figures["3 times the load: refused, p99"].value is not None
