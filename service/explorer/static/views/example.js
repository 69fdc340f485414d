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

/** What a row is called: its number, and its id where the dataset gave it one of its own. */
export function rowName({ row, id }) {
  return id === undefined || id === null || id === row ? `row ${row}` : `row ${row} · ${id}`;
}

/** One example to choose from a list, with what is known of it. */
export function option(side, draw, record, row, fact) {
  const words = `${side} row ${row}${fact ? `: ${verdictWords(record, fact)}` : ""}${isWrong(fact) ? ", wrong" : ""}`;
  return {
    label: words,
    content: [draw(row, {}), h("div", { class: "option-text" }, h("div", { class: "row-number" }, rowName({ row, id: fact?.id })), verdict(record, fact))],
  };
}

/** The example that a view is about: a picture beside its name, all else below it, in full width. */
export function focus(title, drawn, kind, ...about) {
  const words = h("div", {}, title, about);
  return h("div", { class: `focus-example ${kind}` }, kind === "image" || kind === "none" ? [drawn, words] : [words, drawn]);
}

/** A training example with its influence; the bar is its share of `most`, `other` the row that it is held against, `parts` what adds up to it. */
export function influenceCard({ draw, item, record, fact, most, other = null, parts = null }) {
  const sign = item.influence >= 0 ? "helpful" : "harmful";
  const label = `Training row ${item.row}${fact ? `, ${verdictWords(record, fact)}` : ""}`;
  return h(
    "li",
    { class: `card ${sign} ${draw.kind}`, "data-row": item.row },
    draw(item.row, { label, other }),
    parts,
    h("div", { class: "card-text" },
      h("div", { class: "score", title: String(item.influence) }, signed(item.influence)),
      h("div", { class: "score-bar", "aria-hidden": "true" }, h("span", { style: { width: `${(100 * Math.abs(item.influence)) / (most || 1)}%` } })),
      verdict(record, fact),
      h("div", { class: "row-number" }, rowName({ row: item.row, id: fact?.id ?? item.id }))),
  );
}
