// What stands around every view: the way past it, the navigation, the tools, the spoken notices.
// And single keys for those who work the queue all day; they can be switched off (WCAG 2.1.4).

import { endSession, isSandbox, isSession, signOut, whoAmI } from "./api.js";
import { add, element, kept, PARENTS, placeOf, PLACES, plainButton, quoted, replace } from "./elements.js";
import { checkField, closingButton, faultBox, openDialog } from "./forms.js";
import { chooseLanguage, language, LANGUAGES, say } from "./language.js";

const root = document.getElementById("console");
const spoken = element("p.spoken", { role: "status", "aria-live": "polite" });
let speaking;
let main = element("main", { id: "main" });

/** Builds the frame for whoever is signed in, in the language of the page. */
export function buildFrame() {
  main = element("main", { id: "main", tabindex: "-1" });
  // What was said last may be in another language, or to somebody else.
  announce("");
  const skipping = element("a.skip", { href: "#main", onclick: skip }, say("frame.skip"));
  // It stays in sight while the page is scrolled.
  const banner = isSandbox && element("p.sandbox", { role: "note" }, say("frame.sandbox"));
  replace(root, skipping, banner, header(), main, spoken);
}

/** Empties the page for a view, which `signal` ends. */
export function clearPage(view, signal) {
  const place = PARENTS[view] ?? view;
  for (const link of root.querySelectorAll("nav a")) {
    if (link.dataset.view === place) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  replace(main);
  main.dataset.view = view;
  const own = main;
  const show = (...children) => add(own, ...children);
  return { main: own, show, announce, bindKeys: (keys) => bindKeys(keys, signal) };
}

/** Says something to those who do not see the page change. */
function announce(text) {
  // The same words twice are spoken twice only where they were gone in between.
  spoken.textContent = "";
  clearTimeout(speaking);
  speaking = setTimeout(() => (spoken.textContent = text), 50);
}

function skip(event) {
  // The address names the view, so the link may not change it.
  event.preventDefault();
  main.focus();
}

function header() {
  const owner = whoAmI();
  return element(
    "header.top",
    element("div.brand", mark(), element("span", { translate: "no" }, "Sosie")),
    owner && navigation(owner.role),
    element("div.tools", owner && ownerBox(owner), languages(), owner && tools()),
  );
}

function mark() {
  return element("img", { src: "/console/icon.svg", alt: "", width: 24, height: 24 });
}

function navigation(role) {
  const links = PLACES[role].map((view) =>
    element("a", { href: placeOf(view), "data-view": view }, say(`nav.${view}`)),
  );
  return element("nav", { "aria-label": say("frame.navigation") }, links);
}

function ownerBox({ role, carrier, outlet, person }) {
  const where = [carrier, outlet].filter(Boolean).join(" / ");
  const of = person ? element("span.spoken", say(`role.${role}`)) : say(`role.${role}`);
  const names = [person, where].filter(Boolean).map((one) => [" ", quoted(one, { title: one })]);
  return element("span.owner", of, names);
}

function languages() {
  const options = Object.entries(LANGUAGES).map(([code, name]) =>
    element("option", { value: code, lang: code, selected: code === language }, name),
  );
  const choice = element("select", { id: "language", translate: "no", onchange: change }, options);
  return [element("label.spoken", { for: "language" }, say("frame.language")), choice];
}

async function change(event) {
  await chooseLanguage(event.target.value);
  buildFrame();
  dispatchEvent(new HashChangeEvent("hashchange"));
}

function tools() {
  return [
    plainButton(say("frame.shortcuts"), showShortcuts, "quiet"),
    plainButton(say("frame.signout"), leave, "quiet"),
  ];
}

async function leave() {
  try {
    if (isSession()) await endSession();
  } catch (fault) {
    // One that has ended already is what was asked for.
    if (fault.status !== 401) return main.prepend(faultBox(fault, leave));
  }
  signOut();
  buildFrame();
  location.hash = "#/signin";
}

const KEPT = "sosie.shortcuts";
const HELP = [
  "j", "k", "Enter", "a", "x", "n", "p", "c", "u", "s", "b", "f", "z", "l", "h", "?",
];
const TYPING = "input:not([type=checkbox]), textarea, select, [contenteditable]";
let current = {};
let isOn = kept(() => localStorage.getItem(KEPT)) !== "off";

/** Binds keys to work while a view is shown; `?` is always bound. */
function bindKeys(keys, signal) {
  current = keys;
  signal.addEventListener("abort", () => {
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
    element("dt", element("kbd", { translate: "no" }, key)),
    element("dd", say(`keys.${key === "?" ? "help" : key}`)),
  ]);
  const onchange = (event) => {
    isOn = event.target.checked;
    kept(() => localStorage.setItem(KEPT, isOn ? "on" : "off"));
  };
  const toggle = checkField(say("keys.on"), { checked: isOn, onchange });
  openDialog(say("keys.title"), [element("dl.keys", rows), toggle, closingButton("action.close")]);
}
