// A group of a sweep: as a graph, as a table beside it, and why it ranks where it does.

import { add, element, figure as digits, hint, link, quoted } from "../elements.js";
import { faceSection } from "../faces.js";
import { groupFigure, showFace } from "../graph.js";
import { day, number, say, score } from "../language.js";
import { idLink, notice, row, section, table, word } from "../marks.js";
import { readGroup } from "../service.js";
import { bindKeys } from "../shortcuts.js";

export async function show(page, sweepId, key) {
  const group = await readGroup(sweepId, key);
  const names = new Map(group.identities.map((one, place) => [one.document_id, String(place + 1)]));
  const figure = groupFigure(group, names);
  const onFace = (id, url) => showFace(figure, id, url);
  const faces = await faceSection(page, [...names.keys()], { names, onFace });
  add(
    page.main,
    element("p", { class: "back" }, link(["sweep", sweepId], say("group.back"))),
    element("h1", {}, word("kind", group.kind)),
    element("p", { class: "lead" }, say(`kind.${group.kind}.hint`)),
    element(
      "div",
      { class: "group group-head" },
      figure,
      identityTable(group, names),
    ),
    leftOutNotice(group.left_out),
    fraudNotice(group.fraud_lines),
    faces.node,
    element(
      "div",
      { class: "group" },
      element(
        "div",
        {},
        section("group.links", linkTable(group, names)),
        severedLinks(group, names),
      ),
      section("group.risk", termTable(group), caseList(group.cases)),
    ),
  );
  bindKeys(page, faces.keys);
}

function leftOutNotice(left) {
  if (!left.identities && !left.lines && !left.links) return null;
  const counts = Object.fromEntries(
    Object.entries(left).map(([name, value]) => [name, number(value)]),
  );
  return notice("info", say("group.leftout", counts));
}

/** What people decided to be fraud and left in use: no sweep asks about it again. */
function fraudNotice(lines) {
  if (!lines?.length) return null;
  return notice("warn", say("case.fraudlines", { count: number(lines.length) }));
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
    "group.identities",
    [
      "group.number",
      "document.title",
      "group.lines",
      "group.sellers",
      "group.first",
      "group.disputes",
    ],
    identities.map((one) => [
      names.get(one.document_id),
      link(["documents", one.document_id], quoted(one.document_id.slice(-8), { class: "id" })),
      number(one.lines.length),
      sellers(one.lines),
      day(one.lines[0]?.opened_at),
      number(one.disputes),
    ]),
  );
}

function sellers(lines) {
  const names = [...new Set(lines.map((line) => `${line.carrier} / ${line.outlet}`))];
  return names.length ? names.map((name) => element("div", {}, quoted(name))) : "–";
}

function linkTable({ links, weakest }, names) {
  const isWeakest = (link) => weakest && link.left === weakest.left && link.right === weakest.right;
  const sorted = [...links].sort((a, b) => b.score - a.score);
  return table(
    "group.links",
    ["group.between", "score.value"],
    sorted.map((link) => [
      [
        `${names.get(link.left)} – ${names.get(link.right)} `,
        isWeakest(link) && element("span", { class: "badge weakest" }, say("group.weakest")),
      ],
      digits(score(link.score)),
    ]),
    "graph.nolinks",
  );
}

/** Links to documents outside; null where there are none. */
function severedLinks({ severed }, names) {
  if (severed.length === 0) return null;
  const end = (id) => names.get(id) ?? idLink("documents", id);
  return section(
    "group.severed",
    hint(say("group.severed.hint")),
    table(
      "group.severed",
      ["group.between", "score.value"],
      severed.map(({ left, right, score: value }) => [
        [end(left), " – ", end(right)],
        digits(score(value)),
      ]),
    ),
  );
}

export function termTable({ terms, risk }) {
  const points = (value) => digits(number(value, { maximumFractionDigits: 1 }));
  return table(
    "group.risk",
    ["risk.term", "risk.counted", "risk.points"],
    [
      ...terms.map((one) => [
        word("risk", one.name),
        number(one.value, { maximumFractionDigits: one.value < 1 ? 3 : one.value < 100 ? 1 : 0 }),
        points(one.points),
      ]),
      row({ class: "total" }, element("strong", {}, say("risk.total")), "", points(risk)),
    ],
  );
}
