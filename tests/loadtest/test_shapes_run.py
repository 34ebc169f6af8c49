"""Every shape, short, against the real service: structure and decisions, no times."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtest.schedule import PLANTED, Kind, Traffic
from tests.engine.records import newest_cases
from tests.loadtest.conftest import finish
from tests.serving.conftest import Outcome

PATIENT = ("--p99-ms", 30_000, "--max-errors", 0.5, "--timeout-s", 30, "--json")
SHAPES: dict[str, tuple[object, ...]] = {
    "smoke": ("one", "--rate", 14, "--seconds", 3),
    "spike": (
        *("two", "--rate", 6, "--seconds", 2, "--peak", 20, "--peak-s", 0.7),
        *("--mix", "match=2,query=1,search=1"),
    ),
    "soak": ("three", "--rate", 10, "--seconds", 1.5, "--class", "return"),
    "knee": ("four", "--rate", 8, "--most-rate", 12, "--seconds", 0.6, "--class", "match"),
}


class Links(HTMLParser):
    """What a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        found = (str(value) for name, value in attrs if name in ("src", "href"))
        self.fetched += [one for one in found if not one.startswith("data:")]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("report") / "report.html"


@pytest.fixture(scope="module")
def outcomes(listen, begin, page) -> dict[str, Outcome]:
    """All shapes at once, each with other people."""
    url = listen()
    more = {"smoke": ("--html", page)}
    running = {
        shape: begin(shape, url, *options, *more.get(shape, ()), *PATIENT)
        for shape, options in SHAPES.items()
    }
    return {shape: finish(process) for shape, process in running.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_answer_of_every_shape_is_right(outcomes, shape: str) -> None:
    outcome = outcomes[shape]
    assert outcome.code == 0, (outcome.out, outcome.err)
    result = outcome.json
    assert (result["passed"], result["wrong"], result["shape"]) == (True, [], shape)
    assert result["cast"]["left_enrolled"] == 0
    for step in result["steps"]:
        counted = [sum(kind.values()) for kind in step["decisions"].values()]
        assert step["visits"] == sum(counted) > 0
        assert step["latency"]["all"]["histogram"].startswith("HISTF")


def test_traffic_of_a_carrier_meets_no_bound_on_what_is_found_out(outcomes, service) -> None:
    """With the frauds that are planted in it; a bound that is met also opens a case."""
    assert outcomes
    assert b'code="REQUEST.TOO_MANY_FAILURES"' not in service.parts.meter.render()[0]
    assert not [one for one in newest_cases(service.parts.store.cases) if one.kind == "probing"]


def test_a_report_needs_no_other_file(outcomes, page) -> None:
    assert outcomes["smoke"].code == 0
    links = Links()
    text = page.read_text(encoding="utf-8")
    links.feed(text)
    # The icon of a tab, which is not there either.
    assert all("favicon" in one for one in links.fetched)
    assert all(f'"name": "{traffic}"' in text for traffic in Traffic)


def test_a_spike_has_a_phase_without_objective(outcomes) -> None:
    [step] = outcomes["spike"].json["steps"]
    names = [one["name"] for one in step["criteria"]]
    assert "errors in the spike, refusals apart" in names
    assert not step["decisions"].keys() & {*PLANTED, Kind.NEWCOMER, Kind.RETURNING}


def test_a_knee_is_the_highest_rate_that_held(outcomes) -> None:
    result = outcomes["knee"].json
    # With such an objective the highest rate allowed passes.
    assert result["knee"] == {
        "rate": 12.0,
        "lowest_rate_that_failed": None,
        "confirmed": True,
        "steps": 3,
        "ended_early": None,
    }
    assert [step["warm_up"] for step in result["steps"]] == [True, False, False, False]
