// A row as a row of a table: names and numbers.

import { h } from "../dom.js";
import { number } from "../format.js";

const SMALL = 3;
const LARGE = 60;

/** Names of a column's numbers; counted where there are none. */
export function featureNames(preview, length) {
  return Array.from({ length }, (_, index) => preview.names?.[index] ?? `${preview.column}[${index}]`);
}

export function table(values, preview, { large = false, label = "" } = {}) {
  const names = featureNames(preview, values.length);
  const most = large ? LARGE : SMALL;
  const rows = names.slice(0, most).map((name, index) =>
    h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, number(values[index]))));
  const left = names.length - most;
  if (left > 0) rows.push(h("tr", {}, h("td", { colspan: 2, class: "help" }, `and ${left} more`)));
  return h("table", { class: `preview features${large ? " large" : ""}`, "aria-label": label }, h("tbody", {}, rows));
}
