// Everything that stands under one document, closed lines and closed cases too.

import { add, element, replace, wholeId } from "../elements.js";
import { workButton } from "../forms.js";
import { moment, say } from "../language.js";
import {
  badge,
  caseTable,
  facts,
  idLink,
  lineTable,
  notice,
  section,
  seller,
  table,
  word,
} from "../marks.js";
import { personHead } from "../persons.js";
import { readDocument, readLineHistory } from "../service.js";

export async function show(page, id) {
  const found = await readDocument(id);
  add(
    page.main,
    personHead(found, "h1"),
    facts([["document.id", wholeId(found.document_id)]]),
    erasureNotice(found),
    section("lines.caption", lineTable(found.lines, (line) => historyCell(page, line))),
    section("cases.caption", caseTable(found.cases)),
    section("enrollment.list", attemptTable(found.enrollments)),
  );
}

/** An erasure that is asked for and waits for open cases. */
function erasureNotice({ erasure_asked_at: asked, erasure_due_at: due }) {
  if (due === null) return null;
  return notice(
    "info",
    element("p", {}, say("erasure.waits")),
    facts([
      ["erasure.asked", moment(asked)],
      ["erasure.due", moment(due)],
    ]),
  );
}

/** What happened to a line, once it is asked for: each reading is audited. */
function historyCell(page, line) {
  const cell = element("div", { class: "cell" });
  const { button, faults } = workButton(page, say("line.history"), async () => {
    const { events } = await readLineHistory(line.line_id);
    const items = events.map((one) =>
      element("li", {}, word("event", one.kind), " · ", moment(one.at)),
    );
    replace(cell, items.length ? element("ul", {}, items) : say("line.history.none"));
  });
  return replace(cell, button, faults);
}

function attemptTable(attempts) {
  return table(
    "enrollment.list",
    [
      "enrollment.id",
      "enrollment.decision",
      "enrollment.reasons",
      "line.seller",
      "enrollment.decided",
    ],
    attempts.map((one) => [
      idLink("enrollments", one.enrollment_id),
      badge("decision", one.decision),
      one.reasons.length
        ? one.reasons.map((reason) => element("div", {}, word("reason", reason)))
        : "–",
      seller(one),
      moment(one.decided_at),
    ]),
    "enrollment.none",
  );
}
