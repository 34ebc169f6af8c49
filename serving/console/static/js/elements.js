// Nodes are made here and nowhere else: what is given as a child is text or a node, never markup; and
// the views by role, with their addresses, which links lead to.

const DRAWING = "http://www.w3.org/2000/svg";

/** An HTML element by its name and classes, as `p.hint`: attributes, where there are any, before its
 * children. `on…` are listeners, `true` is an attribute without a value, null leaves out. */
export function element(name, ...rest) {
  return build((tag) => document.createElement(tag), name, rest);
}

/** The same for a shape of SVG. */
export function shape(name, ...rest) {
  return build((tag) => document.createElementNS(DRAWING, tag), name, rest);
}

/** Adds these children to a node. */
export function add(node, ...children) {
  node.append(...settle(children));
  return node;
}

/** Puts these children in place of those that a node has. */
export function replace(node, ...children) {
  node.replaceChildren(...settle(children));
  return node;
}

/** A button that sends nothing. */
export function plainButton(label, onclick, kind = "button") {
  return element("button", { type: "button", class: kind, onclick }, label);
}

export function hint(...children) {
  return element("p.hint", children);
}

/** A number, under others of its kind. */
export function figure(text) {
  return element("span.figure", text);
}

/** A link to a view and its arguments. */
export function link(place, ...children) {
  return element("a", { href: placeOf(...place) }, children);
}

/** Text that people wrote, or an id: kept apart from the direction and language around it. */
export function quoted(text, given) {
  return element("bdi", { translate: "no", ...given }, text ?? "");
}

/** An id as it is. */
export function wholeId(id) {
  return quoted(id, { class: "id whole" });
}

/** An id as people read it: its last eight characters, the whole of it on demand. */
export function shortId(id) {
  return element("span.id", { translate: "no", title: id }, id.slice(-8));
}

/** The values of these names, those alone that are given. */
export function pick(values, names) {
  return Object.fromEntries(
    names.filter((name) => values[name]).map((name) => [name, values[name]]),
  );
}

/** What the browser keeps for us, null where it keeps nothing: then it holds for this page alone. */
export function kept(work) {
  try {
    return work();
  } catch {
    return null;
  }
}

function build(make, name, rest) {
  const [tag, ...classes] = name.split(".");
  const node = make(tag);
  node.classList.add(...classes);
  const [given, ...children] = rest[0]?.constructor === Object ? rest : [{}, ...rest];
  for (const [key, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  return add(node, ...children);
}

function settle(children) {
  return children
    .flat(Infinity)
    .filter((one) => one !== null && one !== undefined && one !== false);
}

/** The views in each role's navigation; the first is where its owner begins. */
export const PLACES = {
  outlet: ["enroll", "lines", "enrollments"],
  carrier: ["enroll", "lines", "enrollments"],
  fraud: ["cases", "sweeps", "search", "enrollments", "lines"],
  operator: ["audit", "enrollments"],
};

/** Views that no navigation names: the one that they belong to. */
export const PARENTS = {
  case: "cases",
  outlets: "cases",
  sweep: "sweeps",
  group: "sweeps",
  precision: "sweeps",
  documents: "search",
};

/** Where a link to a view leads; an object as the last step is its query. */
export function placeOf(view, ...steps) {
  const query = typeof steps.at(-1) === "object" ? steps.pop() : {};
  const given = Object.entries(query).filter(([, value]) => value);
  const path = `#/${[view, ...steps].map(encodeURIComponent).join("/")}`;
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** The view and its arguments that an address names. */
export function readPlace(hash) {
  try {
    const [path] = hash.replace(/^#\/?/, "").split("?");
    return path.split("/").map(decodeURIComponent);
  } catch {
    return [""];
  }
}

/** The query that an address ends with. */
export function readQuery(hash) {
  const [, ...rest] = hash.split("?");
  return Object.fromEntries(new URLSearchParams(rest.join("?")));
}

export function isOpenTo(role, view) {
  return PLACES[role].includes(PARENTS[view] ?? view);
}
