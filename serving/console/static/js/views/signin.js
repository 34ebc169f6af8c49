// Sign in with a key, which stays in this tab.

import { add, element } from "../elements.js";
import { faultBox } from "../faults.js";
import { buildForm, textField } from "../forms.js";
import { say } from "../language.js";
import { notice, pageHead } from "../marks.js";
import { showKey } from "../service.js";
import { signIn, whoAmI } from "../session.js";

export async function show(page, reason = null) {
  if (whoAmI() !== null) return page.goOn();
  const input = textField(
    say("signin.key"),
    { name: "key", type: "password", required: true, spellcheck: "false", autocapitalize: "none" },
    say("signin.hint"),
  );
  const refused = element("div", {});
  add(
    page.main,
    element(
      "div",
      { class: "signin" },
      pageHead("signin.title", "signin.lead"),
      reason && notice("warn", element("p", { role: "alert" }, say(reason))),
      buildForm(page, { class: "card" }, [input, refused], say("signin.submit"), ({ key }) =>
        enter(page, key, refused),
      ),
    ),
  );
  input.querySelector("input").focus();
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
