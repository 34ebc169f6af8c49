// A group of a sweep: as a graph, which is always drawn the same way, as a table beside it, and why it
// ranks where it does.

import { get } from "../api.js";
import { element, figure as digits, hint, link, placeOf, quoted, shape } from "../elements.js";
import { faceSection } from "../face_desk.js";
import { day, number, say, score } from "../language.js";
import { idLink, notice, section, table, word } from "../marks.js";

export async function show(page, sweepId, key) {
  const group = await get(["sweeps", sweepId, "groups", key]);
  const names = new Map(group.identities.map((one, place) => [one.document_id, String(place + 1)]));
  const figure = groupFigure(group, names);
  const fraud = group.fraud_lines?.length ?? 0;
  const cases = group.cases.map((id) => [idLink("case", id), " "]);
  const onFace = (id, url) => showFace(figure, id, url);
  const faces = await faceSection(page, [...names.keys()], { names, onFace });
  page.show(
    element("p.back", link(["sweep", sweepId], say("group.back"))),
    element("h1", word("kind", group.kind)),
    element("p.lead", say(`kind.${group.kind}.hint`)),
    element("div.group.group-head", figure, identityTable(group, names)),
    leftOutNotice(group.left_out),
    // What people decided to be fraud and left in use: no sweep asks about it again.
    fraud > 0 && notice("warn", say("case.fraudlines", { count: number(fraud) })),
    faces.node,
    element(
      "div.group",
      element("div", section("group.links", linkTable(group, names)), severedLinks(group, names)),
      section(
        "group.risk",
        termTable(group),
        group.cases.length > 0 && element("p", `${say("cases.caption")} `, cases),
      ),
    ),
  );
  page.bindKeys(faces.keys);
}

function leftOutNotice(left) {
  if (!Object.values(left).some(Boolean)) return null;
  const counts = Object.fromEntries(Object.entries(left).map(([one, value]) => [one, number(value)]));
  return notice("info", say("group.leftout", counts));
}

function identityTable({ identities }, names) {
  return table("group.identities", identities, {
    "group.number": (one) => names.get(one.document_id),
    "document.title": ({ document_id: id }) =>
      link(["documents", id], quoted(id.slice(-8), { class: "id" })),
    "group.lines": (one) => number(one.lines.length),
    "group.sellers": (one) => sellers(one.lines),
    "group.first": (one) => day(one.lines[0]?.opened_at),
    "group.disputes": (one) => number(one.disputes),
  });
}

function sellers(lines) {
  const names = [...new Set(lines.map((line) => `${line.carrier} / ${line.outlet}`))];
  return names.length ? names.map((name) => element("div", quoted(name))) : "–";
}

function linkTable({ links, weakest }, names) {
  const sorted = [...links].sort((a, b) => b.score - a.score);
  const columns = {
    "group.between": (link) => [
      `${names.get(link.left)} – ${names.get(link.right)} `,
      weakest && isSame(link, weakest) && element("span.badge.weakest", say("group.weakest")),
    ],
    "score.value": (link) => digits(score(link.score)),
  };
  return table("group.links", sorted, columns, "graph.nolinks");
}

/** Links to documents outside; null where there are none. */
function severedLinks({ severed }, names) {
  if (severed.length === 0) return null;
  const end = (id) => names.get(id) ?? idLink("documents", id);
  return section(
    "group.severed",
    hint(say("group.severed.hint")),
    table("group.severed", severed, {
      "group.between": ({ left, right }) => [end(left), " – ", end(right)],
      "score.value": (one) => digits(score(one.score)),
    }),
  );
}

export function termTable({ terms, risk }) {
  const points = (value) => digits(number(value, { maximumFractionDigits: 1 }));
  const digitsOf = (value) => ({ maximumFractionDigits: value < 1 ? 3 : value < 100 ? 1 : 0 });
  const columns = {
    "risk.term": ({ name }) => (name ? word("risk", name) : element("strong", say("risk.total"))),
    "risk.counted": ({ name, value }) => name && number(value, digitsOf(value)),
    "risk.points": (one) => points(one.points),
  };
  const given = ({ name }) => (name ? {} : { class: "total" });
  return table("group.risk", [...terms, { points: risk }], columns, null, given);
}

const SIZE = { width: 560, height: 440 };
const CENTRE = { x: SIZE.width / 2, y: SIZE.height / 2 };
const RADIUS = 170;
const FACE_RADIUS = 34;

/** The maximum spanning tree of a group's links (Kruskal): what holds it together. */
function spanningTree(identities, links) {
  const root = new Map(identities.map((one) => [one.document_id, one.document_id]));
  const find = (id) => (root.get(id) === id ? id : find(root.get(id)));
  const sorted = [...links].sort(
    (a, b) => b.score - a.score || compare(a.left, b.left) || compare(a.right, b.right),
  );
  return sorted.filter(({ left, right }) => {
    const [one, other] = [find(left), find(right)];
    if (one === other) return false;
    root.set(one, other);
    return true;
  });
}

/** The documents that a walk along links from these reaches, in its order: close ones side by side. */
function walk(links, starts) {
  const near = new Map();
  for (const { left, right } of links) {
    near.set(left, [...(near.get(left) ?? []), right]);
    near.set(right, [...(near.get(right) ?? []), left]);
  }
  const reached = new Set();
  const visit = (id) => {
    if (reached.has(id)) return;
    reached.add(id);
    near.get(id)?.forEach(visit);
  };
  starts.forEach(visit);
  return reached;
}

/** Puts a face at the node of its document, in a drawing that has it; its name stands below then. */
export function showFace(figure, documentId, url) {
  const node = figure.querySelector(`[data-document="${documentId}"]`);
  if (!node || node.querySelector("image")) return;
  const [circle, text] = [node.querySelector("circle"), node.querySelector("text")];
  const [x, y] = ["cx", "cy"].map((name) => Number(circle.getAttribute(name)));
  const count = figure.querySelectorAll(".node").length;
  const radius = Math.max(Math.min(FACE_RADIUS, (Math.PI * RADIUS) / count - 2), 5);
  circle.setAttribute("r", radius);
  text.setAttribute("y", y + radius + 15);
  const [side, left, top] = [2 * radius - 4, x - radius + 2, y - radius + 2];
  circle.after(shape("image", { href: url, x: left, y: top, width: side, height: side }));
}

/** The drawing; `names` gives each document the number that the table beside it uses. */
export function groupFigure(group, names) {
  const tree = spanningTree(group.identities, group.links);
  const ids = group.identities.map((one) => one.document_id);
  const places = layOut([...walk(tree, ids)]);
  // Of a large group only a part is here, and not always that with the weakest link.
  const isHere = group.weakest && places.has(group.weakest.left) && places.has(group.weakest.right);
  const weakest = isHere ? group.weakest : null;
  // The documents on one side of the weakest link; none where there is none.
  const side = weakest
    ? walk(
        tree.filter((link) => !isSame(link, weakest)),
        [weakest.left],
      )
    : new Set();
  const links = group.links.map((link) => linkLine(link, places, tree, weakest));
  const nodes = group.identities.map((one) =>
    documentNode(one, places, names, side.has(one.document_id)),
  );
  const drawing = shape(
    "svg.graph",
    {
      viewBox: `0 0 ${SIZE.width} ${SIZE.height}`,
      role: "group",
      "aria-label": say("graph.title"),
    },
    links,
    weakest && weakestLabel(weakest, places),
    nodes,
  );
  for (const kind of ["focusin", "mouseover"])
    drawing.addEventListener(kind, (event) => lightUp(drawing, event.target));
  for (const kind of ["focusout", "mouseleave"])
    drawing.addEventListener(kind, () => lightUp(drawing, null));
  return element(
    "figure.graph-figure",
    drawing,
    element("figcaption", splitText(group, weakest, names, side)),
  );
}

function splitText({ identities, links }, weakest, names, side) {
  if (!weakest) return links.length ? null : say("graph.nolinks");
  const list = (isIn) =>
    identities
      .filter((one) => side.has(one.document_id) === isIn)
      .map((one) => names.get(one.document_id))
      .join(", ");
  return say("graph.split", {
    score: score(weakest.score),
    one: list(true),
    other: list(false),
  });
}

function layOut(order) {
  return new Map(
    order.map((id, place) => {
      // Two stand side by side, more on a circle that begins at its top.
      const angle =
        order.length === 2
          ? Math.PI * (1 - place)
          : (2 * Math.PI * place) / order.length - Math.PI / 2;
      const radius = order.length === 1 ? 0 : RADIUS;
      return [
        id,
        { x: CENTRE.x + radius * Math.cos(angle), y: CENTRE.y + radius * Math.sin(angle) },
      ];
    }),
  );
}

function linkLine(link, places, tree, weakest) {
  const [from, to] = [places.get(link.left), places.get(link.right)];
  const kind =
    weakest && isSame(link, weakest) ? "weakest" : tree.includes(link) ? "tree" : "other";
  return shape(
    "line",
    {
      class: `link link-${kind}`,
      x1: from.x,
      y1: from.y,
      x2: to.x,
      y2: to.y,
      "data-left": link.left,
      "data-right": link.right,
    },
    shape("title", score(link.score)),
  );
}

function weakestLabel(weakest, places) {
  const [from, to] = [places.get(weakest.left), places.get(weakest.right)];
  const [x, y] = [(from.x + to.x) / 2, (from.y + to.y) / 2];
  return shape(
    "g.link-label",
    shape("rect", { x: x - 24, y: y - 12, width: 48, height: 22, rx: 5 }),
    shape("text", { x, y: y + 4, "text-anchor": "middle" }, score(weakest.score)),
  );
}

function documentNode(one, places, names, isOnWeakSide) {
  const { x, y } = places.get(one.document_id);
  const name = names.get(one.document_id);
  const lines = one.lines.length;
  const radius = 17 + 2 * Math.min(lines, 6);
  const label = say("graph.node", { name, lines: number(lines), disputes: number(one.disputes) });
  return shape(
    "a",
    {
      href: placeOf("documents", one.document_id),
      class: `node${isOnWeakSide ? " node-weak" : ""}`,
      "data-document": one.document_id,
      "aria-label": label,
    },
    shape("circle", { cx: x, cy: y, r: radius }),
    shape("text", { x, y: y + 5, "text-anchor": "middle" }, name),
    one.disputes > 0 &&
      shape("path.node-dispute", {
        d: `M${x + radius - 2} ${y - radius - 8} l9 15 h-18 Z`,
      }),
    shape("title", label),
  );
}

function lightUp(drawing, target) {
  const id = target?.closest?.("a")?.dataset.document ?? null;
  for (const line of drawing.querySelectorAll(".link")) {
    line.classList.toggle(
      "link-lit",
      id !== null && [line.dataset.left, line.dataset.right].includes(id),
    );
  }
}

function isSame(one, other) {
  const ends = [one.left, one.right];
  return ends.includes(other.left) && ends.includes(other.right);
}

function compare(one, other) {
  return one < other ? -1 : one > other ? 1 : 0;
}
