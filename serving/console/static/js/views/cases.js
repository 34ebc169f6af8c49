// The queue of the fraud desk: what is to be decided, worked through with single keys.

import { assignCase, listCases, searchPeople, whoAmI } from "../api.js";
import { add, element, figure, hint, link, plainButton, quoted, replace } from "../elements.js";
import { smallFaces } from "../face_desk.js";
import {
  buildForm,
  checkField,
  filteredList,
  filterFields,
  numberField,
  sentenceOf,
  workButton,
} from "../forms.js";
import { bindKeys } from "../frame.js";
import { day, moment, number, say, score } from "../language.js";
import {
  aboutPeople,
  actorName,
  badge,
  caseTable,
  empty,
  growingTable,
  notice,
  pageHead,
  peopleText,
  row,
  word,
} from "../marks.js";
import { CASE_SORTS } from "../vocabulary.js";

export const STATES = ["open", "assigned", "proposed", "closed"];
const FRAUD_IN_USE = "fraud_in_use";
export const KINDS = [
  "duplicate_identity",
  "possible_duplicate",
  "stolen_document",
  "probing",
  "exception",
  "deceased_identity",
  "dispute",
  "line_changed_face",
  "one_face_many_documents",
  "one_document_many_faces",
  "resale_ring",
];
const FILTERS = ["sort", "state", "kind", "assignee", "carrier", "outlet", "id_end", "overdue"];
/** Of a case in the queue, the faces of so many documents are shown, of so many cases at once. */
const FACES = 2;
const CASES_AT_ONCE = 4;
const PAGE = 50;
const DAY_MS = 86_400_000;

/** What an address asks for, and nothing else that it says. */
export function readFilter(query) {
  const known = FILTERS.filter((name) => query[name]).map((name) => [name, query[name]]);
  return { sort: "risk", state: "alive", ...Object.fromEntries(known) };
}

export async function show(page) {
  const list = element("div", { class: "queue" });
  const filter = readFilter(page.query);
  const ask = () => listCases({ ...asQuery(filter), limit: PAGE });
  const fill = (answer, again) => fillQueue(page, list, filter, answer, again);
  const { faults, load, change } = filteredList(page, list, filter, ["cases"], ask, fill);
  add(
    page.main,
    pageHead("cases.title", "cases.lead"),
    element("p", {}, link(["outlets"], say("outlets.title"))),
    filters(filter, change, faults),
    finder(page, list, () => change({})),
    list,
  );
  await load();
  bindKeys(page, keysOf(page, list, filter));
}

/** What is asked for: the address also says "all". */
export function asQuery(filter) {
  return { ...filter, state: filter.state === "all" ? null : filter.state };
}

/** Who has asked for small faces in this tab: each look is audited in their name, so no address
 * and no other person's tick asks for them. */
let looker = null;

function isLooking() {
  return looker !== null && looker === whoAmI();
}

function filters(filter, change, faults) {
  const { choice, text, tick, bar } = filterFields(filter, change);
  const states = ["alive", ...STATES, FRAUD_IN_USE, "all"].map((one) => [one, say(`state.${one}`)]);
  const kinds = [["", say("cases.all")], ...KINDS.map((one) => [one, say(`kind.${one}`)])];
  const sorts = CASE_SORTS.map((one) => [one, say(`sort.${one}`)]);
  const look = (event) => {
    looker = event.target.checked ? whoAmI() : null;
    return change({});
  };
  return bar(
    "cases.filters",
    choice("cases.sort", "sort", sorts),
    choice("case.state", "state", states),
    choice("case.kind", "kind", kinds),
    text("case.carrier", "carrier"),
    text("case.outlet", "outlet"),
    text("cases.idend", "id_end", { pattern: "[0-9a-f\\-]{4,36}" }),
    tick("cases.mine", "assignee", "me"),
    tick("cases.overdue", "overdue", "true"),
    checkField(say("cases.faces"), { checked: isLooking(), onchange: look }),
    faults,
  );
}

/** The open cases about a whole telephone number, which is in no address; each search is audited. */
function finder(page, list, reload) {
  const form = buildForm(
    page,
    { class: "filters", role: "search", "aria-label": say("cases.find") },
    numberField(),
    say("cases.find"),
    async ({ msisdn }) => {
      const { people } = await searchPeople({ msisdn });
      const found = new Map(people.flatMap(({ cases }) => cases).map((one) => [one.case_id, one]));
      const back = plainButton(say("case.back"), () => {
        form.reset();
        return reload();
      });
      replace(list, element("p", { class: "actions" }, back), caseTable([...found.values()]));
      page.announce(say(found.size ? "cases.found" : "cases.none", { count: number(found.size) }));
    },
  );
  return element(
    "details",
    { class: "finder" },
    element("summary", {}, say("cases.find")),
    form,
    hint(link(["search"], say("cases.elsewhere"))),
  );
}

const HEADS = [
  "cases.chosen",
  "case.about",
  "case.risk",
  "case.state",
  "case.size",
  "case.where",
  "case.score",
  "case.age",
  "case.due",
];

/** What was decided and is in use all the same: nobody is asked about it again. */
function fraudNotice({ fraud_in_use: count }, filter) {
  if (!count || filter.state === FRAUD_IN_USE) return null;
  const text = say("cases.fraudinuse", { count: number(count) });
  return notice("warn", link(["cases", { state: FRAUD_IN_USE }], text));
}

function fillQueue(page, list, filter, answer, reload) {
  if (answer.cases.length === 0) {
    replace(list, fraudNotice(answer, filter), empty("cases.none"));
    page.announce(say("cases.none"));
    return;
  }
  const ask = (after) => listCases({ ...asQuery(filter), limit: PAGE, after });
  const read = ({ cases }) => {
    if (isLooking()) queueMicrotask(() => showFaces(page, list));
    return cases.map((one) => caseRow(one, filter));
  };
  replace(
    list,
    fraudNotice(answer, filter),
    growingTable(page, "cases.caption", HEADS, answer, ask, read),
    assignmentOfMany(page, list, reload),
  );
}

function caseRow(one, filter) {
  const name = peopleText(one.people) || one.case_id.slice(-8);
  return row(
    {
      "data-case": one.case_id,
      "data-documents": one.document_ids.slice(0, FACES).join(" "),
      class: one.is_overdue ? "overdue" : null,
    },
    element("input", {
      type: "checkbox",
      name: "case",
      value: one.case_id,
      "aria-label": say("cases.choosethis", { name }),
    }),
    [
      link(["case", one.case_id, filter], aboutOf(one)),
      element("div", { class: "hint" }, word("kind", one.kind)),
    ],
    figure(number(one.risk, { maximumFractionDigits: 0 })),
    [badge("state", one.state), one.assignee && [" ", actorName(one.assignee)]],
    [
      say("case.sizes", { documents: number(one.document_ids.length), lines: number(one.lines) }),
      fraudOf(one),
    ],
    placesOf(one),
    figure(scoresOf(one)),
    ageOf(one.opened_at),
    [
      one.due_at
        ? [day(one.due_at), one.is_overdue && [" ", badge("due", "overdue")]]
        : element("span", {}, "–"),
      one.erasure_due_at &&
        element("div", { class: "hint" }, `${say("erasure.due")} `, day(one.erasure_due_at)),
    ],
  );
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
        one.cells[HEADS.indexOf("case.about")].prepend(
          element("div", { class: "row-faces" }, shown.map((id) => smallFace(found.get(id)))),
        );
      }
    } catch (fault) {
      if (!page.signal.aborted) page.announce(sentenceOf(fault));
      return;
    }
  }
}

/** Whose reference it is needs no word; an attempt's face may be anybody's. */
function smallFace({ url, isReference }) {
  const label = !isReference && element("figcaption", {}, say("face.attempt"));
  return element("figure", {}, element("img", { src: url, alt: "" }), label);
}

function fraudOf({ fraud_lines: lines, proposal }) {
  if (!lines) return null;
  const keeps = proposal?.keep_lines && ` ${say("case.keeplines")}`;
  return element("div", { class: "hint" }, say("case.fraudlines", { count: number(lines) }), keeps);
}

function aboutOf(one) {
  const parts = aboutPeople(one.people, one.document_ids.length);
  return parts.length ? parts : word("kind", one.kind);
}

function placesOf({ carriers, outlets }) {
  if (outlets.length === 0) return "–";
  const shown = outlets.slice(0, 2).join(", ");
  const more = outlets.length > 2 ? ` ${say("case.more", { count: number(outlets.length - 2) })}` : "";
  return [quoted(shown), more, element("div", { class: "hint" }, quoted(carriers.join(", ")))];
}

function scoresOf({ score: best, weakest }) {
  return weakest === null || weakest === best ? score(best) : `${score(weakest)} – ${score(best)}`;
}

function ageOf(opened) {
  const days = Math.floor((Date.now() - new Date(opened)) / DAY_MS);
  const text = number(days, { style: "unit", unit: "day", unitDisplay: "long" });
  return element("span", { title: moment(opened).textContent }, text);
}

/** One button for all that are ticked; what was refused stays ticked, and is said. */
function assignmentOfMany(page, list, reload) {
  const boxes = () => [...list.querySelectorAll("input[name=case]")];
  const all = plainButton(say("cases.chooseall"), () => {
    const isFull = boxes().every((box) => box.checked);
    for (const box of boxes()) box.checked = !isFull;
  });
  const { button, faults } = workButton(page, say("cases.assignchosen"), async () => {
    const chosen = boxes().filter((box) => box.checked);
    if (chosen.length === 0) return page.announce(say("cases.choosebox"));
    for (const box of chosen) {
      await assignCase(box.value, "me");
      box.checked = false;
    }
    page.announce(say("cases.assignedmany", { count: number(chosen.length) }));
    return reload();
  });
  return element("div", { class: "actions" }, all, button, faults);
}

function keysOf(page, list, filter) {
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
    a: on((chosen) => takeOver(page, chosen)),
    x: on((chosen) => chosen.querySelector("input").click()),
    n: open("note"),
    p: open("propose"),
    c: open("close"),
  };
}

async function takeOver(page, chosen) {
  try {
    const changed = await assignCase(chosen.dataset.case, "me");
    const state = [badge("state", changed.state), " ", actorName(changed.assignee)];
    replace(chosen.cells[HEADS.indexOf("case.state")], state);
    page.announce(say("cases.assigned"));
  } catch (fault) {
    if (fault.status === 401) return page.turnOut("ended");
    page.announce(sentenceOf(fault));
  }
  return null;
}
