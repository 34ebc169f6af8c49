// Sign in: with an account of the identity provider, where there is one, or with a key, which stays
// in this tab.

import { add, element } from "../elements.js";
import { faultBox } from "../faults.js";
import { buildForm } from "../forms.js";
import { say, sayIfKnown } from "../language.js";
import { notice, pageHead } from "../marks.js";
import { showKey } from "../service.js";
import { keepPlace, providerName, signIn, whoAmI } from "../session.js";
import { keyField, providerLink } from "../signing.js";

/** `reason`: why nobody is signed in, as the service or the console has it. */
export async function show(page, reason = null) {
  if (whoAmI() !== null) return page.goOn();
  const told = sayIfKnown(`signin.reason.${reason}`);
  const field = keyField();
  const refused = element("div", {});
  const keep = () => page.wanted !== null && keepPlace(page.wanted);
  const provider =
    providerName() === null ? null : providerLink({ onclick: keep, class: "button primary" });
  add(
    page.main,
    element(
      "div",
      { class: "signin" },
      pageHead("signin.title", provider === null ? "signin.lead" : "signin.both"),
      told && notice("warn", element("p", { role: "alert" }, told)),
      provider && element("p", { class: "card" }, provider),
      buildForm(page, { class: "card" }, [field, refused], say("signin.submit"), ({ key }) =>
        enter(page, key, refused),
      ),
    ),
  );
  (provider ?? field.querySelector("input")).focus();
}

async function enter(page, text, refused) {
  refused.replaceChildren();
  const key = text.trim();
  try {
    signIn(key, await showKey(key));
  } catch (fault) {
    if (fault.status !== 401) throw fault;
    refused.replaceChildren(faultBox(fault));
    return;
  }
  await page.goOn();
}
