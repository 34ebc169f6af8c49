"""A run of several suites as a folder, real ones, small."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.reports import SUMMARY, Check, Report, read_report, read_reports, write_report
from bench.core.run_all import (
    SUITES,
    Ran,
    Suite,
    choose_suites,
    plan_runs,
    run_alone,
    run_suites,
    write_folder,
)
from engine.errors import RequestError
from tests.bench.frozen import each_suite, make_search

JOIN = Suite("join", quick=("--n", "1000", "--dim", "32"))
BROKEN = Suite("accuracy", quick=("--faces", "/no/such/folder"))


@pytest.fixture(scope="module")
def ran() -> Ran:
    told: list[tuple[int, int]] = []
    ran = run_suites(
        (BROKEN, JOIN),
        quick=True,
        blocks=2,
        seed=0,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    return ran


def test_a_suite_that_fails_costs_no_other_and_is_told(ran: Ran) -> None:
    assert list(ran.reports) == ["join"]
    assert "/no/such/folder" in ran.failures["accuracy"]
    assert not ran.holds


def test_small_sizes_promise_no_speed_and_forgive_no_error(ran: Ran) -> None:
    report = ran.reports["join"]
    slow = Check("comparisons_per_second", 1.0, 3.3e9, False)
    wrong = Check("identical_pairs", 0.9, 1.0, False)
    assert ran.keeps(replace(report, checks=(slow,)))
    assert not ran.keeps(replace(report, checks=(slow, wrong)))
    assert not replace(ran, is_quick=False).keeps(replace(report, checks=(slow,)))


def test_blocks_are_processes_of_their_own_and_their_noise_is_stated(ran: Ran) -> None:
    report = ran.reports["join"]
    assert report.blocks == 2
    assert report.suite == "join"
    timed = [one for result in report.results for one in result.figures if one.unit == "s"]
    assert timed
    assert all(figure.noise is not None for figure in timed)
    assert report.checks[0].name == "identical_pairs"
    assert report.checks[0].holds


def test_the_machine_is_measured_once_for_all(ran: Ran) -> None:
    assert ran.machine.int8_gops
    assert ran.machine.read_gb_per_s
    assert ran.reports["join"].machine.int8_gops == ran.machine.int8_gops


def test_a_folder_has_a_page_documents_and_pictures(ran: Ran, tmp_path: Path) -> None:
    stale = tmp_path / "search.json"
    stale.write_text("{}")
    mine = tmp_path / "mine.json"
    mine.write_text("{}")
    summary = write_folder(tmp_path, ran)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["promises"] == {"kept": 1, "measured": 1}
    assert list(read_reports(tmp_path)) == ["join"]
    assert read_report(tmp_path / "join.json") == ran.reports["join"]
    page = (tmp_path / "report.md").read_text()
    assert "**accuracy failed**: " in page
    assert "The same references by everybody" in page
    assert "Quick sizes" in page
    assert (tmp_path / "versus.png").read_bytes().startswith(b"\x89PNG")
    assert not stale.exists(), "a folder is one run"
    assert mine.exists(), "what is not ours is left alone"


def test_a_suite_that_takes_too_long_is_ended() -> None:
    with pytest.raises(RequestError, match="longer than 0 s"):
        run_alone(Suite("join", quick_most_s=0.3), quick=True, seed=0)


def test_a_long_suite_is_run_once_and_a_part_of_it_again_where_there_is_time() -> None:
    serve = next(one for one in SUITES if one.name == "serve")
    full = list(plan_runs((serve, JOIN), quick=False, blocks=3))
    again = ((serve, ("--only", "throughput")), (JOIN, ()))
    assert full == [(serve, ()), (JOIN, ()), *again, *again]
    quick = list(plan_runs((serve, JOIN), quick=True, blocks=3))
    assert quick == [(serve, ()), (JOIN, ()), (serve, ()), (JOIN, ()), (JOIN, ())]


@pytest.mark.parametrize("quick", [True, False])
def test_no_suite_of_a_report_is_without_noise(quick: bool) -> None:
    """A figure that was measured in one block is held to a wide floor, or to nothing."""
    times = Counter(suite.name for suite, _ in plan_runs(SUITES, quick=quick, blocks=3))
    assert min(times.values()) >= 2


def test_every_suite_of_the_issue_is_run_and_chosen_by_name() -> None:
    names = {suite.name for suite in SUITES}
    assert {"extract", "search", "join", "gallery", "registrar", "serve", "kernels"} < names
    assert [one.name for one in choose_suites("join, search")] == ["join", "search"]
    assert choose_suites("") == SUITES
    with pytest.raises(RequestError, match="no suite sieve"):
        choose_suites("sieve")


def test_what_is_no_report_is_refused(tmp_path: Path, ran: Ran) -> None:
    path = tmp_path / "report.json"
    for text in ("", "[]", "{}", '{"machine": {}, "results": [], "checks": []}'):
        path.write_text(text)
        with pytest.raises(RequestError, match="no report"):
            read_report(path)
    with pytest.raises(RequestError, match="no reports in"):
        read_reports(tmp_path)
    with pytest.raises(RequestError, match="cannot read"):
        read_report(tmp_path / "none.json")
    write_report(path, ran.reports["join"])
    assert list(read_reports(path)) == ["join"]


RunHere = Callable[..., tuple[int, str, str]]


def test_the_commands_report_and_compare(tmp_path: Path, ran: Ran, run_here: RunHere) -> None:
    folder = tmp_path / "out"
    status, out, err = run_here("report", "--only", "sieve", "--output", str(folder), "--json")
    assert status == 2, out + err
    assert json.loads(out)["error"]["code"] == "REQUEST.INVALID"
    write_folder(folder, ran)
    status, out, err = run_here("compare", str(folder), str(folder))
    assert status == 0, out + err
    assert "0 worse of" in out
    worse = tmp_path / "worse"
    write_folder(worse, ran)
    document = json.loads((worse / "join.json").read_text())
    document["checks"][0] |= {"value": 0.5, "holds": False}
    (worse / "join.json").write_text(json.dumps(document))
    status, out, _ = run_here("compare", str(folder), str(worse), "--json")
    assert status == 1
    comparison = json.loads(out)
    assert comparison["counts"]["worse"] == 1
    assert comparison["rule"]
    assert comparison["missing"] == []


def write_run(folder: Path, reports: Mapping[str, Report], **failures: str) -> None:
    """What `report` writes of a run, but for its page and pictures."""
    folder.mkdir()
    for name, report in reports.items():
        write_report(folder / f"{name}.json", report)
    (folder / SUMMARY).write_text(json.dumps({"failures": failures}), encoding="utf-8")


def test_compare_fails_on_a_suite_that_is_missing_or_cannot_be_read(
    tmp_path: Path, run_here: RunHere
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    write_run(before, dict(each_suite()))
    kept = {name: one for name, one in each_suite() if name in {"search", "gallery"}}
    write_run(after, kept, registrar="took longer than 150 s and was ended")
    (after / "gallery.json").write_text('{"suite": "gall', encoding="utf-8")
    status, out, err = run_here("compare", str(before), str(after), "--json")
    assert status == 1, out + err
    said = {one.partition(":")[0]: one for one in json.loads(out)["missing"]}
    assert set(said) == {"registrar", "gallery", "accuracy"}
    assert "it failed: took longer than 150 s" in said["registrar"]
    assert "is no report" in said["gallery"]
    assert "it was not run" in said["accuracy"]
    status, out, _ = run_here("compare", str(before), str(after))
    assert status == 1
    assert "3 missing" in out
    (after / "gallery.json").unlink()
    status, out, err = run_here("compare", str(after), str(before))
    assert status == 0, out + err
    assert "registrar: only in the new run" in out


def test_compare_of_a_part_is_asked_for_and_nothing_in_common_is_bad_input(
    tmp_path: Path, run_here: RunHere
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    write_run(before, dict(each_suite()))
    write_run(after, {"search": make_search()})
    status, out, err = run_here("compare", str(before), str(after), "--only", "search")
    assert status == 0, out + err
    status, out, err = run_here("compare", str(before), str(after / "search.json"))
    assert status == 0, out + err
    nameless = tmp_path / "mine.json"
    write_report(nameless, replace(make_search(), suite=""))
    for one, two in ((nameless, after / "search.json"), (after / "search.json", nameless)):
        status, out, err = run_here("compare", str(one), str(two))
        assert status == 0, out + err
    for arguments in (
        (str(before), str(after), "--only", "sieve"),
        (str(before / "gallery.json"), str(after / "search.json")),
        (str(before / "gallery.json"), str(after)),
    ):
        status, out, err = run_here("compare", *arguments)
        assert status == 2, out + err
        assert len(err.strip().splitlines()) == 1
    (before / "search.json").write_text("{}", encoding="utf-8")
    status, _, err = run_here("compare", str(before), str(after))
    assert status == 2
    assert "search.json is no report" in err
