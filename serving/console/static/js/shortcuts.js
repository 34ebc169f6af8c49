// Single keys for those who work the queue all day; they can be switched off (WCAG 2.1.4).

import { closingButton, openDialog } from "./dialogs.js";
import { element, kept } from "./elements.js";
import { checkField } from "./forms.js";
import { say } from "./language.js";

const KEPT = "sosie.shortcuts";
const HELP = [
  "j", "k", "Enter", "a", "x", "n", "p", "c", "u", "s", "b", "f", "z", "l", "h", "?",
];
const TYPING = "input:not([type=checkbox]), textarea, select, [contenteditable]";
let current = {};
let isOn = kept(() => localStorage.getItem(KEPT)) !== "off";

/** Binds keys to work while a view is shown; `?` is always bound. */
export function bindKeys(page, keys) {
  current = keys;
  page.signal.addEventListener("abort", () => {
    if (current === keys) current = {};
  });
}

addEventListener("keydown", (event) => {
  const isPlain = !(event.ctrlKey || event.altKey || event.metaKey || event.isComposing);
  if (!isPlain || !isOn || event.target.closest?.(TYPING) || document.querySelector("dialog[open]"))
    return;
  const work = event.key === "?" ? showShortcuts : current[event.key];
  // A link or a button keeps its own Enter.
  if (!work || (event.key === "Enter" && event.target.closest?.("a, button"))) return;
  event.preventDefault();
  work(event);
});

/** The dialog that lists the keys. */
export function showShortcuts() {
  const rows = HELP.map((key) => [
    element("dt", {}, element("kbd", { translate: "no" }, key)),
    element("dd", {}, say(`keys.${key === "?" ? "help" : key}`)),
  ]);
  const toggle = checkField(say("keys.on"), { checked: isOn, onchange: switchKeys });
  openDialog(say("keys.title"), [
    element("dl", { class: "keys" }, rows),
    toggle,
    closingButton("action.close"),
  ]);
}

function switchKeys(event) {
  isOn = event.target.checked;
  kept(() => localStorage.setItem(KEPT, isOn ? "on" : "off"));
}
