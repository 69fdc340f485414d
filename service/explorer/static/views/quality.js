// How far results predict retraining: a table, and dots with their intervals.

import { json } from "../api.js";
import { line, plot, room } from "../charts/frame.js";
import { linear } from "../charts/scales.js";
import { h, svg } from "../dom.js";
import { notice } from "../failure.js";
import { count, number } from "../format.js";
import { link } from "../router.js";

const MEASURES = {
  lds: "Over random subsets: the rank correlation of their influences with what training on them does",
  loo: "Over single rows left out: the rank correlation of their influence with what training without them does",
  mislabel: "The chance that a wrong label is more suspicious than a right one",
  recall: "The share of the wrong labels among as many of the most suspicious rows",
  brittleness: "How much more the test loss rises without the most helpful rows than without random ones",
  tail_patch: "How much more the test loss falls by a step on the most helpful rows than on random ones",
};

export async function open(job, route, { signal }) {
  const { rows, noise, warnings } = await json(`/v1/jobs/${job.id}/report`, { signal });
  const measures = [...new Set(rows.map((row) => row.measure))];
  return {
    element: h(
      "section",
      {},
      warnings.map((words) => notice(words)),
      noise?.value != null ? h("p", {}, `Models that differ by their seed alone agree at ${number(noise.value, 3)}; so a score without any error would reach about ${number(noise.ceiling ?? 0, 3)}.`) : null,
      measures.map((measure) => part(measure, rows.filter((row) => row.measure === measure), noise)),
    ),
  };
}

function part(measure, rows, noise) {
  const known = rows.filter((row) => row.value !== null);
  return h("section", {}, h("h2", {}, measure.replaceAll("_", " ")), h("p", { class: "help" }, `${MEASURES[measure] ?? ""}. Higher is better; intervals are 95 %.`),
    known.length ? dots(measure, known, noise) : null, table(rows));
}

/** A dot for each row of the table, in its order, with its interval. */
function dots(measure, rows, noise) {
  const area = room();
  const ceiling = measure === "lds" ? noise?.ceiling : null;
  const ends = rows.flatMap((row) => [row.value, row.low ?? row.value, row.high ?? row.value]);
  const y = linear([Math.min(0, ...ends), Math.max(...ends, ceiling ?? 0)], area.y);
  const x = linear([0, rows.length + 1], area.x);
  const marks = rows.map((row, index) => {
    const at = x.at(index + 1);
    const kind = row.baseline ? "mark faint" : "mark";
    return svg("g", {}, row.low === null ? null : line(at, y.at(row.low), at, y.at(row.high), "axis"),
      svg("circle", { cx: at, cy: y.at(row.value), r: 4, class: kind }, svg("title", {}, `${index + 1}, ${named(row)}: ${interval(row)}`)));
  });
  if (ceiling != null) marks.push(line(area.x[0], y.at(ceiling), area.x[1], y.at(ceiling), "threshold"));
  const best = rows.reduce((one, other) => (other.value > one.value ? other : one));
  const summary = `The best is ${named(best)}: ${interval(best)}.${ceiling != null ? " Dashed: what noise allows." : ""}`;
  return plot({ title: "As the table has them", summary, area, x: { scale: { ...x, ticks: x.ticks.filter(Number.isInteger) }, name: "row of the table" }, y: { scale: y, name: measure }, marks });
}

function table(rows) {
  return h(
    "table",
    { class: "plain" },
    h("thead", {}, h("tr", {}, [["Result", ""], ["λ", "number"], ["Value", "number"], ["95 %", "number"], ["Mean over", "number"], ["Note", ""]].map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
    h("tbody", {}, rows.map((row, index) => h("tr", {},
      h("th", { scope: "row" }, `${count(index + 1)}. `, row.baseline ? `${row.result} (baseline)` : [row.method, " ", h("a", { href: link(["jobs", row.result]) }, row.result.slice(-6))]),
      h("td", { class: "number" }, row.damping === null ? "" : number(row.damping)),
      h("td", { class: "number" }, row.value === null ? "–" : number(row.value, 3)),
      h("td", { class: "number" }, row.low === null ? "–" : `${number(row.low, 3)} to ${number(row.high, 3)}`),
      h("td", { class: "number" }, count(row.n)),
      h("td", {}, row.note ?? "")))),
  );
}

function named(row) {
  return row.baseline ? row.result : `${row.method}, λ ${number(row.damping)}`;
}

function interval(row) {
  return row.low === null ? number(row.value, 3) : `${number(row.value, 3)}, ${number(row.low, 3)} to ${number(row.high, 3)}`;
}
