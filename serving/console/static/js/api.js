// The public API, and how to ask it: this is the only module that sends anything. And who is signed in
// to this tab: by a key, which ends with the tab and is nowhere else, or by the session of this
// browser, whose cookie no script can read.

import { kept } from "./elements.js";

/** Why a call was not answered: the service's own code, or one of the console's. */
export class Fault extends Error {
  constructor({ status, code, message = "", retryAfterS = null, correlator = null }) {
    super(message);
    Object.assign(this, { status, code, retryAfterS, correlator });
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

async function ask(method, path, { body, headers = {}, signal, key = currentKey() } = {}) {
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
  });
}

function query(values) {
  const given = Object.entries(values).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

const at = (...steps) => `/v1/${steps.map(encodeURIComponent).join("/")}`;
const get = (path, options) => ask("GET", path, options);
const post = (path, body, options) => ask("POST", path, { body, ...options });

/** How one signs in here, and who is signed in by this browser's session. */
export const readSession = () => get("/console/session", { key: null });
export const endSession = () => ask("DELETE", "/v1/session");
export const showKey = (key) => get("/v1/me", { key });
export const readThresholds = () => get("/v1/thresholds");

export const enroll = (form, idempotencyKey) =>
  post("/v1/enrollments", form, { headers: { "Idempotency-Key": idempotencyKey } });
export const readEnrollment = (id) => get(at("enrollments", id));
export const findEnrollment = (key) => get(`/v1/enrollments${query({ idempotency_key: key })}`);
export const readCrops = (id) => get(at("enrollments", id, "crops"));

export const readFaces = (documentIds) =>
  post("/v1/faces/query", { document_ids: documentIds });

export const queryLines = (form) => post("/v1/lines/query", form);
export const disputeLine = (lineId, form) => post(at("lines", lineId, "dispute"), form);

export const readLineHistory = (id) => get(at("lines", id, "events"));

export const searchPeople = (request) => post("/v1/people/search", request);
export const readDocument = (id) => get(at("documents", id));

export const listCases = (filter, options) => get(`/v1/cases${query(filter)}`, options);
export const readCase = (id, options) => get(at("cases", id), options);
export const assignCase = (id, assignee) => post(at("cases", id, "assign"), { assignee });
export const noteCase = (id, text) => post(at("cases", id, "notes"), { text });
// `updated_at` as it was shown: a case that has grown since is refused.
export const proposeOutcome = (found, outcome, lines, keeps) =>
  post(at("cases", found.case_id, "propose"), ending(found, outcome, lines, keeps));
export const withdrawProposal = (id) => post(at("cases", id, "withdraw"));
export const closeCase = (found, outcome, lines, keeps) =>
  post(at("cases", found.case_id, "close"), ending(found, outcome, lines, keeps));
const ending = ({ updated_at: seen }, outcome, lines, keeps) => ({
  outcome,
  close_lines: lines,
  keep_lines: keeps,
  seen_at: seen,
});
export const reportCase = (id, terms) => post(at("cases", id, "report"), terms);
export const readPrecision = () => get("/v1/precision");

export const listOutlets = (filter) => get(`/v1/outlets${query(filter)}`);
export const readOutlet = (code) => get(at("outlets", code));
export const stepOutlet = (code, step, body) => post(at("outlets", code, step), body);
export const listPast = (code, filter) =>
  get(`${at("outlets", code, "enrollments")}${query(filter)}`);

export const planSweep = (terms) => post("/v1/sweeps", { ...terms, dry_run: true });
export const startSweep = (terms) => post("/v1/sweeps", { ...terms, dry_run: false });
export const listSweeps = () => get("/v1/sweeps");
export const readSweep = (id, options) => get(at("sweeps", id), options);
export const steerSweep = (id, action) => post(at("sweeps", id, action));
export const listGroups = (id, filter) => get(`${at("sweeps", id, "groups")}${query(filter)}`);
export const readGroup = (id, key) => get(at("sweeps", id, "groups", key));

export const listAudit = (filter) => get(`/v1/audit${query(filter)}`);
export const verifyAudit = (filter, options) =>
  get(`/v1/audit/verification${query(filter)}`, options);

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
