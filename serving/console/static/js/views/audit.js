// The audit chain: who did what, newest first, and whether nothing of it was altered.

import { get } from "../api.js";
import { element, quoted, replace } from "../elements.js";
import { buildForm, textField, workButton } from "../forms.js";
import { moment, number, say, share } from "../language.js";
import { actorName, notice, pageHead, section, table } from "../marks.js";

const PAGE = 50;

export async function show(page) {
  const place = element("div");
  const fields = ["actor", "action", "subject"].map((name) =>
    textField(`audit.${name}`, { name, maxlength: 255, spellcheck: "false" }),
  );
  const form = buildForm(
    page,
    { class: "filters", role: "search", "aria-label": say("audit.filter") },
    fields,
    "audit.filter",
    (values) => turnTo(page, place, values),
  );
  page.show(
    pageHead("audit.title", "audit.lead"),
    verification(page),
    section("audit.entries", form, place),
  );
  await turnTo(page, place, {});
}

function verification(page) {
  const result = element("div", { role: "status" });
  const told = (done) => say("audit.verifying", { share: share(done) });
  const tell = (done) => replace(result, element("p", told(done)));
  const verify = async () => replace(result, verdictOf(await verifyAll(tell, page.signal)));
  const { button, faults } = workButton(page, "audit.verify", verify, "primary");
  return element(
    "section.card",
    { "aria-label": say("audit.verify") },
    element("div.actions", button, result),
    faults,
  );
}

async function verifyAll(tell, signal) {
  let after = 0;
  for (;;) {
    const part = await get(["audit", "verification"], { after }, { signal });
    if (!part.intact || part.next === null) return part;
    tell(part.head ? part.verified_to / part.head : 1);
    after = part.next;
  }
}

function verdictOf({ intact, verified_to: entries, first_bad: firstBad }) {
  if (intact) return notice("good", say("audit.whole", { count: number(entries) }));
  return notice("bad", say("audit.broken", { number: number(firstBad) }));
}

/** Shows the newest entries of a filter, or those above a number. */
async function turnTo(page, place, filter, after = null) {
  const answer = await get(["audit"], { ...filter, after, limit: PAGE });
  const isWhole = !Object.values(filter).some(Boolean);
  const first = answer.entries[0]?.number ?? 1;
  const steps = [
    first > 1 && ["audit.oldest", 0],
    // How many of a filter's stand before a number is not known.
    first > 1 && isWhole && ["audit.older", Math.max(first - 1 - PAGE, 0)],
    answer.next !== null && ["audit.newer", answer.next],
    after !== null && ["audit.newest", null],
  ].filter(Boolean);
  const ways = steps.map(([key, to]) =>
    workButton(page, key, () => turnTo(page, place, filter, to)),
  );
  const range = answer.entries.length
    ? say("audit.range", {
        from: number(answer.entries[0].number),
        to: number(answer.entries.at(-1).number),
        head: number(answer.head),
      })
    : say("audit.none");
  replace(
    place,
    element(
      "div.pager",
      ways.map((way) => way.button),
      element("span.hint", range),
    ),
    ways.map((way) => way.faults),
    answer.entries.length > 0 && entryTable(answer.entries),
  );
  page.announce(range);
}

function entryTable(entries) {
  return table("audit.entries", [...entries].reverse(), {
    "audit.number": (one) => number(one.number),
    "audit.at": (one) => moment(one.at),
    "audit.actor": (one) => actorName(one.actor),
    "audit.action": (one) => element("code", { translate: "no" }, one.action),
    "audit.subject": (one) => quoted(one.subject, { class: "id wrap" }),
    "audit.detail": detailCell,
    "audit.hash": ({ hash }) =>
      element("code", { translate: "no", title: hash }, hash.slice(0, 12)),
  });
}

function detailCell({ detail }) {
  if (Object.keys(detail).length === 0) return "–";
  return element(
    "details.raw",
    element("summary", say("audit.show")),
    element("pre", { translate: "no" }, JSON.stringify(detail, null, 1)),
  );
}
