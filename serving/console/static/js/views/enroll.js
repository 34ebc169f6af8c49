// One activation: a document, a number, two photographs; then what was decided.

import { hasRole, packImages, post } from "../api.js";
import { element, figure, pick, placeOf, plainButton, replace } from "../elements.js";
import {
  buildForm,
  choiceField,
  documentFields,
  momentField,
  numberField,
  optionalFields,
  textField,
} from "../forms.js";
import { moment, say } from "../language.js";
import { facts, idLink, pageHead } from "../marks.js";
import { MOST_FRAMES, pictureField } from "../pictures.js";
import { evidence, verdict } from "../scores.js";
import { EXCEPTION_CAUSES } from "../vocabulary.js";

const DAY_MS = 24 * 3600 * 1000;
const KINDS = ["printed", "chip", "live"];

export async function show(page) {
  const attempt = keyedAttempt();
  const captured = momentField("enroll.captured", { name: "captured_at", required: true });
  // An older file is not "now": then somebody has to say when it was taken.
  const taken = (moment) => captured.set(Date.now() - moment < DAY_MS ? moment : null);
  const changed = attempt.renew;
  const live = pictureField(page, say("photograph.live"), { most: MOST_FRAMES, taken, changed });
  const portrait = pictureField(page, say("photograph.portrait"), { changed });
  const guardian = guardianFields(page, changed, taken);
  const exception = exceptionFields(captured);
  const earlier = element("div.columns", documentFields("replaces_"));
  const replaced = optionalFields("enroll.replaces", earlier);
  const form = buildForm(
    page,
    { class: "card", oninput: changed },
    [
      subscriberFields(),
      photographFields(live, portrait, captured),
      [guardian, exception, replaced].map(({ field }) => field),
    ],
    "enroll.submit",
    async (values) => {
      const { images, missing } = findImages(live, portrait, guardian, exception.isAsked());
      if (missing) return missing.complain(say("picture.missing"));
      const body = packImages(readValues(values), images);
      const waits = (seconds) => page.announce(say("enroll.waiting", { seconds }));
      const ask = (key) => post(["enrollments"], body, { headers: { "Idempotency-Key": key } });
      showAnswer(page, await attempt.send(ask, waits));
    },
  );
  page.show(pageHead("enroll.title", "enroll.lead"), form);
}

/** The photographs by their paths, or the field where one is missing: an exception excuses any of
 * the person's, and a guardian both. */
function findImages(live, portrait, guardian, isExcused) {
  const own = { live, portrait };
  const others = guardian.isAsked()
    ? { "guardian.live": guardian.live, "guardian.portrait": guardian.portrait }
    : {};
  const lacks = Object.values(own).filter((one) => one.image() === null);
  const isNeeded = !isExcused && !(guardian.isAsked() && lacks.length === 2);
  const needed = [...(isNeeded ? lacks : []), ...(guardian.isAsked() ? [guardian.live] : [])];
  const given = Object.entries({ ...own, ...others }).filter(([, one]) => one.image() !== null);
  const images = Object.fromEntries(given.map(([path, one]) => [path, one.image()]));
  return { images, missing: needed.find((one) => one.image() === null) };
}

/** Kind, number, name and dates of a document. */
function wholeDocument(prefix = "") {
  return [
    documentFields(prefix),
    textField("document.name", {
      name: `${prefix}name`,
      required: true,
      maxlength: 200,
      dir: "auto",
    }),
    textField("document.expires", { name: `${prefix}expires_on`, type: "date" }),
    textField("document.born", { name: `${prefix}born_on`, type: "date" }),
  ];
}

function subscriberFields() {
  return element(
    "fieldset.columns",
    element("legend", say("enroll.subscriber")),
    wholeDocument(),
    numberField(),
    hasRole("carrier") && textField("line.outlet", { name: "outlet", required: true }),
    textField("enroll.consent", { name: "consent_ref", required: true, maxlength: 200 }),
  );
}

/** Who came with a minor; the photographs are kept apart, as those of the minor are. */
function guardianFields(page, changed, taken) {
  const shown = { most: MOST_FRAMES, taken, changed };
  const live = pictureField(page, say("photograph.guardianlive"), shown);
  const portrait = pictureField(page, say("photograph.guardianportrait"), { changed });
  const asked = optionalFields("enroll.guardian", [
    element("div.columns", wholeDocument("guardian_")),
    element("div.pictures", live.field, portrait.field),
  ]);
  return { ...asked, live, portrait };
}

/** Why a photograph is missing or cannot be used; without one there is no moment of it either. */
function exceptionFields(captured) {
  const causes = EXCEPTION_CAUSES.map((one) => [one, say(`exception.${one}`)]);
  const input = captured.field.querySelector("input");
  return optionalFields(
    "enroll.exception",
    choiceField("enroll.exception.why", { name: "exception", required: true }, causes),
    (isAsked) => isAsked && input.value === "" && captured.set(new Date()),
  );
}

function photographFields(live, portrait, captured) {
  return element(
    "fieldset",
    element("legend", say("enroll.photographs")),
    element("div.pictures", live.field, portrait.field),
    choiceField("portrait.kind", { name: "portrait_kind" }, [
      ["", say("portrait.untold")],
      ...KINDS.map((kind) => [kind, say(`portrait.${kind}`)]),
    ]),
    captured.field,
  );
}

/** Of fields that are not asked for there are no values. */
function readValues(values) {
  return {
    document: readDocument(values),
    msisdn: values.msisdn,
    consent_ref: values.consent_ref,
    captured_at: new Date(values.captured_at).toISOString(),
    ...pick(values, ["portrait_kind", "outlet", "exception"]),
    ...(values.guardian_type ? { guardian: { document: readDocument(values, "guardian_") } } : {}),
    ...(values.replaces_type ? { replaces: readDocument(values, "replaces_") } : {}),
  };
}

function readDocument(values, prefix = "") {
  const names = ["type", "number", "name", "expires_on", "born_on"];
  const given = names.filter((name) => values[prefix + name]);
  return Object.fromEntries(given.map((name) => [name, values[prefix + name]]));
}

function showAnswer(page, answer) {
  const again = () => page.reload();
  const heading = element("h1", { tabindex: "-1" }, say("enroll.decided"));
  replace(
    page.main,
    heading,
    verdict(answer),
    facts([
      ["enrollment.id", idLink("enrollments", answer.enrollment_id)],
      answer.folio && ["enroll.folio", answer.folio.number, ", ", moment(answer.folio.decided_at)],
      answer.cases.length > 0 && ["enrollment.cases", figure(answer.cases.length)],
    ]),
    evidence(answer),
    element(
      "p.actions",
      plainButton(say("enroll.another"), again, "button primary"),
      element(
        "a.button",
        { href: placeOf("enrollments", answer.enrollment_id) },
        say("enrollment.open"),
      ),
    ),
  );
  heading.focus();
  page.announce(say(`verdict.${answer.decision}`));
}

const MOST_TRIES = 4;
const LONGEST_WAIT_S = 10;

/** A version 4 UUID (RFC 9562); `crypto.randomUUID` is not there on pages without TLS. */
export function freshUuid() {
  const given = crypto.getRandomValues(new Uint8Array(16));
  given[6] = (given[6] & 0x0f) | 0x40;
  given[8] = (given[8] & 0x3f) | 0x80;
  const hex = [...given].map((one) => one.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** `send(work, waits)` does `work(key)`, again after a fault that passes; every try has one key.
 *
 * `renew()`: what is sent next is something else, if anything was sent before.
 */
export function keyedAttempt() {
  let key = freshUuid();
  let isSent = false;

  async function send(work, waits) {
    isSent = true;
    for (let tries = 1; ; tries += 1) {
      try {
        return await work(key);
      } catch (fault) {
        if (!fault.isPassing || tries === MOST_TRIES) throw fault;
        const seconds = Math.min(fault.retryAfterS ?? tries, LONGEST_WAIT_S);
        waits(seconds);
        await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      }
    }
  }

  function renew() {
    if (isSent) key = freshUuid();
    isSent = false;
  }

  return { send, renew };
}
