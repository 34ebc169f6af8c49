// The three languages: texts from `i18n/`, dates and numbers from the browser.

import { element, kept } from "./elements.js";

/** Code to the language's own name; the code names its file. */
export const LANGUAGES = { en: "English", zh: "中文", ko: "한국어" };
const TAGS = { en: "en", zh: "zh-Hans", ko: "ko" };
const KEPT = "sosie.language";
const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

export let language = "en";
let texts = {};

/** The language that was chosen, else the first of the browser's that there is, else English. */
export function preferredLanguage() {
  const asked = [kept(() => localStorage.getItem(KEPT)), ...(navigator.languages ?? [])];
  return (
    asked.map((one) => (one ?? "").slice(0, 2).toLowerCase()).find((one) => one in LANGUAGES) ??
    "en"
  );
}

/** Loads a language and makes it that of the page; keeps the choice where that may be kept. */
export async function chooseLanguage(chosen) {
  const response = await fetch(`/console/i18n/${chosen}.json`, { credentials: "omit" });
  texts = await response.json();
  language = chosen;
  document.documentElement.lang = TAGS[chosen];
  kept(() => localStorage.setItem(KEPT, chosen));
}

/** The text of a key, with `{name}` replaced by the values given. */
export function say(key, values = {}) {
  const text = texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) =>
    name in values ? String(values[name]) : whole,
  );
}

/** The text of a key, or null where there is none. */
export function sayIfKnown(key) {
  return texts[key] ?? null;
}

/** A moment as its reader writes it, or a dash. */
export function moment(text, styles = { dateStyle: "medium", timeStyle: "short" }) {
  if (!text) return element("span", "–");
  const given = new Date(text);
  const shown = new Intl.DateTimeFormat(TAGS[language], styles).format(given);
  return element("time", { datetime: given.toISOString(), translate: "no" }, shown);
}

/** The day of a moment, where the hour says nothing. */
export const day = (text) => moment(text, { dateStyle: "medium" });

export function number(value, options = {}) {
  return new Intl.NumberFormat(TAGS[language], options).format(value);
}

/** A cosine with three digits, or a dash where nothing was compared. */
export function score(value) {
  if (value === null || value === undefined) return "–";
  return number(value, { minimumFractionDigits: 3, maximumFractionDigits: 3 });
}

/** A measure of quality, or a dash where there is none. */
export function measure(value) {
  if (value === undefined) return "–";
  const digits = { maximumSignificantDigits: 3, maximumFractionDigits: 3 };
  return number(value, { ...digits, roundingPriority: "lessPrecision" });
}

/** A count that may be a fraction, or far below one, with two digits that count. */
export function rate(value) {
  if (value === 0 || value >= 0.001) return number(value, { maximumSignificantDigits: 2 });
  const power = Math.floor(Math.log10(value));
  return `${number(value / 10 ** power, { maximumSignificantDigits: 2 })}×${powerOfTen(power)}`;
}

/** Ten to a power that is no more than 0, as an axis names it. */
export function powerOfTen(power) {
  if (power === 0) return "1";
  return `10⁻${[...String(-power)].map((digit) => SUPERSCRIPTS[Number(digit)]).join("")}`;
}

/** A small share as one in so many. */
export function oneIn(value) {
  return number(1 / value, { maximumSignificantDigits: 2 });
}

export function share(value) {
  return number(value, { style: "percent", maximumFractionDigits: 1 });
}

/** A precision with its 95 % interval. */
export function intervalText({ precision, low, high }) {
  const [value, from, to] = [precision, low, high].map((one) => share(one));
  return say("precision.interval", { value, low: from, high: to });
}

/** Seconds as seconds, minutes or hours, whichever is read most easily. */
export function duration(given) {
  const seconds = Math.max(given, 1);
  const [value, unit] =
    seconds < 90
      ? [seconds, "second"]
      : seconds < 5400
        ? [seconds / 60, "minute"]
        : [seconds / 3600, "hour"];
  return number(value, {
    style: "unit",
    unit,
    unitDisplay: "long",
    maximumFractionDigits: value < 10 ? 1 : 0,
  });
}

export function bytes(value) {
  const [size, unit] =
    value < 2 ** 30 ? [Math.max(value / 2 ** 20, 0.1), "megabyte"] : [value / 2 ** 30, "gigabyte"];
  return number(size, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: 1 });
}
