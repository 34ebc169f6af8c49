// The key of this tab, and whose it is. It ends with the tab, and is nowhere else.

import { kept } from "./elements.js";

const KEPT = "sosie.key";
let key = null;
let owner = null;

/** What the key stands for: `key_id`, `role`, `carrier`, `outlet`, `person`; null when signed out. */
export function whoAmI() {
  return owner;
}

export function currentKey() {
  return key;
}

/** A key that this tab was signed in with before it was loaded again. */
export function keptKey() {
  return kept(() => sessionStorage.getItem(KEPT));
}

export function signIn(text, found) {
  key = text;
  owner = found;
  kept(() => sessionStorage.setItem(KEPT, text));
}

export function signOut() {
  key = null;
  owner = null;
  kept(() => sessionStorage.removeItem(KEPT));
}

/** How cases and the audit chain name whoever is signed in. */
export function myActor() {
  return owner === null ? null : `key:${owner.key_id}`;
}

/** Whose key it is, whichever of theirs; null for a key of no person. */
export function myPerson() {
  return owner?.person ?? null;
}

export function hasRole(...roles) {
  return owner !== null && roles.includes(owner.role);
}
