// The views by role, and the addresses of views.

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
