// Starts the console: a language, the key that this tab may hold, then the view that is asked for.

import { faultBox } from "./faults.js";
import { buildFrame } from "./frame.js";
import { chooseLanguage, preferredLanguage } from "./language.js";
import { follow } from "./routing.js";
import { showKey } from "./service.js";
import { keptKey, signIn, signOut } from "./session.js";

async function resume(key) {
  try {
    signIn(key, await showKey(key));
  } catch (fault) {
    if (fault.status !== 401) throw fault;
    signOut();
  }
}

async function start() {
  await chooseLanguage(preferredLanguage());
  const key = keptKey();
  try {
    if (key !== null) await resume(key);
  } catch (fault) {
    document.getElementById("console").replaceChildren(faultBox(fault, start));
    return;
  }
  buildFrame();
  await follow();
}

addEventListener("hashchange", follow);
await start();
