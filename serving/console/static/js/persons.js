// A person as one document names them: masked, with a way to everything under the document.

import { element, figure, link, quoted } from "./elements.js";
import { number as count, say, score } from "./language.js";
import { badge, maskedNumber, word } from "./marks.js";

/** The heading of a person: the masked name as written, the document, how alike the face is. */
export function personHead(one, level) {
  const name = quoted(one.name || say("document.nameless"), { dir: "auto" });
  const isPage = level === "h1";
  return element(
    "header",
    { class: "person-head" },
    element(level, {}, isPage ? name : link(["documents", one.document_id], name)),
    element("span", {}, word("document", one.document_type), " ", maskedNumber(one.number)),
    badge("docstate", one.document_status),
    one.score !== null &&
      one.score !== undefined &&
      figure(`${say("score.value")} ${score(one.score)}`),
  );
}

/** Whom a case is about, masked: what tells it from the next; `total` documents are in it. */
export function aboutPeople(people, total) {
  const named = people.map(({ name, number }) => [
    name && quoted(name),
    name && number && " ",
    number && maskedNumber(number),
  ]);
  const shown = named.filter((parts) => parts.some(Boolean));
  const more = total - people.length;
  if (shown.length === 0) return [];
  return [
    shown.map((parts, place) => [place > 0 && " · ", parts]),
    more > 0 && ` ${say("case.more", { count: count(more) })}`,
  ];
}

/** The same as a text. */
export function peopleText(people) {
  const texts = people.map(({ name, number }) => `${name} ${number.replace(/^•+/, "••••")}`.trim());
  return texts.filter(Boolean).join(" · ");
}
