// Shows /openapi.json: operations by tag, then the types. Text never becomes markup.

import { element } from "/console/js/elements.js";

const JSON_TYPE = "application/json";

/** The Markdown that descriptions have: code among text, in paragraphs. */
function inline(text) {
  return text.split("`").map((part, place) => (place % 2 ? element("code", part) : part));
}

function paragraphs(text) {
  return (text || "").split(/\n\s*\n/).filter(Boolean).map((one) => element("p", inline(one)));
}

const nameOf = (reference) => reference.split("/").pop();
const typeLink = (name) => element("a", { href: `#type-${name}` }, name);

/** What a schema takes, in words and links. */
function kindOf(schema) {
  if (schema.$ref) return [typeLink(nameOf(schema.$ref))];
  if (schema.anyOf) {
    return schema.anyOf.flatMap((one, place) => (place ? [" or ", ...kindOf(one)] : kindOf(one)));
  }
  if (schema.type === "array") return ["list of ", ...kindOf(schema.items || {})];
  if (schema.type === "object" && typeof schema.additionalProperties === "object") {
    return ["object of ", ...kindOf(schema.additionalProperties)];
  }
  if (schema.enum) return [schema.enum.map((one) => JSON.stringify(one)).join(", ")];
  return [[schema.type || "anything", schema.format].filter(Boolean).join(", ")];
}

/** Its bounds, as they stand in the document. */
function boundsOf(schema) {
  const names = ["minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minItems", "maxItems", "pattern"];
  const own = names.filter((name) => name in schema).map((name) => `${name} ${schema[name]}`);
  const inner = (schema.anyOf || []).map(boundsOf).filter(Boolean);
  if (schema.default !== undefined && schema.default !== null) {
    own.push(`default ${JSON.stringify(schema.default)}`);
  }
  return [...own, ...inner].join(", ");
}

function describe(schema) {
  const inner = (schema.anyOf || []).map((one) => one.description).filter(Boolean);
  return [schema.description, ...inner, boundsOf(schema)].filter(Boolean).join("; ");
}

function table(caption, columns, rows) {
  if (!rows.length) return null;
  return element("table",
    element("caption", caption),
    element("thead", element("tr", ...columns.map((one) => element("th", { scope: "col" }, one)))),
    element("tbody", ...rows.map(([first, ...rest]) => element("tr",
      element("th", { scope: "row" }, first),
      ...rest.map((cell) => element("td", ...[].concat(cell)))))));
}

function example(caption, value) {
  if (value === undefined) return null;
  return element("figure",
    element("figcaption", caption),
    element("pre", { tabindex: "0", role: "group", "aria-label": caption }, JSON.stringify(value, null, 2)));
}

function schemaOf(content) {
  const kinds = Object.keys(content || {});
  return kinds.length ? content[kinds.includes(JSON_TYPE) ? JSON_TYPE : kinds[0]].schema : null;
}

function operationSection(path, method, operation, headers) {
  const parameters = (operation.parameters || []).map((one) => [
    one.name, one.in, one.required ? "required" : "optional", kindOf(one.schema),
    inline([one.description, boundsOf(one.schema)].filter(Boolean).join("; "))]);
  const body = operation.requestBody && schemaOf(operation.requestBody.content);
  const answers = Object.entries(operation.responses).map(([status, one]) => {
    const schema = schemaOf(one.content);
    const sent = Object.keys(one.headers || {}).filter((name) => name in headers);
    return [status, schema ? kindOf(schema) : "", inline(one.description), sent.join(", ")];
  });
  return element("details", { id: operation.operationId, "data-words":
    `${method} ${path} ${operation.operationId} ${operation.summary} ${operation.tags}` },
  element("summary",
    element("span.method", method.toUpperCase()),
    element("span.path", path),
    element("span.what", operation.summary)),
  element("div.body",
    ...paragraphs(operation.description),
    element("p", `Operation ${operation.operationId}. `,
      operation.security ? "Needs a key." : "Needs no key."),
    table("Parameters", ["name", "in", "", "type", ""], parameters),
    body ? element("p", "Body: ", ...kindOf(body),
      ` as ${Object.keys(operation.requestBody.content).join(", ")}.`) : null,
    table("Answers", ["status", "type", "", "headers"], answers)));
}

function typeSection(name, schema) {
  const required = new Set(schema.required || []);
  const rows = Object.entries(schema.properties || {}).map(([field, one]) => [
    field, kindOf(one), required.has(field) ? "required" : "optional", inline(describe(one))]);
  return element("details", { id: `type-${name}`, "data-words": `${name} ${schema.description || ""}` },
    element("summary", element("span.path", name),
      element("span.what", inline((schema.description || "").split("\n")[0]))),
    element("div.body",
      ...paragraphs(schema.description),
      table("Fields", ["name", "type", "", ""], rows),
      ...(schema.examples || []).map((one, place) => example(`Example ${place + 1}`, one))));
}

function section(id, title, text, items) {
  return element("section", { id, "aria-labelledby": `${id}-title` },
    element("h2", { id: `${id}-title` }, title), ...paragraphs(text), ...items);
}

function show(api) {
  const headers = api.components.headers || {};
  const byTag = new Map(api.tags.map((tag) => [tag.name, []]));
  for (const [path, item] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      byTag.get(operation.tags[0]).push(operationSection(path, method, operation, headers));
    }
  }
  const types = Object.entries(api.components.schemas).sort(([a], [b]) => a.localeCompare(b))
    .map(([name, schema]) => typeSection(name, schema));
  const sections = [
    ...api.tags.map((tag) =>
      section(`tag-${tag.name}`, tag.name, tag.description, byTag.get(tag.name))),
    section("types", "types", "What bodies and answers are made of.", types)];
  document.getElementById("version").textContent = api.info.version;
  document.getElementById("about").replaceChildren(...inline(api.info.description));
  document.getElementById("main").replaceChildren(...sections);
  document.getElementById("contents").replaceChildren(element("ul", ...sections.map((one) =>
    element("li", element("a", { href: `#${one.id}` }, one.firstChild.textContent)))));
}

/** Hides what none of the words is in. */
function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const items = [...document.querySelectorAll("main details")];
  for (const item of items) {
    const own = item.dataset.words.toLowerCase();
    item.hidden = !words.every((word) => own.includes(word));
  }
  for (const one of document.querySelectorAll("main > section")) {
    one.hidden = !one.querySelector("details:not([hidden])");
  }
  const left = items.filter((item) => !item.hidden).length;
  document.getElementById("count").textContent = words.length ? `${left} of ${items.length}` : "";
}

/** Opens what the address names. */
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  target.hidden = false;
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView();
}

async function start() {
  const response = await fetch("/openapi.json", { headers: { Accept: JSON_TYPE } });
  if (!response.ok) throw new Error(`/openapi.json: ${response.status}`);
  show(await response.json());
  document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value));
  window.addEventListener("hashchange", openTarget);
  openTarget();
}

start().catch((error) => {
  document.getElementById("loading").textContent = `The document cannot be shown (${error.message}).`;
});
