// One case: what it is about, what was said of it, and the steps that end it.

import { get, post } from "../api.js";
import { caseActions } from "../casework.js";
import { add, element, figure, hint, link, plainButton, quoted, replace, wholeId } from "../elements.js";
import { faceSection } from "../face_desk.js";
import { areaField, buildForm, checkField, choiceField, workButton } from "../forms.js";
import { moment, number, say, score } from "../language.js";
import {
  aboutPeople,
  actorName,
  badge,
  empty,
  facts,
  idLink,
  lineTable,
  notice,
  peopleText,
  saveFile,
  section,
  table,
  word,
} from "../marks.js";
import { asQuery, readFilter } from "./cases.js";
import { termTable } from "./group.js";

export async function show(page, id, focus = null) {
  const found = await get(["cases", id]);
  const actions = caseActions(page, found);
  // Those that seem to be one person's come first, here and below.
  const sorted = suspectsFirst(found.documents);
  const names = new Map(sorted.map((one, place) => [one.document_id, number(place + 1)]));
  const faces = await faceSection(page, [...names.keys()], { names });
  const why = await whyOf(found);
  const next = workButton(page, "case.next", () => openNext(page, id), "quiet");
  page.show(
    element(
      "p.back.actions",
      link(["cases", page.query], say("case.back")),
      next.button,
      next.faults,
    ),
    headOf(found),
    found.merged_into &&
      notice("info", element("p", `${say("case.merged")} `, idLink("case", found.merged_into))),
    erasureNotice(found),
    element(
      "div.desk",
      element(
        "div.desk-what",
        faces.node,
        factsOf(found),
        why,
        documents(found, names),
        revealForm(page, found),
        decidedTable(found, names),
        // Opening it again leaves them closed.
        found.closed_lines.length > 0 &&
          section(
            "case.closedlines",
            hint(say("case.closedlines.hint")),
            lineTable(found.closed_lines),
          ),
        mergedTable(found),
        history(found),
        reportForm(page, found),
      ),
      actions && element("aside.desk-do", { "aria-label": say("case.actions") }, actions.node),
    ),
  );
  const keys = { j: next.run, u: () => page.go("cases", page.query) };
  page.bindKeys({ ...faces.keys, ...(actions?.keys ?? {}), ...keys });
  if (focus !== null) actions?.focusOn(focus);
}

/** What it is, whom it is about, and how far it is; a tab is told from others by the first two. */
function headOf({ kind, state, documents: held }) {
  const people = suspectsFirst(held)
    .slice(0, ABOUT)
    .map(({ name, lines }) => ({ name, number: lines.find((one) => one.number)?.number ?? "" }));
  const shown = element("span", word("kind", kind));
  const title = [shown.textContent, peopleText(people)].filter(Boolean).join(": ");
  return element(
    "h1",
    { "data-title": title },
    shown,
    " ",
    element("span.about", aboutPeople(people, held.length)),
    " ",
    badge("state", state),
  );
}

/** As many as the queue names. */
const ABOUT = 2;

function suspectsFirst(held) {
  return [...held].sort((one, other) => other.is_suspect - one.is_suspect);
}

/** The case that comes next in the queue that this one was opened from. */
async function openNext(page, id) {
  const queue = asQuery(readFilter(page.query));
  const { cases } = await get(["cases"], { ...queue, after: id, limit: 1 });
  if (cases.length === 0) return page.announce(say("case.last"));
  return page.go("case", cases[0].case_id, page.query);
}

/** What people decided of these documents elsewhere: it stands, whatever this case decides. */
function decidedTable({ decided = [] }, names) {
  if (decided.length === 0) return null;
  return section(
    "case.decided",
    hint(say("case.decided.hint")),
    table("case.decided", decided, {
      "group.between": (one) => `${names.get(one.left)} – ${names.get(one.right)}`,
      "case.score": (one) => figure(score(one.score)),
      "case.outcome": (one) => word("outcome", one.outcome),
      "case.id": (one) => idLink("case", one.case_id),
    }),
  );
}

/** What went into this case, each with its own attempt. */
function mergedTable({ merged }) {
  if (merged.length === 0) return null;
  return section(
    "case.mergedattempts",
    table("case.mergedattempts", merged, {
      "case.kind": (one) => word("kind", one.kind),
      "case.origin": (one) => word("origin", one.origin),
      "enrollment.id": (one) => idLink("enrollments", one.enrollment_id),
      "case.score": (one) => figure(score(one.score)),
      "case.opened": (one) => moment(one.opened_at),
    }),
  );
}

/** The terms of its group, by which a sweep put it where it is; they go with the sweep's files. */
async function whyOf({ sweep_id: sweep, group_key: key }) {
  if (!sweep || !key) return null;
  const group = await get(["sweeps", sweep, "groups", key]).catch(() => null);
  return section("case.why", group ? termTable(group) : empty("case.nowhy"));
}

/** Until when what the case needs is there: an erasure of it is asked for. */
function erasureNotice({ documents: held }) {
  const due = held.map((one) => one.erasure_due_at).filter(Boolean);
  if (due.length === 0) return null;
  const text = say("case.erasure", { count: number(due.length) });
  return notice("warn", element("p", `${text} `, moment(due.sort()[0])));
}

function factsOf(found) {
  return facts([
    ["case.id", wholeId(found.case_id)],
    ["case.origin", word("origin", found.origin)],
    ["case.assignee", actorName(found.assignee)],
    ["case.score", figure(score(found.score))],
    found.outcome && ["case.outcome", word("outcome", found.outcome)],
    ["case.opened", moment(found.opened_at)],
    found.closed_at && ["case.closed", moment(found.closed_at)],
    found.enrollment_id && ["enrollment.id", idLink("enrollments", found.enrollment_id)],
    found.sweep_id && ["sweep.id", idLink("sweep", found.sweep_id)],
    found.sweep_id &&
      found.group_key && [
        "group.title",
        link(["group", found.sweep_id, found.group_key], say("group.open")),
      ],
  ]);
}

/** So many documents are shown at once: a case of a sweep may name thousands. */
const SHOWN = 20;

function documents(found, names) {
  const sorted = suspectsFirst(found.documents);
  const place = element("div.documents");
  const more = element("p.actions");
  const extend = () => {
    const next = sorted.splice(0, SHOWN);
    add(place, documentCards(found, next, names));
    const text = () => say("case.moredocuments", { count: number(sorted.length) });
    replace(more, sorted.length > 0 && plainButton(text(), extend));
  };
  extend();
  return section(
    "case.documents",
    found.documents.length === 0 && empty("case.nodocuments"),
    place,
    more,
  );
}

function documentCards(found, shown, names) {
  const about = new Set(found.line_ids);
  return shown.map((one) =>
    element(
      "article.card",
      element(
        "h3",
        `${names.get(one.document_id)}. `,
        link(
          ["documents", one.document_id],
          one.name ? quoted(one.name) : say("document.title"),
          " ",
          quoted(one.document_id.slice(-8), { class: "id" }),
        ),
        " ",
        badge("docstate", one.document_status),
        one.is_suspect && [" ", element("span.badge.state-proposed", say("case.suspect"))],
      ),
      one.erasure_due_at && hint(`${say("erasure.due")} `, moment(one.erasure_due_at)),
      placesOf(one, found),
      lineTable(
        one.lines,
        about.size ? (line) => about.has(line.line_id) && say("case.thisline") : null,
      ),
    ),
  );
}

/** The outlets of a document's lines, each with its past enrollments and the steps against it. */
function placesOf({ lines }, { case_id: id }) {
  const outlets = [...new Set(lines.map((line) => line.outlet))];
  if (outlets.length === 0) return null;
  const links = outlets.map((one) => [" ", link(["outlets", one, { case: id }], quoted(one))]);
  return hint(say("case.outlets"), links);
}

/** Names and numbers in full, on this page alone and for a reason, which the history keeps. */
function revealForm(page, { case_id: id }) {
  const shown = element("div", { role: "status" });
  const field = areaField("outlet.reason", { name: "reason", required: true, maxlength: 200 });
  const form = buildForm(page, { class: "report" }, [field], "reveal.show", async ({ reason }) => {
    const { documents: revealed } = await post(["cases", id, "reveal"], { reason });
    if (page.signal.aborted) return;
    replace(shown, table("reveal.title", revealed, REVEALED, "case.nodocuments"));
  });
  return section("reveal.title", hint(say("reveal.lead")), form, shown);
}

const REVEALED = {
  "document.title": (one) => idLink("documents", one.document_id),
  "document.type": (one) => word("document", one.type),
  "document.number": (one) => quoted(one.number),
  "document.name": (one) => quoted(one.name),
};

/** A file of the case, to be handed over; names, numbers and faces stand in it where asked for. */
function reportForm(page, { case_id: id, documents: held }) {
  const carriers = [...new Set(held.flatMap(({ lines }) => lines.map((one) => one.carrier)))];
  const made = element("p", { role: "status" });
  const form = buildForm(
    page,
    { class: "report" },
    [
      checkField(say("report.faces"), { name: "faces" }),
      checkField(say("report.reveal"), { name: "reveal" }),
      choiceField("report.carrier", { name: "carrier" }, [
        ["", say("report.everyone")],
        ...carriers.sort().map((one) => [one, one]),
      ]),
    ],
    "report.make",
    async ({ faces, reveal, carrier }) => {
      const terms = { faces: faces === "on", reveal: reveal === "on", carrier: carrier || null };
      const file = await post(["cases", id, "report"], terms);
      if (page.signal.aborted) return;
      const bytes = Uint8Array.from(atob(file.html), (one) => one.charCodeAt(0));
      saveFile(file.file_name, "text/html", bytes);
      const counts = { faces: number(file.faces), left: number(file.left_out) };
      replace(made, say(file.left_out ? "report.part" : "report.made", counts));
    },
  );
  return section("report.title", hint(say("report.lead")), form, made);
}

/** What an entry of each kind says; of others it is the outcome. */
const SAID = {
  opened: (text) => word("origin", text),
  erasure_asked: (text) => [`${say("erasure.due")} `, moment(text)],
  erased: (text) => quoted(text.slice(-8), { class: "id" }),
  expired: (text) => word("expired", text),
  assigned: actorName,
  merged: (text) => {
    const [origin, id] = text.split(" ");
    return [word("origin", origin), " ", quoted(id, { class: "id" })];
  },
};

/** What an entry says besides its kind: people's words as they are, the service's in the page's. */
function saidIn({ kind, text }) {
  if (!text) return null;
  const note = (words) => element("p.note", { dir: "auto", translate: "no" }, words);
  if (/^(note|revealed|reopen)/.test(kind)) return note(text);
  if (kind === "restricted") {
    const [done, reason] = text.split("\n");
    const [restriction, outlet] = done.split(" ");
    const where = link(["outlets", outlet], quoted(outlet));
    return [element("p", badge("restriction", restriction), " ", where), note(reason)];
  }
  return element("p", SAID[kind]?.(text) ?? word("outcome", text));
}

function history({ notes }) {
  return section(
    "case.history",
    element(
      "ol.history",
      notes.map((one) =>
        element(
          "li",
          { class: `history-${one.kind}` },
          element(
            "p.history-head",
            element("strong", word("history", one.kind)),
            " ",
            actorName(one.actor),
            " ",
            moment(one.at),
          ),
          saidIn(one),
        ),
      ),
    ),
  );
}
