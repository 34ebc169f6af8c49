"""Reports of `sosie bench` are read for the figures of a plan."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.capacity.figures import (
    USUAL,
    FigureOrigin,
    PlanFigures,
    Quantity,
    VectorKind,
    gather_figures,
    most_frequent_machine,
    read_report,
    read_reports,
)
from engine.errors import RequestError

COMMITTED = Path(__file__).parents[3] / "bench" / "reports"
Write = Callable[..., Path]


def test_figures_are_converted_to_seconds_of_a_core(write_report: Write) -> None:
    scanned = {"references": 1_000_000, "threads": 2, "dim": 128}
    path = write_report(
        {
            "One query, range": (scanned, {"exact8, the gallery": ("ms", 4.0)}),
            "A batch, range": (scanned, {"exact8, the gallery": ("ms", 0.3)}),
            "Pairs of photographs": ({"threads": 2}, {"Sosie, cpu": ("pairs/s", 80.0)}),
            "Decisions": ({}, {"one a transaction": ("decisions/s", 200.0)}),
            "Snapshot": (
                {"references": 1_000_000},
                {"save": ("MB", 652.0), "open, verified": ("s", 2.0)},
            ),
            "Processor time of an enrollment": (
                {"references": 1},
                {
                    "in process: all": ("ms of a core", 25.0),
                    "over HTTP: all": ("ms of a core", 27.0),
                },
            ),
        }
    )
    found = gather_figures([read_report(path)])
    values = {quantity: figure.value for quantity, figure in found.items()}
    assert values == {
        Quantity.SCAN_ALONE: pytest.approx(8e-9),
        Quantity.SCAN: pytest.approx(0.6e-9),
        Quantity.PAIR: pytest.approx(0.025),
        Quantity.DECISION_ALONE: pytest.approx(0.005),
        Quantity.SNAPSHOT_BYTES: pytest.approx(652.0),
        Quantity.HTTP: pytest.approx(0.002),
    }
    assert {figure.origin for figure in found.values()} == {FigureOrigin.REPORTED}
    assert found[Quantity.SCAN].source == "made.json: A batch, range (Test, 2 cores)"


def test_a_gallery_of_other_vectors_says_nothing_of_this_one(write_report: Write) -> None:
    setup = {"references": 1_000_000, "threads": 2, "dim": 512}
    path = write_report({"A batch, range": (setup, {"exact8, the gallery": ("ms", 1.0)})})
    assert gather_figures([read_report(path)]) == {}
    assert set(gather_figures([read_report(path)], VectorKind(512))) == {Quantity.SCAN}
    assert gather_figures([read_report(path)], VectorKind(512, float_bytes=2)) == {}


def test_of_other_vectors_only_figures_without_a_gallery_are_known(write_report: Write) -> None:
    path = write_report(
        {
            "Snapshot": ({"references": 1_000_000, "dim": 128}, {"save": ("MB", 652.0)}),
            "Gallery": ({"references": 100_000}, {"open from the store": ("s", 1.0)}),
            "Pairs of photographs": ({"threads": 2}, {"Sosie, cpu": ("pairs/s", 80.0)}),
        }
    )
    assert set(gather_figures([read_report(path)], VectorKind(512))) == {Quantity.PAIR}
    assert len(gather_figures([read_report(path)])) == 3


def test_peaks_starts_erasures_and_rows_are_those_that_the_suites_measured(
    write_report: Write,
) -> None:
    large = {"references": 200_000, "dim": 512}
    starts = {"open from a snapshot": ("s", 0.4), "store": ("bytes/holder", 3200.0)}
    peaks = {
        "128 dimensions, one segment in the end": ("of the gallery's memory", 1.8),
        "512 dimensions, one segment in the end": ("of the gallery's memory", 1.5),
    }
    path = write_report(
        {
            "Gallery": (large, starts),
            "Snapshot": (large, {"save": ("s", 0.6)}),
            "Erasure": (large, {"segments rewritten, no trace left": ("s", 2.0)}),
            "Merges": ({"references": 1_000_000, "dim": 128}, peaks),
        }
    )
    found = gather_figures([read_report(path)], VectorKind(512))
    assert {one: figure.value for one, figure in found.items()} == {
        Quantity.REOPEN: pytest.approx(2e-6),
        Quantity.ROW_BYTES: 3200,
        Quantity.ERASE: pytest.approx(1e-5),
        Quantity.SAVE: pytest.approx(3e-6),
        Quantity.MERGE_PEAK: 1.8,
    }


def test_starts_and_failovers_are_those_of_the_whole_service(write_report: Write) -> None:
    times = {"ready": ("s", 19.0), "ready after SIGKILL of the registrar": ("s", 4.5)}
    path = write_report({"Start of the service": ({"references": 100_000}, times)})
    found = gather_figures([read_report(path)], VectorKind(512))
    assert {one: figure.value for one, figure in found.items()} == {
        Quantity.START: 19.0,
        Quantity.RESTART: 4.5,
    }


def test_a_lost_shard_and_a_failover_are_those_that_the_shards_suite_measured(
    write_report: Write,
) -> None:
    setup = {"references": 1_000_000, "dim": 128}
    lost = {
        "everything from the store": ("s", 18.0),
        "one shard: answers whole again": ("s", 9.0),
        "references that it had": ("references", 250_000.0),
    }
    restarts = {"killed: until the next decision": ("s", 3.0), "the store counted": ("s", 0.05)}
    results = {"One shard is killed": (setup, lost), "The registrar is killed": (setup, restarts)}
    found = gather_figures([read_report(write_report(results))])
    assert {one: figure.value for one, figure in found.items()} == {
        Quantity.SHARD_BUILD: pytest.approx(12e-6),
        Quantity.SHARD_READ: pytest.approx(6e-6),
        Quantity.FAILOVER: 3.0,
        Quantity.COUNT: pytest.approx(0.05e-6),
    }
    only = gather_figures([read_report(write_report(results))], VectorKind(512))
    assert set(only) == {Quantity.FAILOVER, Quantity.COUNT}
    lost["references that it had"] = ("references", 1_000_000.0)
    results["One shard is killed"] = (setup, lost)
    assert Quantity.SHARD_READ not in gather_figures([read_report(write_report(results))])


def test_a_figure_that_was_skipped_stays_assumed(write_report: Write) -> None:
    path = write_report(
        {"Pairs of photographs": ({"threads": 2}, {"Sosie, cpu": ("pairs/s", None)})}
    )
    report = read_report(path)
    figures = PlanFigures(report.machine, USUAL, gather_figures([report]))
    assert figures[Quantity.PAIR].origin is FigureOrigin.ASSUMED
    assert Quantity.PAIR in figures.list_assumed()


def test_what_was_measured_with_more_references_wins_whatever_the_name(write_report: Write) -> None:
    many, few = (
        read_report(write_report({"Gallery": ({"references": size}, {"store": ("", told)})}))
        for size, told in ((1_000_000, 1700.0), (100_000, 1600.0))
    )
    for reports in ((many, few), (few, many)):
        assert gather_figures(reports)[Quantity.ROW_BYTES].value == 1700


def test_the_committed_reports_have_all_figures_of_the_service() -> None:
    reports = read_reports(COMMITTED)
    figures = PlanFigures(most_frequent_machine(reports), USUAL, gather_figures(reports))
    unknown = {Quantity.FAN_OUT, Quantity.HOP, Quantity.ENROLLMENT_BYTES, Quantity.COPY_BUILD}
    # Written by newer suites than some of the reports.
    newer = {Quantity.ROW_BYTES, Quantity.MERGE_PEAK, Quantity.COUNT}
    of_the_service = {
        Quantity.HTTP,
        Quantity.INGRESS_BYTES,
        Quantity.REGISTRAR_BYTES,
        Quantity.OTHER_BYTES,
    }
    assert unknown <= set(figures.list_assumed()) <= unknown | newer | of_the_service
    assert 5e-3 < figures.value(Quantity.PAIR) < 0.2
    assert 1e-9 < figures.value(Quantity.SCAN_ALONE) < 1e-7
    assert figures.value(Quantity.SCAN) < figures.value(Quantity.SCAN_ALONE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a report"),
        ("[]", "not a report"),
        ('{"machine_info": {"cpu": "x", "cores": "two"}, "benchmarks": []}', "machine_info.cores"),
        ('{"machine_info": {}}', "not a report"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=words) as caught:
        read_report(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        read_report(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="not a report"):
        read_report(tmp_path / "bytes.json")
    with pytest.raises(RequestError, match="no report"):
        read_reports(tmp_path)
    with pytest.raises(RequestError, match="not a folder"):
        read_reports(tmp_path / "none")


def test_a_result_that_does_not_say_its_size_is_refused(write_report: Write) -> None:
    path = write_report({"A batch, range": ({"threads": 2}, {"exact8, the gallery": ("ms", 1.0)})})
    with pytest.raises(RequestError, match="does not say its references"):
        gather_figures([read_report(path)])
