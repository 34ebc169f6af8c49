// Starts the console: a language, the key that this tab may hold or the session that this browser
// may have, then the view that is asked for.

import { faultBox } from "./faults.js";
import { buildFrame } from "./frame.js";
import { chooseLanguage, preferredLanguage } from "./language.js";
import { follow } from "./routing.js";
import { readSession, showKey } from "./service.js";
import { keptKey, knowService, signIn, signOut } from "./session.js";
import { tellSignedIn } from "./signing.js";

async function resume(key) {
  const { provider, holder, is_sandbox: isSandbox } = await readSession();
  knowService(provider, isSandbox);
  if (key === null) {
    if (holder === null) return;
    signIn(null, holder);
    tellSignedIn();
    return;
  }
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
    await resume(key);
  } catch (fault) {
    document.getElementById("console").replaceChildren(faultBox(fault, start));
    return;
  }
  buildFrame();
  await follow();
}

addEventListener("hashchange", follow);
await start();
