// Who is it? By a face, a document, or a number; every look is audited. And everything that stands
// under one document, closed lines and closed cases too.

import { get, packImages, post } from "../api.js";
import { add, element, quoted, replace, wholeId } from "../elements.js";
import { faceSection } from "../face_desk.js";
import { buildForm, documentFields, numberField, radioField, workButton } from "../forms.js";
import { moment, number, rate, say, score } from "../language.js";
import {
  badge,
  caseTable,
  expectationText,
  facts,
  idLink,
  lineTable,
  notice,
  pageHead,
  personHead,
  reasonLines,
  section,
  seller,
  table,
  word,
} from "../marks.js";
import { pictureField } from "../pictures.js";
import { rateAt } from "../scores.js";

/** A search, or the document of this id. */
export async function show(page, id = null) {
  return id === null ? showSearch(page) : showDocument(page, id);
}

async function showSearch(page) {
  const results = element("section.results", { "aria-label": say("people.results") });
  const picture = pictureField(page, say("people.face"));
  const form = buildForm(
    page,
    { class: "card", onchange: () => replace(results) },
    waysOf(picture, page.query.by ?? "face"),
    "people.submit",
    async (values) => {
      const isLacking = values.by === "face" && picture.image() === null;
      if (isLacking) return picture.complain(say("picture.missing"));
      const found = await post(["people", "search"], requestOf(values, picture));
      showPeople(page, results, found, values.by === "face" ? picture.image() : null);
    },
  );
  page.show(pageHead("people.title", "people.lead"), form, results);
}

/** The choice of a way, and below it the fields of the one that is chosen. */
function waysOf(picture, first) {
  const panes = {
    face: element("div.pictures", picture.field),
    document: element("div.columns", documentFields()),
    msisdn: numberField(),
  };
  const options = Object.keys(panes).map((way) => [way, say(`people.by.${way}`)]);
  const ways = radioField("people.by", "by", options, first);
  ways.classList.add("tabs");
  const place = element("div", panes[first]);
  ways.addEventListener("change", (event) => replace(place, panes[event.target.value]));
  return [ways, place];
}

function requestOf({ by, type, number: text, msisdn }, picture) {
  if (by === "face") return packImages({}, { "probe.image": picture.image() });
  return by === "document" ? { document: { type, number: text } } : { msisdn };
}

function showPeople(page, results, found, probe) {
  const heading = element(
    "h2",
    { tabindex: "-1" },
    say("people.found", { count: number(found.found) }),
  );
  replace(
    results,
    heading,
    found.searched !== null &&
      facts([
        ["search.searched", number(found.searched)],
        ["score.threshold", score(found.threshold)],
        ["search.expected", expectationText(found.expected_false_candidates, rate)],
      ]),
    found.people.length === 0 && notice("info", say("people.nobody")),
    found.people.map(person),
    found.people.length > 0 && facesButton(page, found, probe),
  );
  heading.focus();
}

/** What is asked for on demand, in place of the button. */
function onDemand(page, key, make) {
  const place = element("div.cell");
  const { button, faults } = workButton(page, key, async () => replace(place, await make()));
  return add(place, button, faults);
}

/** A look at the faces of those who were found: most searches need none. */
function facesButton(page, { people }, probe) {
  return onDemand(page, "face.show", async () => {
    const { calibration } = await get(["thresholds"]);
    const curve = calibration?.curves.find((one) => one.comparison === "fused_to_one");
    const asked = probe && {
      subject_id: PROBE,
      document_id: null,
      enrollment_id: null,
      is_reference: false,
      kind: PROBE,
      photographs: [{ photograph: "live", url: URL.createObjectURL(probe) }],
    };
    const ownLikenesses = people.map(({ document_id: right, score: value }) => {
      const rate = curve && rateAt(curve, value);
      const strangers = rate && { value: rate.value, is_bound: rate.isBound };
      return { left: PROBE, right, score: value, strangers };
    });
    const ids = people.map((one) => one.document_id);
    const brought = asked ? { own: [asked], ownLikenesses } : {};
    const { node, keys } = await faceSection(page, ids, brought);
    page.bindKeys(keys);
    return node;
  });
}

const PROBE = "probe";

function person(one) {
  const attempts = one.enrollments
    .slice(0, 5)
    .map(({ enrollment_id: id, decision }) => [
      idLink("enrollments", id),
      " ",
      badge("decision", decision),
      " ",
    ]);
  return element(
    "article.card.person",
    personHead(one, "h3"),
    element("h4", say("lines.caption")),
    lineTable(one.lines),
    element("h4", say("cases.caption")),
    caseTable(one.cases),
    element("p", attempts.length > 0 && `${say("enrollment.list")} `, attempts),
  );
}

async function showDocument(page, id) {
  const found = await get(["documents", id]);
  page.show(
    personHead(found, "h1"),
    facts([["document.id", wholeId(found.document_id)]]),
    erasureNotice(found),
    withdrawalNotice(found),
    // Where they came from, too: each look is audited.
    onDemand(page, "cases.faces", async () => {
      const { node, keys } = await faceSection(page, [id]);
      node.querySelector("details")?.setAttribute("open", "");
      page.bindKeys(keys);
      return node;
    }),
    section("lines.caption", lineTable(found.lines, (line) => historyCell(page, line))),
    section("cases.caption", caseTable(found.cases)),
    section("enrollment.list", attemptTable(found.enrollments)),
  );
}

/** An erasure that is asked for and waits for open cases. */
function erasureNotice({ erasure_asked_at: asked, erasure_due_at: due }) {
  if (due === null) return null;
  const dates = facts([["erasure.asked", moment(asked)], ["erasure.due", moment(due)]]);
  return notice("info", say("erasure.waits"), dates);
}

/** Since when consent to the face is withdrawn, by carrier. */
function withdrawalNotice({ withdrawn }) {
  const rows = Object.entries(withdrawn);
  if (rows.length === 0) return null;
  const since = ([carrier, at]) => element("li", quoted(carrier || "–"), " · ", moment(at));
  return notice("info", say("consent.withdrawn"), element("ul", rows.map(since)));
}

/** What happened to a line, once it is asked for: each reading is audited. */
function historyCell(page, line) {
  return onDemand(page, "line.history", async () => {
    const { events } = await get(["lines", line.line_id, "events"]);
    const items = events.map((one) =>
      element("li", word("event", one.kind), " · ", moment(one.at)),
    );
    return items.length ? element("ul", items) : say("line.history.none");
  });
}

function attemptTable(attempts) {
  const columns = {
    "enrollment.id": (one) => idLink("enrollments", one.enrollment_id),
    "enrollment.decision": (one) => badge("decision", one.decision),
    "enrollment.reasons": reasonLines,
    "line.seller": seller,
    "enrollment.decided": (one) => moment(one.decided_at),
  };
  return table("enrollment.list", attempts, columns, "enrollment.none");
}
