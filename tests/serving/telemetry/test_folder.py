"""The folder that a node's processes share."""

import os
import subprocess
import sys

from serving.telemetry.metrics import FolderCollector
from tests.serving.telemetry.conftest import Node


def test_an_empty_file_of_a_process_that_was_killed_does_no_harm(node) -> None:
    node.run("meter.add(REFUSALS, 'SERVICE.BUSY')")
    (node.folder / "counter_999999999.db").touch()
    names = {family.name for family in FolderCollector(node.folder).collect()}
    assert "sosie_refusals" in names


def test_a_process_does_not_inherit_the_gauges_of_an_earlier_one_with_its_number(node) -> None:
    reused = """
import os, shutil
folder = find_metrics_folder()
meter.add(IN_PROGRESS, by=5)
shutil.copy(folder / f"gauge_livesum_{os.getpid()}.db", folder / "kept")
"""
    node.run(reused)
    taken = f"""
import os
from pathlib import Path
folder = Path({str(node.folder)!r})
(folder / "kept").rename(folder / f"gauge_livesum_{{os.getpid()}}.db")
from serving.telemetry.metrics import Meter
meter = Meter(folder)
print([f.samples[0].value for f in meter.node_registry.collect()
       if f.name == "sosie_http_requests_in_progress"])
"""
    assert run_bare(node, taken).strip() == "[0.0]"


def run_bare(node: Node, code: str) -> str:
    """Runs code before which no meter was made."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(node.folder)},
    )
    return done.stdout
