// What stands in many views alike: verdicts, states, facts, tables of lines and cases.

import { element, quoted, shortId } from "./elements.js";
import { moment, say, sayIfKnown, score } from "./language.js";
import { placeOf } from "./places.js";

/** A decision or a state: a sign and a word, so that its colour says nothing alone. */
export function badge(family, value) {
  return element(
    "span",
    { class: `badge ${family}-${value}` },
    sayIfKnown(`${family}.${value}`) ?? value,
  );
}

/** A word of a closed vocabulary; what a later service says is shown as it is. */
export function word(family, value) {
  if (value === null || value === undefined) return "–";
  return sayIfKnown(`${family}.${value}`) ?? quoted(value);
}

/** Why a decision is what it is, each with the decision that it alone would bring. */
export function reasonList(reasons) {
  if (reasons.length === 0) return element("p", {}, say("reason.none"));
  return element(
    "ul",
    { class: "reasons" },
    reasons.map(({ reason, decision, photograph }) =>
      element(
        "li",
        {},
        badge("decision", decision),
        element(
          "span",
          {},
          sayIfKnown(`reason.${reason}`) ?? quoted(reason),
          photograph && element("span", { class: "hint" }, ` · ${say(`photograph.${photograph}`)}`),
          element("code", { class: "code", translate: "no" }, reason),
        ),
      ),
    ),
  );
}

/** Pairs of a term and its value. */
export function facts(pairs) {
  return element(
    "dl",
    { class: "facts" },
    pairs
      .filter((pair) => pair)
      .map(([term, ...value]) =>
        element("div", {}, element("dt", {}, term), element("dd", {}, value)),
      ),
  );
}

const sizes = new ResizeObserver((changed) => {
  for (const { target } of changed) {
    const scrolls =
      target.scrollWidth > target.clientWidth || target.scrollHeight > target.clientHeight;
    // Only what scrolls is a stop of the keyboard.
    target.tabIndex = scrolls ? 0 : -1;
  }
});

/** A table that scrolls by itself where it has too little room. */
export function table(caption, heads, rows) {
  const scroller = element(
    "div",
    { class: "scroller", role: "group", "aria-label": caption },
    element(
      "table",
      {},
      element("caption", { class: "spoken" }, caption),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          heads.map((head) => element("th", { scope: "col" }, head)),
        ),
      ),
      element("tbody", {}, rows),
    ),
  );
  sizes.observe(scroller);
  return scroller;
}

export function row(given, ...cells) {
  return element(
    "tr",
    given,
    cells.map((cell) => element("td", {}, cell)),
  );
}

/** Lines with their numbers masked; `act(line)` makes what stands in the last column. */
export function lineTable(lines, act = null) {
  if (lines.length === 0) return element("p", { class: "empty" }, say("lines.none"));
  const heads = ["line.number", "line.seller", "line.status", "line.opened"].map((key) => say(key));
  return table(
    say("lines.caption"),
    act ? [...heads, say("table.action")] : heads,
    lines.map((line) =>
      row(
        {},
        line.number === null
          ? element("span", { class: "hint" }, say("line.gone"))
          : maskedNumber(line.number),
        quoted([line.carrier, line.outlet].join(" / ")),
        badge("line", line.status),
        moment(line.opened_at),
        ...(act ? [act(line)] : []),
      ),
    ),
  );
}

/** A number of which the end alone is shown, said so to those who hear it. */
export function maskedNumber(text) {
  const shown = text.replace(/^•+/, (dots) => (dots.length > 4 ? "••••" : dots));
  return element(
    "span",
    { class: "masked" },
    element("span", { "aria-hidden": "true", translate: "no" }, shown),
    element("span", { class: "spoken" }, say("masked.spoken", { end: text.replace(/•/g, "") })),
  );
}

/** Cases as links, with what they are about. */
export function caseTable(cases) {
  if (cases.length === 0) return element("p", { class: "empty" }, say("cases.none"));
  const heads = ["case.kind", "case.state", "case.score", "case.opened"].map((key) => say(key));
  return table(
    say("cases.caption"),
    heads,
    cases.map((one) =>
      row(
        {},
        element("a", { href: placeOf("case", one.case_id) }, word("kind", one.kind)),
        badge("state", one.state),
        score(one.score),
        moment(one.opened_at),
      ),
    ),
  );
}

/** A link to an enrollment or a document, by the end of its id. */
export function idLink(view, id) {
  if (id === null || id === undefined) return "–";
  return element("a", { href: placeOf(view, id) }, shortId(id));
}

/** Who did something: the reader, a key, or a part of the service. */
export function actorName(actor, mine) {
  if (actor === null || actor === undefined) return "–";
  if (actor === mine) return element("strong", {}, say("actor.me"));
  return quoted(actor.replace(/^key:/, ""));
}

/** How many strangers such a search brings, with its interval. */
export function expectationText(expected, format) {
  if (!expected) return say("expected.unknown");
  const [value, low, high] = [expected.value, expected.low, expected.high].map(format);
  return say(expected.is_bound ? "expected.bound" : "expected.value", { value, low, high });
}

/** A notice that is no fault. */
export function notice(kind, ...children) {
  return element("div", { class: `notice ${kind}` }, children);
}

export function section(title, ...children) {
  return element("section", { class: "block" }, element("h2", {}, title), children);
}
