"use strict";
// Whoever follows a link sees where it leads, and what is printed is whole.
const folds = [...document.querySelectorAll("details.fold")];
const reveal = () => {
  let node = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const target = node;
  target?.querySelector("details.fold")?.setAttribute("open", "");
  for (; node; node = node.parentElement) if (node.matches("details")) node.open = true;
  target?.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();
let closed = [];
addEventListener("beforeprint", () => {
  closed = folds.filter((one) => !one.open);
  for (const one of closed) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of closed) one.open = false;
});
// Makes tables sortable by column; without this script they stay in the order of ranks.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(table, heads, column));
  });
}

function sortBy(table, heads, column) {
  const head = heads[column];
  const isNumber = head.dataset.sort === "number";
  const before = head.getAttribute("aria-sort");
  const falls = before ? before === "ascending" : isNumber;
  const body = table.tBodies[0];
  const valueOf = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const compare = isNumber ? (a, b) => Number(a) - Number(b) : (a, b) => a.localeCompare(b);
  const rows = [...body.rows];
  const known = rows.filter((row) => valueOf(row) !== "");
  known.sort((a, b) => (falls ? -1 : 1) * compare(valueOf(a), valueOf(b)));
  // Rows without a value stay last in either direction.
  body.append(...known, ...rows.filter((row) => valueOf(row) === ""));
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
}
