// What the service refused, in the language of the page.

import { element, plainButton } from "./elements.js";
import { say, sayIfKnown } from "./language.js";

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
    "div",
    { class: "notice bad", role: "alert" },
    element("p", { class: "notice-title" }, sentenceOf(fault)),
    fault.code && element("p", { class: "notice-detail", lang: "en", translate: "no" }, detail),
    fault.correlator &&
      element(
        "p",
        { class: "notice-detail" },
        `${say("fault.correlator")} `,
        element("code", {}, fault.correlator),
      ),
    retry && plainButton(say("action.again"), retry),
  );
}
