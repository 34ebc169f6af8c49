// A person as one document names them: masked, with a way to everything under the document.

import { element, figure, link, quoted } from "./elements.js";
import { say, score } from "./language.js";
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
