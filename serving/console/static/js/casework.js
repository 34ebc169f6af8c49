// The steps of a case: assign, note, propose, close. What judges people takes two of them.

import { isMe, post } from "./api.js";
import { element, hint } from "./elements.js";
import { areaField, buildForm, checkField, radioField, workButton } from "./forms.js";
import { moment, number, say } from "./language.js";
import { actorName, maskedNumber, seller, word } from "./marks.js";
import { OUTCOMES } from "./vocabulary.js";

/** The one outcome that one person may decide, of a dispute where no line is closed by it. */
const ALONE = "unfounded";
/** More numbers than this are looked through in a frame of their own. */
const FRAMED = 20;

/** What may be done with a case; null for one that was merged.
 *
 * `node` to be shown, `keys` to be bound, `focusOn(step)` for `note`, `propose` and `close`.
 */
export function caseActions(page, found) {
  if (found.state === "merged") return null;
  const done = (text) => {
    page.announce(say(text));
    return page.go("case", found.case_id, page.query);
  };
  if (found.state === "closed") return reopening(page, found, done);
  const isMine = isMe(found.assignee);
  const assign = workButton(page, isMine ? "case.giveback" : "case.assign", async () => {
    await post(["cases", found.case_id, "assign"], { assignee: isMine ? null : "me" });
    await done(isMine ? "case.givenback" : "cases.assigned");
  });
  const note = noteForm(page, found, done);
  const ending = found.proposal ? approval(page, found, done) : decision(page, found, done);
  const places = {
    note: () => note.querySelector("textarea"),
    propose: () => ending.node.querySelector("input, button"),
    close: () => ending.closing,
  };
  const focusOn = (step) => places[step]?.()?.focus();
  return {
    node: element("div", element("div.card", assign.button, assign.faults), note, ending.node),
    keys: {
      a: assign.run,
      n: () => focusOn("note"),
      p: () => focusOn("propose"),
      c: () => focusOn("close"),
    },
    focusOn,
  };
}

/** A closed case is opened again by two people, each with a reason. */
function reopening(page, found, done) {
  const asker = found.proposal?.reopen_by ?? null;
  const head = [
    element("h2", say("case.reopen")),
    asker && element("p", `${say("case.reopenwaits")} `, actorName(asker)),
    hint(say(isMe(asker) ? "case.waiting" : "case.reopen.hint")),
  ];
  const { button, faults } = withdrawal(page, found, done, isMe(asker));
  const way = { keys: {}, focusOn: () => null };
  if (isMe(asker)) return { ...way, node: element("section.card", head, button, faults) };
  const reason = areaField("outlet.reason", { name: "reason", required: true, maxlength: 200 });
  const key = asker ? "case.reopennow" : "case.reopenask";
  const node = buildForm(page, { class: "card" }, [head, reason], key, async (given) => {
    const asked = { reason: given.reason, seen_at: found.updated_at };
    const { state } = await post(["cases", found.case_id, "reopen"], asked);
    await done(state === "closed" ? "case.reopenasked" : "case.reopened");
  });
  if (asker) node.append(button, faults);
  return { ...way, node };
}

function withdrawal(page, { case_id: id }, done, isMine) {
  return workButton(page, isMine ? "case.withdraw" : "case.refuse", () =>
    post(["cases", id, "withdraw"]).then(() => done("case.withdrawn")),
  );
}

function noteForm(page, found, done) {
  const field = areaField("case.note", {
    name: "text",
    required: true,
    maxlength: 4000,
    dir: "auto",
  });
  return buildForm(page, { class: "card" }, [field], "case.addnote", async ({ text }) => {
    await post(["cases", found.case_id, "notes"], { text });
    await done("case.noted");
  });
}

/** Proposes or closes; a case that has grown since it was shown is refused. */
function end({ case_id: id, updated_at: seen }, step, outcome, lines, keeps) {
  const ending = { outcome, close_lines: lines, keep_lines: keeps, seen_at: seen };
  return post(["cases", id, step], ending);
}

/** No proposal yet: an outcome, the lines to close by it, and who may do what. */
function decision(page, found, done) {
  const lines = lineBoxes(found);
  const closing = workButton(page, "case.closenow", async () => {
    if (!form.reportValidity() || takesTwo()) return;
    await end(found, "close", ALONE, [], false);
    await done("case.closeddone");
  });
  const words = element("p.hint", { role: "status" });
  const outcomeOf = () => form.querySelector("input[name=outcome]:checked")?.value;
  const takesTwo = () =>
    outcomeOf() !== ALONE || found.kind !== "dispute" || lines.chosen().length > 0;
  const refresh = () => {
    lines.askFor(outcomeOf());
    closing.button.setAttribute("aria-disabled", String(takesTwo()));
    words.textContent = say(takesTwo() ? "case.foureyes" : "case.alone");
  };
  const propose = async ({ outcome }) => {
    await end(found, "propose", outcome, lines.chosen(), lines.keeps());
    await done("case.proposeddone");
  };
  // Only a dispute can be without ground, and only an exception be granted.
  const mayBeUnfounded = ["dispute", "exception"].includes(found.kind);
  const outcomes = OUTCOMES.filter((one) => one !== ALONE || mayBeUnfounded);
  const options = outcomes.map((one) => [one, say(`outcome.${one}`), say(`outcome.${one}.hint`)]);
  const fields = [radioField("case.outcome", "outcome", options), lines.field, words];
  const form = buildForm(page, { class: "card" }, fields, "case.propose", propose);
  form.querySelector(".actions").append(closing.button);
  form.append(closing.faults);
  form.addEventListener("change", refresh);
  refresh();
  return { node: form, closing: closing.button };
}

/** The lines that may be closed: `field`, null where there are none, the ids `chosen()`, and
 * whether it is said that the others stay. `askFor(outcome)`: fraud without either is not sent. */
function lineBoxes(found) {
  const boxes = linesOf(found).map((line) => {
    const label = [maskedNumber(line.number ?? "–"), " ", seller(line)];
    return checkField(label, { name: "line", value: line.line_id });
  });
  const legend = element("legend", say("case.closelines"));
  const framed = boxes.length > FRAMED ? element("div.scroller", boxes) : boxes;
  const keep = checkField(say("case.keeplines"), { name: "keep" });
  const field = boxes.length > 0 ? element("fieldset", legend, framed, keep) : null;
  const inputs = boxes.map((box) => box.querySelector("input"));
  const keeping = keep.querySelector("input");
  const chosen = () => inputs.filter((one) => one.checked).map((one) => one.value);
  const askFor = (outcome) => {
    keeping.required = outcome === "fraud" && chosen().length === 0;
  };
  return { field, chosen, keeps: () => keeping.checked, askFor };
}

/** The lines in use of its documents. */
function linesOf(found) {
  return found.documents.flatMap((one) => one.lines).filter((line) => line.status !== "closed");
}

/** A proposal waits: another person closes by it, or it is taken back. */
function approval(page, found, done) {
  const { outcome, close_lines: lines, keep_lines: keeps, by, person, at } = found.proposal;
  const isMine = isMe(person ?? by);
  const numbers = new Map(linesOf(found).map((line) => [line.line_id, line.number]));
  const close = () => end(found, "close", outcome, lines, keeps);
  const closeAndTell = () => close().then(() => done("case.closeddone"));
  const approve = workButton(page, "case.approve", closeAndTell, "primary");
  const withdraw = withdrawal(page, found, done, isMine);
  const isAlone =
    isMine && (outcome !== ALONE || found.kind !== "dispute" || lines.length > 0);
  const node = element(
    "section.card.proposal",
    { "aria-label": say("case.proposal") },
    element("h2", say("case.proposal")),
    element("p", element("strong", word("outcome", outcome))),
    hint(actorName(by), " ", moment(at)),
    element(
      "p",
      say("case.willclose", { closed: number(lines.length), all: number(numbers.size) }),
      keeps && ` ${say("case.keeplines")}`,
    ),
    element(
      "ul",
      lines.length > FRAMED ? { class: "scroller", tabindex: "0" } : {},
      lines.map((line) => element("li", maskedNumber(numbers.get(line) ?? "–"))),
    ),
    isAlone && hint(say("case.waiting")),
    element("p.actions", !isAlone && approve.button, withdraw.button),
    approve.faults,
    withdraw.faults,
  );
  return { node, closing: isAlone ? withdraw.button : approve.button };
}
