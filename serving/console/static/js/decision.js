// A decision as people read it: the verdict, why, and the scores beside their thresholds.

import { element, figure } from "./elements.js";
import { measure, number, rate, say, score } from "./language.js";
import { badge, expectationText, facts, notice, reasonList, section, table } from "./marks.js";

/** The verdict with its reasons. */
export function verdict(body) {
  return element(
    "div",
    { class: `verdict verdict-${body.decision}` },
    element("p", { class: "verdict-word" }, badge("decision", body.decision)),
    element("p", {}, say(`verdict.${body.decision}`)),
    reasonList(body.reasons),
  );
}

/** What became of each of several frames of the live face; null where there was one photograph. */
export function frameTable(frames = []) {
  if (frames.length === 0) return null;
  const outcome = ({ is_fused: isFused, problems }) =>
    isFused
      ? say("frames.fused")
      : [say("frames.left"), ...problems.map((reason) => say(`reason.${reason}`))].join(" · ");
  return table(
    "frames.caption",
    ["frames.frame", "frames.outcome"],
    frames.map((frame, place) => [figure(number(place + 1)), outcome(frame)]),
  );
}

/** Each comparison with its score, its threshold, and on which side of it the score lies. */
export function scoreTable(body) {
  const { scores, thresholds } = body;
  const rows = [
    ["score.live_portrait", scores.live_portrait, [["threshold.verify", thresholds.verify]]],
    ["score.holder", scores.holder, [["threshold.same_document", thresholds.same_document]]],
    [
      "score.best_candidate",
      scores.best_candidate,
      [
        ["threshold.review", thresholds.review],
        ["threshold.certain", thresholds.certain],
      ],
    ],
  ];
  return table(
    "score.caption",
    ["score.comparison", "score.value", "score.threshold", "score.side"],
    rows.map(([key, value, limits]) => [
      say(key),
      figure(score(value)),
      limits.map(([name, limit]) => element("div", {}, `${say(name)} `, figure(score(limit)))),
      sideOf(value, limits),
    ]),
  );
}

function sideOf(value, limits) {
  if (value === null) return say("side.none");
  const passed = limits.filter(([, limit]) => value >= limit);
  const reached = passed.at(-1);
  return reached
    ? say("side.above", { threshold: say(reached[0]) })
    : say("side.below", { threshold: say(limits[0][0]) });
}

/** What the duplicate search looked at, and what it has to be expected to find by chance. */
export function searchPanel(search) {
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
  return table(
    "quality.caption",
    ["quality.measure", "photograph.live", "photograph.portrait"],
    names.map((name) => [
      element("code", { translate: "no" }, name),
      measure(quality.live?.[name]),
      measure(quality.portrait?.[name]),
    ]),
  );
}

export function evidence(body) {
  return [
    section("decision.scores", scoreTable(body), frameTable(body.frames)),
    section("decision.search", searchPanel(body.duplicate_search)),
  ];
}
