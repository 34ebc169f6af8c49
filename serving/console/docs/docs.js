// Shows /openapi.json: operations by tag, with lines that call them, then the types. Text never
// becomes markup, and a key is kept nowhere but in its field.

import { element } from "/console/js/elements.js";

const JSON_TYPE = "application/json";
const SANDBOX_KEY = "sosie_sandbox_";
const BEARER = "Bearer $SOSIE_KEY";
const { origin: baseUrl } = location;
const PYTHON = { true: "True", false: "False", null: "None",
  [`"${BEARER}"`]: '"Bearer " + os.environ["SOSIE_KEY"]' };

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
  if ((schema.default ?? null) !== null) own.push(`default ${JSON.stringify(schema.default)}`);
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

function example(caption, text) {
  return element("figure",
    element("figcaption", caption),
    element("pre", { tabindex: "0", role: "group", "aria-label": caption }, text));
}

const pretty = (value, indent = 2) => JSON.stringify(value, null, indent);
const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (value) => pretty(value, 4).replaceAll("\n", "\n    ")
  .replace(/"(?:[^"\\]|\\.)*"|true|false|null/g, (one) => PYTHON[one] ?? one);
const script = (value) => pretty(value).replace(`"${BEARER}"`, "`Bearer ${process.env.SOSIE_KEY}`");

/** Lines that make a call, by their language; the key is in the environment. */
const WRITERS = {
  curl: ({ method, url, headers, body }) => [
    `curl -sSg -X ${method} ${quote(url)}`,
    ...Object.entries(headers).map(([name, value]) =>
      `-H ${value === BEARER ? `"${name}: ${BEARER}"` : quote(`${name}: ${value}`)}`),
    ...(body ? [`-d ${quote(pretty(body))}`] : []),
  ].join(" \\\n  "),
  Python: ({ method, url, headers, body }) => `import os\n\nimport httpx\n
answer = httpx.request(
    "${method}",
    ${pretty(url)},
    headers=${python(headers)},${body ? `\n    json=${python(body)},` : ""}
)
print(answer.status_code, answer.text)`,
  TypeScript: ({ method, path, headers: { Authorization }, params, body }) =>
    `import createClient from "openapi-fetch";\nimport type { paths } from "./schema.js";\n
const client = createClient<paths>(${script({ baseUrl, headers: { Authorization } })});
const { data, error } = await client.${method}("${path}", ${script({ params, body })});
console.log(data ?? error);`,
};

/** A parameter as its field has it: numbers as such, and a list of the one that is given. */
function readValue(schema, text) {
  if (schema.type === "array") return [text];
  const isText = [schema, ...(schema.anyOf || [])].some((one) => one.type === "string");
  return isText || Number.isNaN(Number(text)) ? text : Number(text);
}

function readCall(path, method, operation, fields, text) {
  const params = {};
  for (const [{ in: place, name, schema }, { value }] of fields) {
    if (value) (params[place] ??= {})[name] = readValue(schema, value);
  }
  const filled = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(params.path?.[name] ?? name));
  const query = new URLSearchParams(params.query).toString();
  const headers = { ...params.header };
  if (operation.security) headers.Authorization = BEARER;
  if (text) headers["Content-Type"] = JSON_TYPE;
  return { path, params, headers, method: method.toUpperCase(),
    url: baseUrl + filled + (query && `?${query}`), body: text && JSON.parse(text) };
}

/** What the service answers to a call, with the key that the page was given. */
async function send({ method, url, headers, body }) {
  const key = document.getElementById("key").value.trim();
  if (headers.Authorization) {
    if (!key.startsWith(SANDBOX_KEY)) return `Give a key above that begins with ${SANDBOX_KEY}.`;
    headers.Authorization = `Bearer ${key}`;
  }
  const sent = { method, headers, body: body && JSON.stringify(body), credentials: "omit" };
  const response = await fetch(url, sent);
  const isJson = response.headers.get("content-type")?.includes("json");
  const answer = isJson ? pretty(await response.json()) : await response.text();
  return example(`Answer: ${response.status}`, answer);
}

/** Fields of a call, and what is made of them: lines of code, and the call itself in a sandbox. */
function callForm(path, method, operation, { components, isSandbox }) {
  const fresh = crypto.getRandomValues(new Uint32Array(4)).join("-");
  const fields = (operation.parameters || [])
    .filter((one) => one.in !== "header" || one.required)
    .map((one) => [one, element("input", { required: one.required, autocomplete: "off",
      value: one.name === "Idempotency-Key" ? fresh : one.schema.examples?.[0] })]);
  const schema = operation.requestBody && schemaOf(operation.requestBody.content);
  const body = schema && element("textarea", { rows: 8, spellcheck: "false" },
    pretty(components.schemas[nameOf(schema.$ref)].examples[0]));
  const lines = element("div.lines");
  const answer = element("output");
  const read = () => readCall(path, method, operation, fields, body?.value);
  const draw = () => {
    try {
      lines.replaceChildren(...Object.entries(WRITERS).map(([name, write]) => example(name, write(read()))));
      body?.setCustomValidity("");
    } catch (fault) {
      body.setCustomValidity(fault.message);
    }
  };
  const onsubmit = (event) => {
    event.preventDefault();
    send(read()).catch(({ message }) => message).then((shown) => answer.replaceChildren(shown));
  };
  draw();
  return element("form", { oninput: draw, onsubmit },
    fields.map(([{ name }, input]) => element("label", name, input)),
    body && element("label", "Body", body),
    isSandbox && element("button", "Try it"), answer, lines);
}

function schemaOf(content) {
  const kinds = Object.keys(content || {});
  return kinds.length ? content[kinds.includes(JSON_TYPE) ? JSON_TYPE : kinds[0]].schema : null;
}

function operationSection(path, method, operation, api) {
  const headers = api.components.headers || {};
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
    table("Answers", ["status", "type", "", "headers"], answers),
    callForm(path, method, operation, api)));
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
      ...(schema.examples || []).map((one, place) => example(`Example ${place + 1}`, pretty(one)))));
}

function section(id, title, text, items) {
  return element("section", { id, "aria-labelledby": `${id}-title` },
    element("h2", { id: `${id}-title` }, title), ...paragraphs(text), ...items);
}

function show(api) {
  const byTag = new Map(api.tags.map((tag) => [tag.name, []]));
  for (const [path, item] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      byTag.get(operation.tags[0]).push(operationSection(path, method, operation, api));
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
  const isSandbox = response.headers.has("sosie-sandbox");
  document.getElementById(isSandbox ? "tried" : "untried").hidden = false;
  show({ ...(await response.json()), isSandbox });
  document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value));
  window.addEventListener("hashchange", openTarget);
  openTarget();
}

start().catch((error) => {
  document.getElementById("loading").textContent = `The document cannot be shown (${error.message}).`;
});
