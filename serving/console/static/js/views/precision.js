// What decisions teach: how often it was fraud, by threshold, kind and month, and what that proposes.

import { readPrecision } from "../api.js";
import { add, element, figure, hint, link, shape } from "../elements.js";
import { intervalText, number, say, score, share } from "../language.js";
import { empty, notice, pageHead, section, table, word } from "../marks.js";

export async function show(page) {
  const found = await readPrecision();
  add(
    page.main,
    element("p", { class: "back" }, link(["sweeps"], say("sweep.back"))),
    pageHead("precision.heading", "precision.about"),
    proposalNotice(found.proposal),
    section("precision.bythreshold", hint(say("precision.pairs")), thresholdTable(found)),
    section("precision.bykind", outcomeTable("precision.bykind", "case.kind", found.kinds)),
    section("precision.bymonth", outcomeTable("precision.bymonth", "precision.month", found.months)),
  );
}

/** The threshold that decisions speak for, or why they speak for none. */
export function proposalNotice(proposal) {
  const wanted = share(proposal.wanted);
  if (proposal.threshold !== null) {
    const threshold = score(proposal.threshold);
    const cases = number(proposal.cases);
    const take = link(["sweeps", { threshold: proposal.threshold }], say("precision.take"));
    const said = say("precision.proposed", { threshold, wanted, cases });
    return notice("good", element("p", {}, said), element("p", {}, take));
  }
  const least = number(proposal.least_cases);
  const cases = number(proposal.effective_cases, { maximumFractionDigits: 1 });
  return proposal.ground === "too_few"
    ? notice("info", say("precision.toofew", { cases, least }))
    : notice("warn", say("precision.never", { wanted }));
}

function thresholdTable({ thresholds }) {
  if (thresholds.length === 0) return empty("precision.none");
  return table(
    "precision.bythreshold",
    ["score.threshold", "precision.judged", "precision.cases", "precision.value", "precision.bar"],
    thresholds.map((one) => [
      figure(score(one.threshold)),
      number(one.judged),
      number(one.cases),
      one.judged ? intervalText(one) : "–",
      one.judged ? bar(one) : "–",
    ]),
  );
}

function outcomeTable(title, head, rows) {
  return table(
    title,
    [
      head,
      "precision.cases",
      "outcome.fraud",
      "outcome.twins",
      "outcome.mistake",
      "outcome.unfounded",
      "precision.value",
      "precision.bar",
    ],
    rows.map((one) => [
      title === "precision.bykind" ? word("kind", one.name) : one.name,
      ...[one.cases, one.fraud, one.twins, one.mistake, one.unfounded].map((each) => number(each)),
      intervalText(one),
      bar(one),
    ]),
    "precision.noclosed",
  );
}

/** The interval as a bar from none to all, with its value; the column before says the same. */
function bar({ precision, low, high }) {
  return shape(
    "svg",
    { class: "interval", viewBox: "0 0 100 12", "aria-hidden": true },
    shape("rect", { class: "interval-all", y: 5, width: 100, height: 2 }),
    shape("rect", { class: "interval-band", x: 100 * low, y: 3, width: 100 * (high - low), height: 6 }),
    shape("circle", { class: "interval-value", cx: 3 + 94 * precision, cy: 6, r: 3 }),
  );
}
