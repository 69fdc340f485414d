// One example as a card: its picture, its label, what the model says, and its influence.

import { h } from "../dom.js";
import { padded, signed } from "../format.js";
import { className } from "../resources.js";

/** "label 3, predicted 8"; numbers likewise. Nothing where nothing is known. */
export function verdictWords(record, fact) {
  if (!fact || (fact.target === null && fact.prediction === null)) return "";
  const words = [];
  if (fact.target !== null) words.push(`label ${className(record, fact.target)}`);
  if (fact.prediction !== null) words.push(`predicted ${className(record, fact.prediction)}`);
  return words.join(", ");
}

export function isWrong(fact) {
  return Boolean(fact && fact.error !== null && fact.error > 0);
}

/** Label and prediction, with a mark where they differ. */
export function verdict(record, fact) {
  if (!fact) return null;
  const parts = [];
  if (fact.target !== null) parts.push(h("span", {}, "label ", h("b", { class: "target" }, className(record, fact.target))));
  if (fact.prediction !== null) parts.push(h("span", { class: isWrong(fact) ? "wrong" : "" }, "predicted ", h("b", { class: "prediction" }, className(record, fact.prediction)), isWrong(fact) ? " ✗" : ""));
  if (fact.prediction === null && fact.error > 0) parts.push(h("span", { class: "wrong" }, `${Math.round(100 * fact.error)} % wrong`));
  if (fact.loss !== null) parts.push(h("span", { class: "loss" }, `loss ${padded(fact.loss)}`));
  return h("div", { class: "verdict" }, parts);
}

/** A training example with its influence; the bar is its share of `most`. */
export function influenceCard({ draw, item, record, fact, most }) {
  const sign = item.influence >= 0 ? "helpful" : "harmful";
  const label = `Training row ${item.row}${fact ? `, ${verdictWords(record, fact)}` : ""}`;
  return h(
    "li",
    { class: `card ${sign}`, "data-row": item.row },
    draw(item.row, { label }),
    h("div", { class: "card-text" },
      h("div", { class: "score", title: String(item.influence) }, signed(item.influence)),
      h("div", { class: "score-bar", "aria-hidden": "true" }, h("span", { style: { width: `${(100 * Math.abs(item.influence)) / (most || 1)}%` } })),
      verdict(record, fact),
      h("div", { class: "row-number" }, `row ${item.row}`)),
  );
}
