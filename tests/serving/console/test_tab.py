"""What a tab keeps, sends again, refuses, and says in which language."""

from typing import Any

import pytest
from playwright.sync_api import Route, expect

from schema.decisions import Comparison
from tests.keys import add_key
from tests.serving.console.driving import STORED, Visitor, visiting

VIEWS = {
    "b1": ("enroll", "lines", "enrollments"),
    "fraud": ("cases", "sweeps", "search"),
    "operator": ("audit",),
}


def test_a_key_in_force_is_in_the_session_alone_and_goes_with_a_sign_out(browser, site) -> None:
    with visiting(browser, site) as visitor:
        visitor.sign_in("b1")
        session, local, cookie = visitor.page.evaluate(STORED)
        assert (session, cookie) == ([site.keys["b1"]], "")
        assert site.keys["b1"] not in local
        visitor.page.reload()
        visitor.expect_heading("New activation")
        visitor.press("Sign out")
        visitor.expect_heading("Sign in")
        assert visitor.page.evaluate(STORED)[0] == []
        visitor.page.get_by_label("API key").fill("sosie_nothing")
        visitor.press("Sign in")
        expect(visitor.page.get_by_role("alert")).to_contain_text("not a key in force")


def test_a_key_that_ends_keeps_what_was_typed_for_its_person_alone(browser, site) -> None:
    store, vault = site.service.parts.store, site.service.parts.vault
    texts = [add_key(store, vault, "fraud", label=label, person="Ends") for label in ("one", "two")]
    site.keys["ends"] = texts[0]
    with visiting(browser, site) as visitor:
        visitor.sign_in("ends")
        visitor.open("Sweeps")
        visitor.page.get_by_label("A score").check()
        visitor.fill(value="0.61")
        store.revoke_api_key(texts[0].split("_")[-2], actor="test")
        visitor.press("What to expect")
        dialog = visitor.page.get_by_role("dialog")
        expect(dialog).to_contain_text("no longer in force")
        assert visitor.page.evaluate(STORED)[0] == []
        visitor.page.keyboard.press("Escape")
        for text, said in ((site.keys["fraud"], "somebody else"), ("sosie_x", "not a key")):
            dialog.get_by_label("API key").fill(text)
            dialog.get_by_role("button", name="Sign in").click()
            expect(dialog.get_by_role("alert")).to_contain_text(said)
        dialog.get_by_label("API key").fill(texts[1])
        dialog.get_by_role("button", name="Sign in").click()
        expect(dialog).to_have_count(0)
        expect(visitor.page.locator("[name=value]")).to_have_value("0.61")
        visitor.press("What to expect")
        expect(visitor.page.get_by_role("button", name="Start the sweep")).to_be_visible()
        store.revoke_api_key(texts[1].split("_")[-2], actor="test")
        visitor.press("What to expect")
        visitor.press("Leave this page")
        visitor.expect_heading("Sign in")
        expect(visitor.page.get_by_role("alert")).to_contain_text("no longer in force")
        visitor.page.get_by_label("API key").fill(site.keys["fraud"])
        visitor.press("Sign in")
        visitor.expect_heading("Sweeps")


def test_a_view_of_another_role_is_not_opened(browser, site) -> None:
    with visiting(browser, site) as visitor:
        visitor.sign_in("b1")
        for place in ("audit", "cases", "sweep/x", "nothing", "%zz", "__proto__"):
            visitor.page.evaluate("place => { location.hash = `#/${place}`; }", place)
            visitor.expect_heading("New activation")
        assert visitor.faults == []


def test_the_keyboard_alone_goes_past_the_navigation_and_switches_single_keys_off(
    browser, site
) -> None:
    with visiting(browser, site) as visitor:
        visitor.sign_in("fraud")
        expect(visitor.page.get_by_role("heading", level=1)).to_be_focused()
        skip = visitor.page.get_by_role("link", name="Skip to the content")
        # A view begins at its heading; the way back is the navigation and the tools.
        stops = visitor.page.locator("header").locator("a, select, button").count() + 1
        for _ in range(stops):
            visitor.page.keyboard.press("Shift+Tab")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        visitor.page.keyboard.press("Enter")
        expect(visitor.page.get_by_role("main")).to_be_focused()
        visitor.page.keyboard.press("?")
        visitor.page.get_by_label("Single keys work").uncheck()
        visitor.page.keyboard.press("Escape")
        visitor.page.keyboard.press("?")
        expect(visitor.page.get_by_role("dialog")).to_have_count(0)


def test_an_activation_without_an_answer_is_sent_again_under_its_key(
    browser, site, photographs
) -> None:
    sent: list[str] = []

    def fail_first(route: Route) -> None:
        sent.append(route.request.headers["idempotency-key"])
        if len(sent) in {1, 3}:
            body = '{"status": 503, "code": "SERVICE.NOT_READY", "message": "not yet"}'
            route.fulfill(status=503, body=body, headers={"retry-after": "1"})
        else:
            route.continue_()

    with visiting(browser, site) as visitor:
        visitor.page.route("**/v1/enrollments", fail_first)
        visitor.sign_in("b1")
        fill_in(visitor, photographs)
        visitor.press("Decide")
        visitor.expect_heading("Decision")
        assert len(sent) == 2
        assert len(set(sent)) == 1
        visitor.press("Next activation")
        fill_in(visitor, photographs)
        visitor.press("Decide")
        visitor.expect_heading("Decision")
        assert len(sent) == 4
        assert len(set(sent)) == 2


def fill_in(visitor: Visitor, photographs: Any) -> None:
    visitor.expect_heading("New activation")
    number, name = "110105198503071257", "Stan Stranger"
    visitor.fill(type="cn-ric", number=number, name=name, msisdn="+8613800138001", consent_ref="C")
    visitor.choose("Live photograph", photographs.faceless)
    visitor.choose("Document portrait", photographs.faceless)
    visitor.take_now()


def test_a_photograph_that_is_missing_or_too_large_is_said_before_it_is_sent(
    browser, site, tmp_path
) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(b"\xff\xd8" + bytes(8 * 2**20))
    with visiting(browser, site) as visitor:
        visitor.sign_in("b1")
        visitor.open("Numbers under a name")
        visitor.fill(type="cn-ric", number="110105199003071239")
        visitor.press("Show the numbers")
        picture = visitor.page.get_by_role("group", name="Live photograph")
        expect(picture).to_contain_text("A photograph is missing here.")
        picture.locator("input").set_input_files(large)
        expect(picture).to_contain_text("Larger than 8 MB")
        expect(picture.get_by_role("img")).to_have_count(0)


def test_several_frames_are_chosen_sent_and_their_outcome_shown(browser, site, photographs) -> None:
    with visiting(browser, site) as visitor:
        visitor.sign_in("b1")
        fill_in(visitor, photographs)
        live = visitor.page.get_by_role("group", name="Live photograph")
        files = live.locator("input")
        files.set_input_files([photographs.live] * 9)
        expect(live).to_contain_text("More than 8 frames")
        files.set_input_files([photographs.faceless, photographs.live, photographs.later])
        expect(live).to_contain_text("Chosen: 3 frames")
        expect(live.get_by_role("img")).to_have_count(3)
        visitor.take_now()
        visitor.press("Decide")
        visitor.expect_heading("Decision")
        frames = visitor.page.get_by_role("table", name="Frames of the live face")
        expect(frames).to_contain_text("left out · No face was found.")
        expect(frames.get_by_role("row", name="fused")).to_have_count(2)


def test_the_camera_takes_three_frames_in_a_row(browser, site) -> None:
    with visiting(browser, site) as visitor:
        visitor.sign_in("b1")
        picture = visitor.page.get_by_role("group", name="Live photograph")
        picture.get_by_role("button", name="Use the camera").click()
        visitor.press("Take it")
        expect(picture.get_by_role("img")).to_have_count(3)
        assert visitor.page.locator("[name=captured_at]").input_value() != ""
        assert visitor.page.locator("video").count() == 0
        assert visitor.faults == []


def test_the_curve_reads_as_the_calibration_does(browser, site) -> None:
    calibration = site.service.parts.calibration
    curve = calibration.curve(Comparison.FUSED)
    inside = [curve.points[0].threshold, curve.points[-1].threshold - 1e-6]
    scores = [-0.2, 0.0, 0.1, *inside, *(point.threshold + 0.003 for point in curve.points[:-1])]
    with visiting(browser, site) as visitor:
        visitor.sign_in("fraud")
        read = visitor.page.evaluate(
            """async (scores) => {
              const { rateAt } = await import("/console/js/scores.js");
              const { get } = await import("/console/js/api.js");
              const { calibration } = await get(["thresholds"]);
              const curve = calibration.curves.find((one) => one.comparison === "fused");
              return scores.map((score) => rateAt(curve, score).value);
            }""",
            scores,
        )
    assert read == pytest.approx([curve.fmr_at(score).value for score in scores], rel=1e-6)


@pytest.mark.parametrize("key", VIEWS)
def test_every_view_is_whole_in_another_language_which_a_tab_keeps(browser, site, key: str) -> None:
    with visiting(browser, site) as visitor:
        visitor.sign_in(key)
        for view in VIEWS[key]:
            visitor.page.locator(f"nav a[data-view={view}]").click()
            visitor.check_languages(view)
        visitor.speak("ko")
        visitor.check(f"{VIEWS[key][-1]}-ko")
        visitor.page.reload()
        visitor.expect_language("ko")


def test_a_group_of_hundreds_is_drawn_though_its_weakest_link_is_left_out(browser, site) -> None:
    draw = """async () => {
        const { groupFigure, showFace } = await import("/console/js/views/group.js");
        const ids = Array.from({ length: 500 }, (_, place) => `d${place}`);
        const identities = ids.map((id) => ({ document_id: id, lines: [], disputes: 0 }));
        const links = ids.slice(1).map((right, place) => ({ left: ids[place], right, score: 0.7 }));
        const weakest = { left: "d499", right: "d500", score: 0.6 };
        const names = new Map(ids.map((id, place) => [id, String(place + 1)]));
        const figure = groupFigure({ identities, links, weakest }, names);
        showFace(figure, "d7", "data:,");
        const sizes = [...figure.querySelectorAll("circle, image")].map(
            (one) => Number(one.getAttribute("r") ?? one.getAttribute("width")));
        return [figure.querySelectorAll(".node").length, Math.min(...sizes) > 0];
    }"""
    with visiting(browser, site) as visitor:
        visitor.sign_in("fraud")
        assert visitor.page.evaluate(draw) == [500, True]


def test_a_case_of_hundreds_of_numbers_is_no_page_without_an_end(browser, site) -> None:
    draw = """async (proposal) => {
        const { caseActions } = await import("/console/js/casework.js");
        const line = { number: "••••1", carrier: "blue", outlet: "b1", status: "active" };
        const lines = Array.from({ length: 900 }, (_, at) => ({ ...line, line_id: `l${at}` }));
        const given = proposal && { outcome: "fraud", close_lines: lines.map((one) => one.line_id),
                                    by: "x", person: "x", at: "2026-01-01T00:00:00Z" };
        const found = { case_id: "c", kind: "one_face_many_documents", state: "open",
                        assignee: null, documents: [{ lines }], proposal: given };
        const page = { signal: new AbortController().signal };
        document.querySelector("main").replaceChildren(caseActions(page, found).node);
        return document.documentElement.scrollHeight < 4000;
    }"""
    with visiting(browser, site) as visitor:
        visitor.sign_in("fraud")
        for proposal in (False, True):
            assert visitor.page.evaluate(draw, proposal), proposal
