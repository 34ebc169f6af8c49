// One enrollment on record: both faces side by side, why it was decided so, where its scores lie.

import { get, hasRole } from "../api.js";
import { element, figure, hint, quoted, wholeId } from "../elements.js";
import { faceSection } from "../face_desk.js";
import { buildForm, radioField, textField } from "../forms.js";
import { moment, number, say, score } from "../language.js";
import { facts, idLink, notice, pageHead, seller, table } from "../marks.js";
import { curveFigure, evidence, qualityTable, searchLimits, verdict } from "../scores.js";

export async function show(page, id = null) {
  if (id === null) return showFinder(page);
  const record = await get(["enrollments", id]);
  const [faces, thresholds] = await Promise.all([facesOf(page, record), get(["thresholds"])]);
  const curves = figures(record, thresholds.calibration);
  page.show(
    element("h1", say("enrollment.title")),
    verdict(record),
    faces.node,
    record.expired_at &&
      notice("info", element("p", say("enrollment.expired"), " ", moment(record.expired_at))),
    factsOf(record),
    evidence(record, curves, candidateTable(record.duplicate_search)),
    element(
      "details.block",
      element("summary", say("quality.caption")),
      qualityTable(record.quality),
    ),
  );
  page.bindKeys(faces.keys);
}

/** Both photographs of the attempt, and the faces of whom it is said to be like. */
async function facesOf(page, record) {
  if (!hasRole("fraud")) return { node: notice("info", say("crops.forbidden")), keys: {} };
  const { crops } = await get(["enrollments", record.enrollment_id, "crops"]);
  const { live_portrait: own, holder } = record.scores;
  const attempt = {
    subject_id: record.enrollment_id,
    document_id: record.document_id,
    enrollment_id: record.enrollment_id,
    is_reference: false,
    decision: record.decision,
    captured_at: record.captured_at,
    received_at: record.decided_at,
    kept_until: crops[0]?.kept_until ?? null,
    own_score: own,
    photographs: crops.map((one) => ({ ...one, quality: record.quality[one.photograph] })),
  };
  const others = (record.duplicate_search.candidates ?? []).map((one) => one.document_id);
  if (holder !== null) others.unshift(record.document_id);
  return faceSection(page, others.filter(Boolean), { own: [attempt] });
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
    ...listEvidence(record),
  ]);
}

// What was looked up of the document, and what a judge made of the live face; neither, where nobody
// is asked.
function listEvidence({ authority, liveness_judge: judge }) {
  const rows = [];
  if (authority) {
    const said = [authority.code, ...(authority.standings ?? []), ...(authority.differs ?? [])];
    if (authority.reference) said.push(authority.reference);
    rows.push(["enrollment.authority", quoted(said.join(" · "))]);
  }
  if (judge) {
    const score = judge.score === null ? "–" : judge.score.toFixed(3);
    rows.push(["enrollment.judge", quoted(`${judge.mode} · ${judge.found} · ${score}`)]);
  }
  return rows;
}

function figures(record, calibration) {
  if (calibration === null) return notice("info", say("curve.none"));
  const curves = Object.fromEntries(calibration.curves.map((curve) => [curve.comparison, curve]));
  const { frames, scores, thresholds } = record;
  // A mean meets strangers as the fused references do.
  const isFused = frames.filter((frame) => frame.is_fused).length > 1;
  return element(
    "div.curves",
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
        searchLimits(thresholds),
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
  return table("search.candidates", candidates, {
    "search.candidate": ({ document_id: id, holder }) =>
      id ? idLink("documents", id) : quoted(holder, { class: "id" }),
    "score.value": (one) => figure(score(one.score)),
  });
}

function showFinder(page) {
  const byKey = hasRole("outlet", "carrier");
  const ways = [
    ["id", say("finder.id")],
    ["key", say("finder.key")],
  ];
  const fields = [
    byKey && radioField("finder.by", "by", ways, "id"),
    textField("finder.value", {
      name: "value",
      required: true,
      maxlength: 255,
      spellcheck: "false",
    }),
  ];
  const open = async ({ by, value }) => {
    const text = value.trim();
    const found =
      by === "key"
        ? await get(["enrollments"], { idempotency_key: text })
        : await get(["enrollments", text]);
    await page.go("enrollments", found.enrollment_id);
  };
  page.show(
    pageHead("finder.title", "finder.lead"),
    buildForm(page, { class: "card narrow" }, fields, "finder.submit", open),
  );
}
