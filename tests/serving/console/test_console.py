"""The whole way through the console in a real Chromium, as people go it."""

import csv
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from engine.cases.opening import CaseBatch, NewCase
from engine.registry.cases import CaseRecord
from engine.registry.writer import Writer
from schema.cases import CaseKind, CaseOrigin
from schema.options import CarrierPeople, PeopleRules
from tests.engine.records import newest_cases
from tests.serving.console.conftest import RING, Site, open_site
from tests.serving.console.driving import Visitor, visiting
from tests.serving.sandbox.conftest import serve_sandbox
from tests.serving.sweeps.synthetic_people import PausedJoin
from tests.waiting import wait_until

HOLDER, SECOND = "110105199003071239", "110105198503071257"
OPEN_CASES = re.compile(r"/v1/cases\?.*state=alive")
IS_THERE = """async (address) => {
  const image = new Image();
  image.src = address;
  return image.decode().then(() => true, () => false);
}"""
MANY = """async () => {
  const { faceSection } = await import("/console/js/face_desk.js");
  const links = [...document.querySelectorAll("main td a[href*=documents]")];
  const known = links.slice(0, 6).map((one) => one.href.split("/").pop());
  const others = Array.from({ length: 3000 }, () => crypto.randomUUID());
  const { signal } = new AbortController();
  const { node } = await faceSection({ signal }, [...known, ...others]);
  document.querySelector("main").append(node);
}"""
NOTE = '<img src=x onerror="document.title=1"> <b>same scar</b> \u0645\u062d\u0645\u062f'


def test_the_whole_way_from_an_activation_to_a_decided_case_and_a_sweep(
    browser, site, photographs
) -> None:
    with visiting(browser, site) as clerk:
        clerk.page.goto(f"{site.url}/console")
        clerk.expect_heading("Sign in")
        clerk.check("signin")
        clerk.check_languages("signin")
        clerk.sign_in("b1")
        enroll(clerk, photographs, HOLDER, "Aileen Probe", "+8613800138777")
        expect(clerk.page.locator(".verdict")).to_contain_text("Approved")
        clerk.press("Next activation")
        enroll(clerk, photographs, SECOND, "Eve Twice", "+8613800138778")
        expect(clerk.page.locator(".verdict")).to_contain_text("Rejected")
        expect(clerk.page.locator(".verdict")).to_contain_text("DUPLICATE_IDENTITY")
        clerk.check("decision")
    with visiting(browser, site) as analyst, visiting(browser, site) as second:
        analyst.sign_in("fraud")
        open_the_case(analyst)
        look_at_the_enrollment(analyst)
        document = hold_an_erasure(analyst)
        propose_fraud(analyst)
        approve(second)
        expect_erased(site, document)
        suspend_an_outlet(analyst)
        bar_the_outlet(second)
        with visiting(browser, site) as clerk:
            be_refused(clerk, photographs)
        lift_the_bar(second)
        decide_two_of_the_ring(site)
        run_a_sweep(analyst)
        look_at_what_decisions_teach(analyst)
        search(analyst, photographs)
    with visiting(browser, site) as clerk:
        clerk.sign_in("r1")
        dispute_a_number(clerk, photographs)
    with visiting(browser, site) as operator:
        operator.sign_in("operator")
        verify_the_chain(operator)


def test_a_sweep_is_paused_and_goes_on_and_another_is_cancelled(browser, site, monkeypatch) -> None:
    deployment = site.service.match._lifecycle.require().deployment

    def start_and_hold(analyst: Visitor, budget: str = "") -> PausedJoin:
        paused = PausedJoin()
        monkeypatch.setattr(deployment.snapshots, "joiner", paused.joiner)
        analyst.open("Sweeps")
        if budget:
            analyst.page.get_by_label("A budget of cases").check()
            analyst.fill(value=budget)
        analyst.press("What to expect")
        if budget:
            expect(analyst.page.locator(".plan")).to_contain_text("Groups rank by score")
            analyst.check("budget")
        analyst.press("Start the sweep")
        analyst.expect_heading("Sweep")
        assert paused.reached.wait(120)
        return paused

    with visiting(browser, site) as analyst:
        analyst.sign_in("fraud")
        state = analyst.page.locator(".status-line")
        paused = start_and_hold(analyst, budget="3")
        analyst.press("Pause")
        expect(state).to_contain_text("Paused")
        paused.opened.set()
        analyst.press("Go on")
        expect(state).to_contain_text("Done", timeout=20_000)
        analyst.row("One face, many documents").get_by_role("link").click()
        case = analyst.page.get_by_role("main").locator("a[href*='/case/']").first
        expect(analyst.row("Score: times as likely of one person")).to_be_visible()
        case.click()
        expect(analyst.page.get_by_role("heading", name="Why this case")).to_be_visible()
        expect(analyst.row("Further identities")).to_be_visible()
        analyst.check("why")
        paused = start_and_hold(analyst)
        analyst.press("Cancel the sweep")
        expect(state).to_contain_text("Cancelled")
        paused.opened.set()
        assert analyst.faults == []


def enroll(clerk: Visitor, photographs: Any, number: str, name: str, msisdn: str) -> None:
    clerk.expect_heading("New activation")
    clerk.fill(type="cn-ric", number=number, name=name, msisdn=msisdn, consent_ref="C-2026-1")
    give_photographs(clerk, photographs)
    if number == HOLDER:
        clerk.check("enroll")
    clerk.press("Decide")
    clerk.expect_heading("Decision")


def open_the_case(analyst: Visitor) -> None:
    analyst.expect_heading("Cases")
    expect(analyst.row("One face, two documents")).to_have_count(1)
    analyst.page.get_by_label("Show faces").check()
    expect(analyst.page.locator(".row-faces img")).to_have_count(2)
    # Whose face an attempt shows nobody knows yet.
    expect(analyst.page.locator(".row-faces figcaption").first).to_have_text("Attempt")
    analyst.check("cases")
    find_by_number(analyst)
    analyst.page.keyboard.press("?")
    expect(analyst.page.get_by_role("dialog")).to_contain_text("Next case")
    analyst.check("keys")
    analyst.press("Close")
    analyst.page.keyboard.press("j")
    analyst.page.keyboard.press("a")
    expect(analyst.row("One face, two documents")).to_contain_text("You")
    analyst.page.keyboard.press("n")
    analyst.expect_heading("One face, two documents")
    # What tells it from others of its kind, in a tab too: masked.
    analyst.expect_heading("8000")
    assert re.search(r"two documents: .*••••\d{4}", analyst.page.title())
    expect(analyst.page.get_by_label("Note")).to_be_focused()
    analyst.page.keyboard.type(NOTE)
    analyst.press("Add the note")
    note = analyst.page.locator(".note")
    expect(note).to_have_text(NOTE)
    assert note.locator("*").count() == 0
    compare_faces(analyst)
    analyst.check("case")


def find_by_number(analyst: Visitor) -> None:
    """The whole number is sent, and is in no address."""
    analyst.page.get_by_role("link", name="Find by telephone number").click()
    analyst.fill(msisdn="+8613800138777")
    analyst.press("Search")
    expect(analyst.page.get_by_role("table", name="Cases")).to_contain_text("One face")
    assert "8777" not in analyst.page.url
    analyst.open("Cases")
    expect(analyst.page.locator("tr[data-case]")).to_have_count(1)


def compare_faces(analyst: Visitor) -> None:
    """Suspect and holder, of whose reference no face is kept; by keyboard, at three times a crop's
    size, and on a narrow screen."""
    desk = analyst.page.locator(".face-desk")
    shown = desk.locator(".face-frame > img:visible")
    expect(shown).to_have_count(2)
    expect(shown.first).to_have_js_property("naturalWidth", 112)
    # Asked of the frame around both: the pictures are drawn anew when their likeness is known.
    width = "desk => desk.querySelector('.face-frame > img').clientWidth"
    assert desk.evaluate(width) >= 3 * 112
    sides = [desk.get_by_label(name, exact=True) for name in ("Left", "Right")]
    left, right = (side.input_value() for side in sides)
    analyst.page.keyboard.press("s")
    assert [side.input_value() for side in sides] == [right, left]
    analyst.page.keyboard.press("f")
    expect(desk.get_by_role("button", name="Flip")).to_have_attribute("aria-pressed", "true")
    analyst.page.keyboard.press("z")
    expect(desk.get_by_role("status")).to_contain_text("1.5")
    desk.get_by_label("Part of both").select_option("Eyes")
    transforms = "nodes => new Set(nodes.map((node) => node.style.transform)).size"
    assert shown.evaluate_all(transforms) == 1
    analyst.page.keyboard.press("Escape")
    desk.get_by_role("button", name="Blink").press("Enter")
    expect(desk.locator(".face-over")).to_be_visible()
    expect(desk.locator(".face-over")).to_be_hidden()
    desk.get_by_role("button", name="Blink").press("Enter")
    reference = sides[1].locator("option").filter(has_text="Not kept")
    sides[1].select_option(value=reference.first.get_attribute("value"))
    expect(desk.locator(".face-missing")).to_be_visible()
    expect(desk.locator(".face-score")).to_contain_text("pairs of strangers scores as high")
    analyst.page.set_viewport_size({"width": 390, "height": 844})
    desk.locator("summary").press("Enter")
    expect(desk.get_by_role("table")).to_be_visible()
    analyst.check("case-narrow")
    desk.locator("summary").press("Enter")
    analyst.page.set_viewport_size({"width": 1280, "height": 800})
    desk.get_by_label("Part of both").select_option("Whole face")
    desk.get_by_role("button", name="Flip").click()
    for _ in range(3):
        desk.get_by_role("button", name="Zoom").click()
    expect(desk.get_by_role("status")).not_to_contain_text("1.5")
    for side, chosen in zip(sides, (left, right), strict=True):
        side.select_option(value=chosen)


def look_at_the_enrollment(analyst: Visitor) -> None:
    analyst.page.locator(".facts a").first.click()
    analyst.expect_heading("Enrollment")
    faces = analyst.page.locator(".face-frame > img:visible")
    expect(faces).to_have_count(2)
    address = faces.first.get_attribute("src") or ""
    assert address.startswith("blob:")
    expect(analyst.page.locator(".curves .curve")).to_have_count(2)
    expect(analyst.page.locator(".curves .curve").nth(1)).to_contain_text("Duplicate")
    analyst.check("enrollment")
    analyst.page.go_back()
    analyst.expect_heading("One face, two documents")
    # The picture is gone with its page.
    assert not analyst.page.evaluate(IS_THERE, address)
    analyst.faults.clear()


def hold_an_erasure(analyst: Visitor) -> str:
    """The erasure of the document that the case is about is asked for, and waits for it."""
    card = analyst.page.locator("article.card").filter(has_text="Attempted only")
    address = card.get_by_role("link").first.get_attribute("href") or ""
    document = address.split("/")[-1]
    path = f"/v1/documents/{document}"
    asked = analyst.site.service.ask("DELETE", path, key="operator")
    assert (asked.status_code, asked.json()["state"]) == (202, "pending")
    analyst.page.reload()
    analyst.expect_heading("One face, two documents")
    notice = analyst.page.locator(".notice.warn")
    expect(notice).to_contain_text("whose erasure is asked for: 1")
    expect(card).to_contain_text("Erased at the latest")
    expect(analyst.page.locator(".history-erasure_asked")).to_have_count(1)
    analyst.check("hold")
    card.get_by_role("link").first.click()
    expect(analyst.page.locator(".notice.info")).to_contain_text("waits for open cases")
    analyst.press("Show faces")
    expect(analyst.page.locator(".face-side img").first).to_be_visible()
    expect(analyst.page.get_by_role("row").filter(has_text="Received")).to_be_visible()
    analyst.page.go_back()
    analyst.expect_heading("One face, two documents")
    return document


def expect_erased(site: Site, document: str) -> None:
    """What was acknowledged is done once the case is closed."""
    path = f"/v1/documents/{document}/erasure"
    read = partial(site.service.ask, "GET", path, key="operator")
    wait_until(lambda: read().json()["state"] == "done")
    assert read().json()["certificate"]["document_id"] == document


def suspend_an_outlet(analyst: Visitor) -> None:
    analyst.page.reload()
    analyst.expect_heading("One face, two documents")
    analyst.page.get_by_role("link", name="b1", exact=True).first.click()
    analyst.expect_heading("b1")
    analyst.fill(reason="Two documents of one face")
    analyst.check("outlet")
    analyst.press("Suspend the outlet")
    analyst.expect_heading("Suspended")
    steps = analyst.page.get_by_role("complementary", name="What may be done")
    expect(steps).to_contain_text("another person must bar it")
    expect(steps.get_by_role("button", name="Bar the outlet")).to_have_count(0)
    analyst.page.locator(".facts").get_by_role("link").click()
    analyst.expect_heading("One face, two documents")
    expect(analyst.page.locator(".history-restricted")).to_contain_text("Two documents of one face")


def bar_the_outlet(second: Visitor) -> None:
    second.open("Cases")
    # A look is in the name of whoever looks: no address that somebody was sent asks for it.
    second.page.evaluate("location.hash = '#/cases?faces=true&state=all'")
    expect(second.page.locator("tr[data-case]")).to_have_count(1)
    expect(second.page.get_by_label("Show faces")).not_to_be_checked()
    expect(second.page.locator(".row-faces")).to_have_count(0)
    second.page.get_by_role("link", name="Outlets", exact=True).click()
    second.expect_heading("Outlets")
    row = second.row("b1", "Suspended")
    expect(row).to_have_count(1)
    second.check("outlets")
    second.check_languages("outlets")
    row.get_by_role("link").click()
    second.expect_heading("b1")
    bar = second.page.locator("form").filter(has_text="Bar the outlet")
    bar.locator("[name=reason]").fill("Seen by a second person")
    bar.get_by_role("button", name="Bar the outlet").click()
    second.expect_heading("Barred")


def be_refused(clerk: Visitor, photographs: Any) -> None:
    clerk.sign_in("b1")
    clerk.expect_heading("New activation")
    given = {"type": "cn-ric", "number": SECOND, "name": "Eve Twice", "msisdn": "+8613800138779"}
    clerk.fill(**given, consent_ref="C-2026-2")
    give_photographs(clerk, photographs)
    clerk.press("Decide")
    expect(clerk.page.get_by_role("alert")).to_contain_text("may enroll nobody")


def lift_the_bar(second: Visitor) -> None:
    """What was refused there is counted, and what was enrolled before is looked at."""
    second.page.reload()
    second.expect_heading("Barred")
    expect(second.page.locator(".facts")).to_contain_text(re.compile(r"Attempts refused since\s*1"))
    past = second.page.get_by_role("table", name="Enrolled there before")
    rows = past.locator("tbody").get_by_role("row")
    before = rows.count()
    second.page.get_by_label("Decision").select_option("rejected")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("One face, two documents")
    assert before > 1
    second.check("barred")
    second.fill(reason="Another staff")
    second.press("Let it enroll again")
    second.expect_heading("Open")


def propose_fraud(analyst: Visitor) -> None:
    """Nothing is sent that says of its numbers neither that they close nor that they stay."""
    analyst.page.get_by_label("Fraud", exact=True).check()
    analyst.press("Propose")
    expect(analyst.page.locator("input[name=keep]:invalid")).to_be_focused()
    expect(analyst.page.locator(".proposal")).to_have_count(0)
    analyst.page.get_by_role("checkbox", name=re.compile("8777")).check()
    expect(analyst.page.locator("input[name=keep]:invalid")).to_have_count(0)
    expect(analyst.page.get_by_role("button", name="Close the case")).to_have_attribute(
        "aria-disabled", "true"
    )
    analyst.press("Propose")
    expect(analyst.page.locator(".proposal")).to_contain_text("another person has to approve")
    expect(analyst.page.get_by_role("button", name="Approve and close")).to_have_count(0)


def approve(second: Visitor) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    second.page.route(OPEN_CASES, hold)
    second.sign_in("second")
    second.page.get_by_label("State").select_option("proposed")
    expect(second.row("One face, two documents")).to_contain_text("Proposed")
    # The first answer comes after that to the filter, and is not shown any more.
    with second.page.expect_response(OPEN_CASES):
        held[0].continue_()
    second.page.unroute(OPEN_CASES)
    second.page.wait_for_timeout(100)
    expect(second.row("One face, two documents")).to_contain_text("Proposed")
    second.page.keyboard.press("Escape")
    second.row("One face, two documents").get_by_role("link").click()
    second.expect_heading("One face, two documents")
    expect(second.page.locator(".proposal")).to_contain_text("1 of 2 numbers will be closed.")
    second.check("proposal")
    second.fill(reason="To compare both copies")
    second.press("Show names and numbers")
    expect(second.page.get_by_role("table", name="Whom it is about, in full")).to_contain_text(
        "110105199003071239"
    )
    # The erasure that waits is done when the case closes.
    make_the_report(second)
    refuse_what_nobody_has_seen(second)
    second.press("Approve and close")
    expect(second.page.get_by_role("heading", level=1)).to_contain_text("Closed")
    expect(second.row("8000")).to_have_count(1)
    expect(second.row("8777")).to_contain_text("Closed")
    second.check("closed")
    ways = second.page.get_by_role("complementary", name="What to do")
    ways.locator("textarea").fill("The clerk has confessed")
    second.press("Ask to open it again")
    expect(ways).to_contain_text("another person has to approve it")
    second.press("Withdraw the proposal")
    expect(ways.locator("textarea")).to_have_value("")
    second.open("Cases")
    second.page.get_by_label("State").select_option("closed")
    whose = second.page.get_by_label("Carriers")
    for asked, shown in (("red", 0), ("red, blue", 1)):
        whose.fill(asked)
        whose.press("Enter")
        expect(second.page.locator("tr[data-case]")).to_have_count(shown)
    save_the_rows(second)
    # What was left in use is shown to whoever looks at the queue, whatever is asked for there.
    second.open("Cases")
    second.page.get_by_role("link", name="Cases decided as fraud with numbers in use: 1").click()
    left = second.row("One face, two documents")
    expect(left).to_contain_text("Decided fraud, numbers in use: 1")
    expect(left).to_contain_text("Closed")


def save_the_rows(second: Visitor) -> None:
    """As they stand there; what a spreadsheet would compute is a text."""
    row = second.page.locator("tr[data-case]")
    row.locator("td").nth(1).evaluate("""(cell) => (cell.textContent = '=1+"a"')""")
    with second.page.expect_download() as download:
        second.press("Save these rows for a spreadsheet")
    assert download.value.suggested_filename == "Cases.csv"
    heads, values = csv.reader(download.value.path().read_text("utf-8-sig").splitlines())
    assert heads[:2] == ["Case", "About"]
    assert values[:2] == [row.get_attribute("data-case"), """'=1+"a\""""]
    assert "blue" in values[heads.index("Where")]


def decide_two_of_the_ring(site: Site) -> None:
    """Two people say of two of the ring that they are two people, before a sweep finds the ring."""
    numbers = [f"+861390013{8000 + place}" for place in (RING - 2, RING - 1)]
    ask = site.service.ask
    asked = [ask("POST", "/v1/people/search", key="fraud", body={"msisdn": n}) for n in numbers]
    ids = [one.json()["people"][0]["document_id"] for one in asked]
    deployment = site.service.match._lifecycle.require().deployment

    def open_case(writer: Writer, now: datetime) -> CaseRecord:
        batch = CaseBatch(deployment.store, now)
        given = {"document_ids": ids, "suspect_ids": ids}
        new = NewCase(kind=CaseKind.POSSIBLE_DUPLICATE, origin=CaseOrigin.DECISION, **given)
        case = batch.open(new, "test")
        writer.commit(batch.writes())
        return case

    path = f"/v1/cases/{deployment.registrar.run(open_case).id}"
    for key, step in (("fraud", "propose"), ("second", "close")):
        body = {"outcome": "mistake", "seen_at": ask("GET", path, key=key).json()["updated_at"]}
        assert ask("POST", f"{path}/{step}", key=key, body=body).status_code == 200


def see_what_was_decided_before(analyst: Visitor) -> None:
    """Of the case of the ring, two documents were decided on in another."""
    analyst.row("One face, many documents").get_by_role("link").first.click()
    analyst.expect_heading("One face, many documents")
    table = analyst.page.get_by_role("table", name="Decided before")
    expect(table.get_by_role("row").nth(1)).to_contain_text("0.532Mistake")
    analyst.check_languages("decided")


def make_the_report(second: Visitor) -> None:
    """The file of the case opens by itself, with faces and, where asked, whole names."""
    made = []
    whose = second.page.get_by_label("For", exact=True)
    whose.select_option("blue")
    for wants_more in (False, True):
        if wants_more:
            second.page.get_by_label("With the faces that are kept").check()
            second.page.get_by_label("Names and numbers in full").check()
            whose.select_option("All carriers")
        with second.page.expect_download() as download:
            second.press("Make the file")
        made.append(download.value.path())
    expect(second.page.get_by_text("The file was made. Faces in it: ")).to_be_visible()
    assert "Aileen Probe" not in made[0].read_text("utf-8")
    # The page's policy would refuse what axe adds to it.
    reader = second.page.context.browser
    page = reader.new_page(bypass_csp=True)
    page.set_content(made[1].read_text("utf-8"))
    expect(page.get_by_role("heading", level=1)).to_have_text("One face, two documents")
    expect(page.get_by_text("Aileen Probe").first).to_be_visible()
    expect(page.locator(".pair").first.locator("img")).to_have_count(2)
    expect(page.get_by_text("pairs of strangers scores as high").first).to_be_visible()
    expect(page.locator(".note").first).to_have_text(NOTE)
    expect(page.get_by_role("row").filter(has_text="case.reported")).to_have_count(2)
    Visitor(second.site, page).check("case-report")
    page.close()


def refuse_what_nobody_has_seen(second: Visitor) -> None:
    """The case changes elsewhere while it stands open here."""
    second.page.evaluate(
        """async () => {
          const { post } = await import("/console/js/api.js");
          const id = location.hash.split("?")[0].split("/").pop();
          await post(["cases", id, "notes"], { text: "from elsewhere" });
        }"""
    )
    second.press("Approve and close")
    expect(second.page.get_by_role("alert")).to_contain_text("The case has changed meanwhile")
    # Chromium tells of every answer that is a refusal.
    assert "409" in second.faults.pop()
    second.page.reload()
    second.expect_heading("One face, two documents")


def run_a_sweep(analyst: Visitor) -> None:
    analyst.open("Sweeps")
    analyst.press("What to expect")
    plan = analyst.page.locator(".plan")
    expect(plan).to_contain_text("False pairs to expect", timeout=20_000)
    analyst.check("sweeps")
    analyst.press("Start the sweep")
    analyst.expect_heading("Sweep")
    state = analyst.page.locator(".status-line")
    expect(state).not_to_contain_text(re.compile("Waiting|Running"), timeout=20_000)
    expect(state).to_contain_text("Done")
    group = analyst.row("One face, many documents")
    expect(group).to_contain_text(str(RING))
    analyst.check("sweep")
    analyst.check_languages("sweep")
    group.get_by_role("link").click()
    analyst.expect_heading("One face, many documents")
    expect(analyst.page.locator(".graph .node")).to_have_count(RING)
    # Of one no face is kept.
    expect(analyst.page.locator(".graph .node image")).to_have_count(RING - 1)
    expect(analyst.page.locator(".link-weakest")).to_have_count(1)
    # Whoever looks like one of the seven alone is not in the group, and is told of.
    cut = analyst.page.get_by_role("table", name="Cut links")
    expect(cut.get_by_role("row")).to_have_count(2)
    analyst.page.locator(".graph .node").first.focus()
    assert analyst.page.locator(".link-lit").count() > 0
    choose_among_many(analyst)
    analyst.check("group")
    analyst.check_languages("group")
    analyst.page.locator(".graph .node").first.focus()
    analyst.page.keyboard.press("Enter")
    expect(analyst.page.locator(".person-head")).to_contain_text("R••")
    analyst.check("document")
    analyst.check_languages("document")
    see_what_was_decided_before(analyst)


def look_at_what_decisions_teach(analyst: Visitor) -> None:
    analyst.open("Sweeps")
    analyst.page.get_by_role("link", name="By threshold, kind and month").click()
    analyst.expect_heading("What decisions teach")
    expect(analyst.page.locator(".notice")).to_contain_text("Too few decisions for a threshold")
    kinds = analyst.page.get_by_role("table", name="Closed cases by kind")
    found = kinds.get_by_role("row", name=re.compile("^One face, two documents"))
    expect(found).to_contain_text("100%")
    analyst.check("precision")
    analyst.check_languages("precision")
    # A threshold that decisions propose is one click away from its plan.
    take = """async () => {
      const { proposalNotice } = await import("/console/js/views/precision.js");
      const proposal = { threshold: 0.62, wanted: 0.8, cases: 30 };
      document.querySelector("main").prepend(proposalNotice(proposal));
    }"""
    analyst.page.evaluate(take)
    analyst.page.get_by_role("link", name="Plan a sweep at this threshold").click()
    analyst.expect_heading("Sweeps")
    expect(analyst.page.locator("[name=value]")).to_have_value("0.62")
    analyst.press("What to expect")
    expect(analyst.page.locator(".plan")).to_contain_text("0.620")


def choose_among_many(analyst: Visitor) -> None:
    """Of thousands of members a few are looked at, and the next ones on demand."""
    desk = analyst.page.locator(".face-desk")
    people = desk.get_by_role("list", name="People to compare with").get_by_role("button")
    expect(people).to_have_count(RING - 1)
    people.last.press("Enter")
    expect(people.last).to_have_attribute("aria-pressed", "true")
    expect(people.last).to_be_focused()
    expect(desk.locator(".face-score")).to_contain_text("pairs of strangers")
    desk.locator("summary").click()
    expect(desk.get_by_role("row", name="sharpness")).to_have_count(1)
    expect(desk.locator(".curve")).to_have_count(1)
    with analyst.page.expect_response("**/v1/faces/query") as first:
        analyst.page.evaluate(MANY)
    many = analyst.page.locator(".face-desk").last
    assert len(first.value.request.post_data_json["document_ids"]) == 8
    with analyst.page.expect_response("**/v1/faces/query") as second:
        many.get_by_role("button", name="Show 8 more").click()
    assert len(second.value.request.post_data_json["document_ids"]) == 8
    expect(many.get_by_role("button", name="Show 8 more, 2,990 are left")).to_be_visible()
    many.evaluate("node => node.parentElement.remove()")


def search(analyst: Visitor, photographs: Any) -> None:
    analyst.open("Search")
    people = analyst.page.locator(".person")
    submit = analyst.page.get_by_role("main").get_by_role("button", name="Search")

    def choose_way(name: str) -> None:
        analyst.page.get_by_role("radio", name=name).check()
        expect(people).to_have_count(0)

    choose_way("Number")
    analyst.fill(msisdn="+8613800138000")
    submit.click()
    expect(people).to_have_count(1)
    analyst.check("search")
    choose_way("Document")
    analyst.fill(type="cn-ric", number=HOLDER)
    submit.click()
    expect(people).to_have_count(1)
    expect(people).to_contain_text("8000")
    choose_way("Face")
    analyst.choose("Face", photographs.live)
    submit.click()
    expect(people).to_have_count(1)
    expect(people).to_contain_text("8000")
    expect(analyst.page.locator(".results")).to_contain_text("Strangers to expect by chance")
    analyst.press("Show faces side by side")
    expect(analyst.page.locator(".face-desk")).to_contain_text("Photograph searched with")
    assert analyst.faults == []


def dispute_a_number(clerk: Visitor, photographs: Any) -> None:
    clerk.open("Numbers under a name")
    clerk.fill(type="cn-ric", number=HOLDER)
    clerk.choose("Live photograph", photographs.live)
    clerk.press("Show the numbers")
    line = clerk.page.locator("tbody tr").first
    line.get_by_role("button", name="Not mine").click()
    clerk.check("dispute")
    clerk.press("Open the dispute")
    expect(line).to_contain_text("Disputed")
    clerk.check("lines")


def verify_the_chain(operator: Visitor) -> None:
    operator.expect_heading("Audit chain")
    expect(operator.page.locator("tbody tr").first).to_be_visible()
    operator.press("Verify the chain")
    expect(operator.page.locator(".notice.good")).to_contain_text(re.compile(r"whole: \d+"))
    operator.check("audit")


@pytest.fixture
def strict_site(keyed_home, extractor, tmp_path) -> Iterator[Site]:
    """A site that asks for guardians and takes exceptions."""
    shutil.copytree(keyed_home[0], tmp_path / "home")
    rules = CarrierPeople(age_of_majority=17, exceptions=True)
    people = PeopleRules(carriers={"blue": rules})
    with open_site(tmp_path / "home", keyed_home[1], extractor, people=people) as opened:
        yield opened


def test_a_guardian_an_exception_and_the_document_before_are_asked_for_where_they_are_ticked(
    browser, strict_site, photographs
) -> None:
    with visiting(browser, strict_site) as clerk:
        clerk.sign_in("b1")
        expect(clerk.page.locator("[name=guardian_name]")).to_be_hidden()
        expect(clerk.page.locator("[name=exception]")).to_be_hidden()
        for language in ("zh", "ko", "en"):
            # A view is made anew in another language.
            clerk.speak(language)
            for box in clerk.page.get_by_role("checkbox").all():
                box.check()
            assert language == "en" or not clerk.words_left_in_english()
            clerk.check_widths(f"enroll-{language}")
        clerk.page.reload()
        verdict = clerk.page.locator(".verdict")
        begin_with_a_minor(clerk, "2C1100000001", "+8613800138701")
        give_photographs(clerk, photographs)
        decide(clerk)
        expect(verdict).to_contain_text("Have a guardian come along")
        clerk.press("Next activation")
        begin_with_a_minor(clerk, "2C1100000001", "+8613800138701")
        give_photographs(clerk, photographs)
        come_with_a_guardian(clerk, photographs)
        decide(clerk)
        # One face is that of both: so the guardian's photographs and document were sent.
        expect(verdict).to_contain_text("GUARDIAN_")
        expect(verdict).not_to_contain_text("GUARDIAN_MISSING")
        clerk.press("Next activation")
        ask_for_an_exception(clerk, photographs)
        decide(clerk)
        expect(verdict).to_contain_text("two people decide")
        clerk.press("Next activation")
        replace_a_document(clerk, photographs)
        decide(clerk)
        expect(verdict).to_contain_text("The document said to be replaced")
        assert clerk.faults == []
    store = strict_site.service.parts.store
    [case] = [one for one in newest_cases(store.cases) if one.kind == "exception"]
    assert store.people.exception_of_case(case.id).cause == "portrait_unreadable"


def begin_with_a_minor(clerk: Visitor, number: str, msisdn: str) -> None:
    clerk.expect_heading("New activation")
    clerk.fill(type="id-kitas", number=number, name="Young Probe", msisdn=msisdn)
    clerk.fill(consent_ref="C-2026-2", born_on="2015-01-01")


def give_photographs(clerk: Visitor, photographs: Any) -> None:
    clerk.choose("Live photograph", photographs.later)
    clerk.choose("Document portrait", photographs.portrait)
    clerk.take_now()


def decide(clerk: Visitor) -> None:
    clerk.press("Decide")
    clerk.expect_heading("Decision")


def come_with_a_guardian(clerk: Visitor, photographs: Any) -> None:
    clerk.tick("A guardian answers for a minor")
    number = {"guardian_type": "id-kitas", "guardian_number": "2C1100000009"}
    clerk.fill(**number, guardian_name="Old Probe", guardian_born_on="1980-05-01")
    clerk.press("Decide")
    # Without the guardian's face nothing was sent.
    group = clerk.page.get_by_role("group", name="Guardian's live photograph")
    expect(group.get_by_role("status")).to_have_text("A photograph is missing here.")
    clerk.expect_heading("New activation")
    clerk.choose("Guardian's live photograph", photographs.later)
    clerk.choose("Guardian's document portrait", photographs.portrait)
    clerk.take_now()
    clerk.check("enroll-guardian")


def ask_for_an_exception(clerk: Visitor, photographs: Any) -> None:
    clerk.fill(type="cn-ric", number=SECOND, name="Eve Probe", msisdn="+8613800138702")
    clerk.fill(consent_ref="C-2026-3")
    clerk.choose("Live photograph", photographs.stranger)
    clerk.take_now()
    clerk.press("Decide")
    group = clerk.page.get_by_role("group", name="Document portrait", exact=True)
    expect(group.get_by_role("status")).to_have_text("A photograph is missing here.")
    clerk.tick("A photograph is missing or cannot be used")
    clerk.fill(exception="portrait_unreadable")


def replace_a_document(clerk: Visitor, photographs: Any) -> None:
    clerk.fill(type="cn-ric", number=HOLDER, name="Aileen Probe", msisdn="+8613800138703")
    clerk.fill(consent_ref="C-2026-4")
    give_photographs(clerk, photographs)
    clerk.tick("The document takes the place of another one")
    clerk.fill(replaces_type="id-kitas", replaces_number="2C1100000077")


def test_a_sandbox_says_on_every_page_that_it_is_one(browser, site, tmp_path) -> None:
    banner = re.compile("nothing here is about a real person")
    with serve_sandbox(tmp_path / "home") as served:
        sandbox = Site(served.url, served.keys, site.service)
        with visiting(browser, sandbox) as visitor:
            visitor.page.goto(f"{sandbox.url}/console")
            expect(visitor.page.get_by_role("note")).to_have_text(banner)
            visitor.sign_in("fraud")
            links = visitor.page.get_by_role("navigation").get_by_role("link")
            for view in links.all_inner_texts():
                visitor.open(view)
                expect(visitor.page.get_by_role("note")).to_have_text(banner)
            visitor.check("sandbox")
            visitor.check_languages("sandbox")
            visitor.press("Sign out")
            expect(visitor.page.get_by_role("note")).to_have_text(banner)
    with visiting(browser, site) as visitor:
        visitor.sign_in("fraud")
        assert visitor.page.get_by_text(banner).count() == 0
