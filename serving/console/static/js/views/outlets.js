// Outlets: who may enroll nobody and why, and one outlet with its steps and what it enrolled before.

import { get, isMe, post } from "../api.js";
import { element, figure, hint, link, pick, quoted, replace } from "../elements.js";
import { areaField, buildForm, choiceField, filteredList, filterFields, textField } from "../forms.js";
import { moment, number, say } from "../language.js";
import {
  actorName,
  badge,
  facts,
  growingTable,
  idLink,
  maskedNumber,
  pageHead,
  reasonLines,
  section,
  word,
} from "../marks.js";
import { DECISIONS } from "../vocabulary.js";
import { kindChoice, narrowings, sayState, STATES } from "./cases.js";

const PAGE = 50;
const FILTERS = ["sort", "decision", "state", "kind", "assignee", "id_end", "overdue"];

export async function show(page, code = null) {
  return code === null ? showAll(page) : showOne(page, code);
}

async function showAll(page) {
  const chosen = page.query.restriction ?? "";
  const ask = (after) => get(["outlets"], { restriction: chosen, limit: PAGE, after });
  const first = await ask();
  const choose = (event) => page.go("outlets", { restriction: event.target.value });
  const options = ["", "suspended", "barred"].map((one) => [one, say(`restriction.${one || "any"}`)]);
  const field = textField("case.outlet", { name: "code", required: true, maxlength: 64 });
  page.show(
    pageHead("outlets.title", "outlets.lead"),
    buildForm(page, { class: "card" }, [field], "outlets.open", ({ code }) =>
      page.go("outlets", code.trim()),
    ),
    element(
      "div.filters",
      { role: "search", "aria-label": say("outlets.filters") },
      choiceField("case.state", { onchange: choose }, options, chosen),
    ),
    growingTable(page, first, { ...OUTLETS, ask }),
  );
}

const OUTLETS = {
  title: "outlets.title",
  none: "outlets.none",
  read: ({ outlets }) => outlets,
  columns: {
    "case.outlet": (one) => link(["outlets", one.outlet], quoted(one.outlet)),
    "case.carrier": (one) => quoted(one.carrier),
    "case.state": stateOf,
    "outlet.reason": (one) => quoted(one.restriction_reason),
    "outlet.refused": (one) => figure(number(one.refused_attempts)),
    "outlet.liveness": livenessOf,
  },
};

/** What liveness checks brought there; where they are off, nothing. */
function livenessOf({ liveness }) {
  if (liveness === null || liveness.results + liveness.absent + liveness.proofs === 0) return "–";
  const counts = ["results", "failed", "absent", "proofs"].map((name) => [name, number(liveness[name])]);
  return say("outlet.livenesscounts", { ...Object.fromEntries(counts), days: liveness.days });
}

function stateOf({ restriction, is_open: isOpen }) {
  return badge("restriction", restriction ?? (isOpen ? "open" : "closed"));
}

async function showOne(page, code) {
  const found = await get(["outlets", code]);
  page.show(
    element("p.back", link(["outlets"], say("outlets.back"))),
    element("h1", quoted(found.outlet), " ", stateOf(found)),
    element(
      "div.desk",
      element("div.desk-what", factsOf(found)),
      element(
        "aside.desk-do",
        { "aria-label": say("outlet.steps") },
        element("div", steps(page, found)),
      ),
    ),
    await pastOf(page, code),
  );
}

function factsOf(found) {
  const restriction = [
    ["outlet.since", moment(found.restricted_at)],
    ["outlet.by", actorName(found.restricted_by)],
    ["outlet.reason", quoted(found.restriction_reason)],
    ["outlet.case", idLink("case", found.restriction_case)],
    ["outlet.refused", number(found.refused_attempts)],
  ];
  return facts([
    ["case.carrier", quoted(found.carrier)],
    ["outlet.liveness", livenessOf(found)],
    ...(found.restriction ? restriction : []),
  ]);
}

/** What may be done: one person suspends, another bars, and a person lifts either. */
function steps(page, found) {
  const told = (text) => element("div.card", hint(say(text)));
  if (!found.is_open) return told("outlet.closed");
  const { restriction, outlet } = found;
  const done = (text) => {
    page.announce(say(text));
    return page.go("outlets", outlet, page.query);
  };
  if (restriction === null) {
    return [told("outlet.suspendhint"), restrictForm(page, found, "suspend", done)];
  }
  const isMine = isMe(found.restricted_person ?? found.restricted_by);
  return [
    restriction === "suspended" && told(isMine ? "outlet.another" : "outlet.barhint"),
    restriction === "suspended" && !isMine && restrictForm(page, found, "bar", done),
    buildForm(page, { class: "card" }, [reasonField()], "outlet.lift", async ({ reason }) => {
      await post(["outlets", outlet, "lift"], { restriction, reason });
      await done("outlet.lifted");
    }),
  ];
}

function restrictForm(page, found, step, done) {
  const caseField = textField("outlet.caseid", {
    name: "case_id",
    required: true,
    minlength: 36,
    maxlength: 36,
    spellcheck: "false",
    value: found.restriction_case ?? page.query.case ?? "",
  });
  const send = async (values) => {
    await post(["outlets", found.outlet, step], values);
    await done(step === "bar" ? "outlet.barred" : "outlet.suspended");
  };
  const fields = [caseField, reasonField()];
  return buildForm(page, { class: "card" }, fields, `outlet.${step}`, send);
}

function reasonField() {
  return areaField("outlet.reason", { name: "reason", required: true, maxlength: 200, dir: "auto" });
}

/** What was attempted there: by decision, and by the case of each. */
async function pastOf(page, code) {
  const list = element("div");
  const filter = pick(page.query, FILTERS);
  const ask = (more) => get(["outlets", code, "enrollments"], { ...filter, limit: PAGE, ...more });
  const past = { ...PAST, ask: (after) => ask({ after }) };
  const fill = (answer) => replace(list, growingTable(page, answer, past));
  const { faults, load, change } = filteredList(page, list, filter, ["outlets", code], ask, fill);
  await load();
  return section("outlet.past", filters(filter, change), faults, list);
}

function filters(filter, change) {
  const fields = filterFields(filter, change);
  const { choice, bar } = fields;
  return bar(
    "outlet.filters",
    choice("cases.sort", "sort", ["newest", "oldest"], (one) => say(`sort.${one}`), "newest"),
    choice("enrollment.decision", "decision", ["", ...DECISIONS], (one) => say(`decision.${one}`)),
    choice("outlet.casestate", "state", ["", "alive", ...STATES], sayState),
    kindChoice(fields),
    narrowings(fields),
  );
}

const PAST = {
  title: "outlet.past",
  none: "enrollment.none",
  read: ({ enrollments }) => enrollments,
  columns: {
    "enrollment.id": (one) => idLink("enrollments", one.enrollment_id),
    "enrollment.decision": (one) => badge("decision", one.decision),
    "case.about": ({ name, number }) =>
      name || number ? [name && quoted(name), " ", number && maskedNumber(number)] : "–",
    "enrollment.reasons": reasonLines,
    "outlet.case": ({ case: found }) => [
      found ? link(["case", found.case_id], word("kind", found.kind)) : "–",
      found && [" ", badge("state", found.state)],
    ],
    "enrollment.decided": (one) => moment(one.decided_at),
  },
};
