// What stands in many views alike: verdicts, states, facts, tables of lines and cases.

import { isMe, personOf } from "./api.js";
import { add, element, figure, link, quoted, replace, shortId } from "./elements.js";
import { workButton } from "./forms.js";
import { language, moment, number as count, say, sayIfKnown, score } from "./language.js";

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

/** Why a decision is what it is, each with the decision that it alone would bring and what to do. */
export function reasonList(reasons) {
  if (reasons.length === 0) return element("p", say("reason.none"));
  return element(
    "ul.reasons",
    reasons.map(({ reason, decision, photograph, advice }) =>
      element(
        "li",
        badge("decision", decision),
        element(
          "span",
          sayIfKnown(`reason.${reason}`) ?? quoted(reason),
          photograph && element("span.hint", ` · ${say(`photograph.${photograph}`)}`),
          element("code.code", { translate: "no" }, reason),
          advice && element("p.hint", advice[language]),
        ),
      ),
    ),
  );
}

/** What a page is, and what it is for. */
export function pageHead(title, lead) {
  return [element("h1", say(title)), element("p.lead", say(lead))];
}

export function section(title, ...children) {
  return element("section.block", element("h2", say(title)), children);
}

/** What stands where there is nothing to list. */
export function empty(key) {
  return element("p.empty", say(key));
}

/** Whose a line or an enrollment is. */
export function seller({ carrier, outlet }) {
  return quoted(`${carrier} / ${outlet}`);
}

/** Pairs of a term and its value. */
export function facts(pairs) {
  return element(
    "dl.facts",
    pairs
      .filter((pair) => pair)
      .map(([term, ...value]) => element("div", element("dt", say(term)), element("dd", value))),
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

/** A table that scrolls by itself where it has too little room. `columns` are what fills a cell from an
 * item, by the keys of their heads; `none` is the text that stands for a table without rows, where
 * there is one; `given(item)` are attributes of its row. */
export function table(title, items, columns, none = null, given = undefined) {
  if (none !== null && items.length === 0) return empty(none);
  const caption = say(title);
  const heads = Object.keys(columns).map((head) =>
    element("th", { scope: "col", role: "columnheader" }, say(head)),
  );
  // On a narrow screen a row is a list of its cells, and no table to those who hear it without roles.
  const scroller = element(
    "div.scroller",
    { role: "group", "aria-label": caption },
    element(
      "table",
      { role: "table" },
      element("caption.spoken", caption),
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, heads)),
      element("tbody", { role: "rowgroup" }, rowsOf(items, columns, given)),
    ),
  );
  sizes.observe(scroller);
  return scroller;
}

/** A table of the first page with a button for the next, `ask(after)` has a page and `read` its items;
 * and one that saves the rows that are there. */
export function growingTable(page, first, { title, columns, ask, read, none = null, given }) {
  if (none !== null && read(first).length === 0) return empty(none);
  const whole = table(title, [], columns);
  const body = whole.querySelector("tbody");
  const saving = workButton(page, "table.save", () => body.rows.length && saveRows(body.rows, title));
  const more = element("div.more");
  const extend = (answer) => {
    add(body, rowsOf(read(answer), columns, given));
    if (answer.next === null) return replace(more);
    const next = async () => extend(await ask(answer.next));
    const { button, faults } = workButton(page, "action.more", next);
    return replace(more, button, faults);
  };
  extend(first);
  return [whole, more, element("p.actions", saving.button), saving.faults];
}

/** Rows of which each cell knows the head of its column. */
function rowsOf(items, columns, given = () => ({})) {
  return items.map((one, place) =>
    element(
      "tr",
      { role: "row", ...given(one) },
      Object.entries(columns).map(([head, fill]) =>
        element("td", { role: "cell", "data-head": say(head) }, fill(one, place)),
      ),
    ),
  );
}

/** What a spreadsheet would compute, and not show; some take the full-width signs, too. */
const FORMULA = /^[=+\-@\t\r＝＋－＠]/;

/** The rows of a table as they are read, as a file for a spreadsheet, without columns of controls; in
 * front of a case's its whole id. */
function saveRows([...rows], title) {
  const shown = [...rows[0].cells].filter((cell) => !cell.querySelector("input, button"));
  const idOf = ({ dataset }) => (dataset.case ? [dataset.case] : []);
  const heads = [...idOf(rows[0]).map(() => say("case.id")), ...shown.map((cell) => cell.dataset.head)];
  const read = (row) => shown.map((cell) => readText(row.cells[cell.cellIndex]));
  const texts = rows.map((row) => [...idOf(row), ...read(row)]);
  const lines = [heads, ...texts].map((cells) =>
    cells.map((one) => `"${one.replace(FORMULA, "'$&").replaceAll('"', '""')}"`).join(","),
  );
  // By the mark in front spreadsheets know that it is UTF-8.
  saveFile(`${say(title)}.csv`, "text/csv", `\ufeff${lines.join("\r\n")}\r\n`);
}

/** What a cell shows, its parts apart, and ids whole. */
function readText(cell) {
  const parts = [""];
  const read = (node) => {
    if (node.nodeType === Node.TEXT_NODE) parts.push(parts.pop() + node.data);
    else if (node.matches(".id")) parts.push(parts.pop() + (node.title || node.textContent));
    else if (!node.matches(".spoken, figure")) {
      if (node.matches("div, li, p")) parts.push("");
      node.childNodes.forEach(read);
    }
  };
  cell.childNodes.forEach(read);
  return parts.map((one) => one.trim()).filter(Boolean).join("; ");
}

/** To the reader's own files; nothing of it stays here. */
export function saveFile(name, type, content) {
  const href = URL.createObjectURL(new Blob([content], { type }));
  element("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

/** The cell of a row under a head. */
export function cellUnder(row, head) {
  return [...row.cells].find((cell) => cell.dataset.head === say(head));
}

/** Lines with their numbers masked; `act(line)` makes what stands in the last column. */
export function lineTable(lines, act = null) {
  const columns = {
    "line.number": ({ number }) =>
      number === null ? element("span.hint", say("line.gone")) : maskedNumber(number),
    "line.seller": seller,
    "line.status": (line) => badge("line", line.status),
    "line.opened": (line) => moment(line.opened_at),
  };
  return table(
    "lines.caption",
    lines,
    act ? { ...columns, "table.action": act } : columns,
    "lines.none",
  );
}

/** A number of which the end alone is shown, said so to those who hear it. */
export function maskedNumber(text) {
  const shown = text.replace(/^•+/, (dots) => (dots.length > 4 ? "••••" : dots));
  return element(
    "span.masked",
    element("span", { "aria-hidden": "true", translate: "no" }, shown),
    element("span.spoken", say("masked.spoken", { end: text.replace(/•/g, "") })),
  );
}

/** Cases as links, with what they are about. */
export function caseTable(cases) {
  const columns = {
    "case.kind": (one) => link(["case", one.case_id], word("kind", one.kind)),
    "case.state": (one) => badge("state", one.state),
    "case.score": (one) => score(one.score),
    "case.opened": (one) => moment(one.opened_at),
  };
  return table("cases.caption", cases, columns, "cases.none");
}

/** Reasons a line each, in a cell. */
export function reasonLines({ reasons }) {
  return reasons.length ? reasons.map((one) => element("div", word("reason", one))) : "–";
}

/** A link to an enrollment or a document, by the end of its id. */
export function idLink(view, id) {
  if (id === null || id === undefined) return "–";
  return link([view, id], shortId(id));
}

/** Who it is, however the audit chain has it: the person, with the key or session on demand. */
export function actorName(actor) {
  if (actor === null || actor === undefined) return "–";
  if (isMe(actor)) return element("strong", { title: actor }, say("actor.me"));
  return quoted(personOf(actor).replace(/^key:/, ""), { title: actor });
}

/** How many strangers such a search brings, with its interval. */
export function expectationText(expected, format) {
  if (!expected) return say("expected.unknown");
  const [value, low, high] = [expected.value, expected.low, expected.high].map(format);
  return say(expected.is_bound ? "expected.bound" : "expected.value", { value, low, high });
}

/** A notice that is no fault; a text is a paragraph. */
export function notice(kind, ...children) {
  const parts = children.map((one) => (typeof one === "string" ? element("p", one) : one));
  return element("div", { class: `notice ${kind}` }, parts);
}

/** The heading of a person: the masked name as written, the document, how alike the face is. */
export function personHead(one, level) {
  const name = quoted(one.name || say("document.nameless"), { dir: "auto" });
  const isPage = level === "h1";
  return element(
    "header.person-head",
    element(level, isPage ? name : link(["documents", one.document_id], name)),
    element("span", word("document", one.document_type), " ", maskedNumber(one.number)),
    badge("docstate", one.document_status),
    one.score !== null &&
      one.score !== undefined &&
      figure(`${say("score.value")} ${score(one.score)}`),
  );
}

/** Whom a case is about, masked: what tells it from the next; `total` documents are in it. */
export function aboutPeople(people, total) {
  const named = people.map(({ name, number }) => [
    name && quoted(name),
    name && number && " ",
    number && maskedNumber(number),
  ]);
  const shown = named.filter((parts) => parts.some(Boolean));
  const more = total - people.length;
  if (shown.length === 0) return [];
  return [
    shown.map((parts, place) => [place > 0 && " · ", parts]),
    more > 0 && ` ${say("case.more", { count: count(more) })}`,
  ];
}

/** The same as a text. */
export function peopleText(people) {
  const texts = people.map(({ name, number }) => `${name} ${number.replace(/^•+/, "••••")}`.trim());
  return texts.filter(Boolean).join(" · ");
}
