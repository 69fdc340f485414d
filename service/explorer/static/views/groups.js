// A result over groups of rows, a class by class table say: each number on the colour of its sign and size.

import { npy, path } from "../api.js";
import { h } from "../dom.js";
import { count, signed } from "../format.js";
import { row as rowOf } from "../npy.js";

const MOST = 60; // of each axis

export async function open(job, route, { signal }) {
  const [tests, trains] = job.result.influence_shape;
  const [height, width] = [Math.min(tests, MOST), Math.min(trains, MOST)];
  const found = await npy(path(`/v1/jobs/${job.id}/influences`, { test: `0:${height}`, train: `0:${width}`, damping: job.at }), { signal });
  const cells = Array.from({ length: height }, (_, index) => Array.from(rowOf(found, index)));
  const most = Math.max(...cells.flat().map(Math.abs), Number.MIN_VALUE);
  const [down, across] = ["test", "train"].map((side) => job.groups[side]);
  const cell = (value) => h("td", { class: `number token ${value < 0 ? "harmful" : "helpful"}`, title: String(value), style: { "--share": `${Math.round(40 * (Math.abs(value) / most) ** 0.75)}%` } }, signed(value));
  const table = h("table", { class: "group-table" }, h("caption", { class: "sr-only" }, "Influence of training groups, in columns, on test groups, in rows"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "test ↓ training →"), Array.from({ length: width }, (_, index) => h("th", { scope: "col", class: "number" }, name(across, index))))),
    h("tbody", {}, cells.map((values, index) => h("tr", {}, h("th", { scope: "row" }, name(down, index)), values.map(cell)))));
  return {
    element: h("section", {}, h("div", { class: "view-head" }, h("h2", {}, "Groups")),
      h("p", { class: "help rule" }, `Influences of the rows of each group, added up${means(job) ? " (a mean over test rows where the job says so)" : ""}: blue lowers the test group's loss, orange raises it.`,
        height < tests || width < trains ? ` The first ${count(height)} of ${count(tests)} by ${count(width)} of ${count(trains)}.` : ""),
      h("div", { class: "group-scroll", tabindex: "0", role: "region", "aria-label": "Table of groups" }, table)),
  };
}

function name(groups, index) {
  return groups ? h("span", { title: `${count(groups[index].rows)} rows` }, String(groups[index].name)) : `row ${index}`;
}

function means(job) {
  const said = job.request.aggregate?.test;
  return said === "mean" || said?.reduce === "mean";
}
