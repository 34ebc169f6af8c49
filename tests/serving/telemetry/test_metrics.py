"""Metrics of one process, and of a node with several."""

import subprocess

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from schema.reasons import Decision, Reason
from schema.sweeps import SweepState
from serving.telemetry.metrics import (
    BATCH_SIZE,
    DECISIONS,
    IN_PROGRESS,
    QUEUE_DEPTH,
    REASONS,
    REFUSALS,
    REQUEST_SECONDS,
    REQUESTS,
    SERIES_LIMIT,
    STAGE_SECONDS,
    SWEEP_STATE,
    Meter,
)
from tests.serving.meters import BrokenMeter

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
    assert process.stdout.readline().strip() == line


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@pytest.fixture
def meter() -> Meter:
    return Meter()


def shown(meter: Meter) -> str:
    return meter.render()[0].decode()


def test_what_is_recorded_is_text_as_prometheus_reads_it(meter) -> None:
    labels = {"route": "/v1/match", "method": "POST"}
    for status, seconds in (("200", 0.0007), ("429", 0.0001)):
        meter.add(REQUESTS, *labels.values(), status)
        meter.observe(REQUEST_SECONDS, seconds, *labels.values())
    for by in (1, 1, -1):
        meter.add(IN_PROGRESS, by=by)
    meter.observe(BATCH_SIZE, 17, "judge")
    for depth in (5, 3):
        meter.set(QUEUE_DEPTH, depth, "decisions")
    assert meter.render()[1].startswith("text/plain; version=0.0.4")
    text = shown(meter)
    for status in ("200", "429"):
        assert find(text, "sosie_http_requests_total", **labels, status=status) == 1
    name = "sosie_http_request_duration_seconds"
    assert find(text, f"{name}_bucket", **labels, le="0.0003") == 1
    assert find(text, f"{name}_bucket", **labels, le="0.001") == 2
    assert find(text, "sosie_http_requests_in_progress") == 1
    assert find(text, "sosie_batch_size_bucket", stage="judge", le="16.0") == 0
    assert find(text, "sosie_batch_size_bucket", stage="judge", le="32.0") == 1
    assert find(text, "sosie_queue_depth", queue="decisions") == 3


def test_decisions_and_reasons_start_at_zero(meter) -> None:
    before = shown(meter)
    assert {find(before, "sosie_decisions_total", decision=d.value) for d in Decision} == {0}
    assert {find(before, "sosie_decision_reasons_total", reason=r.value) for r in Reason} == {0}
    meter.add(DECISIONS, Decision.REJECTED)
    meter.add(REASONS, Reason.BLURRED)
    after = shown(meter)
    assert find(after, "sosie_decisions_total", decision="rejected") == 1
    assert find(after, "sosie_decision_reasons_total", reason="BLURRED") == 1


def test_every_state_that_a_metric_knows_is_shown(meter) -> None:
    meter.set_state(SWEEP_STATE, "running")
    meter.set_state(SWEEP_STATE, "done")
    text = shown(meter)
    states = {state: find(text, "sosie_sweep_state", state=state) for state in SweepState}
    assert states == {state: float(state == "done") for state in SweepState}


def test_endless_labels_share_one_series(meter) -> None:
    for at in range(SERIES_LIMIT + 200):
        meter.add(REQUESTS, f"/made-up/{at}", "GET", "404")
        meter.add(REFUSALS, "REQUEST.METHOD_UNSUPPORTED")
    text = shown(meter)
    samples = [name for name, _ in read(text) if name == "sosie_http_requests_total"]
    assert len(samples) == SERIES_LIMIT + 1
    other = {"route": "other", "method": "other", "status": "other"}
    assert find(text, "sosie_http_requests_total", **other) == 200


def test_a_metric_that_fails_raises_nothing_and_is_logged_once() -> None:
    with capture_logs() as logs:
        meter = BrokenMeter(None, structlog.get_logger())
        for _ in range(3):
            meter.add(REFUSALS, "X")
            meter.set(QUEUE_DEPTH, 1, "probes")
            meter.observe(STAGE_SECONDS, 0.1, "match")
    assert [(line["event"], line["error"]) for line in logs] == [("not_counted", "OSError")] * 3
    assert "secret" not in str(logs)


def test_what_a_killed_process_counted_stays_and_its_gauges_go(node) -> None:
    code = """
meter.add(REFUSALS, "SERVICE.BUSY")
meter.add(IN_PROGRESS)
meter.set(QUEUE_DEPTH, 7, "photographs")
for family in (REFERENCES, SEQUENCE, STORE_SEQUENCE):
    meter.set(family, 5)
meter.set_state(PHASE, "ready")
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


def test_queues_of_all_ingresses_add_up_and_the_gallery_is_the_registrars(node) -> None:
    ingress = "meter.set(QUEUE_DEPTH, 2, 'photographs')\nsay('set')\nwait()"
    others = [node.start(ingress), node.start(ingress)]
    registrar = node.start("meter.set(REFERENCES, 100)\nsay('set')\nwait()")
    for process in (*others, registrar):
        await_line(process, "set")
    text = node.run(READ)
    assert find(text, "sosie_queue_depth", queue="photographs") == 4
    assert find(text, "sosie_gallery_references") == 100
    assert find(text, "sosie_build_info", version="1.2.3", model="abc") == 1


def test_a_new_registrar_takes_the_place_of_the_old_one(node) -> None:
    code = "meter.set_state(PHASE, '{phase}')\nmeter.set(REFERENCES, {size})\nsay('set')\nwait()"
    old = node.start(code.format(phase="ready", size=100))
    await_line(old, "set")
    new = node.start(code.format(phase="replaying", size=0))
    await_line(new, "set")
    text = node.run(READ)
    assert find(text, "sosie_registrar_phase", phase="ready") == 0
    assert find(text, "sosie_registrar_phase", phase="replaying") == 1
    assert find(text, "sosie_gallery_references") == 0


def test_a_meter_that_would_count_alone_says_so(tmp_path_factory) -> None:
    # This process was started without the variable.
    with pytest.raises(AssertionError, match="before its folder was set"):
        Meter(tmp_path_factory.mktemp("metrics"))


def test_rendering_while_processes_start_and_die_never_fails(node) -> None:
    reader = node.start(
        """
import threading
ended = threading.Event()
threading.Thread(target=lambda: (wait(), ended.set())).start()
say("reading")
count = 0
while not ended.wait(0.02):
    meter.render()
    count += 1
say(str(count > 10))
"""
    )
    await_line(reader, "reading")
    for _ in range(3):
        process = node.start("meter.add(IN_PROGRESS)\nsay('set')\nwait()")
        await_line(process, "set")
        kill(process)
    reader.stdin.write("\n")
    reader.stdin.flush()
    await_line(reader, "True")
