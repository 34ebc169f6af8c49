// One sweep while it runs, and what it found.

import { add, element, figure, hint, link, replace } from "../elements.js";
import { workButton } from "../forms.js";
import { duration, moment, number, say, score, share } from "../language.js";
import { actorName, badge, empty, facts, growingTable, notice, word } from "../marks.js";
import { listGroups, readSweep, steerSweep } from "../service.js";

const POLL_MS = 1500;
const ALIVE = ["queued", "running", "paused"];
const STEPS = { queued: ["cancel"], running: ["pause", "cancel"], paused: ["resume", "cancel"] };
const PAGE = 50;

export async function show(page, id) {
  const status = element("section", { class: "block", "aria-label": say("sweep.progress") });
  const found = element("section", { class: "block", "aria-label": say("group.list") });
  add(
    page.main,
    element("p", { class: "back" }, link(["sweeps"], say("sweep.back"))),
    element("h1", {}, say("sweep.title")),
    status,
    found,
  );
  const first = await readSweep(id);
  showStatus(page, status, first);
  if (first.state === "done") await showGroups(page, found, first);
  else watch(page, status, found, first);
}

/** Asks again until the sweep is over or the view is left; a page that nobody sees asks nothing. */
async function watch(page, status, found, before) {
  let known = before;
  while (ALIVE.includes(known.state)) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    if (page.signal.aborted) return;
    if (document.hidden) continue;
    try {
      const now = await readSweep(known.sweep_id, {
        signal: page.signal,
        // Nobody did anything: a session that is idle shall end.
        headers: { "X-Unattended": "1" },
      });
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
    element(
      "p",
      { class: "status-line" },
      badge("sweep", sweep.state),
      " ",
      figure(share(progress.share)),
    ),
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
    const { button, faults } = workButton(page, say(`sweep.do.${step}`), async () => {
      showStatus(page, status, await steerSweep(sweep.sweep_id, step));
      page.announce(say(`sweep.did.${step}`));
    });
    button.dataset.step = step;
    return [button, faults];
  });
  return made.length ? element("div", { class: "actions" }, made) : null;
}

async function showGroups(page, found, { sweep_id: id, summary }) {
  const answer = await listGroups(id, { limit: PAGE });
  replace(found, element("h2", {}, say("group.list")), summaryFacts(summary));
  if (answer.groups.length === 0) {
    found.append(empty("group.none"));
    return;
  }
  const heads = [
    "group.kind",
    "group.identities",
    "group.lines",
    "group.carriers",
    "group.weakest",
    "group.risk",
  ];
  const ask = (after) => listGroups(id, { limit: PAGE, after });
  const read = ({ groups }) => groups.map((group) => groupRow(id, group));
  add(found, growingTable(page, "group.list", heads, answer, ask, read));
}

function groupRow(id, group) {
  return [
    link(["group", id, group.key], word("kind", group.kind)),
    number(group.identities),
    [
      number(group.lines),
      group.fraud_lines > 0 &&
        hint(say("case.fraudlines", { count: number(group.fraud_lines) })),
    ],
    number(group.carriers),
    figure(score(group.weakest_score)),
    figure(number(group.risk, { maximumFractionDigits: 1 })),
  ];
}
