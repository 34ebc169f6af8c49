// Starts the console: a language, the key that this tab may hold or the session that this browser
// may have, then the view that is asked for: the part of the address after `#`, which no server and
// no log ever sees.

import {
  isSession,
  keptKey,
  knowService,
  readSession,
  showKey,
  signIn,
  signOut,
  takePlace,
  whoAmI,
} from "./api.js";
import { isOpenTo, placeOf, PLACES, readPlace, readQuery } from "./elements.js";
import { faultBox } from "./forms.js";
import { buildFrame, clearPage } from "./frame.js";
import { chooseLanguage, preferredLanguage, say } from "./language.js";
import { resumeSession, signInAgain, tellSignedIn } from "./signing.js";

/** Views that stand in a file of another name. */
const FILES = {
  signin: "./signing.js",
  enrollments: "./views/enrollment.js",
  documents: "./views/search.js",
  sweep: "./views/sweeps.js",
};

let leave = new AbortController();
let wanted = takePlace();

/** Shows what the address says, to whom it is open. */
export async function follow() {
  const [view, ...steps] = readPlace(location.hash);
  const owner = whoAmI();
  if (owner === null) {
    if (view && view !== "signin") wanted = location.hash;
    return open("signin", view === "signin" ? steps : []);
  }
  if (wanted !== null && ["", "signin"].includes(view)) return goOn();
  if (!isOpenTo(owner.role, view)) return go(PLACES[owner.role][0]);
  return open(view, steps);
}

export async function go(view, ...steps) {
  const place = placeOf(view, ...steps);
  if (location.hash === place) return follow();
  location.hash = place;
}

/** To the sign-in, with what to say there; whoever signs in again comes back to where they were. */
function turnOut(reason) {
  if (whoAmI() !== null) wanted = location.hash;
  signOut();
  buildFrame();
  return open("signin", [reason]);
}

/** After a sign-in: to where somebody was turned out, else to where their role begins. */
function goOn() {
  const place = wanted;
  wanted = null;
  buildFrame();
  const [view, ...steps] = readPlace(place ?? "");
  const { role } = whoAmI();
  return isOpenTo(role, view) ? go(view, ...steps, readQuery(place)) : go(PLACES[role][0]);
}

async function open(view, steps) {
  leave.abort();
  const { signal } = (leave = new AbortController());
  const module = await import(FILES[view] ?? `./views/${view}.js`);
  if (signal.aborted) return;
  const query = readQuery(location.hash);
  const page = {
    ...clearPage(view, signal),
    ...{ signal, query, go, goOn, turnOut, reload: follow, wanted },
    signInAgain: () => signInAgain(signal),
  };
  try {
    await module.show(page, ...steps);
  } catch (fault) {
    if (signal.aborted) return;
    if (fault.status === 401) {
      return isSession() && (await resumeSession()) ? follow() : turnOut("ended");
    }
    page.main.append(faultBox(fault, follow));
  }
  if (!signal.aborted) settle(page);
}

function settle({ main }) {
  const heading = main.querySelector("h1");
  const title = heading?.dataset.title ?? heading?.textContent ?? say("console.name");
  document.title = `${title} · Sosie`;
  if (heading !== null && !main.contains(document.activeElement)) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

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
