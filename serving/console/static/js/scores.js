// A decision as people read it: the verdict, why, and the scores beside their thresholds; and where a
// score lies on the calibrated impostor curve: how many strangers reach it.

import { element, figure, shape } from "./elements.js";
import { freshId } from "./forms.js";
import { measure, number, oneIn, powerOfTen, rate, say, score, score as scoreText } from "./language.js";
import { badge, expectationText, facts, notice, reasonList, section, table } from "./marks.js";

/** The verdict with its reasons. */
export function verdict(body) {
  return element(
    "div",
    { class: `verdict verdict-${body.decision}` },
    element("p.verdict-word", badge("decision", body.decision)),
    element("p", say(`verdict.${body.decision}`)),
    reasonList(body.reasons),
  );
}

/** What became of each of several frames of the live face; null where there was one photograph. */
function frameTable(frames = []) {
  if (frames.length === 0) return null;
  const outcome = ({ is_fused: isFused, problems }) =>
    isFused
      ? say("frames.fused")
      : [say("frames.left"), ...problems.map((reason) => say(`reason.${reason}`))].join(" · ");
  return table("frames.caption", frames, {
    "frames.frame": (frame, place) => figure(number(place + 1)),
    "frames.outcome": outcome,
  });
}

/** Each comparison with its score, its threshold, and on which side of it the score lies. */
function scoreTable(body) {
  const { scores, thresholds } = body;
  const rows = [
    ["score.live_portrait", scores.live_portrait, [["threshold.verify", thresholds.verify]]],
    ["score.holder", scores.holder, [["threshold.same_document", thresholds.same_document]]],
    ["score.best_candidate", scores.best_candidate, searchLimits(thresholds)],
  ];
  return table("score.caption", rows, {
    "score.comparison": ([key]) => say(key),
    "score.value": ([, value]) => figure(score(value)),
    "score.threshold": ([, , limits]) =>
      limits.map(([name, limit]) => element("div", `${say(name)} `, figure(score(limit)))),
    "score.side": ([, value, limits]) => {
      if (value === null) return say("side.none");
      const reached = limits.filter(([, limit]) => value >= limit).at(-1);
      const [side, [name]] = reached ? ["side.above", reached] : ["side.below", limits[0]];
      return say(side, { threshold: say(name) });
    },
  });
}

/** The thresholds that a candidate of a search is held against. */
export function searchLimits({ review, certain }) {
  return [
    ["threshold.review", review],
    ["threshold.certain", certain],
  ];
}

/** What the duplicate search looked at, and what it has to be expected to find by chance. */
function searchPanel(search) {
  if (!search.ran) return notice("warn", say("search.notrun"));
  return facts([
    ["search.searched", number(search.searched)],
    ["search.sequence", number(search.gallery_sequence)],
    ["search.found", number(search.candidates?.length ?? 0)],
    search.expected_false_candidates && [
      "search.expected",
      expectationText(search.expected_false_candidates, rate),
    ],
  ]);
}

/** The photographs' measured quality. */
export function qualityTable(quality) {
  const names = [...new Set(Object.values(quality).flatMap(Object.keys))];
  if (names.length === 0) return null;
  return table("quality.caption", names, {
    "quality.measure": (name) => element("code", { translate: "no" }, name),
    "photograph.live": (name) => measure(quality.live?.[name]),
    "photograph.portrait": (name) => measure(quality.portrait?.[name]),
  });
}

/** What a decision rests on; `curves` and `candidates` stand beside it where they are shown. */
export function evidence(body, curves = null, candidates = null) {
  return [
    section("decision.scores", scoreTable(body), frameTable(body.frames), curves),
    section("decision.search", searchPanel(body.duplicate_search), candidates),
  ];
}

const WIDTH = 520;
const HEIGHT = 290;
const BOX = { left: 46, right: 14, top: 70, bottom: 46 };

/** The false match rate at a score, interpolated in its logarithm; `isBound` beyond the data. */
export function rateAt(curve, score) {
  const { points } = curve;
  const last = points.at(-1);
  if (score > last.score) return { value: curve.fmr_bound, isBound: true };
  let before = { score: -1, fmr: 1 };
  for (const point of points) {
    if (score < point.score) {
      const share = (score - before.score) / (point.score - before.score);
      const power = (1 - share) * Math.log(before.fmr) + share * Math.log(point.fmr);
      return { value: Math.exp(power), isBound: false };
    }
    before = point;
  }
  return { value: last.fmr, isBound: false };
}

/** A figure of one curve: `limits` are pairs of a text's key and a threshold; `score` may be null. */
export function curveFigure(title, curve, limits, score) {
  const marks = limits.map(([key, value]) => [say(key), value]);
  const scale = fitScale(curve);
  const id = freshId("curve");
  const sentence = describe(curve, marks, score);
  return element(
    "figure.curve",
    element("figcaption", element("strong", title), element("span", { id }, sentence)),
    shape(
      "svg",
      {
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        role: "img",
        "aria-label": title,
        "aria-describedby": id,
      },
      shape("rect.curve-unknown", {
        x: scale.x(curve.points.at(-1).score),
        y: BOX.top,
        width: Math.max(scale.x(1) - scale.x(curve.points.at(-1).score), 0),
        height: HEIGHT - BOX.top - BOX.bottom,
      }),
      grid(scale),
      band(curve, scale),
      shape("path.curve-line", { d: lineOf(curve.points, scale, (point) => point.fmr) }),
      marks.map(([name, value], place) =>
        thresholdMark(name, value, placeText(place, marks.length), scale),
      ),
      score !== null && scoreMark(score, scale),
    ),
    legend(score !== null),
  );
}

function describe(curve, marks, score) {
  const limits = marks.map(([name, value]) => `${name} ${scoreText(value)}`).join(", ");
  if (score === null) return say("curve.limits", { limits });
  const { value, isBound } = rateAt(curve, score);
  const strangers = say(isBound ? "curve.bound" : "curve.rate", {
    score: scoreText(score),
    count: oneIn(value),
  });
  return `${strangers} ${say("curve.limits", { limits })}`;
}

function fitScale(curve) {
  const lows = curve.points.map((point) => point.low).filter((low) => low > 0);
  const bottom = Math.floor(Math.log10(Math.min(curve.fmr_bound, ...lows)));
  const left = Math.min(0, curve.points[0].score);
  const x = (value) => BOX.left + ((value - left) / (1 - left)) * (WIDTH - BOX.left - BOX.right);
  const y = (value) => {
    const share = Math.log10(Math.max(value, 10 ** bottom)) / bottom;
    return BOX.top + share * (HEIGHT - BOX.top - BOX.bottom);
  };
  return { x, y, bottom, left };
}

function grid({ x, y, bottom, left }) {
  const decades = Array.from({ length: -bottom + 1 }, (_, place) => -place);
  const scores = Array.from({ length: 6 }, (_, place) => place / 5).filter(
    (value) => value >= left,
  );
  return [
    decades.map((power) => {
      const at = y(10 ** power);
      const line = shape("line.grid", { x1: x(left), x2: x(1), y1: at, y2: at });
      return [line, label(x(left) - 8, at + 4, powerOfTen(power), "end")];
    }),
    scores.map((value) => label(x(value), HEIGHT - BOX.bottom + 26, value.toFixed(1), "middle")),
    label(x(1), HEIGHT - 4, say("curve.score"), "end"),
    label(4, 14, say("curve.axis"), "start"),
  ];
}

function band(curve, scale) {
  const there = lineOf(curve.points, scale, (point) => point.high);
  const back = lineOf([...curve.points].reverse(), scale, (point) => point.low).replace("M", "L");
  return shape("path.curve-band", { d: `${there} ${back} Z` });
}

function lineOf(points, { x, y }, read) {
  return points
    .map(
      (point, place) =>
        `${place ? "L" : "M"}${x(point.score).toFixed(1)} ${y(read(point)).toFixed(1)}`,
    )
    .join(" ");
}

function placeText(place, count) {
  // Two names go to two sides in two rows, or they would run into each other.
  if (count === 1) return { top: BOX.top - 12, anchor: "middle" };
  return place === 0
    ? { top: BOX.top - 28, anchor: "end" }
    : { top: BOX.top - 12, anchor: "start" };
}

function thresholdMark(name, value, { top, anchor }, { x }) {
  return shape(
    "g.mark-threshold",
    shape("line", { x1: x(value), x2: x(value), y1: top + 4, y2: HEIGHT - BOX.bottom }),
    label(x(value), top, `${name} ${scoreText(value)}`, anchor),
  );
}

function scoreMark(value, { x }) {
  const [at, foot] = [x(value), HEIGHT - BOX.bottom];
  const anchor = at > WIDTH * 0.8 ? "end" : "start";
  return shape(
    "g.mark-score",
    shape("line", { x1: at, x2: at, y1: BOX.top, y2: foot }),
    shape("path", { d: `M${at} ${foot} l-6 10 h12 Z` }),
    label(
      at + (anchor === "end" ? -8 : 8),
      BOX.top + 16,
      say("curve.this", { score: scoreText(value) }),
      anchor,
    ),
  );
}

function label(x, y, text, anchor) {
  return shape("text", { x, y, "text-anchor": anchor }, text);
}

function legend(hasScore) {
  const entries = ["line", "band", "unknown", "threshold", ...(hasScore ? ["score"] : [])];
  return element(
    "ul.legend",
    { "aria-hidden": "true" },
    entries.map((name) => element("li", { class: `key-${name}` }, say(`curve.legend.${name}`))),
  );
}
