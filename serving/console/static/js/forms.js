// Forms: every field has a label, every fault is said where it arose, nothing is sent twice.
// And dialogs over the page: the browser gives the focus back to where it was.

import { add, element, placeOf, plainButton, replace } from "./elements.js";
import { language, say, sayIfKnown } from "./language.js";
import { DOCUMENT_TYPES } from "./vocabulary.js";

let count = 0;

/** An id that no other node of the page has. */
export function freshId(name) {
  count += 1;
  return `${name}-${count}`;
}

/** A text field; `given` are attributes of its input. The label of every field is the text of `key`, and
 * its hint that of `key.hint`, where there is one. */
export function textField(key, given) {
  return labelled(key, (id, by) =>
    element("input", { id, type: "text", autocomplete: "off", ...by, ...given }),
  );
}

/** A moment of the clock on the wall; `set(moment)` fills it in, null empties it. */
export function momentField(key, given) {
  const field = textField(key, { type: "datetime-local", step: 1, ...given });
  const input = field.querySelector("input");
  const set = (moment) => {
    const shift = (moment?.getTimezoneOffset() ?? 0) * 60_000;
    input.value = moment ? new Date(moment - shift).toISOString().slice(0, 19) : "";
  };
  return { field, set };
}

export function areaField(key, given) {
  return labelled(key, (id, by) => element("textarea", { id, rows: 3, ...by, ...given }));
}

/** A choice; `options` are pairs of a value and its text. */
export function choiceField(key, given, options, chosen = null) {
  return labelled(key, (id, by) =>
    element(
      "select",
      { id, ...by, ...given },
      options.map(([value, text]) =>
        element("option", { value, selected: value === chosen }, text),
      ),
    ),
  );
}

/** Radio buttons under one legend; options are pairs of a value and its text, or triples with a hint. */
export function radioField(key, name, options, chosen = null) {
  return element(
    "fieldset.radios",
    element("legend", say(key)),
    options.map(([value, text, hint]) => {
      const id = freshId(name);
      const given = { id, type: "radio", name, value, checked: value === chosen, required: true };
      const [by, told] = hinted(id, hint);
      const input = element("input", { ...given, ...by });
      return element("div.check", input, element("label", { for: id }, text), told);
    }),
  );
}

/** Fields that are asked for, and sent, only while a box is ticked: `isAsked()` says whether. */
export function optionalFields(key, fields, ticked = () => {}) {
  const box = element("input", { id: freshId("check"), type: "checkbox" });
  const part = element("fieldset.optional", { "aria-label": say(key), disabled: true });
  const isAsked = () => box.checked;
  add(part, element("p.hint", say(`${key}.hint`)), fields);
  part.hidden = true;
  box.addEventListener("change", () => {
    part.hidden = part.disabled = !isAsked();
    ticked(isAsked());
  });
  const line = element("div.check", box, element("label", { for: box.id }, say(key)));
  return { field: element("div", line, part), isAsked };
}

export function checkField(label, given, ...after) {
  const id = freshId("check");
  return element(
    "div.check",
    element("input", { id, type: "checkbox", ...given }),
    element("label", { for: id }, label),
    after,
  );
}

function labelled(key, make) {
  const id = freshId("field");
  const [by, told] = hinted(id, sayIfKnown(`${key}.hint`));
  return element("div.field", element("label", { for: id }, say(key)), make(id, by), told);
}

/** What an input is described by, and the hint that does, where there is one. */
function hinted(id, text) {
  if (!text) return [{}, null];
  return [{ "aria-describedby": `${id}-hint` }, element("p.hint", { id: `${id}-hint` }, text)];
}

/** A form; `submit(values, form)` may raise a fault, which is shown below the fields. */
export function buildForm(page, given, fields, key, submit) {
  const faults = element("div.faults");
  const button = element("button.button.primary", { type: "submit" }, say(key));
  const form = element(
    "form",
    { ...given, onsubmit: (event) => send(event) },
    fields,
    faults,
    element("p.actions", button),
  );

  async function send(event) {
    event.preventDefault();
    if (form.getAttribute("aria-busy") === "true") return;
    const values = Object.fromEntries(new FormData(form));
    await attempt(page, form, faults, () => submit(values, form));
  }
  return form;
}

/** A button whose work may raise a fault; the fault is shown behind it. */
export function workButton(page, key, work, kind = "") {
  const faults = element("div.faults");
  const button = plainButton(say(key), () => run(), `button ${kind}`.trim());
  const run = () => {
    if (button.getAttribute("aria-busy") === "true") return null;
    return attempt(page, button, faults, work);
  };
  return { button, faults, run };
}

/** Does work with a part of the page marked busy; what went wrong is told in `faults`. */
export async function attempt(page, busy, faults, work) {
  replace(faults);
  busy.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (fault) {
    if (page.signal.aborted) return;
    if (fault.status === 401) {
      // What was typed stays, for whoever typed it.
      if (!(await page.signInAgain())) await page.turnOut("ended");
      else replace(faults, element("p.notice.good", { role: "status" }, say("again.done")));
      return;
    }
    replace(faults, faultBox(fault));
  } finally {
    busy.removeAttribute("aria-busy");
  }
}

/** Fields that narrow a list, each by its name in `filter`, and the bar that they stand in. */
export function filterFields(filter, change) {
  const tell = (name, read) => (event) => change({ [name]: read(event.target) });
  return {
    choice: (key, name, values, wordOf, usual = "") =>
      choiceField(
        key,
        { onchange: tell(name, (field) => field.value) },
        values.map((one) => [one, one === "" ? say("cases.all") : wordOf(one)]),
        filter[name] ?? usual,
      ),
    text: (key, name, given = {}) =>
      textField(key, {
        value: filter[name] ?? "",
        maxlength: 64,
        spellcheck: "false",
        onchange: tell(name, (field) => field.value.trim()),
        ...given,
      }),
    tick: (key, name, value) =>
      checkField(say(key), {
        checked: filter[name] === value,
        onchange: tell(name, (field) => (field.checked ? value : "")),
      }),
    bar: (key, ...fields) =>
      element("div.filters", { role: "search", "aria-label": say(key) }, fields),
  };
}

/** A list by a filter, which the address keeps: `load()` asks, `change(changes)` asks anew. */
export function filteredList(page, list, filter, place, ask, fill) {
  const faults = element("div.faults");
  let asked = 0;
  const load = async () => {
    const turn = ++asked;
    const answer = await ask();
    // Whoever changed the filter meanwhile wants only the last answer.
    if (turn === asked) fill(answer);
  };
  const change = (changes) => {
    Object.assign(filter, changes);
    history.replaceState(null, "", placeOf(...place, filter));
    return attempt(page, list, faults, load);
  };
  return { faults, load, change };
}

/** A telephone number, named `msisdn`. */
export function numberField() {
  return textField("line.number", { name: "msisdn", type: "tel", required: true });
}

/** Type and number of a document, named `type` and `number` behind a prefix. */
export function documentFields(prefix = "") {
  const options = DOCUMENT_TYPES.map((one) => [one, say(`document.${one}`)]);
  return [
    choiceField("document.type", { name: `${prefix}type`, required: true }, options),
    textField("document.number", {
      name: `${prefix}number`,
      required: true,
      maxlength: 100,
      spellcheck: "false",
      translate: "no",
    }),
  ];
}

/** One sentence about a fault: by its code, else by its family, else by its status. */
export function sentenceOf(fault) {
  if (fault.code === undefined) return say("fault.console");
  const family = fault.code.split(".")[0];
  return sayIfKnown(`fault.${fault.code}`) ?? sayIfKnown(`fault.${family}`) ?? say("fault.other");
}

/** The sentence, the service's own words below it, and a way to try again where there is one. */
export function faultBox(fault, retry = null) {
  if (fault.code === undefined) console.error(fault);
  const detail = [fault.code, fault.message].filter(Boolean).join(": ");
  return element(
    "div.notice.bad",
    { role: "alert" },
    element("p.notice-title", sentenceOf(fault)),
    fault.advice && element("p", fault.advice[language]),
    fault.code && element("p.notice-detail", { lang: "en", translate: "no" }, detail),
    fault.correlator &&
      element("p.notice-detail", `${say("fault.correlator")} `, element("code", fault.correlator)),
    retry && plainButton(say("action.again"), retry),
  );
}

/** Opens a dialog and returns it; `signal` closes it where it is given. It is gone once closed. */
export function openDialog(title, children, { kind = null, signal = null } = {}) {
  const id = freshId("dialog");
  const dialog = element(
    "dialog",
    { class: kind, "aria-labelledby": id, onclose: () => dialog.remove() },
    element("h2", { id }, title),
  );
  add(dialog, children);
  signal?.addEventListener("abort", () => dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A button that closes the dialog it stands in. */
export function closingButton(key) {
  const close = (event) => event.target.closest("dialog").close();
  return plainButton(say(key), close);
}
