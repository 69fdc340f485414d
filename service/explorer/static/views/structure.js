// What a structured curvature keeps of each layer, and why it keeps no more.

import { h } from "../dom.js";
import { count, number, percent } from "../format.js";

const KEPT = {
  kronecker: "Kronecker factors",
  embedding: "Kronecker factors, one of them diagonal",
  exact: "its exact block",
  diagonal: "its diagonal",
  identity: "the identity",
};

/** A sentence with the shares of all parameters, and a line for each layer; null where nothing is structured. */
export function coverage(structure) {
  if (!structure?.layers) return null;
  const shares = Object.entries(structure.coverage).sort(([, a], [, b]) => b - a);
  const words = shares.map(([kept, share]) => `${percent(share)} of the parameters: ${KEPT[kept] ?? kept}`).join("; ");
  const from = [structure.rows ? `From ${count(structure.rows)} rows.` : null, structure.seed !== undefined ? `Labels were drawn with seed ${structure.seed}.` : null];
  return h("section", { class: "coverage" }, h("h2", {}, "What is kept of each layer"), h("p", {}, [`${words}.`, ...from].filter(Boolean).join(" ")), table(structure.layers));
}

function table(layers) {
  const told = layers.some(({ why }) => why);
  const heads = ["layer", "kept", "parameters", "mean eigenvalue", "eigenvalues below λ", ...(told ? ["why not more"] : [])];
  const rows = layers.map(({ layer, kept, parameters, mean_eigenvalue: mean, below_lambda: below, why }) => h("tr", {},
    h("th", { scope: "row" }, layer), h("td", {}, KEPT[kept] ?? kept), h("td", { class: "number" }, count(parameters)),
    h("td", { class: "number" }, number(mean)), h("td", { class: "number" }, percent(below)), told ? h("td", {}, why ?? "") : null));
  return h("table", { class: "plain" }, h("thead", {}, h("tr", {}, heads.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows));
}
