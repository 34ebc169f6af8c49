// A group of a sweep: as a graph, as a table beside it, and why it ranks where it does.

import { add, element, quoted } from "../elements.js";
import { groupFigure } from "../graph.js";
import { day, number, say, score } from "../language.js";
import { idLink, notice, row, section, table, word } from "../marks.js";
import { placeOf } from "../places.js";
import { readGroup } from "../service.js";

export async function show(page, sweepId, key) {
  const group = await readGroup(sweepId, key);
  const names = new Map(group.identities.map((one, place) => [one.document_id, String(place + 1)]));
  add(
    page.main,
    element(
      "p",
      { class: "back" },
      element("a", { href: placeOf("sweep", sweepId) }, say("group.back")),
    ),
    element("h1", {}, word("kind", group.kind)),
    element("p", { class: "lead" }, say(`kind.${group.kind}.hint`)),
    element(
      "div",
      { class: "group group-head" },
      groupFigure(group, names),
      identityTable(group, names),
    ),
    leftOutNotice(group.left_out),
    element(
      "div",
      { class: "group" },
      element(
        "div",
        {},
        section(say("group.links"), linkTable(group, names)),
        severedLinks(group, names),
      ),
      section(say("group.risk"), termTable(group), caseList(group.cases)),
    ),
  );
}

function leftOutNotice(left) {
  if (!left.identities && !left.lines && !left.links) return null;
  const counts = Object.fromEntries(
    Object.entries(left).map(([name, value]) => [name, number(value)]),
  );
  return notice("info", element("p", {}, say("group.leftout", counts)));
}

function caseList(cases) {
  if (cases.length === 0) return null;
  return element(
    "p",
    {},
    `${say("cases.caption")} `,
    cases.map((id) => [idLink("case", id), " "]),
  );
}

function identityTable({ identities }, names) {
  return table(
    say("group.identities"),
    [
      "group.number",
      "document.title",
      "group.lines",
      "group.sellers",
      "group.first",
      "group.disputes",
    ].map((one) => say(one)),
    identities.map((one) =>
      row(
        {},
        names.get(one.document_id),
        element(
          "a",
          { href: placeOf("documents", one.document_id) },
          quoted(one.document_id.slice(-8), { class: "id" }),
        ),
        number(one.lines.length),
        sellers(one.lines),
        day(one.lines[0]?.opened_at),
        number(one.disputes),
      ),
    ),
  );
}

function sellers(lines) {
  const names = [...new Set(lines.map((line) => `${line.carrier} / ${line.outlet}`))];
  return names.length ? names.map((name) => element("div", {}, quoted(name))) : "–";
}

function linkTable({ links, weakest }, names) {
  if (links.length === 0) return element("p", { class: "empty" }, say("graph.nolinks"));
  const isWeakest = (link) => weakest && link.left === weakest.left && link.right === weakest.right;
  const sorted = [...links].sort((a, b) => b.score - a.score);
  return table(
    say("group.links"),
    [say("group.between"), say("score.value")],
    sorted.map((link) =>
      row(
        {},
        [
          `${names.get(link.left)} – ${names.get(link.right)} `,
          isWeakest(link) && element("span", { class: "badge weakest" }, say("group.weakest")),
        ],
        element("span", { class: "figure" }, score(link.score)),
      ),
    ),
  );
}

/** Links to documents outside; null where there are none. */
function severedLinks({ severed }, names) {
  if (severed.length === 0) return null;
  const end = (id) => names.get(id) ?? idLink("documents", id);
  return section(
    say("group.severed"),
    element("p", { class: "hint" }, say("group.severed.hint")),
    table(
      say("group.severed"),
      [say("group.between"), say("score.value")],
      severed.map(({ left, right, score: value }) =>
        row({}, [end(left), " – ", end(right)], element("span", { class: "figure" }, score(value))),
      ),
    ),
  );
}

function termTable({ terms, risk }) {
  const points = (value) =>
    element("span", { class: "figure" }, number(value, { maximumFractionDigits: 1 }));
  return table(
    say("group.risk"),
    [say("risk.term"), say("risk.counted"), say("risk.points")],
    [
      ...terms.map((one) =>
        row(
          {},
          word("risk", one.name),
          number(one.value, { maximumFractionDigits: 3 }),
          points(one.points),
        ),
      ),
      row({ class: "total" }, element("strong", {}, say("risk.total")), "", points(risk)),
    ],
  );
}
