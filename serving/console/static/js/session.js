// Who is signed in to this tab: by a key, which ends with the tab and is nowhere else, or by the
// session of this browser, whose cookie no script can read.

import { kept } from "./elements.js";

const KEPT = "sosie.key";
const PLACE = "sosie.place";
let key = null;
let owner = null;
let provider = null;
let sandbox = false;

/** What the key or session stands for: `key_id`, `role`, `carrier`, `outlet`, `person`, `name`,
 * `ends_at`; null when signed out. */
export function whoAmI() {
  return owner;
}

/** The key; null where there is none, or it is a session. */
export function currentKey() {
  return key;
}

export function isSession() {
  return owner !== null && key === null;
}

/** A key that this tab was signed in with before it was loaded again. */
export function keptKey() {
  return kept(() => sessionStorage.getItem(KEPT));
}

/** The identity provider's name; null where there are only keys. */
export function providerName() {
  return provider;
}

/** Whether nothing that it shows is about anybody. */
export function isSandbox() {
  return sandbox;
}

export function knowService(name, isOne) {
  provider = name;
  sandbox = isOne;
}

/** With a key, or with null for the browser's session. */
export function signIn(text, found) {
  key = text;
  owner = found;
  if (text !== null) kept(() => sessionStorage.setItem(KEPT, text));
}

export function signOut() {
  owner = null;
  dropKey();
}

/** Forgets a key that has ended, and not yet whose it was. */
export function dropKey() {
  key = null;
  kept(() => sessionStorage.removeItem(KEPT));
}

/** The view to go on at after a visit to the provider: only this tab remembers it. */
export function keepPlace(hash) {
  kept(() => sessionStorage.setItem(PLACE, hash));
}

export function takePlace() {
  const place = kept(() => sessionStorage.getItem(PLACE));
  kept(() => sessionStorage.removeItem(PLACE));
  return place;
}

/** The person in what the audit chain says of an actor: `anna (key:…)`. */
export function personOf(actor) {
  return actor.replace(/ \((?:key|session):[0-9a-z]{12}\)$/, "");
}

/** Whether it is whoever is signed in, by whichever key or session. */
export function isMe(actor) {
  return owner !== null && actor !== null && isSamePerson(personOf(actor), owner.name);
}

export function isSamePerson(one, other) {
  const fold = (name) => name.normalize("NFKC").toLowerCase().trim();
  return fold(one) === fold(other);
}

export function hasRole(...roles) {
  return owner !== null && roles.includes(owner.role);
}
