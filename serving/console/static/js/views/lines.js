// "Which numbers are open under my name?": shown to the holder's face, each may be disputed.

import { packImages, post } from "../api.js";
import { element, hint, plainButton, replace } from "../elements.js";
import { buildForm, closingButton, documentFields, openDialog, workButton } from "../forms.js";
import { number, say, score } from "../language.js";
import { badge, lineTable, maskedNumber, notice, pageHead } from "../marks.js";
import { MOST_FRAMES, pictureField } from "../pictures.js";

export async function show(page) {
  const results = element("section.results", { "aria-label": say("lines.results") });
  const picture = pictureField(page, say("photograph.live"), {
    most: MOST_FRAMES,
    changed: () => replace(results),
  });
  const fields = [
    element("fieldset", element("legend", say("document.title")), documentFields()),
    element(
      "fieldset",
      element("legend", say("lines.face")),
      element("div.pictures", picture.field),
    ),
  ];
  const form = buildForm(
    page,
    { class: "card columns", oninput: () => replace(results) },
    fields,
    "lines.submit",
    async ({ type, number: text }) => {
      if (picture.image() === null) return picture.complain(say("picture.missing"));
      const pack = () =>
        packImages({ document: { type, number: text } }, { "probe.image": picture.image() });
      const found = await post(["lines", "query"], pack());
      showLines(page, results, found, pack);
    },
  );
  page.show(pageHead("lines.title", "lines.lead"), form, results);
}

function showLines(page, results, found, pack) {
  if (!found.is_holder) {
    const told = say("lines.stranger");
    replace(results, notice("warn", element("p.notice-title", told), say("lines.stranger.hint")));
    return page.announce(told);
  }
  const counted = say("lines.found", { count: number(found.lines.length) });
  const heading = element("h2", { tabindex: "-1" }, counted);
  const act = (line) => {
    if (line.status === "closed") return null;
    const cell = element("div.cell");
    const key = line.status === "disputed" ? "dispute.again" : "dispute.ask";
    const ask = () => confirmDispute(page, line, () => dispute(page, line, pack, cell));
    return replace(cell, plainButton(say(key), ask, "button small"));
  };
  const matched =
    found.score === null
      ? say("lines.matched.plain")
      : say("lines.matched", { score: score(found.score), threshold: score(found.threshold) });
  replace(results, heading, hint(matched), lineTable(found.lines, act));
  heading.focus();
}

function confirmDispute(page, line, work) {
  const workAndClose = () => work().then(() => dialog.close());
  const confirm = workButton(page, "dispute.confirm", workAndClose, "primary");
  const dialog = openDialog(
    say("dispute.title"),
    [
      element("p", maskedNumber(line.number ?? "–")),
      element("p", say("dispute.explain")),
      confirm.faults,
      element("p.actions", confirm.button, closingButton("action.cancel")),
    ],
    { signal: page.signal },
  );
}

async function dispute(page, line, pack, cell) {
  const { case_id: caseId } = await post(["lines", line.line_id, "dispute"], pack());
  const name = element("code", { translate: "no" }, caseId);
  replace(cell, element("p.done", say("dispute.done"), " ", name));
  cell.closest("tr").querySelector(".badge").replaceWith(badge("line", "disputed"));
  page.announce(say("dispute.done"));
}
