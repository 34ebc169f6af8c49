// Sweeps: what one would cost and bring, its start, and those that were.

import { add, element, figure, hint, link, replace } from "../elements.js";
import { buildForm, checkField, radioField, textField, workButton } from "../forms.js";
import { bytes, duration, intervalText, moment, number, rate, say, score, share } from "../language.js";
import {
  badge,
  empty,
  expectationText,
  facts,
  idLink,
  notice,
  pageHead,
  section,
  table,
} from "../marks.js";
import { listSweeps, planSweep, readPrecision, startSweep } from "../service.js";
import { proposalNotice } from "./precision.js";

export async function show(page) {
  const [answer, precision] = await Promise.all([listSweeps(), readPrecision()]);
  add(
    page.main,
    pageHead("sweeps.title", "sweeps.lead"),
    planner(page),
    section("sweeps.past", sweepTable(answer.sweeps)),
    section("precision.title", precisionPanel(precision)),
  );
}

function planner(page) {
  const plan = element("div", { class: "plan" });
  // A threshold that decisions propose.
  const taken = page.query.threshold;
  const limit = textField(
    say("sweep.limit"),
    {
      name: "value",
      type: "text",
      inputmode: "decimal",
      required: true,
      pattern: "[0-9.eE\\-]+",
      value: taken,
    },
    say("sweep.limit.hint"),
  );
  const input = limit.querySelector("input");
  const by = radioField(
    say("sweep.by"),
    "by",
    ["proposed", "budget", "threshold", "fmr"].map((one) => [one, say(`sweep.by.${one}`)]),
    taken ? "threshold" : "proposed",
  );
  const scope = radioField(
    say("sweep.scope"),
    "scope",
    ["all", "new"].map((one) => [one, say(`scope.${one}`), say(`scope.${one}.hint`)]),
    "all",
  );
  const adapt = () => {
    limit.hidden = by.querySelector("input:checked").value === "proposed";
    input.disabled = limit.hidden;
    replace(plan);
  };
  adapt();
  const form = buildForm(
    page,
    { class: "card columns", oninput: adapt },
    [scope, by, limit],
    say("sweep.plan"),
    async (values) => {
      const terms = readTerms(values);
      showPlan(page, plan, await planSweep(terms));
    },
  );
  return element("section", { class: "block" }, element("h2", {}, say("sweep.new")), form, plan);
}

function readTerms({ scope, by, value }) {
  return { scope, ...(by === "proposed" ? {} : { [by]: Number(value) }) };
}

function showPlan(page, plan, expected) {
  const { threshold, scope, budget } = expected;
  const anyway = checkField(say("sweep.anyway"), {});
  const start = workButton(
    page,
    say("sweep.start"),
    async () => {
      const isAllowed = anyway.querySelector("input").checked;
      const started = await startSweep(
        budget ? { scope, budget } : { scope, threshold, allow_unsupported: isAllowed },
      );
      await page.go("sweep", started.sweep_id);
    },
    "primary",
  );
  const heading = element("h3", { tabindex: "-1" }, say("sweep.expect"));
  const actions = element("p", { class: "actions" }, start.button);
  replace(
    plan,
    element(
      "div",
      { class: "card" },
      heading,
      expectedFacts(expected),
      warnings(expected, anyway),
      actions,
      start.faults,
    ),
  );
  heading.focus();
}

function expectedFacts(expected) {
  return facts([
    ["score.threshold", figure(score(expected.threshold))],
    expected.budget && ["sweep.budget", number(expected.budget)],
    ["sweep.references", number(expected.references)],
    expected.scope === "new" && ["sweep.newones", number(expected.new_references)],
    ["sweep.comparisons", number(expected.comparisons)],
    ["sweep.duration", duration(expected.duration_s)],
    ["sweep.memory", bytes(expected.memory_bytes)],
    ["sweep.falsepairs", expectationText(expected.false_pairs, rate)],
  ]);
}

function warnings({ threshold, budget, is_supported: isSupported, proposal }, anyway) {
  if (budget) return [notice("info", say("sweep.ranked"))];
  const pairs = rate(proposal.false_pairs.value);
  const proposed = say("sweep.proposal", { threshold: score(proposal.threshold), pairs });
  return [
    !isSupported && notice("warn", element("p", {}, say("sweep.unsupported")), anyway),
    !proposal.is_within_budget && notice("warn", say("sweep.overbudget", { pairs })),
    proposal.threshold !== threshold && notice("info", element("p", {}, proposed)),
  ];
}

function sweepTable(sweeps) {
  return table(
    "sweeps.past",
    [
      "sweep.id",
      "sweep.state",
      "sweep.scope",
      "score.threshold",
      "sweep.progress",
      "sweep.pairs",
      "sweep.began",
    ],
    sweeps.map((one) => [
      idLink("sweep", one.sweep_id),
      badge("sweep", one.state),
      say(`scope.${one.scope}`),
      figure(score(one.threshold)),
      share(one.progress.share),
      number(one.progress.pairs),
      moment(one.started_at ?? one.created_at),
    ]),
    "sweeps.none",
  );
}

function precisionPanel(precision) {
  const more = element("p", {}, link(["precision"], say("precision.more")));
  const lead = hint(say("precision.lead"));
  if (!precision.judged) return [lead, empty("precision.none"), more];
  return [
    lead,
    facts([
      ["precision.judged", number(precision.judged)],
      ["precision.confirmed", number(precision.confirmed)],
      ["precision.value", intervalText(precision)],
    ]),
    proposalNotice(precision.proposal),
    more,
  ];
}
