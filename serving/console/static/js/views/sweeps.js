// Sweeps: what one would cost and bring, its start, those that were, and one while it runs and after.

import { get, post } from "../api.js";
import { element, figure, hint, link, replace } from "../elements.js";
import { buildForm, checkField, radioField, textField, workButton } from "../forms.js";
import { bytes, duration, intervalText, moment, number, rate, say, score, share } from "../language.js";
import {
  actorName,
  badge,
  empty,
  expectationText,
  facts,
  growingTable,
  idLink,
  notice,
  pageHead,
  section,
  table,
  word,
} from "../marks.js";
import { proposalNotice } from "./precision.js";

/** All of them, or the one of this id. */
export async function show(page, id = null) {
  return id === null ? showAll(page) : showOne(page, id);
}

async function showAll(page) {
  const [answer, precision] = await Promise.all([get(["sweeps"]), get(["precision"])]);
  page.show(
    pageHead("sweeps.title", "sweeps.lead"),
    planner(page),
    section("sweeps.past", sweepTable(answer.sweeps)),
    section(
      "precision.title",
      hint(say("precision.lead")),
      proposalNotice(precision.proposal),
      element("p", link(["precision"], say("precision.more"))),
    ),
  );
}

function planner(page) {
  const plan = element("div.plan");
  // A threshold that decisions propose.
  const taken = page.query.threshold;
  const limit = textField("sweep.limit", {
    name: "value",
    inputmode: "decimal",
    required: true,
    pattern: "[0-9.eE\\-]+",
    value: taken,
  });
  const input = limit.querySelector("input");
  const by = radioField(
    "sweep.by",
    "by",
    ["proposed", "budget", "threshold", "fmr"].map((one) => [one, say(`sweep.by.${one}`)]),
    taken ? "threshold" : "proposed",
  );
  const scope = radioField(
    "sweep.scope",
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
    "sweep.plan",
    async ({ scope: wanted, by: way, value }) => {
      const terms = { scope: wanted, ...(way === "proposed" ? {} : { [way]: Number(value) }) };
      showPlan(page, plan, await post(["sweeps"], { ...terms, dry_run: true }));
    },
  );
  return element("section.block", element("h2", say("sweep.new")), form, plan);
}

function showPlan(page, plan, expected) {
  const { threshold, scope, budget } = expected;
  const anyway = checkField(say("sweep.anyway"), {});
  const start = workButton(
    page,
    "sweep.start",
    async () => {
      const isAllowed = anyway.querySelector("input").checked;
      const terms = budget ? { budget } : { threshold, allow_unsupported: isAllowed };
      const started = await post(["sweeps"], { scope, ...terms, dry_run: false });
      await page.go("sweep", started.sweep_id);
    },
    "primary",
  );
  const heading = element("h3", { tabindex: "-1" }, say("sweep.expect"));
  const actions = element("p.actions", start.button);
  replace(
    plan,
    element(
      "div.card",
      heading,
      facts([
        ["score.threshold", figure(score(threshold))],
        budget && ["sweep.budget", number(budget)],
        ["sweep.references", number(expected.references)],
        scope === "new" && ["sweep.newones", number(expected.new_references)],
        ["sweep.comparisons", number(expected.comparisons)],
        ["sweep.duration", duration(expected.duration_s)],
        ["sweep.memory", bytes(expected.memory_bytes)],
        ["sweep.falsepairs", expectationText(expected.false_pairs, rate)],
      ]),
      warnings(expected, anyway),
      actions,
      start.faults,
    ),
  );
  heading.focus();
}

function warnings({ threshold, budget, is_supported: isSupported, proposal }, anyway) {
  if (budget) return [notice("info", say("sweep.ranked"))];
  const pairs = rate(proposal.false_pairs.value);
  const proposed = say("sweep.proposal", { threshold: score(proposal.threshold), pairs });
  return [
    !isSupported && notice("warn", element("p", say("sweep.unsupported")), anyway),
    !proposal.is_within_budget && notice("warn", say("sweep.overbudget", { pairs })),
    proposal.threshold !== threshold && notice("info", element("p", proposed)),
  ];
}

function sweepTable(sweeps) {
  const columns = {
    "sweep.id": (one) => idLink("sweep", one.sweep_id),
    "sweep.state": (one) => badge("sweep", one.state),
    "sweep.scope": (one) => say(`scope.${one.scope}`),
    "score.threshold": (one) => figure(score(one.threshold)),
    "sweep.progress": (one) => share(one.progress.share),
    "sweep.pairs": (one) => number(one.progress.pairs),
    "sweep.began": (one) => moment(one.started_at ?? one.created_at),
  };
  return table("sweeps.past", sweeps, columns, "sweeps.none");
}

const POLL_MS = 1500;
const ALIVE = ["queued", "running", "paused"];
const STEPS = { queued: ["cancel"], running: ["pause", "cancel"], paused: ["resume", "cancel"] };
const PAGE = 50;

async function showOne(page, id) {
  const status = element("section.block", { "aria-label": say("sweep.progress") });
  const found = element("section.block", { "aria-label": say("group.list") });
  page.show(
    element("p.back", link(["sweeps"], say("sweep.back"))),
    element("h1", say("sweep.title")),
    status,
    found,
  );
  const first = await get(["sweeps", id]);
  showStatus(page, status, first);
  if (first.state === "done") await showGroups(page, found, first);
  else watch(page, status, found, first);
}

/** Asks again until the sweep is over or the view is left; a page that nobody sees asks nothing. */
async function watch(page, status, found, before) {
  // Nobody does anything: a session that is idle shall end.
  const unattended = { signal: page.signal, headers: { "X-Unattended": "1" } };
  let known = before;
  while (ALIVE.includes(known.state)) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    if (page.signal.aborted) return;
    if (document.hidden) continue;
    try {
      const now = await get(["sweeps", known.sweep_id], {}, unattended);
      showStatus(page, status, now);
      if (now.state !== known.state) page.announce(say(`sweep.${now.state}`));
      known = now;
    } catch (fault) {
      if (page.signal.aborted) return;
      if (fault.status === 401) return void page.turnOut("ended");
      // Whatever else it is may pass: the sweep goes on without being watched.
    }
  }
  if (known.state === "done") await showGroups(page, found, known);
}

function showStatus(page, status, sweep) {
  const wasOn = document.activeElement?.dataset?.step;
  const { progress } = sweep;
  replace(
    status,
    element("p.status-line", badge("sweep", sweep.state), " ", figure(share(progress.share))),
    element("progress", { max: 1, value: progress.share, "aria-label": say("sweep.progress") }),
    sweep.fault && notice("bad", element("p", { lang: "en", translate: "no" }, sweep.fault)),
    facts([
      ["score.threshold", figure(score(sweep.threshold))],
      ["sweep.scope", say(`scope.${sweep.scope}`)],
      [
        "sweep.comparisons",
        `${number(progress.comparisons)} / ${number(progress.comparisons_total)}`,
      ],
      ["sweep.pairs", number(progress.pairs)],
      ALIVE.includes(sweep.state) && [
        "sweep.remaining",
        progress.remaining_s === null ? say("sweep.unknown") : duration(progress.remaining_s),
      ],
      ["search.sequence", sweep.gallery_sequence === null ? "–" : number(sweep.gallery_sequence)],
      ["sweep.requestedby", actorName(sweep.requested_by)],
      ["sweep.began", moment(sweep.started_at)],
      sweep.ended_at && ["sweep.ended", moment(sweep.ended_at)],
    ]),
    steps(page, status, sweep),
  );
  if (wasOn)
    (status.querySelector(`[data-step=${wasOn}]`) ?? status.querySelector("[data-step]"))?.focus();
}

/** Sweeps of earlier versions have not counted each. */
const SUMMED = [
  "groups",
  "identities",
  "lines",
  "disputed_lines",
  "fraud_in_use",
  "proofs",
  "carriers",
  "outlets",
];

function summaryFacts(summary) {
  if (!summary) return null;
  return facts(
    SUMMED.filter((name) => name in summary).map((name) => [
      `summary.${name}`,
      name === "fraud_in_use" && summary[name]
        ? link(["cases", { state: "fraud_in_use" }], number(summary[name]))
        : number(summary[name]),
    ]),
  );
}

function steps(page, status, sweep) {
  const made = (STEPS[sweep.state] ?? []).map((step) => {
    const { button, faults } = workButton(page, `sweep.do.${step}`, async () => {
      showStatus(page, status, await post(["sweeps", sweep.sweep_id, step]));
      page.announce(say(`sweep.did.${step}`));
    });
    button.dataset.step = step;
    return [button, faults];
  });
  return made.length ? element("div.actions", made) : null;
}

async function showGroups(page, found, { sweep_id: id, summary }) {
  const ask = (after) => get(["sweeps", id, "groups"], { limit: PAGE, after });
  const groups = { title: "group.list", none: "group.none", columns: groupColumns(id) };
  const list = growingTable(page, await ask(), { ...groups, ask, read: (one) => one.groups });
  replace(found, element("h2", say("group.list")), summaryFacts(summary), list);
}

function groupColumns(id) {
  return {
    "group.kind": (one) => link(["group", id, one.key], word("kind", one.kind)),
    "group.identities": (one) => number(one.identities),
    "group.lines": ({ lines, fraud_lines: fraud }) => [
      number(lines),
      fraud > 0 && hint(say("case.fraudlines", { count: number(fraud) })),
    ],
    "group.carriers": (one) => number(one.carriers),
    "group.weakest": (one) => figure(score(one.weakest_score)),
    "group.risk": (one) => figure(number(one.risk, { maximumFractionDigits: 1 })),
  };
}
