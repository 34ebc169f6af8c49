"""`locust -f loadtest/locustfile.py` runs as it is, and so does a scenario of a carrier's own."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.schedule import Kind
from tests.serving.sandbox.conftest import serve_sandbox

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "load-tests.md"
VISITS = 60
ENDING = f"""
from locust import events

@events.init.add_listener
def count(environment, **_):
    seen = []

    @events.request.add_listener
    def end(**_):
        seen.append(1)
        if len(seen) == {VISITS}:
            environment.runner.greenlet.spawn(environment.runner.quit)
"""
"""Ends a run after so many visits, however long they take."""


@pytest.fixture(scope="module")
def run(
    service, listen, faces, tmp_path_factory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run(*arguments)` runs Locust headless against the service."""
    keys = tmp_path_factory.mktemp("locust") / "keys.json"
    keys.write_text(json.dumps(service.keys))
    url = listen()

    def begin(*arguments: object) -> subprocess.CompletedProcess[str]:
        given = ["--headless", "--host", url, "--outlet", "b1", "--keys", keys, *arguments]
        return subprocess.run(
            [sys.executable, "-m", "locust", *map(str, given), "--faces", str(faces / "five")],
            cwd=ROOT,
            env={name: text for name, text in os.environ.items() if not name.startswith("SOSIE_")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return begin


def test_the_locustfile_and_a_scenario_of_ones_own_get_right_answers(
    run, service, tmp_path
) -> None:
    [scenario] = re.findall(r"```python\n(from locust .*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    own = tmp_path / "scenario.py"
    own.write_text(scenario.replace("between(1, 5)", "between(0, 0.1)"))
    hasty = tmp_path / "locustfile.py"
    text = (ROOT / "loadtest" / "locustfile.py").read_text("utf-8")
    hasty.write_text(re.sub(r"between\(.*?\)", "between(0, 0.1)", text))
    ending = tmp_path / "ending.py"
    ending.write_text(ENDING)
    before = service.parts.store.counts()["live_references"]
    files = f"{hasty},{own},{ending}"
    ended = run("-f", files, "-u", 6, "-r", 6, "--newcomers", 6, "--csv", tmp_path / "out")
    assert ended.returncode == 0, (ended.stdout, ended.stderr)
    with (tmp_path / "out_stats.csv").open() as file:
        counts = {one["Name"]: int(one["Request Count"]) for one in csv.DictReader(file)}
    assert counts.keys() - {"Aggregated"} <= {kind.value for kind in Kind}
    assert counts["Aggregated"] >= VISITS
    assert len(counts) > 3
    assert service.parts.store.counts()["live_references"] == before


def test_a_run_that_cannot_be_is_refused_in_one_line(run) -> None:
    ended = run("-f", "loadtest/locustfile.py", "-u", 1, "-t", "9s", "--keys", "none.json")
    assert ended.returncode == 2, (ended.stdout, ended.stderr)
    assert "sosie: none.json cannot be read" in ended.stderr


def test_a_sandbox_is_not_taken_for_a_service(run, tmp_path) -> None:
    with serve_sandbox(tmp_path / "home") as sandbox:
        ended = run("-f", "loadtest/locustfile.py", "-u", 1, "-t", "9s", "--host", sandbox.url)
    assert ended.returncode == 2, (ended.stdout, ended.stderr)
    assert f"sosie: {sandbox.url} is a sandbox, which looks at no face" in ended.stderr
