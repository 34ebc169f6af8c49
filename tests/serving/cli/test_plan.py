"""`sosie plan` answers with machines and its assumptions, and refuses what it cannot plan."""

from __future__ import annotations

import os

import pytest

from engine.capacity.figures import Quantity
from engine.matching.calibration import Rate
from serving.cli.plan import _interval

SMALL = ("plan", "--faces", "1e6", "--arrivals", "20", "--searches", "2", "--requests", "2000")


def test_a_plan_needs_no_deployment_and_is_one_json_document(sosie, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = sosie(*SMALL, "--node-cores", "16", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    told = outcome.json
    assert told["feasible"] is True
    assert told["demand"]["faces"] == 1_000_000
    assert told["layout"]["one_machine"] is True
    assert told["simulated"]["enroll"]["p99_s"] < 1.2
    assert told["false_candidates"]["is_supported"] is False
    assert told["figures"]["hop"]["origin"] == "assumed"
    assert len(told["assumptions"]) > 8
    assert not os.listdir(tmp_path)
    other = sosie(*SMALL, "--node-cores", "16", "--seed", "1", "--json").json
    assert other["simulated"] != told["simulated"]
    assert other["layout"] == told["layout"]


@pytest.mark.parametrize(
    ("copies", "words"),
    [(1, "a lost shard, from the store"), (2, "a lost copy, made again; nothing waits")],
)
def test_over_shards_a_loss_a_failover_and_a_start_are_told_apart(
    copies: int, words: str, sosie, home
) -> None:
    (home / "sosie.toml").write_text(f"[gallery]\nshard_copies = {copies}\n")
    asked = ("plan", "--faces", "2e8", "--arrivals", "10", "--requests", "1000", "--home", home)
    node = ("--node-cores", "32", "--node-gib", "128")
    outcome = sosie(*asked, *node)
    assert outcome.code == 0, outcome.out
    assert words in outcome.out
    assert "failover of the registrar, shards kept" in outcome.out
    told = sosie(*asked, *node, "--json").json
    assert 0 < told["failover_s"] < told["lost_shard_s"] < copies * told["start_s"]
    assert told["layout"]["shard_copies"] == copies


def test_where_no_layout_will_do_the_answer_is_no(sosie) -> None:
    outcome = sosie("plan", "--faces", "1e6", "--arrivals", "50000")
    assert outcome.code == 1
    assert "No layout will do: one writer orders all decisions" in " ".join(outcome.out.split())


def test_measured_figures_stand_over_assumed_ones_and_no_registry_is_touched(
    sosie, tmp_path
) -> None:
    home = tmp_path / "home"
    assert sosie("init", home).code == 0
    before = sorted(os.listdir(home))
    used = tmp_path / "used.sqlite"
    told = sosie(
        *SMALL, "--home", home, "--node-cores", "32", "--measure", "--measure-references", "20000",
        "--json", env={"SOSIE_REGISTRY__URL": f"sqlite:///{used}"},
    ).json  # fmt: skip
    origins = {name: figure["origin"] for name, figure in told["figures"].items()}
    assert origins["pair"] == origins["scan"] == origins["decision"] == "measured here"
    assert origins["restore"] == "assumed"
    measured = {name for name, origin in origins.items() if origin == "measured here"}
    assert measured == {
        "pair_alone", "pair", "scan_alone", "scan", "scan_spread", "reference_bytes",
        "decision_alone", "decision", "decision_spread", "enrollment_bytes",
    }  # fmt: skip
    for name in measured - {"scan_spread", "decision_spread"}:
        # Fifty times off in either direction would be another unit.
        assumed, value = Quantity[name.upper()].value.value, told["figures"][name]["value"]
        assert assumed / 50 < value < assumed * 50, name
    assert told["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert sorted(os.listdir(home)) == before
    assert not used.exists()


def test_a_deployments_settings_are_heeded(sosie, home, assert_refused) -> None:
    (home / "sosie.toml").write_text("[gallery]\nmapped = true\n")
    assert_refused(sosie(*SMALL, "--home", home), "gallery.mapped")
    (home / "sosie.toml").write_text("[gallery]\nrows = 'float16'\n")
    assert_refused(sosie(*SMALL, "--home", home), "--measure")
    (home / "sosie.toml").write_text(
        "[registrar]\nbatch_size = 4\n[serve]\nenrollments_ongoing = 0\n"
    )
    told = sosie(*SMALL, "--home", home, "--json").json
    assert any("decides up to 4 at once" in line for line in told["assumptions"])
    assert any("no enrollment is refused" in line for line in told["assumptions"])


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ((), "--faces"),
        (("--faces", "1e6"), "--arrivals"),
        (("--faces", "many", "--arrivals", "1"), "not a number"),
        (("--faces", "nan", "--arrivals", "1"), "finite"),
        (("--faces", "0", "--arrivals", "1"), "faces"),
        (("--faces", "1e13", "--arrivals", "1"), "faces"),
        (("--faces", "10", "--arrivals", "-1"), "enrollments"),
        (("--faces", "10", "--arrivals", "0"), "no demand"),
        (("--faces", "10", "--arrivals", "1", "--p99-ms", "0"), "--p99-ms"),
        (("--faces", "10", "--arrivals", "1", "--ceiling", "1"), "--ceiling"),
        (("--faces", "10", "--arrivals", "1", "--node-cores", "0"), "--node-cores"),
        (("--faces", "10", "--arrivals", "1", "--photographs", "."), "--measure"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    wrong: tuple[str, ...], word: str, sosie, assert_refused
) -> None:
    assert_refused(sosie("plan", *wrong), word)


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        (Rate(1_600.4, 0.0, 7_040.0), "1,600 (0 to 7,000)"),
        (Rate(10_368_000.0, 0.0, 10_368_000.0), "10 million (0 to 10 million)"),
        (Rate(0.1, 0.0, 0.44), "0.1 (0 to 0.44)"),
        (Rate(352.0, 352.0, 352.0, is_bound=True), "at most 350"),
    ],
)
def test_an_expected_count_has_two_digits_that_count_and_no_exponent(rate: Rate, told: str) -> None:
    assert _interval(rate) == told
