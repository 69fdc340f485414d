// A result over groups of rows, a class by class table say: each number on the colour of its sign and size. Of sets that
// are removed, what that does at the curvature that is left stands beside it.

import { npy, path } from "../api.js";
import { h } from "../dom.js";
import { count, number, signed } from "../format.js";
import { row as rowOf } from "../npy.js";

const MOST = 60; // of each axis

export async function open(job, route, { signal }) {
  const [tests, trains] = job.result.influence_shape;
  const [height, width] = [Math.min(tests, MOST), Math.min(trains, MOST)];
  const rescales = job.result.stored.includes("rescaled");
  const [plain, rescaled] = await Promise.all([
    npy(path(`/v1/jobs/${job.id}/influences`, { test: `0:${height}`, train: `0:${width}`, damping: job.at }), { signal }),
    rescales ? npy(path(`/v1/jobs/${job.id}/rescaled`, { damping: job.at }), { signal }) : null,
  ]);
  const shown = height < tests || width < trains ? ` The first ${count(height)} of ${count(tests)} by ${count(width)} of ${count(trains)}.` : "";
  const table = (found, caption) => tableOf(job, found, height, width, caption);
  return {
    element: h("section", {}, h("div", { class: "view-head" }, h("h2", {}, "Groups")),
      h("p", { class: "help rule" }, `Influences of the rows of each group, added up${means(job) ? " (a mean over test rows where the job says so)" : ""}: blue lowers the test group's loss, orange raises it.`, shown),
      rescaled === null ? table(plain, "Influence of training groups, in columns, on test groups, in rows") : [
        h("div", { class: "group-pair" },
          h("section", {}, h("h3", {}, "Added up"), h("p", { class: "help" }, "What each row of the set does alone."), table(plain, "Influence of training sets, in columns, on test rows, in rows")),
          h("section", {}, h("h3", {}, "Rescaled"), h("p", { class: "help" }, "What removing the set does, at the curvature that is left without it."), table(rescaled, "Rescaled influence of training sets, in columns, on test rows, in rows"))),
        leverages(job),
      ]),
  };
}

function tableOf({ groups, request }, found, height, width, caption) {
  const cells = Array.from({ length: height }, (_, index) => Array.from(rowOf(found, index)).slice(0, width));
  const most = Math.max(...cells.flat().map(Math.abs), Number.MIN_VALUE);
  const [down, across] = ["test", "train"].map((side) => groups[side]);
  const cell = (value) => h("td", { class: `number token ${value < 0 ? "harmful" : "helpful"}`, title: String(value), style: { "--share": `${Math.round(40 * (Math.abs(value) / most) ** 0.75)}%` } }, signed(value));
  const table = h("table", { class: "group-table" }, h("caption", { class: "sr-only" }, caption),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "test ↓ training →"), Array.from({ length: width }, (_, index) => h("th", { scope: "col", class: "number" }, name(across, index, Boolean(request.groups)))))),
    h("tbody", {}, cells.map((values, index) => h("tr", {}, h("th", { scope: "row" }, name(down, index)), values.map(cell)))));
  return h("div", { class: "group-scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
}

/** How much of the curvature each set carries. */
function leverages(job) {
  const found = job.info?.rescaled?.largest_leverage;
  const own = job.several ? found?.[job.layer] : found;
  if (!own?.length) return null;
  const words = own.slice(0, MOST).map((each, index) => `set ${job.groups.train[index].name} ${number(each, 3)}`);
  return h("p", { class: "help" }, `Largest leverage of each set, 0 to 1: ${words.join(", ")}.`);
}

function name(groups, index, sets = false) {
  return groups ? h("span", { title: `${count(groups[index].rows)} rows` }, sets ? `set ${groups[index].name}` : String(groups[index].name)) : `row ${index}`;
}

function means(job) {
  const said = job.request.aggregate?.test;
  return said === "mean" || said?.reduce === "mean";
}
