// What decisions teach: how often it was fraud, by threshold, kind and month, and what that proposes.

import { get } from "../api.js";
import { element, figure, hint, link, shape } from "../elements.js";
import { intervalText, number, say, score, share } from "../language.js";
import { notice, pageHead, section, table, word } from "../marks.js";
import { OUTCOMES } from "../vocabulary.js";

export async function show(page) {
  const found = await get(["precision"]);
  page.show(
    element("p.back", link(["sweeps"], say("sweep.back"))),
    pageHead("precision.heading", "precision.about"),
    proposalNotice(found.proposal),
    section("precision.bythreshold", hint(say("precision.pairs")), thresholdTable(found)),
    section("precision.bykind", outcomeTable("precision.bykind", found.kinds, KIND)),
    section("precision.bymonth", outcomeTable("precision.bymonth", found.months, MONTH)),
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
    return notice("good", element("p", said), element("p", take));
  }
  const least = number(proposal.least_cases);
  const cases = number(proposal.effective_cases, { maximumFractionDigits: 1 });
  return proposal.ground === "too_few"
    ? notice("info", say("precision.toofew", { cases, least }))
    : notice("warn", say("precision.never", { wanted }));
}

function thresholdTable({ thresholds }) {
  const ifJudged = (show) => (one) => (one.judged ? show(one) : "–");
  const columns = {
    "score.threshold": (one) => figure(score(one.threshold)),
    "precision.judged": (one) => number(one.judged),
    "precision.cases": (one) => number(one.cases),
    "precision.value": ifJudged(intervalText),
    "precision.bar": ifJudged(bar),
  };
  return table("precision.bythreshold", thresholds, columns, "precision.none");
}

const KIND = { "case.kind": (one) => word("kind", one.name) };
const MONTH = { "precision.month": (one) => one.name };

function outcomeTable(title, rows, first) {
  const counted = OUTCOMES.map((one) => [`outcome.${one}`, (found) => number(found[one])]);
  const columns = {
    ...first,
    "precision.cases": (one) => number(one.cases),
    ...Object.fromEntries(counted),
    "precision.value": intervalText,
    "precision.bar": bar,
  };
  return table(title, rows, columns, "precision.noclosed");
}

/** The interval as a bar from none to all, with its value; the column before says the same. */
function bar({ precision, low, high }) {
  return shape(
    "svg.interval",
    { viewBox: "0 0 100 12", "aria-hidden": true },
    shape("rect.interval-all", { y: 5, width: 100, height: 2 }),
    shape("rect.interval-band", { x: 100 * low, y: 3, width: 100 * (high - low), height: 6 }),
    shape("circle.interval-value", { cx: 3 + 94 * precision, cy: 6, r: 3 }),
  );
}
