"""The page, in a browser too: whole, self-contained, inert, small, without a face unless asked."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from engine.cases.decided import MeasuredPrecision
from engine.matching.calibration import Rate
from engine.registry.enrollments import LivenessCount
from engine.sweeps.likelihood import CIRCUMSTANCES
from engine.sweeps.report.contents import RATIO_TEXTS, describe_term
from engine.sweeps.report.page import judge_chance, miss_rate, render_report, write_report
from engine.sweeps.report.views import MOST_CARDS, MOST_ROWS
from engine.sweeps.risk import SCALES, TERMS, rank_outlets, summarise
from schema.sweeps import GroupKind, Identity, RiskTerm, SweepScope, SweepTerms
from tests.engine import records

CHARTS = 3
VOID = {"meta", "img", "br", "link", "hr", "input"}
HARMFUL = "<img src=x onerror=alert(1)></script></style>\"'&{{ 7*7 }}"
JPEG = b"\xff\xd8\xff\xe0 not a face"


class Reading(HTMLParser):
    """Tags in order, attributes, text by tag; fails where tags do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.extend((tag, name, value or "") for name, value in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]

    def text(self) -> str:
        words = " ".join(data for tag, data in self.texts if tag not in {"style", "script"})
        return " ".join(words.split())


def test_the_page_nests_and_its_links_lead_somewhere(make_contents) -> None:
    page = Reading(render_report(make_contents()))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for tag, name, value in page.attributes:
        if name == "href":
            assert tag == "a"
            assert value.removeprefix("#") in ids
        if name == "aria-labelledby":
            assert value in ids
    assert page.tags["h1"] == page.tags["main"] == 1


def test_the_policy_allows_this_style_and_this_script_alone(make_contents) -> None:
    page = Reading(render_report(make_contents()))
    policy = next(value for value in page.values("content") if "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = [data for found, data in page.texts if found == tag]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not page.values("style")
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_names_from_operators_are_inert(make_contents, make_group) -> None:
    group = make_group(outlet=HARMFUL)
    contents = make_contents(group, carrier_names={"north": HARMFUL}, cases={group.key: HARMFUL})
    page = Reading(render_report(contents))
    assert page.tags["img"] == CHARTS
    assert page.tags["script"] == page.tags["style"] == 1
    assert "alert(1)" in page.text()
    assert "{{ 7*7 }}" in page.text()


def test_a_name_written_from_right_to_left_is_isolated(make_contents, make_group) -> None:
    name = "\u202eمنفذ\u2069\u202c 7"
    page = Reading(render_report(make_contents(make_group(outlet=name))))
    assert {tag for tag, text in page.texts if "منفذ" in text} == {"bdi"}


def test_no_face_is_in_it_unless_asked(make_contents, make_group) -> None:
    group = make_group(size=3)
    plain = Reading(render_report(make_contents(group)))
    assert plain.tags["img"] == CHARTS
    crops = {"g-d0": JPEG, "g-d1": b"<svg onload=alert(1)>", "another document": JPEG}
    page = Reading(render_report(make_contents(group, crops=crops)))
    encoded = base64.b64encode(JPEG).decode()
    assert page.values("src")[CHARTS:] == [f"data:image/jpeg;base64,{encoded}"]
    assert page.values("alt")[CHARTS:] == ["Aligned face of A"]
    assert "This file shows faces." in page.text()
    assert "Shown: 1 face of the first 1 group. 2 identities of these have none" in page.text()


def test_ten_thousand_groups_take_less_than_five_megabytes(
    make_contents, make_group, tmp_path
) -> None:
    # Groups beyond the table are only counted, however large they are.
    groups = [
        make_group(f"{'0' * 28}{number:08}", 20 if number < MOST_ROWS else 2, f"outlet {number}")
        for number in range(10**4)
    ]
    crops = {
        one.document_id: JPEG * 500 for group in groups[:MOST_CARDS] for one in group.identities
    }
    path = tmp_path / "report.html"
    write_report(path, make_contents(*groups, crops=crops))
    assert path.stat().st_size < 5_000_000
    assert path.stat().st_mode & 0o777 == 0o600
    page = Reading(path.read_text("utf-8"))
    assert page.tags["article"] == MOST_CARDS
    assert f"{10**4 - MOST_ROWS:,} further groups with lower risk" in page.text()


NOTHING = {"groups": (), "scores": np.empty(0, np.float32), "summary": summarise([])}


def test_a_sweep_that_found_nothing_says_so(make_contents) -> None:
    contents = make_contents()
    text = Reading(render_report(replace(contents, **NOTHING))).text()
    assert "No group was found" in text
    assert "No line belongs to a group" in text
    assert "0 pairs under different documents" in text


def test_an_empty_gallery_makes_a_report(make_contents) -> None:
    contents = make_contents()
    sweep = replace(contents.sweep, references=0, comparisons=0, seconds=0.0, sequence=0)
    chance = replace(contents.chance, false_pairs=Rate(0.0, 0.0, 0.0))
    empty = replace(contents, sweep=sweep, chance=chance, **NOTHING)
    assert "0 references" in Reading(render_report(empty)).text()


def test_the_sweep_is_described(make_contents) -> None:
    contents = make_contents()
    sweep = replace(
        contents.sweep,
        terms=SweepTerms(threshold=0.5, scope=SweepScope.NEW),
        same_document_pairs=17,
        excepted_pairs=1,
    )
    judged = MeasuredPrecision(judged=40, confirmed=36, cases=40, effective=40.0)
    assert "fraud is in use" not in Reading(render_report(contents)).text()
    shown = replace(contents, sweep=sweep, judged=judged, fraud_in_use=1)
    text = Reading(render_report(shown)).text()
    for text_part in (
        "1 case that people decided to be fraud has lines in use",
        "at sequence 44,722",
        "0.5000 (cosine",
        "12.5 s (80 million comparisons per second)",
        "17 pairs within one document",
        "1 pair judged to be twins or mistakes",
        "new since the last sweep",
        "40 pairs so far",
        "90 % (95 % interval 77 % to 96 %)",
    ):
        assert text_part in text


def test_cases_are_linked_where_the_console_has_an_address(make_contents, make_group) -> None:
    group = make_group()
    contents = make_contents(group, cases={group.key: "case-9"})
    assert "case-9" not in " ".join(Reading(render_report(contents)).values("href"))
    linked = replace(contents, console="https://sosie.test/console")
    links = Reading(render_report(linked)).values("href")
    assert links.count("https://sosie.test/console#/case/case-9") == 3


def test_a_group_without_links_is_shown_without_graph(make_contents) -> None:
    document = records.make_group("d", Identity("doc", (1,)), kind=GroupKind.ONE_DOCUMENT)
    page = Reading(render_report(make_contents(document)))
    assert "connected by their document" in page.text()
    assert "One document, many faces" in page.text()


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.499, 0.6, 0.995, 1.0])
def test_any_threshold_makes_a_report(make_contents, threshold: float) -> None:
    contents = make_contents()
    sweep = replace(contents.sweep, terms=SweepTerms(threshold=threshold))
    scores = np.linspace(threshold, 1, 50, dtype=np.float32)
    Reading(render_report(replace(contents, sweep=sweep, scores=scores)))


RATE, BOUND = Rate(40.0, 20.0, 100.0), Rate(100.0, 0.0, 100.0, is_bound=True)


@pytest.mark.parametrize(
    ("found", "expected", "tone", "words"),
    [
        # More than the upper end needs another explanation, and what chance can explain is doubted.
        (1000, RATE, "clear", "900 of the 1,000 found (90\N{NO-BREAK SPACE}%)"),
        *((found, RATE, "doubt", "") for found in (1, 50, 100)),
        (0, RATE, "clear", ""),
        (50, BOUND, "unknown", "at most 100 pairs"),
        (150, BOUND, "clear", ""),
    ],
)
def test_what_chance_can_explain_is_doubted_and_a_bound_is_never_shown_as_an_expectation(
    found: int, expected: Rate, tone: str, words: str
) -> None:
    verdict = judge_chance(found, expected)
    assert verdict.tone == tone
    assert words in verdict.text
    assert not (expected.is_bound and "about" in verdict.text)


def test_the_miss_rate_lies_between_calibrated_points(curve) -> None:
    missed = miss_rate(curve, 0.45)
    assert missed.value == pytest.approx(0.0045)
    assert (missed.low, missed.high) == (pytest.approx(0.00225), pytest.approx(0.009))
    assert miss_rate(curve, 0.61) is None
    assert miss_rate(curve, 0.05) is None


def test_a_budget_tells_every_term_and_where_its_ratio_comes_from(
    make_contents, make_group
) -> None:
    terms = (
        RiskTerm("prior", 4_472_200.0, 16.7),
        RiskTerm("score_ratio", 81_000.0, 24.5),
        RiskTerm("same_outlet_minutes", 356.0, 12.8),
        RiskTerm("other_name_and_birth", 0.7, -0.8),
        RiskTerm("further_identities", 1.0, 2.5),
    )
    ranking = {
        "considered": 12_345,
        "pairs_found": 372_956,
        "unknown": ["number"],
        "true": {"share": 0.53, "low": 0.44, "high": 0.6, "decided": 1_000},
        "estimates": [
            {"value": value, "mated": mated, "strangers": mated / 40, "ratio": 40.0}
            | {"compared": 150_000, "judged": 12}
            for value, mated in CIRCUMSTANCES["opening"].items()
        ],
    }
    contents = make_contents(replace(make_group(), terms=terms, risk=55.7))
    sweep = replace(contents.sweep, ranking=ranking, terms=SweepTerms(threshold=0.5, budget=500))
    page = render_report(replace(contents, sweep=sweep))
    Reading(page)
    for said in (
        "12,345 groups were considered, and the budget has room for 500",
        "About 53\N{NO-BREAK SPACE}% of them are expected to be true",
        "One outlet within 15 minutes: 360 times as likely of one person",
        "150,000 pairs of strangers; assumed, and 12 judged pairs",
        "Left out, since too few strangers tell it here: number",
    ):
        assert said in page, said
    assert "-0.8" in page
    assert 'id="scores"' not in page
    assert {value for values in CIRCUMSTANCES.values() for value in values} <= set(RATIO_TEXTS)


def test_outlets_where_liveness_failed_are_listed_by_rank(make_contents) -> None:
    counts = [
        LivenessCount("north", "=n1", False, 100, 30),
        LivenessCount("north", "<b>n2</b>", True, 100, 50),
        LivenessCount("north", "n3", False, 0, 0, proofs=4321),
    ]
    source = render_report(make_contents(liveness=rank_outlets(counts)))
    assert "<b>n2" not in source
    shown = Reading(source).text()
    assert "Outlets where liveness checks failed, or no face came, in 90 days before" in shown
    assert shown.index("n2") < shown.index("=n1")
    assert "liveness checks failed" not in Reading(render_report(make_contents())).text()


CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as CI is.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def report(tmp_path, make_contents, make_group) -> str:
    groups = [
        make_group(f"group {number}", size, f"outlet {number}", risk)
        for number, (size, risk) in enumerate([(3, 40.0), (12, 30.0), (2, 20.0)])
    ]
    path = tmp_path / "report.html"
    write_report(path, make_contents(*groups, fraud_in_use=2))
    return path.as_uri()


def test_charts_have_the_ground_of_the_page_in_either_scheme_and_in_print(browser, report) -> None:
    page = browser.new_page()
    page.goto(report)
    assert page.evaluate("[...document.images].map(one => one.naturalWidth > 0)") == [True] * CHARTS

    def look(**media: str) -> tuple[float, float]:
        page.emulate_media(**media)
        shown = page.locator("#scores .chart").screenshot()
        with Image.open(BytesIO(shown)) as picture:
            shades = np.asarray(picture.convert("L"))
        return float(np.median(shades)), float(shades.min() if shades[0, 0] > 128 else shades.max())

    light, dark = look(color_scheme="light"), look(color_scheme="dark")
    assert light[0] > 220 > 60 > light[1]
    assert dark[0] < 60 < 190 < dark[1]
    assert look(color_scheme="dark", media="print")[0] > 220
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser, report, scheme: str) -> None:
    # The page's policy would refuse what axe adds to it.
    page = browser.new_page(color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page.goto(report)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()


def test_nothing_is_logged_on_the_console_or_requested_from_the_network(browser, report) -> None:
    page = browser.new_page()
    logged: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(report)
    sort_by(page, "Identities")
    assert logged == []
    assert [one for one in requested if not one.startswith("data:")] == [report]
    page.close()


def test_groups_are_sorted_by_a_click_and_by_the_keyboard(browser, report) -> None:
    page = browser.new_page()
    page.goto(report)
    assert identities(page) == ["3", "12", "2"]
    sort_by(page, "Identities")
    assert identities(page) == ["12", "3", "2"]
    page.keyboard.press("Enter")
    assert identities(page) == ["2", "3", "12"]
    assert (
        page.locator("table.groups th[aria-sort=ascending]").inner_text().startswith("Identities")
    )
    page.close()


def test_what_is_folded_opens_for_a_link_and_for_print(browser, report) -> None:
    page = browser.new_page()
    page.goto(report)
    folds = "[...document.querySelectorAll('details.fold')]"
    page.evaluate(f"{folds}.forEach(one => one.open = false)")
    page.evaluate("location.hash = 'group-2'")
    page.wait_for_function("document.querySelector('#group-2 details').open")
    assert page.locator("#group-2").is_visible()
    assert page.evaluate(f"{folds}.filter(one => one.open).length") == 2
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(f"{folds}.every(one => one.open)")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(f"{folds}.filter(one => one.open).length") == 2
    page.close()


def test_without_script_the_groups_are_in_order_of_rank(browser, report) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    assert identities(page) == ["3", "12", "2"]
    assert page.locator("table.groups button").count() == 0
    context.close()


def test_it_fits_a_small_screen(browser, report) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.goto(report)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def sort_by(page: Page, column: str) -> None:
    page.locator("table.groups th button", has_text=column).click()


def identities(page: Page) -> list[str]:
    return page.locator("table.groups tbody tr td:nth-child(5)").all_inner_texts()


def test_every_term_of_a_risk_has_a_text() -> None:
    for kind, names in TERMS.items():
        for name in names:
            reason = describe_term(RiskTerm(name, 1.0, 3.0), kind)
            assert name.replace("_", " ") + ":" not in reason.text
            assert reason.most == SCALES[name][-1][1]


def test_an_unknown_term_is_shown_by_its_name() -> None:
    described = describe_term(RiskTerm("new_thing", 2.0, 3.0), GroupKind.ONE_FACE)
    assert described.text == "new thing: 2"
