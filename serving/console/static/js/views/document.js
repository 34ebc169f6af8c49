// Everything that stands under one document, closed lines and closed cases too.

import { add, element, wholeId } from "../elements.js";
import { moment } from "../language.js";
import {
  badge,
  caseTable,
  facts,
  idLink,
  lineTable,
  section,
  seller,
  table,
  word,
} from "../marks.js";
import { personHead } from "../persons.js";
import { readDocument } from "../service.js";

export async function show(page, id) {
  const found = await readDocument(id);
  add(
    page.main,
    personHead(found, "h1"),
    facts([["document.id", wholeId(found.document_id)]]),
    section("lines.caption", lineTable(found.lines)),
    section("cases.caption", caseTable(found.cases)),
    section("enrollment.list", attemptTable(found.enrollments)),
  );
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
