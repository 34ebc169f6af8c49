"""A run of several suites as a folder, real ones, small."""

import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from bench.__main__ import SUITES, Ran, Suite, choose_suites, run_alone, run_suites, write_folder
from bench.core.reports import read_report, read_reports
from engine.errors import RequestError
from tests.waiting import wait_until

JOIN = Suite("join", "", quick=("--n", "1000", "--dim", "32"))
BROKEN = Suite("accuracy", "", quick=("--faces", "/no/such/folder"))


@pytest.fixture(scope="module")
def ran() -> Ran:
    told: list[str] = []
    ran = run_suites((BROKEN, JOIN), quick=True, seed=0, tell=told.append)
    # On a busy machine they also tell how long they have been running.
    begun, took = ([line for line in told if word in line] for word in (" of 2: ", " took "))
    assert [line.split()[3] for line in begun] == ["accuracy", "join"]
    assert [line.split()[0] for line in took] == ["accuracy", "join"]
    return ran


def test_a_suite_that_fails_costs_no_other_and_is_told(ran) -> None:
    assert list(ran.reports) == ["join"]
    assert "/no/such/folder" in ran.failures["accuracy"]
    assert not ran.holds


def test_a_folder_has_a_page_and_documents(ran, tmp_path) -> None:
    stale = tmp_path / "search.json"
    stale.write_text("{}")
    mine = tmp_path / "mine.json"
    mine.write_text("{}")
    summary = write_folder(tmp_path, ran)
    assert summary["promises"] == {"kept": 1, "measured": 1}
    assert list(read_reports(tmp_path)) == ["join"]
    assert read_report(tmp_path / "join.json") == ran.reports["join"]
    page = (tmp_path / "report.md").read_text()
    assert "**accuracy failed**: " in page
    assert "The int8 ceiling" in page
    assert "Quick sizes" in page
    assert not stale.exists(), "a folder is one run"
    assert mine.exists(), "what is not ours is left alone"


def test_a_suite_that_takes_too_long_is_ended() -> None:
    with pytest.raises(RequestError, match=r"longer than 0\.3 s"):
        run_alone(Suite("join", "", most_s=0.3), quick=True, seed=0)


RUN = """
from bench.__main__ import Suite, run_alone
run_alone(Suite("join", "", most_s=600), quick=False, seed=0)
"""


def test_a_suite_ends_with_the_run_that_started_it_even_where_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", RUN]) as run:
        (suite,) = wait_until(psutil.Process(run.pid).children)
        run.kill()

    def has_ended() -> bool:
        with suppress(psutil.NoSuchProcess):
            # Who adopts it may leave it a zombie.
            return bool(suite.status() == psutil.STATUS_ZOMBIE)
        return True

    wait_until(has_ended)


def test_suites_are_chosen_by_name_and_all_are_where_none_is_named() -> None:
    assert [one.name for one in choose_suites("join, search")] == ["join", "search"]
    assert choose_suites("") == SUITES
    with pytest.raises(RequestError, match="no suite sieve"):
        choose_suites("sieve")


def test_what_is_no_report_is_refused(tmp_path, ran) -> None:
    path = tmp_path / "report.json"
    for text in ("", "[]", "{}", '{"machine_info": {}, "benchmarks": []}'):
        path.write_text(text)
        with pytest.raises(RequestError, match="no report"):
            read_report(path)
    with pytest.raises(RequestError, match="no reports in"):
        read_reports(tmp_path)
    with pytest.raises(RequestError, match="cannot read"):
        read_report(tmp_path / "none.json")
