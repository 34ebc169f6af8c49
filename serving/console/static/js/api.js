// The public API, and how to ask it: this is the only module that sends anything. And who is signed in
// to this tab: by a key, which ends with the tab and is nowhere else, or by the session of this
// browser, whose cookie no script can read.

import { kept } from "./elements.js";

/** Why a call was not answered: the service's own code, or one of the console's. */
export class Fault extends Error {
  constructor({ status, code, message = "", retryAfterS, correlator, advice }) {
    super(message);
    Object.assign(this, { status, code, retryAfterS, correlator, advice });
  }

  /** Whether the same call, sent again, may be answered. */
  get isPassing() {
    return (
      this.status === 0 ||
      [429, 503, 507].includes(this.status) ||
      this.code === "REQUEST.IN_FLIGHT"
    );
  }
}

/** A request of images, by their path in it, beside the rest of it; frames of a face are a list. */
export function packImages(request, images) {
  const form = new FormData();
  form.append("request", new Blob([JSON.stringify(request)], { type: "application/json" }));
  for (const [path, image] of Object.entries(images))
    for (const frame of [image].flat()) form.append(path, frame, "photograph");
  return form;
}

async function ask(method, path, { body, headers = {}, signal, key = ownKey } = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (key !== null) sent.Authorization = `Bearer ${key}`;
  // Another person may have signed in in another tab: then nothing is done here in their name.
  else if (isSession() && path.startsWith("/v1/")) sent["X-Session"] = whoAmI().key_id;
  const isForm = body instanceof FormData;
  if (body !== undefined && !isForm) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: sent,
      body: body === undefined || isForm ? body : JSON.stringify(body),
      signal,
      cache: "no-store",
      // The session's cookie goes where no key does.
      credentials: key === null ? "same-origin" : "omit",
      redirect: "error",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Fault({ status: 0, code: "CONSOLE.UNREACHABLE" });
  }
  return read(response);
}

async function read(response) {
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    // A proxy in front says some things in plain text.
  }
  const correlator = response.headers.get("x-correlator");
  if (response.ok && answer !== null) return answer;
  throw new Fault({
    status: response.status,
    code: answer?.code ?? `HTTP.${response.status}`,
    message: answer?.message ?? "",
    retryAfterS: Number(response.headers.get("retry-after")) || null,
    correlator,
    advice: answer?.advice,
  });
}

function asQuery(values) {
  const given = Object.entries(values).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  const each = given.flatMap(([name, value]) => [value].flat().map((one) => [name, one]));
  return each.length ? `?${new URLSearchParams(each)}` : "";
}

const at = (steps) => `/v1/${steps.map(encodeURIComponent).join("/")}`;

/** Reads what stands at a path of the API, a step each; of `query`, what is given. */
export const get = (steps, query = {}, options = {}) =>
  ask("GET", at(steps) + asQuery(query), options);

/** Sends a body to a path of the API. */
export const post = (steps, body, options = {}) => ask("POST", at(steps), { body, ...options });

/** How one signs in here, and who is signed in by this browser's session. */
export const readSession = () => ask("GET", "/console/session", { key: null });
export const endSession = () => ask("DELETE", "/v1/session");
export const showKey = (key) => get(["me"], {}, { key });

const KEPT = "sosie.key";
const PLACE = "sosie.place";
let ownKey = null;
let owner = null;
/** The identity provider's name; null where there are only keys. */
export let provider = null;
/** Whether nothing that it shows is about anybody. */
export let isSandbox = false;

/** What the key or session stands for: `key_id`, `role`, `carrier`, `outlet`, `person`, `name`,
 * `ends_at`; null when signed out. */
export function whoAmI() {
  return owner;
}

export function isSession() {
  return owner !== null && ownKey === null;
}

/** A key that this tab was signed in with before it was loaded again. */
export function keptKey() {
  return kept(() => sessionStorage.getItem(KEPT));
}

export function knowService(name, isOne) {
  provider = name;
  isSandbox = isOne;
}

/** With a key, or with null for the browser's session. */
export function signIn(text, found) {
  ownKey = text;
  owner = found;
  if (text !== null) kept(() => sessionStorage.setItem(KEPT, text));
}

export function signOut() {
  owner = null;
  dropKey();
}

/** Forgets a key that has ended, and not yet whose it was. */
export function dropKey() {
  ownKey = null;
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
