// Everything that stands under one document, closed lines and closed cases too.

import { add, element, quoted, wholeId } from "../elements.js";
import { moment, say } from "../language.js";
import { badge, caseTable, facts, idLink, lineTable, row, section, table, word } from "../marks.js";
import { personHead } from "../persons.js";
import { readDocument } from "../service.js";

export async function show(page, id) {
  const found = await readDocument(id);
  add(
    page.main,
    personHead(found, "h1"),
    facts([[say("document.id"), wholeId(found.document_id)]]),
    section(say("lines.caption"), lineTable(found.lines)),
    section(say("cases.caption"), caseTable(found.cases)),
    section(say("enrollment.list"), attemptTable(found.enrollments)),
  );
}

function attemptTable(attempts) {
  if (attempts.length === 0) return element("p", { class: "empty" }, say("enrollment.none"));
  return table(
    say("enrollment.list"),
    [
      say("enrollment.id"),
      say("enrollment.decision"),
      say("enrollment.reasons"),
      say("line.seller"),
      say("enrollment.decided"),
    ],
    attempts.map((one) =>
      row(
        {},
        idLink("enrollments", one.enrollment_id),
        badge("decision", one.decision),
        one.reasons.length
          ? one.reasons.map((reason) => element("div", {}, word("reason", reason)))
          : "–",
        quoted([one.carrier, one.outlet].join(" / ")),
        moment(one.decided_at),
      ),
    ),
  );
}
