// Signing in: with an account of the identity provider, where there is one, or with a key, which stays
// in this tab; and again over a page whose session or key has ended: what was typed there stays.

import {
  dropKey,
  isSamePerson,
  isSession,
  keepPlace,
  provider,
  readSession,
  showKey,
  signIn,
  whoAmI,
} from "./api.js";
import { element, hint, plainButton, replace } from "./elements.js";
import { buildForm, faultBox, openDialog, textField } from "./forms.js";
import { say, sayIfKnown } from "./language.js";
import { notice, pageHead } from "./marks.js";

const BEGIN = "/console/sign-in";
const tabs = new BroadcastChannel("sosie.session");

/** Tells the other tabs of this browser that somebody has signed in. */
export function tellSignedIn() {
  tabs.postMessage("signed-in");
}

/** A link to the identity provider. */
export function providerLink(given) {
  const label = say("signin.with", { name: provider });
  return element("a.button.primary", { href: BEGIN, ...given }, label);
}

/** The field for a key. */
export function keyField() {
  const given = { name: "key", type: "password", required: true, spellcheck: "false" };
  return textField("signin.key", { ...given, autocapitalize: "none" });
}

/** Whether the same person has a session in this browser, by a sign-in in another tab: then it is
 * this tab's as well. */
export async function resumeSession() {
  const before = whoAmI();
  const { holder } = await readSession().catch(() => ({ holder: null }));
  if (holder === null || !isSameHolder(holder, before)) return false;
  signIn(null, holder);
  return true;
}

function isSameHolder(one, other) {
  return isSamePerson(one.name, other.name) && one.role === other.role;
}

let running = null;

/** Asks whoever was signed in to sign in again; false where they leave. */
export function signInAgain(signal) {
  const work = async () => (isSession() && (await resumeSession())) || ask(signal);
  running ??= work().finally(() => (running = null));
  return running;
}

function ask(signal) {
  const before = whoAmI();
  dropKey();
  return new Promise((resolve) => {
    const told = element("div");
    const accept = (key, found) => {
      if (!isSameHolder(found, before)) {
        return replace(told, notice("warn", element("p", { role: "alert" }, say("again.other"))));
      }
      signIn(key, found);
      finish(true);
    };
    const look = async () => {
      const { holder } = await readSession().catch(() => ({ holder: null }));
      if (holder !== null && dialog.open) accept(null, holder);
    };
    const finish = (isSignedIn) => {
      tabs.removeEventListener("message", look);
      resolve(isSignedIn);
      dialog.close();
    };
    const send = async (event) => {
      event.preventDefault();
      const key = new FormData(form).get("key").trim();
      replace(told);
      try {
        accept(key, await showKey(key));
      } catch (fault) {
        replace(told, faultBox(fault));
      }
    };
    const submit = element("button.button", { type: "submit" }, say("signin.submit"));
    const form = element("form", { onsubmit: send }, keyField(), element("p.actions", submit));
    const dialog = openDialog(
      say("again.title"),
      [
        hint(say("again.lead", { name: before.name })),
        provider && element("p", providerLink({ target: "_blank", rel: "noopener" })),
        form,
        told,
        plainButton(say("again.leave"), () => finish(false), "quiet"),
      ],
      { signal },
    );
    // A key that closes it would lose what was typed.
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => finish(false));
    tabs.addEventListener("message", look);
  });
}

/** `reason`: why nobody is signed in, as the service or the console has it. */
export async function show(page, reason = null) {
  if (whoAmI() !== null) return page.goOn();
  const told = sayIfKnown(`signin.reason.${reason}`);
  const field = keyField();
  const refused = element("div");
  const keep = () => page.wanted !== null && keepPlace(page.wanted);
  const asking =
    provider === null ? null : providerLink({ onclick: keep, class: "button primary" });
  page.show(
    element(
      "div.signin",
      pageHead("signin.title", provider === null ? "signin.lead" : "signin.both"),
      told && notice("warn", element("p", { role: "alert" }, told)),
      asking && element("p.card", asking),
      buildForm(page, { class: "card" }, [field, refused], "signin.submit", ({ key }) =>
        enter(page, key, refused),
      ),
    ),
  );
  (asking ?? field.querySelector("input")).focus();
}

async function enter(page, text, refused) {
  refused.replaceChildren();
  const key = text.trim();
  try {
    signIn(key, await showKey(key));
  } catch (fault) {
    if (fault.status !== 401) throw fault;
    return refused.replaceChildren(faultBox(fault));
  }
  await page.goOn();
}
