"""What Prometheus reads of one process and of a node of several."""

from __future__ import annotations

import subprocess
import threading

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from engine.reasons import Decision, Reason
from engine.sweeps.sweep_model import SweepState
from serving.telemetry.metrics import (
    SERIES_LIMIT,
    GuardedMeter,
    Meter,
    PrometheusMeter,
    SilentMeter,
)
from tests.serving.telemetry.conftest import Node

READ = "print(meter.render()[0].decode())"


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def find(text: str, name: str, **labels: str) -> float | None:
    return read(text).get((name, tuple(sorted(labels.items()))))


def await_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == line


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@pytest.fixture
def meter() -> PrometheusMeter:
    return PrometheusMeter(None, version="1.2.3", model="abc")


def shown(meter: PrometheusMeter) -> str:
    return meter.render()[0].decode()


def test_it_is_a_meter(meter: PrometheusMeter) -> None:
    kept: Meter = meter
    kept.count_refusal("SERVICE.BUSY")
    assert find(shown(meter), "sosie_refusals_total", code="SERVICE.BUSY") == 1
    assert meter.render()[1].startswith("text/plain; version=0.0.4")


def test_a_request_is_counted_and_timed_by_its_route(meter: PrometheusMeter) -> None:
    meter.count_request("/v1/match", "POST", 200, 0.0007)
    meter.count_request("/v1/match", "POST", 429, 0.0001)
    text = shown(meter)
    labels = {"route": "/v1/match", "method": "POST"}
    assert find(text, "sosie_http_requests_total", **labels, status="200") == 1
    assert find(text, "sosie_http_requests_total", **labels, status="429") == 1
    name = "sosie_http_request_duration_seconds"
    assert find(text, f"{name}_count", **labels) == 2
    assert find(text, f"{name}_bucket", **labels, le="0.0003") == 1
    assert find(text, f"{name}_bucket", **labels, le="0.001") == 2


def test_requests_under_way_go_up_and_down(meter: PrometheusMeter) -> None:
    meter.track_request(+1)
    meter.track_request(+1)
    meter.track_request(-1)
    assert find(shown(meter), "sosie_http_requests_in_progress") == 1


def test_decisions_and_reasons_start_at_zero(meter: PrometheusMeter) -> None:
    before = shown(meter)
    assert {find(before, "sosie_decisions_total", decision=d.value) for d in Decision} == {0}
    assert {find(before, "sosie_decision_reasons_total", reason=r.value) for r in Reason} == {0}
    meter.count_decision(Decision.REJECTED, [Reason.NO_FACE, Reason.BLURRED])
    after = shown(meter)
    assert find(after, "sosie_decisions_total", decision="rejected") == 1
    assert find(after, "sosie_decision_reasons_total", reason="BLURRED") == 1


def test_stages_batches_and_queues(meter: PrometheusMeter) -> None:
    meter.observe_stage("judge", 0.02)
    meter.observe_batch("judge", 17)
    meter.set_queue("decisions", 5, 1024)
    meter.set_queue("decisions", 3, 1024)
    text = shown(meter)
    assert find(text, "sosie_stage_seconds_sum", stage="judge") == pytest.approx(0.02)
    assert find(text, "sosie_batch_size_bucket", stage="judge", le="16.0") == 0
    assert find(text, "sosie_batch_size_bucket", stage="judge", le="32.0") == 1
    assert find(text, "sosie_queue_depth", queue="decisions") == 3
    assert find(text, "sosie_queue_capacity", queue="decisions") == 1024


def test_one_phase_holds_at_a_time(meter: PrometheusMeter) -> None:
    meter.set_phase("replaying")
    meter.set_phase("ready")
    text = shown(meter)
    held = {
        labels[0][1]
        for (name, labels), value in read(text).items()
        if name == "sosie_registrar_phase" and value == 1
    }
    assert held == {"ready"}


def test_the_newest_sweep_is_shown_by_its_state_and_counts(meter: PrometheusMeter) -> None:
    meter.set_sweep("running", 0.25, 7, 3.5)
    meter.set_sweep("done", 1.0, 40, 3.5)
    text = shown(meter)
    states = {state: find(text, "sosie_sweep_state", state=state) for state in SweepState}
    assert states == {state: float(state == "done") for state in SweepState}
    assert find(text, "sosie_sweep_progress_ratio") == 1
    assert find(text, "sosie_sweep_pairs") == 40
    assert find(text, "sosie_sweep_false_pairs_expected") == 3.5


def test_strange_methods_and_endless_routes_share_one_series(meter: PrometheusMeter) -> None:
    for at in range(SERIES_LIMIT + 200):
        meter.count_request(f"/made-up/{at}", "GET", 404, 0.001)
    for at in range(50):
        meter.count_request("/v1/match", f"VERB{at}", 405, 0.001)
        meter.count_refusal("REQUEST.METHOD_UNSUPPORTED")
    samples = [name for name, _ in read(shown(meter)) if name == "sosie_http_requests_total"]
    assert len(samples) <= SERIES_LIMIT + 2


def test_no_count_is_lost_between_threads(meter: PrometheusMeter) -> None:
    def work() -> None:
        for _ in range(2000):
            meter.count_request("/v1/match", "POST", 200, 0.001)
            meter.observe_stage("match", 0.001)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = shown(meter)
    labels = {"route": "/v1/match", "method": "POST"}
    assert find(text, "sosie_http_requests_total", **labels, status="200") == 16_000
    assert find(text, "sosie_http_request_duration_seconds_count", **labels) == 16_000


def test_any_process_shows_what_all_of_the_node_counted(node: Node) -> None:
    count = "[meter.count_request('/v1/match', 'POST', 200, 0.001) for _ in range(3)]\n"
    node.run(count)
    assert (
        find(
            node.run(count + READ),
            "sosie_http_requests_total",
            route="/v1/match",
            method="POST",
            status="200",
        )
        == 6
    )


def test_what_a_killed_process_counted_stays_and_its_gauges_go(node: Node) -> None:
    code = """
meter.count_refusal("SERVICE.BUSY")
meter.track_request(+1)
meter.set_queue("photographs", 7, 64)
meter.set_gallery(100, 5, 5)
meter.set_phase("ready")
say("set")
wait()
"""
    doomed = node.start(code)
    await_line(doomed, "set")
    alive = node.run(READ)
    assert find(alive, "sosie_http_requests_in_progress") == 1
    assert find(alive, "sosie_queue_depth", queue="photographs") == 7
    assert find(alive, "sosie_registrar_phase", phase="ready") == 1

    kill(doomed)
    text = node.run(READ)
    assert find(text, "sosie_refusals_total", code="SERVICE.BUSY") == 1
    assert find(text, "sosie_http_requests_in_progress") == 0
    for name in ("sosie_gallery_references", "sosie_gallery_sequence", "sosie_store_sequence"):
        assert find(text, name) is None
    assert find(text, "sosie_queue_depth", queue="photographs") is None
    assert find(text, "sosie_registrar_phase", phase="ready") is None


def test_queues_of_all_ingresses_add_up_and_the_gallery_is_the_registrars(node: Node) -> None:
    ingress = "meter.set_queue('photographs', 2, 64)\nsay('set')\nwait()"
    others = [node.start(ingress), node.start(ingress)]
    registrar = node.start("meter.set_gallery(100, 5, 6)\nsay('set')\nwait()")
    for process in (*others, registrar):
        await_line(process, "set")
    text = node.run(READ)
    assert find(text, "sosie_queue_depth", queue="photographs") == 4
    assert find(text, "sosie_queue_capacity", queue="photographs") == 128
    assert find(text, "sosie_gallery_references") == 100
    assert find(text, "sosie_store_sequence") == 6
    assert find(text, "sosie_build_info", version="1.2.3", model="abc") == 1


def test_a_new_registrar_takes_the_place_of_the_old_one(node: Node) -> None:
    code = "meter.set_phase('{phase}')\nmeter.set_gallery({size}, 1, 1)\nsay('set')\nwait()"
    old = node.start(code.format(phase="ready", size=100))
    await_line(old, "set")
    new = node.start(code.format(phase="replaying", size=0))
    await_line(new, "set")
    text = node.run(READ)
    assert find(text, "sosie_registrar_phase", phase="ready") == 0
    assert find(text, "sosie_registrar_phase", phase="replaying") == 1
    assert find(text, "sosie_gallery_references") == 0


def test_a_request_is_counted_in_memory_with_few_calls(node: Node) -> None:
    out = node.run(
        """
import sys
def count():
    meter.count_request("/v1/match", "POST", 200, 0.004)
count()
calls, opened = [], []
sys.addaudithook(lambda event, _: opened.append(event) if event == "open" else None)
sys.setprofile(lambda _, event, __: calls.append(event))
count()
sys.setprofile(None)
say(f"{len(calls)} {len(opened)}")
"""
    )
    calls, opened = map(int, out.split())
    assert calls < 100  # and returns
    assert opened == 0


def test_a_meter_that_would_count_alone_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    # This process was started without the variable.
    with pytest.raises(AssertionError, match="before its folder was set"):
        PrometheusMeter(tmp_path_factory.mktemp("metrics"), version="1", model="m")


def test_rendering_while_others_start_and_die_never_fails(node: Node) -> None:
    reader = node.start(
        """
import threading
ended = threading.Event()
threading.Thread(target=lambda: (wait(), ended.set())).start()
say("reading")
count = 0
while not ended.wait(0.002):
    meter.render()
    count += 1
say(str(count > 10))
"""
    )
    await_line(reader, "reading")
    for _ in range(5):
        process = node.start("meter.track_request(+1)\nsay('set')\nwait()")
        await_line(process, "set")
        kill(process)
    assert reader.stdin is not None
    reader.stdin.write("\n")
    reader.stdin.flush()
    await_line(reader, "True")


class BrokenMeter(SilentMeter):
    def _fail(self, *_: object) -> None:
        raise OSError("secret path")

    count_request = track_request = count_refusal = observe_stage = observe_batch = _fail
    set_queue = count_decision = set_gallery = set_phase = _fail


def test_a_meter_that_fails_fails_nobody_and_is_told_once_by_its_type() -> None:
    with capture_logs() as logs:
        meter = GuardedMeter(BrokenMeter(), structlog.get_logger())
        for _ in range(3):
            meter.count_request("/v1/match", "POST", 200, 0.1)
            meter.track_request(1)
            meter.count_refusal("X")
            meter.observe_stage("match", 0.1)
            meter.observe_batch("match", 1)
            meter.set_queue("probes", 1, 2)
            meter.count_decision("approved", ())
            meter.set_gallery(1, 1, 1)
            meter.set_phase("ready")
    assert [(line["event"], line["error"]) for line in logs] == [("not_counted", "OSError")]
    assert "secret" not in str(logs)


def test_what_is_counted_reaches_the_meter() -> None:
    class Counting(SilentMeter):
        seen: tuple[object, ...] = ()

        def set_queue(self, queue: str, depth: int, capacity: int) -> None:
            self.seen = (queue, depth, capacity)

    inner = Counting()
    GuardedMeter(inner, structlog.get_logger()).set_queue("probes", 1, 2)
    assert inner.seen == ("probes", 1, 2)
