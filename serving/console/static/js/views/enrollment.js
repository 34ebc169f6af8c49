// One enrollment on record: both faces side by side, why it was decided so, where its scores lie.

import { curveFigure } from "../curves.js";
import { frameTable, qualityTable, scoreTable, searchPanel, verdict } from "../decision.js";
import { add, element, figure, hint, quoted, wholeId } from "../elements.js";
import { buildForm, radioField, textField } from "../forms.js";
import { moment, number, say, score } from "../language.js";
import { facts, idLink, notice, pageHead, section, seller, table } from "../marks.js";
import { findEnrollment, readCrops, readEnrollment, readThresholds } from "../service.js";
import { hasRole } from "../session.js";

export async function show(page, id = null) {
  if (id === null) return showFinder(page);
  const record = await readEnrollment(id);
  const [crops, thresholds] = await Promise.all([
    hasRole("fraud") ? readCrops(id) : null,
    readThresholds(),
  ]);
  add(
    page.main,
    element("h1", {}, say("enrollment.title")),
    element("div", { class: "pair" }, verdict(record), faces(record, crops)),
    record.expired_at &&
      notice("info", element("p", {}, say("enrollment.expired"), " ", moment(record.expired_at))),
    factsOf(record),
    section(
      "decision.scores",
      scoreTable(record),
      frameTable(record.frames),
      figures(record, thresholds.calibration),
    ),
    section(
      "decision.search",
      searchPanel(record.duplicate_search),
      candidateTable(record.duplicate_search),
    ),
    element(
      "details",
      { class: "block" },
      element("summary", {}, say("quality.caption")),
      qualityTable(record.quality),
    ),
  );
}

function factsOf(record) {
  return facts([
    ["enrollment.id", wholeId(record.enrollment_id)],
    ["enrollment.decided", moment(record.decided_at)],
    ["enroll.captured", moment(record.captured_at)],
    ["line.seller", seller(record)],
    [
      "document.title",
      hasRole("fraud")
        ? idLink("documents", record.document_id)
        : quoted(record.document_id ?? "–"),
    ],
    ["enroll.consent", quoted(record.consent_ref ?? "–")],
    ["enrollment.policy", quoted(record.policy_version)],
    ["enrollment.calibration", quoted(String(record.calibration_version ?? "–"))],
    ["enrollment.model", quoted(record.model_digest.slice(0, 12))],
  ]);
}

/** Both aligned faces with their score between them, or why there are none. */
function faces(record, answer) {
  const found = new Map((answer?.crops ?? []).map((crop) => [crop.photograph, crop]));
  const value = record.scores.live_portrait;
  return element(
    "figure",
    { class: "faces" },
    face(found, "live"),
    element(
      "div",
      { class: "faces-score" },
      figure(score(value)),
      element("span", { class: "hint" }, say("score.live_portrait")),
    ),
    face(found, "portrait"),
    element("figcaption", {}, keptText(answer, found)),
  );
}

function face(found, photograph) {
  const crop = found.get(photograph);
  const label = say(`photograph.${photograph}`);
  const picture = crop
    ? element("img", {
        src: imageOf(crop.image),
        width: 168,
        height: 168,
        alt: say("crops.alt", { label }),
      })
    : element("span", { class: "face-missing" }, element("span", {}, say("crops.missing")));
  return element(
    "div",
    { class: "face" },
    picture,
    element("span", { class: "hint", "aria-hidden": crop ? "true" : null }, label),
  );
}

function imageOf(base64) {
  const type = base64.startsWith("iVBOR") ? "image/png" : "image/jpeg";
  return `data:${type};base64,${base64}`;
}

function keptText(answer, found) {
  if (answer === null) return say("crops.forbidden");
  const [crop] = found.values();
  return crop ? [say("crops.until"), " ", moment(crop.kept_until)] : say("crops.notkept");
}

function figures(record, calibration) {
  if (calibration === null) return notice("info", say("curve.none"));
  const curves = Object.fromEntries(calibration.curves.map((curve) => [curve.comparison, curve]));
  const { frames, scores, thresholds } = record;
  // A mean meets strangers as the fused references do.
  const isFused = frames.filter((frame) => frame.is_fused).length > 1;
  return element(
    "div",
    { class: "curves" },
    curves.one_to_one &&
      curveFigure(
        say("curve.verification"),
        isFused ? curves.fused : curves.one_to_one,
        [["threshold.verify", thresholds.verify]],
        scores.live_portrait,
      ),
    curves.fused &&
      curveFigure(
        say("curve.identification"),
        curves.fused,
        [
          ["threshold.review", thresholds.review],
          ["threshold.certain", thresholds.certain],
        ],
        scores.best_candidate,
      ),
    hint(
      say("curve.source", { people: number(calibration.people) }),
      " ",
      quoted(calibration.source),
    ),
  );
}

function candidateTable({ candidates }) {
  if (!candidates?.length) return null;
  return table(
    "search.candidates",
    ["search.candidate", "score.value"],
    candidates.map((one) => [
      one.document_id ? idLink("documents", one.document_id) : quoted(one.holder, { class: "id" }),
      figure(score(one.score)),
    ]),
  );
}

function showFinder(page) {
  const byKey = hasRole("outlet", "carrier");
  const ways = [
    ["id", say("finder.id")],
    ["key", say("finder.key")],
  ];
  const fields = [
    byKey && radioField(say("finder.by"), "by", ways, "id"),
    textField(say("finder.value"), {
      name: "value",
      required: true,
      maxlength: 255,
      spellcheck: "false",
    }),
  ];
  const open = async ({ by, value }) => {
    const id = by === "key" ? (await findEnrollment(value.trim())).enrollment_id : value.trim();
    if (by !== "key") await readEnrollment(id);
    await page.go("enrollments", id);
  };
  add(
    page.main,
    pageHead("finder.title", "finder.lead"),
    buildForm(page, { class: "card narrow" }, fields, say("finder.submit"), open),
  );
}
