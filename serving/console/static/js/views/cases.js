// The queue of the fraud desk: what is open, worked through with single keys.

import { add, element, figure, link, replace } from "../elements.js";
import { attempt, checkField, choiceField } from "../forms.js";
import { moment, say, score } from "../language.js";
import { actorName, badge, empty, growingTable, pageHead, row, word } from "../marks.js";
import { assignCase, listCases } from "../service.js";
import { myActor } from "../session.js";
import { bindKeys } from "../shortcuts.js";

const STATES = ["open", "assigned", "proposed", "closed"];
const KINDS = [
  "duplicate_identity",
  "possible_duplicate",
  "stolen_document",
  "dispute",
  "line_changed_face",
  "one_face_many_documents",
  "one_document_many_faces",
  "resale_ring",
];
const PAGE = 50;

export async function show(page) {
  const list = element("div", { class: "queue" });
  const filter = { state: "open", kind: "", assignee: null };
  let asked = 0;
  const load = async () => {
    const turn = ++asked;
    const answer = await listCases({ ...filter, limit: PAGE });
    // Whoever changed the filter meanwhile wants only the last answer.
    if (turn === asked) fillQueue(page, list, filter, answer);
  };
  const faults = element("div", { class: "faults" });
  const change = (changes) => {
    Object.assign(filter, changes);
    return attempt(page, list, faults, load);
  };
  add(page.main, pageHead("cases.title", "cases.lead"), filters(change, faults), list);
  await load();
  bindKeys(page, keysOf(page, list));
}

function filters(change, faults) {
  const states = [["", say("cases.all")], ...STATES.map((one) => [one, say(`state.${one}`)])];
  const kinds = [["", say("cases.all")], ...KINDS.map((one) => [one, say(`kind.${one}`)])];
  return element(
    "div",
    { class: "filters", role: "search", "aria-label": say("cases.filters") },
    choiceField(
      say("case.state"),
      { onchange: (event) => change({ state: event.target.value }) },
      states,
      "open",
    ),
    choiceField(
      say("case.kind"),
      { onchange: (event) => change({ kind: event.target.value }) },
      kinds,
      "",
    ),
    checkField(say("cases.mine"), {
      onchange: (event) => change({ assignee: event.target.checked ? "me" : null }),
    }),
    faults,
  );
}

function fillQueue(page, list, filter, answer) {
  if (answer.cases.length === 0) {
    replace(list, empty("cases.none"));
    page.announce(say("cases.none"));
    return;
  }
  const heads = [
    "case.kind",
    "case.state",
    "case.assignee",
    "case.score",
    "case.origin",
    "case.opened",
  ];
  const ask = (after) => listCases({ ...filter, limit: PAGE, after });
  const read = ({ cases }) => cases.map(caseRow);
  replace(list, growingTable(page, "cases.caption", heads, answer, ask, read));
}

function caseRow(one) {
  return row(
    { "data-case": one.case_id },
    link(["case", one.case_id], word("kind", one.kind)),
    badge("state", one.state),
    actorName(one.assignee, myActor()),
    figure(score(one.score ?? null)),
    word("origin", one.origin),
    moment(one.opened_at),
  );
}

function keysOf(page, list) {
  const links = () => [...list.querySelectorAll("tbody a")];
  const current = () => links().indexOf(document.activeElement);
  const move = (step) => () => {
    const all = links();
    all[Math.min(Math.max(current() + step, 0), all.length - 1)]?.focus();
  };
  const on = (work) => () => {
    const chosen = links()[current()]?.closest("tr");
    return chosen ? work(chosen) : page.announce(say("cases.choose"));
  };
  const open = (...steps) => on((chosen) => page.go("case", chosen.dataset.case, ...steps));
  return {
    j: move(1),
    k: () => (current() < 0 ? move(1)() : move(-1)()),
    Enter: open(),
    a: on((chosen) => takeOver(page, chosen)),
    n: open("note"),
    p: open("propose"),
    c: open("close"),
  };
}

async function takeOver(page, chosen) {
  try {
    const changed = await assignCase(chosen.dataset.case, "me");
    const fresh = caseRow(changed);
    chosen.replaceWith(fresh);
    fresh.querySelector("a").focus();
    page.announce(say("cases.assigned"));
  } catch (fault) {
    if (fault.status === 401) return page.turnOut("signin.ended");
    const { sentenceOf } = await import("../faults.js");
    page.announce(sentenceOf(fault));
  }
  return null;
}
