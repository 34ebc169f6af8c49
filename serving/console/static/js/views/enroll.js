// One activation: a document, a number, two photographs; then what was decided.

import { evidence, verdict } from "../decision.js";
import { add, element, figure, plainButton, replace } from "../elements.js";
import {
  buildForm,
  choiceField,
  documentFields,
  momentField,
  numberField,
  textField,
} from "../forms.js";
import { say } from "../language.js";
import { facts, idLink, pageHead } from "../marks.js";
import { MOST_FRAMES, pictureField } from "../pictures.js";
import { placeOf } from "../places.js";
import { keyedAttempt } from "../retrying.js";
import { enroll, packImages } from "../service.js";
import { hasRole } from "../session.js";

const DAY_MS = 24 * 3600 * 1000;
const KINDS = ["printed", "chip", "live"];

export async function show(page) {
  const attempt = keyedAttempt();
  const captured = momentField(
    say("enroll.captured"),
    { name: "captured_at", required: true },
    say("enroll.captured.hint"),
  );
  // An older file is not "now": then somebody has to say when it was taken.
  const taken = (moment) => captured.set(Date.now() - moment < DAY_MS ? moment : null);
  const changed = attempt.renew;
  const live = pictureField(page, say("photograph.live"), { most: MOST_FRAMES, taken, changed });
  const portrait = pictureField(page, say("photograph.portrait"), { changed });
  const form = buildForm(
    page,
    { class: "card", oninput: changed },
    [subscriberFields(), photographFields(live, portrait, captured)],
    say("enroll.submit"),
    async (values) => {
      const missing = [live, portrait].find((one) => one.image() === null);
      if (missing) return missing.complain(say("picture.missing"));
      const images = { live: live.image(), portrait: portrait.image() };
      showAnswer(page, await send(page, attempt, packImages(readValues(values), images)));
    },
  );
  add(page.main, pageHead("enroll.title", "enroll.lead"), form);
}

function send(page, attempt, body) {
  const waits = (seconds) => page.announce(say("enroll.waiting", { seconds }));
  return attempt.send((key) => enroll(body, key), waits);
}

function subscriberFields() {
  return element(
    "fieldset",
    { class: "columns" },
    element("legend", {}, say("enroll.subscriber")),
    documentFields(),
    textField(
      say("document.name"),
      { name: "name", required: true, maxlength: 200, dir: "auto" },
      say("document.name.hint"),
    ),
    textField(say("document.expires"), { name: "expires_on", type: "date" }),
    textField(say("document.born"), { name: "born_on", type: "date" }),
    numberField(),
    hasRole("carrier") && textField(say("line.outlet"), { name: "outlet", required: true }),
    textField(
      say("enroll.consent"),
      { name: "consent_ref", required: true, maxlength: 200 },
      say("enroll.consent.hint"),
    ),
  );
}

function photographFields(live, portrait, captured) {
  return element(
    "fieldset",
    {},
    element("legend", {}, say("enroll.photographs")),
    element("div", { class: "pictures" }, live.field, portrait.field),
    choiceField(say("portrait.kind"), { name: "portrait_kind" }, [
      ["", say("portrait.untold")],
      ...KINDS.map((kind) => [kind, say(`portrait.${kind}`)]),
    ]),
    captured.field,
  );
}

function readValues(values) {
  return {
    document: {
      type: values.type,
      number: values.number,
      name: values.name,
      ...(values.expires_on ? { expires_on: values.expires_on } : {}),
      ...(values.born_on ? { born_on: values.born_on } : {}),
    },
    msisdn: values.msisdn,
    ...(values.portrait_kind ? { portrait_kind: values.portrait_kind } : {}),
    consent_ref: values.consent_ref,
    captured_at: new Date(values.captured_at).toISOString(),
    ...(values.outlet ? { outlet: values.outlet } : {}),
  };
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
      answer.cases.length > 0 && ["enrollment.cases", figure(answer.cases.length)],
    ]),
    evidence(answer),
    element(
      "p",
      { class: "actions" },
      plainButton(say("enroll.another"), again, "button primary"),
      element(
        "a",
        { class: "button", href: placeOf("enrollments", answer.enrollment_id) },
        say("enrollment.open"),
      ),
    ),
  );
  heading.focus();
  page.announce(say(`verdict.${answer.decision}`));
}
