// The views by role, and the addresses of views.

/** The views in each role's navigation; the first is where its owner begins. */
export const PLACES = {
  outlet: ["enroll", "lines", "enrollments"],
  carrier: ["enroll", "lines", "enrollments"],
  fraud: ["cases", "sweeps", "search", "enrollments", "lines"],
  operator: ["audit", "enrollments"],
};

/** Views that no navigation names: the one that they belong to. */
export const PARENTS = { case: "cases", sweep: "sweeps", group: "sweeps", documents: "search" };

/** Where a link to a view leads. */
export function placeOf(view, ...steps) {
  return `#/${[view, ...steps].map(encodeURIComponent).join("/")}`;
}

/** The view and its arguments that an address names. */
export function readPlace(hash) {
  try {
    return hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  } catch {
    return [""];
  }
}

export function isOpenTo(role, view) {
  return PLACES[role].includes(PARENTS[view] ?? view);
}
