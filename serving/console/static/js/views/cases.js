// The queue of the fraud desk: what is to be decided, worked through with single keys.

import { get, post, whoAmI } from "../api.js";
import { element, figure, hint, link, pick, plainButton, quoted, replace } from "../elements.js";
import { smallFaces } from "../face_desk.js";
import {
  attempt,
  buildForm,
  checkField,
  filteredList,
  filterFields,
  radioField,
  sentenceOf,
  workButton,
} from "../forms.js";
import { day, moment, number, say, score } from "../language.js";
import {
  aboutPeople,
  actorName,
  badge,
  cellUnder,
  empty,
  growingTable,
  notice,
  pageHead,
  peopleText,
  word,
} from "../marks.js";
import { CASE_KINDS, CASE_SORTS, OUTCOMES } from "../vocabulary.js";

export const STATES = ["open", "assigned", "proposed", "closed"];
const FRAUD_IN_USE = "fraud_in_use";
const FILTERS = [
  "sort",
  "state",
  "kind",
  "assignee",
  "carrier",
  "outlet",
  "id_end",
  "overdue",
  "to_approve",
];
/** Of a case in the queue, the faces of so many documents are shown, of so many cases at once. */
const FACES = 2;
const CASES_AT_ONCE = 4;
const PAGE = 50;
const DECIDED_AT_ONCE = 100;
const DAY_MS = 86_400_000;

/** What an address asks for, and nothing else that it says. */
export function readFilter(query) {
  return { sort: "risk", state: "alive", ...pick(query, FILTERS) };
}

export async function show(page) {
  const list = element("div.queue");
  const filter = readFilter(page.query);
  const ask = () => get(["cases"], { ...asQuery(filter), limit: PAGE });
  const queue = { page, list, filter, known: new Map() };
  const fill = (answer) => fillQueue(queue, answer);
  const { faults, load, change } = filteredList(page, list, filter, ["cases"], ask, fill);
  page.show(
    pageHead("cases.title", "cases.lead"),
    element(
      "p.actions",
      link(["outlets"], say("outlets.title")),
      link(["search", { by: "msisdn" }], say("cases.find")),
    ),
    filters(filter, change, faults),
    list,
  );
  await load();
  page.bindKeys(keysOf(queue, faults));
}

/** What is asked for: the address also says "all", and names several places in one text. */
export function asQuery({ carrier, outlet, ...filter }) {
  const split = (codes) => (codes ?? "").split(/[,，]/).map((one) => one.trim()).filter(Boolean);
  return {
    ...filter,
    state: filter.state === "all" ? null : filter.state,
    carriers: split(carrier),
    outlets: split(outlet),
  };
}

/** Who has asked for small faces in this tab: each look is audited in their name, so no address
 * and no other person's tick asks for them. */
let looker = null;

function isLooking() {
  return looker !== null && looker === whoAmI();
}

function filters(filter, change, faults) {
  const fields = filterFields(filter, change);
  const { choice, text, bar } = fields;
  const look = (event) => {
    looker = event.target.checked ? whoAmI() : null;
    return change({});
  };
  return bar(
    "cases.filters",
    choice("cases.sort", "sort", CASE_SORTS, (one) => say(`sort.${one}`)),
    choice("case.state", "state", ["alive", ...STATES, FRAUD_IN_USE, "all"], sayState),
    kindChoice(fields),
    text("cases.carriers", "carrier", { maxlength: 1000 }),
    text("cases.outlets", "outlet", { maxlength: 1000 }),
    narrowings(fields),
    fields.tick("cases.toapprove", "to_approve", "true"),
    checkField(say("cases.faces"), { checked: isLooking(), onchange: look }),
    faults,
  );
}

export const sayState = (state) => say(`state.${state}`);

/** The kind of a case, in a bar of filters. */
export function kindChoice({ choice }) {
  return choice("case.kind", "kind", ["", ...CASE_KINDS], (one) => say(`kind.${one}`));
}

/** A case by the end of its id, by whose it is, and by its due date. */
export function narrowings({ text, tick }) {
  return [
    text("cases.idend", "id_end", { maxlength: 36, pattern: "[0-9a-f\\-]{4,36}" }),
    tick("cases.mine", "assignee", "me"),
    tick("cases.overdue", "overdue", "true"),
  ];
}

/** What was decided and is in use all the same: nobody is asked about it again. */
function fraudNotice({ fraud_in_use: count }, filter) {
  if (!count || filter.state === FRAUD_IN_USE) return null;
  const text = say("cases.fraudinuse", { count: number(count) });
  return notice("warn", link(["cases", { state: FRAUD_IN_USE }], text));
}

/** How many are to be decided, each number a way to these. */
function waitingOf({ waiting }) {
  if (!waiting) return null;
  const { kinds, overdue, mine, to_approve: toApprove } = waiting;
  const narrowed = [
    ["cases.overdue", overdue, { overdue: "true" }],
    ["cases.mine", mine, { assignee: "me" }],
    ["cases.toapprove", toApprove, { to_approve: "true" }],
    ...Object.entries(kinds).map(([kind, count]) => [`kind.${kind}`, count, { kind }]),
  ];
  const shown = narrowed.filter(([, count]) => count > 0);
  return element(
    "p.actions",
    shown.map(([key, count, narrowing]) =>
      link(["cases", narrowing], say(key), " ", figure(number(count))),
    ),
  );
}

/** `known` has every case that is listed, as it was last seen. */
function fillQueue(queue, answer) {
  const { page, list, filter, known } = queue;
  if (answer.cases.length === 0) {
    replace(list, fraudNotice(answer, filter), empty("cases.none"));
    page.announce(say("cases.none"));
    return;
  }
  const ask = (after) => get(["cases"], { ...asQuery(filter), limit: PAGE, after });
  const read = ({ cases }) => {
    if (isLooking()) queueMicrotask(() => showFaces(page, list));
    return cases;
  };
  const given = (one) => ({
    "data-case": known.set(one.case_id, one) && one.case_id,
    "data-documents": one.document_ids.slice(0, FACES).join(" "),
    class: one.is_overdue ? "overdue" : null,
  });
  const look = { title: "cases.caption", columns: queueColumns(filter), given };
  replace(
    list,
    waitingOf(answer),
    fraudNotice(answer, filter),
    growingTable(page, answer, { ...look, ask, read }),
    stepsOfMany(queue),
  );
}

function queueColumns(filter) {
  return {
    "cases.chosen": (one) =>
      element("input", {
        type: "checkbox",
        name: "case",
        value: one.case_id,
        "aria-label": say("cases.choosethis", {
          name: peopleText(one.people) || one.case_id.slice(-8),
        }),
      }),
    "case.about": (one) => [
      link(["case", one.case_id, filter], aboutOf(one)),
      element("div.hint", word("kind", one.kind)),
    ],
    "case.risk": (one) => figure(number(one.risk, { maximumFractionDigits: 0 })),
    "case.state": stateOf,
    "case.size": (one) => [
      say("case.sizes", { documents: number(one.document_ids.length), lines: number(one.lines) }),
      one.fraud_lines > 0 &&
        element(
          "div.hint",
          say("case.fraudlines", { count: number(one.fraud_lines) }),
          one.proposal?.keep_lines && ` ${say("case.keeplines")}`,
        ),
    ],
    "case.where": placesOf,
    "case.score": ({ score: best, weakest }) =>
      figure([...new Set([weakest ?? best, best])].map(score).join(" – ")),
    "case.age": ({ opened_at: opened }) => {
      const days = Math.floor((Date.now() - new Date(opened)) / DAY_MS);
      const text = number(days, { style: "unit", unit: "day", unitDisplay: "long" });
      return element("span", { title: moment(opened).textContent }, text);
    },
    "case.due": ({ due_at: due, is_overdue: isOverdue, erasure_due_at: erased }) => [
      day(due),
      isOverdue && [" ", badge("due", "overdue")],
      erased && element("div.hint", `${say("erasure.due")} `, day(erased)),
    ],
  };
}

function stateOf({ state, assignee, outcome, proposal, lines }) {
  const closing = proposal?.close_lines.length;
  const numbers = { closed: number(closing), all: number(lines) };
  return [
    badge("state", state),
    assignee && [" ", actorName(assignee)],
    (outcome ?? proposal) &&
      element(
        "div.hint",
        word("outcome", outcome ?? proposal.outcome),
        state === "proposed" && closing > 0 && ` · ${say("case.willclose", numbers)}`,
      ),
  ];
}

/** Small pictures in rows that have none yet, of the faces that are kept; each look is audited. */
async function showFaces(page, list) {
  const rows = [...list.querySelectorAll("tr[data-documents]:not([data-pictured])")];
  rows.forEach((one) => (one.dataset.pictured = ""));
  const idsOf = (one) => one.dataset.documents.split(" ").filter(Boolean);
  while (rows.length && !page.signal.aborted) {
    const some = rows.splice(0, CASES_AT_ONCE);
    try {
      const found = await smallFaces(page, some.flatMap(idsOf));
      for (const one of some) {
        const shown = idsOf(one).filter((id) => found.has(id));
        const pictures = element(
          "div.row-faces",
          // Whose reference it is needs no word; an attempt's face may be anybody's.
          shown.map(found.get, found).map(({ url, isReference }) =>
            element(
              "figure",
              element("img", { src: url, alt: "" }),
              !isReference && element("figcaption", say("face.attempt")),
            ),
          ),
        );
        cellUnder(one, "case.about").prepend(pictures);
      }
    } catch (fault) {
      if (!page.signal.aborted) page.announce(sentenceOf(fault));
      return;
    }
  }
}

function aboutOf(one) {
  const parts = aboutPeople(one.people, one.document_ids.length);
  return parts.length ? parts : word("kind", one.kind);
}

function placesOf({ carriers, outlets }) {
  if (outlets.length === 0) return "–";
  const shown = outlets.slice(0, 2).join(", ");
  const more =
    outlets.length > 2 ? ` ${say("case.more", { count: number(outlets.length - 2) })}` : "";
  return [quoted(shown), more, element("div.hint", quoted(carriers.join(", ")))];
}

/** A case as it is after a step, or why it is as it was. */
function changeRow({ known }, row, changed, error = null) {
  const id = row.dataset.case;
  known.set(id, { ...known.get(id), ...changed });
  const why = error && element("div.hint.wrap", sentenceOf(error));
  replace(cellUnder(row, "case.state"), stateOf(known.get(id)), why);
}

/** Steps of all that are ticked; what was refused stays ticked, and its row says why. */
function stepsOfMany(queue) {
  const { page, list, known } = queue;
  const boxes = () => [...list.querySelectorAll("input[name=case]")];
  const all = plainButton(say("cases.chooseall"), () => {
    const isFull = boxes().every((box) => box.checked);
    for (const box of boxes()) box.checked = !isFull;
  });
  const forChosen = async (take) => {
    const ticked = boxes().filter((box) => box.checked);
    if (ticked.length === 0) return page.announce(say("cases.choosebox"));
    await take(ticked);
    const done = number(ticked.filter((box) => !box.checked).length);
    return page.announce(say("cases.decided", { done, count: number(ticked.length) }));
  };
  const change = (box, changed, error = null) => {
    box.checked = error !== null;
    changeRow(queue, box.closest("tr"), changed, error);
  };
  const assign = async (ticked) => {
    for (const box of ticked) change(box, await takeCase(box.value));
  };
  const decide = (step, endingOf) => async (ticked) => {
    for (let start = 0; start < ticked.length; start += DECIDED_AT_ONCE) {
      const some = ticked.slice(start, start + DECIDED_AT_ONCE);
      const asked = some.map(({ value }) => known.get(value)).map((one) => ({
        case_id: one.case_id,
        seen_at: one.updated_at,
        ...endingOf(one.proposal),
      }));
      const { cases } = await post(["cases", "outcomes"], { step, cases: asked });
      cases.forEach(({ case: changed, error }, place) => change(some[place], changed, error));
    }
  };
  const { button, faults } = workButton(page, "cases.assignchosen", () => forChosen(assign));
  const bar = element("div.actions", all, button, faults);
  return [bar, decisionOfMany(page, (...how) => forChosen(decide(...how)))];
}

/** One outcome for all that are ticked, or what was proposed of each: closing a number, or that
 * something is unfounded, is asked of one case alone. */
function decisionOfMany(page, decide) {
  const outcomes = OUTCOMES.filter((one) => one !== "unfounded");
  const options = outcomes.map((one) => [one, say(`outcome.${one}`)]);
  const keep = checkField(say("cases.keepall"), { name: "keep" });
  const fields = [hint(say("cases.decide.hint")), radioField("case.outcome", "outcome", options), keep];
  const form = buildForm(page, { class: "card" }, fields, "cases.proposechosen", (given) =>
    decide("propose", () => ({ outcome: given.outcome, keep_lines: given.keep === "on" })),
  );
  form.addEventListener("change", () => {
    keep.querySelector("input").required = form.elements.outcome.value === "fraud";
  });
  // Where nothing is proposed that is refused, whatever it says.
  const fallback = { outcome: "mistake" };
  const { button, faults } = workButton(page, "cases.approvechosen", () =>
    decide("close", (proposal) => pick(proposal ?? fallback, ["outcome", "close_lines", "keep_lines"])),
  );
  form.querySelector(".actions").append(button);
  form.append(faults);
  return element("details.finder", element("summary", say("cases.decide")), form);
}

function keysOf(queue, faults) {
  const { page, list, filter } = queue;
  const links = () => [...list.querySelectorAll("tbody a")];
  const current = () => links().indexOf(document.activeElement);
  const move = (step) => () => {
    const all = links();
    all[Math.min(Math.max(current() + step, 0), all.length - 1)]?.focus();
  };
  const on = (work) => () => {
    const chosen = links()[current()]?.closest("tr[data-case]");
    return chosen ? work(chosen) : page.announce(say("cases.choose"));
  };
  const open = (...steps) =>
    on((chosen) => page.go("case", chosen.dataset.case, ...steps, filter));
  return {
    j: move(1),
    k: () => (current() < 0 ? move(1)() : move(-1)()),
    Enter: open(),
    a: on((row) => attempt(page, row, faults, async () => {
      changeRow(queue, row, await takeCase(row.dataset.case));
      page.announce(say("cases.assigned"));
    })),
    x: on((chosen) => chosen.querySelector("input").click()),
    n: open("note"),
    p: open("propose"),
    c: open("close"),
  };
}

const takeCase = (id) => post(["cases", id, "assign"], { assignee: "me" });
