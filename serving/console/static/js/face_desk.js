// Faces side by side: two photographs in one frame each, at a size at which people can judge.

import { get, post } from "./api.js";
import { element, figure, hint, plainButton, replace } from "./elements.js";
import { attempt as tryWork, choiceField, faultBox, freshId } from "./forms.js";
import { measure, moment, number, oneIn, say, sayIfKnown, score as scoreText, share } from "./language.js";
import { idLink, notice, section, table } from "./marks.js";
import { curveFigure, searchLimits } from "./scores.js";

/** So many documents are asked for at once. */
const AT_ONCE = 8;
/** Aligned faces have their parts in the same places: how much larger, and around which point. */
const PARTS = {
  whole: [1, 50, 50],
  eyes: [2, 50, 44],
  nose: [2, 50, 66],
  mouth: [2, 50, 90],
};
const ZOOMS = [1, 1.5, 2, 3];
const BLINK_MS = 700;
/** Of more pairs of strangers than this it is said in per cent. */
const COMMON = 0.1;

/** The section of the faces of these documents; of many, the first few and a way to the next.
 *
 * `names` numbers documents as the page does. `own` are subjects that the page brings itself, and
 * `ownLikenesses` how alike they are; `onFace(documentId, url)` is told of each face that is shown.
 * Gives its `node`, and `keys` to be bound.
 */
export async function faceSection(page, documentIds, options = {}) {
  const ids = [...new Set(documentIds)];
  try {
    const [found, limits] = await Promise.all([
      ids.length ? readFaces(ids.slice(0, AT_ONCE)) : NOBODY,
      get(["thresholds"]),
    ]);
    return faceDesk(page, found, { ...options, limits, rest: ids.slice(AT_ONCE) });
  } catch (fault) {
    // The rest of the page is of use without a face.
    if (page.signal.aborted || fault.status === 401) throw fault;
    return { node: section("face.title", faultBox(fault)), keys: {} };
  }
}

/** A picture of each document of which a face is kept, and whether it is of its reference; its address
 * lasts as the page does. */
export async function smallFaces(page, documentIds) {
  const { subjects } = await readFaces(documentIds.slice(0, AT_ONCE));
  const found = new Map();
  for (const { document_id: id, is_reference: isReference, photographs } of subjects) {
    if (page.signal.aborted || found.has(id) || photographs.length === 0) continue;
    const url = addressOf(photographs[0].image);
    page.signal.addEventListener("abort", () => URL.revokeObjectURL(url));
    found.set(id, { url, isReference });
  }
  return found;
}

const readFaces = (documentIds) => post(["faces", "query"], { document_ids: documentIds });

const NOBODY = { subjects: [], likenesses: [] };

function faceDesk(page, found, { names, own = [], ownLikenesses = [], onFace = null, limits, rest }) {
  const desk = {
    page,
    limits,
    onFace,
    names: new Map(names),
    faces: [],
    likenesses: [...ownLikenesses],
    asked: new Set(),
    rest: [...rest],
    part: "whole",
    zoom: 0,
    isFlipped: false,
    timer: null,
    node: element("div.face-desk"),
    faults: element("div.faults"),
  };
  page.signal.addEventListener("abort", () => leave(desk));
  take(desk, own, []);
  const brought = new Set(own.map((one) => one.subject_id));
  const others = found.subjects.filter((one) => !brought.has(one.subject_id));
  take(desk, others, found.likenesses);
  if (desk.faces.length) {
    choosePair(desk);
    draw(desk);
  }
  return {
    node: section("face.title", desk.faces.length ? desk.node : notice("info", say("face.nobody"))),
    keys: desk.faces.length < 2 ? {} : keysOf(desk),
  };
}

/** Adds subjects: an entry for each photograph, or one that says that none is kept. */
function take(desk, subjects, likenesses) {
  for (const subject of subjects) {
    const shown = subject.photographs.length ? subject.photographs : [null];
    for (const photograph of shown) {
      const url = photograph && (photograph.url ?? addressOf(photograph.image));
      desk.faces.push({ key: freshId("face"), subject, photograph, url });
      if (url && subject.is_reference) desk.onFace?.(subject.document_id, url);
    }
  }
  desk.likenesses.push(...likenesses);
}

function addressOf(base64) {
  const type = base64.startsWith("iVBOR") ? "image/png" : "image/jpeg";
  const bytes = Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type }));
}

function leave(desk) {
  clearInterval(desk.timer);
  desk.faces.forEach(({ url }) => url && URL.revokeObjectURL(url));
  replace(desk.node);
}

/** The suspect on the left: an attempt, where there is one; on the right who is most like it. */
function choosePair(desk) {
  const { faces } = desk;
  const seen = faces.filter((one) => one.url);
  const pool = seen.length ? seen : faces;
  desk.left = pool.find((one) => !one.subject.is_reference) ?? pool[0] ?? null;
  const others = pool.filter((one) => one.subject !== desk.left?.subject);
  const closeness = (one) => likenessOf(desk, desk.left, one)?.score ?? -1;
  const closer = (best, one) => (closeness(one) > closeness(best) ? one : best);
  const closest = others.reduce(closer, others[0]);
  desk.right = closest ?? pool.find((one) => one !== desk.left) ?? desk.left;
}

function likenessOf(desk, one, other) {
  // What the page brings itself is compared with a document, by whomever its reference was made.
  const named = (face) =>
    face.subject.is_reference
      ? [face.subject.subject_id, face.subject.document_id]
      : [face.subject.subject_id];
  const [ones, others] = [named(one), named(other)];
  return desk.likenesses.find(
    ({ left, right }) =>
      (ones.includes(left) && others.includes(right)) ||
      (ones.includes(right) && others.includes(left)),
  );
}

/** Both were asked for, but not together: their likeness is not known yet. */
async function askTogether(desk) {
  const pair = [desk.left, desk.right].map((one) => one.subject.document_id);
  const name = [...pair].sort().join(" ");
  if (pair[0] === pair[1] || pair.includes(null) || desk.asked.has(name)) return;
  if (likenessOf(desk, desk.left, desk.right)) return;
  desk.asked.add(name);
  const found = await readFaces(pair);
  if (desk.page.signal.aborted) return;
  desk.likenesses.push(...found.likenesses);
  draw(desk);
}

function draw(desk) {
  const focused = document.activeElement?.dataset?.face;
  const isOpen = desk.node.querySelector("details")?.open ?? false;
  const isSeen = desk.faces.some((one) => one.url);
  replace(
    desk.node,
    !isSeen && hint(say("face.nonekept")),
    strip(desk),
    element(
      "div.face-sides",
      ["left", "right"].map((name) => side(desk, name, isSeen)),
    ),
    likenessText(desk),
    isSeen && toolbar(desk),
    desk.faults,
    isSeen && about(desk, isOpen),
    moreButton(desk),
  );
  desk.node.querySelector(`[data-face="${focused}"]`)?.focus();
  if (desk.page.signal.aborted === false && desk.left && desk.right)
    tryWork(desk.page, desk.faults, desk.faults, () => askTogether(desk));
}

function labelOf(desk, { subject, photograph }) {
  const name = numberOf(desk, subject);
  const kind = subject.kind ?? (subject.is_reference ? "reference" : "attempt");
  return [
    name,
    say(`face.${photograph && kind === "reference" && !subject.enrollment_id ? "imported" : kind}`),
    subject.decision && sayIfKnown(`decision.${subject.decision}`),
    photograph ? say(`photograph.${photograph.photograph}`) : say("crops.missing"),
  ]
    .filter(Boolean)
    .join(" · ");
}

/** The number that the page gives a document, else that of its place here. */
function numberOf({ names }, { document_id: id }) {
  if (id && !names.has(id)) names.set(id, number(names.size + 1));
  return names.get(id);
}

/** A frame with the face that was chosen for this side, and the choice. */
function side(desk, name, isSeen) {
  const face = desk[name];
  const other = desk[name === "left" ? "right" : "left"];
  const options = desk.faces.map((one) => [one.key, labelOf(desk, one)]);
  const choice = choiceField(
    `face.${name}`,
    {
      "data-face": name,
      onchange: drawing(desk, ({ target }) => {
        desk[name] = desk.faces.find((one) => one.key === target.value);
      }),
    },
    options,
    face.key,
  );
  const frame = element("div.face-frame", picture(desk, face));
  // Blinking shows the other one in the same place.
  if (name === "left" && face.url && other.url) {
    const over = picture(desk, other);
    over.hidden = true;
    over.classList.add("face-over");
    frame.append(over);
  }
  // When it was taken, or came in where nobody told.
  const taken = takenAt(face);
  const at = face.url && (taken ?? face.subject.received_at);
  const date = at && hint(`${say(taken ? "face.captured" : "face.received")} `, moment(at));
  return element("figure.face-side", isSeen && frame, element("figcaption", choice, date));
}

function picture(desk, face) {
  if (!face.url) {
    return element("span.face-missing", element("span", say("face.none")));
  }
  const label = labelOf(desk, face);
  const image = element("img", {
    src: face.url,
    width: 112,
    height: 112,
    alt: say("crops.alt", { label }),
  });
  const [enlarged, x, y] = PARTS[desk.part];
  const size = enlarged * ZOOMS[desk.zoom];
  image.style.transformOrigin = `${x}% ${y}%`;
  image.style.transform = `scale(${desk.isFlipped ? -size : size}, ${size})`;
  return image;
}

/** What the score means, and what it does not. */
function likenessText(desk) {
  const { left, right } = desk;
  const isOne = left.subject === right.subject;
  const found = isOne ? null : likenessOf(desk, left, right);
  const own = isOne && left !== right ? left.subject.own_score : null;
  if (own !== null && own !== undefined)
    return element("p.face-score", figure(scoreText(own)), ` ${say("score.live_portrait")}`);
  const near = isOne ? null : (found ?? byReference(desk));
  if (!near) return hint(say(isOne ? "face.sameone" : "face.notcompared"));
  return element(
    "div.face-score",
    !found && hint(say("face.byreference")),
    element("p", figure(scoreText(near.score)), " ", strangersText(near.strangers)),
    hint(say("face.meaning")),
  );
}

/** Of two that were not compared: how alike one is to the reference of the other's document. */
function byReference(desk) {
  const { left, right } = desk;
  const referenceOf = ({ subject }) =>
    desk.faces.find(
      (one) => one.subject.is_reference && one.subject.document_id === subject.document_id,
    );
  const pairs = [
    [left, referenceOf(right)],
    [right, referenceOf(left)],
  ];
  return pairs
    .filter(([one, reference]) => reference && reference.subject !== one.subject)
    .map(([one, reference]) => likenessOf(desk, one, reference))
    .find(Boolean);
}

/** How many pairs of strangers score as high: measured, or at most. */
function strangersText(strangers) {
  if (!strangers) return say("curve.none");
  const { value, low, high, is_bound: isBound } = strangers;
  if (isBound) return say("face.strangers.bound", { count: oneIn(value) });
  if (value > COMMON) return say("face.strangers.common", { share: share(value) });
  const text = say("face.strangers", { count: oneIn(value) });
  if (!low || !high) return text;
  return `${text} ${say("face.strangers.interval", { few: oneIn(high), many: oneIn(low) })}`;
}

function toolbar(desk) {
  const button = (name, run, isOn = null) => {
    const node = plainButton(say(`face.${name}`), run, "button");
    node.dataset.face = name;
    if (isOn !== null) node.setAttribute("aria-pressed", String(isOn));
    return node;
  };
  const parts = choiceField(
    "face.part",
    {
      "data-face": "part",
      onchange: drawing(desk, ({ target }) => (desk.part = target.value)),
    },
    Object.keys(PARTS).map((one) => [one, say(`face.part.${one}`)]),
    desk.part,
  );
  const { blink, swap, flip, zoom } = stepsOf(desk);
  return element(
    "div.face-tools",
    { role: "group", "aria-label": say("face.tools") },
    button("swap", swap),
    button("blink", blink, desk.timer !== null),
    button("flip", flip, desk.isFlipped),
    button("zoom", zoom),
    element("span.hint", { role: "status" }, `× ${number(ZOOMS[desk.zoom])}`),
    parts,
  );
}

function stepsOf(desk) {
  const over = () => desk.node.querySelector(".face-over");
  const turn = () => over()?.toggleAttribute("hidden");
  const stop = () => {
    clearInterval(desk.timer);
    desk.timer = null;
    over()?.setAttribute("hidden", "");
  };
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  return {
    // Without motion each press shows the other one.
    blink: () => {
      if (isStill) return turn();
      if (desk.timer !== null) stop();
      else desk.timer = setInterval(turn, BLINK_MS);
      const button = desk.node.querySelector("[data-face=blink]");
      return button?.setAttribute("aria-pressed", String(desk.timer !== null));
    },
    swap: drawing(desk, () => ([desk.left, desk.right] = [desk.right, desk.left])),
    flip: drawing(desk, () => (desk.isFlipped = !desk.isFlipped)),
    zoom: drawing(desk, () => (desk.zoom = (desk.zoom + 1) % ZOOMS.length)),
    move: drawing(desk, (step) => {
      const place = desk.faces.indexOf(desk.right) + step;
      desk.right = desk.faces.at(place % desk.faces.length);
    }),
  };
}

/** A change of what is shown, which is drawn then. */
function drawing(desk, change) {
  return (given) => {
    change(given);
    draw(desk);
  };
}

function keysOf(desk) {
  const { blink, swap, flip, zoom, move } = stepsOf(desk);
  return { b: blink, s: swap, f: flip, z: zoom, l: () => move(1), h: () => move(-1) };
}

/** Whose photographs they are, when and how good: one side beside the other. */
function about(desk, isOpen) {
  const { left, right } = desk;
  const measures = ({ photograph }) => photograph?.quality ?? {};
  const names = [...new Set([left, right].flatMap((one) => Object.keys(measures(one))))];
  const rows = [
    [say("document.title"), ({ subject }) => idLink("documents", subject.document_id)],
    [say("enrollment.id"), ({ subject }) => idLink("enrollments", subject.enrollment_id)],
    [say("face.captured"), (one) => moment(takenAt(one))],
    [say("face.received"), ({ subject }) => moment(subject.received_at)],
    [say("crops.until"), ({ subject }) => moment(subject.kept_until)],
    ...names.map((name) => [
      [`${say("face.quality")}: `, element("code", { translate: "no" }, name)],
      (one) => measure(measures(one)[name]),
    ]),
  ];
  const compared = table("face.about", rows, {
    "face.what": ([what]) => what,
    "face.left": ([, read]) => read(left),
    "face.right": ([, read]) => read(right),
  });
  return element(
    "details.block",
    { open: isOpen },
    element("summary", say("face.about")),
    compared,
    curveOf(desk),
  );
}

/** Where the score lies on the curve of strangers, where there is a score and a curve. */
function curveOf(desk) {
  const { thresholds, calibration } = desk.limits;
  const found = likenessOf(desk, desk.left, desk.right) ?? byReference(desk);
  const curve = calibration?.curves.find((one) => one.comparison === "fused");
  if (!curve || !found || desk.left.subject === desk.right.subject) return null;
  const limits = searchLimits(thresholds);
  return curveFigure(say("curve.identification"), curve, limits, found.score);
}

/** Of a portrait nobody says when it was taken. */
function takenAt({ subject, photograph }) {
  return photograph?.photograph === "live" ? subject.captured_at : null;
}

/** A small picture of each subject, to be put on the right. */
function strip(desk) {
  const first = new Map();
  for (const face of desk.faces) {
    if (face.url && !first.has(face.subject)) first.set(face.subject, face);
  }
  if (first.size < 3) return null;
  return element(
    "ul.face-strip",
    { "aria-label": say("face.strip") },
    [...first.values()].map((face) =>
      element(
        "li",
        element(
          "button",
          {
            type: "button",
            "data-face": face.key,
            "aria-label": labelOf(desk, face),
            "aria-pressed": String(face.subject === desk.right.subject),
            onclick: drawing(desk, () => (desk.right = face)),
          },
          element("img", { src: face.url, alt: "", width: 56, height: 56 }),
          element("span", { "aria-hidden": "true" }, numberOf(desk, face.subject)),
        ),
      ),
    ),
  );
}

function moreButton(desk) {
  if (desk.rest.length === 0) return null;
  const [some, all] = [Math.min(AT_ONCE, desk.rest.length), desk.rest.length];
  const run = () =>
    tryWork(desk.page, desk.node, desk.faults, async () => {
      const found = await readFaces(desk.rest.slice(0, AT_ONCE));
      if (desk.page.signal.aborted) return;
      desk.rest = desk.rest.slice(AT_ONCE);
      take(desk, found.subjects, found.likenesses);
      draw(desk);
    });
  const label = say("face.more", { count: number(some), left: number(all) });
  const button = plainButton(label, run, "button");
  button.dataset.face = "more";
  return element("p.actions", button);
}
