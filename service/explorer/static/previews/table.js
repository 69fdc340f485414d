// A row as named numbers: the few features that set it apart, or all of them.

import { h } from "../dom.js";
import { number } from "../format.js";

export const FEW = 3;
const SOME = 6; // of the one row that a view is about
const MOST = 400; // in the fold that holds them all

/** Names of a column's numbers; counted where there are none. */
export function featureNames(preview, length) {
  return Array.from({ length }, (_, index) => preview.names?.[index] ?? `${preview.column}[${index}]`);
}

/**
 * The features, by number, in which a row is least like another one, or like the mean where there is none:
 * in standard deviations of the dataset, so that no feature counts more for its unit.
 */
export function apart(values, spread, other, most) {
  const far = Array.from(values, (value, index) => Math.abs(value - (other ? other[index] : spread.mean[index])) / (spread.deviation[index] || Infinity));
  return far.map((_, index) => index).sort((a, b) => far[b] - far[a] || a - b).slice(0, most);
}

/** Mean and standard deviation of each feature over some rows. */
export function spreadOf(rows, width) {
  const mean = new Float64Array(width);
  const squares = new Float64Array(width);
  for (const row of rows) for (let index = 0; index < width; index += 1) mean[index] += row[index] / rows.length;
  for (const row of rows) for (let index = 0; index < width; index += 1) squares[index] += (row[index] - mean[index]) ** 2 / rows.length;
  return { mean, deviation: squares.map(Math.sqrt) };
}

/** What sets a row apart; with `other`, from that row, whose numbers stand beside. Large: with all features in a fold. */
export function table(values, preview, { large = false, label = "", other = null, otherName = "test" } = {}, { spread } = {}) {
  const names = featureNames(preview, values.length);
  const chosen = apart(values, spread, other, large ? SOME : FEW);
  const beside = (index) => (other ? h("small", {}, ` ${otherName} ${number(other[index])}`) : null);
  const pair = (index) => h("div", {}, h("dt", {}, names[index]), h("dd", {}, number(values[index]), beside(index)));
  const left = values.length - chosen.length;
  const few = h("dl", { class: "features", "aria-label": label ? `${label}: ${left ? "what sets it apart" : "its features"}` : null }, chosen.map(pair));
  if (!large) return h("div", { class: "preview table" }, few);
  const all = names.slice(0, MOST).map((_, index) => pair(index));
  return h("div", { class: "preview table large" }, few, left > 0
    ? h("details", { class: "aside" }, h("summary", {}, `All ${names.length} features`), h("dl", { class: "features all" }, all), names.length > MOST ? h("p", { class: "help" }, `and ${names.length - MOST} more`) : null)
    : null);
}
