// Two results over the same training rows: how alike their rankings are, and the rows that moved most.

import { json, npy } from "../api.js";
import { h } from "../dom.js";
import { notice } from "../failure.js";
import { count, number, signed } from "../format.js";
import { previews } from "../previews/choose.js";
import { className, dataset, facts as factsOf } from "../resources.js";
import { methods } from "../form/schema.js";
import { jobLink, kindOf, methodOf, subject } from "./job-parts.js";

const MOST_ROWS = 2_000_000; // a number each, twice
const MOVED = 20;

/** Whether a job has one number a training row, stored: its mean, or the influence of each row on itself. */
export function isComparable(job) {
  const stored = job.result?.stored ?? [];
  return job.state === "succeeded" && !job.groups && !job.result.dampings && (stored.includes("mean") || stored.includes("self_influences") || (stored.includes("matrix") && job.result.influence_shape?.length === 2));
}

export async function open(route, { signal }) {
  const jobs = await Promise.all(route.parts.slice(1, 3).map((id) => json(`/v1/jobs/${id}`, { signal })));
  const known = await methods(signal);
  const about = await Promise.all(jobs.map((job) => subject(job, signal)));
  const title = (job) => job.name ?? kindOf(job);
  const refusal = refused(jobs);
  const head = [h("a", { class: "back", href: "#/jobs" }, "← Jobs"), h("h1", {}, "Two results compared"),
    h("dl", { class: "facts-list pairing" }, jobs.map((job, index) => [h("dt", {}, "AB"[index]), h("dd", {}, h("a", { href: jobLink(job) }, title(job)), ` · ${[about[index].model, about[index].data, methodOf(job, known)].join(" · ")}`)]))];
  return { title: "Two results compared", element: h("section", { class: "comparison" }, head, refusal ? notice(refusal, "bad") : await body(jobs, signal)) };
}

function refused(jobs) {
  if (jobs.length !== 2) return "Choose two jobs in the list.";
  const not = jobs.find((job) => !isComparable(job));
  if (not) return `${not.name ?? not.id} has no mean influence, or it has one for each of several λ's; choose jobs that keep the mean or the matrix.`;
  const [a, b] = jobs;
  if (a.train_id !== b.train_id || (a.request.train.rows ?? "") !== (b.request.train.rows ?? "")) return "They are about different training rows; choose two with the same training dataset and rows.";
  if (a.result.influence_shape.at(-1) > MOST_ROWS) return `They have more than ${count(MOST_ROWS)} rows; compare them with the SDK.`;
  return null;
}

function means(job, signal) {
  const what = job.request.kind === "self_influences" ? "self_influences" : "mean";
  return npy(`/v1/jobs/${job.id}/${what}`, { signal });
}

/** Ranks from 0, the largest first; equal numbers share the mean of their places. */
export function ranks(values) {
  const order = Array.from(values, (_, index) => index).sort((a, b) => values[b] - values[a] || a - b);
  const found = new Float64Array(values.length);
  for (let start = 0; start < order.length; ) {
    let stop = start + 1;
    while (stop < order.length && values[order[stop]] === values[order[start]]) stop += 1;
    for (let place = start; place < stop; place += 1) found[order[place]] = (start + stop - 1) / 2;
    start = stop;
  }
  return found;
}

/** Pearson's correlation; of ranks it is Spearman's. Null where one does not vary. */
export function correlation(a, b) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [x, y] = [mean(a), mean(b)];
  let [both, left, right] = [0, 0, 0];
  for (let index = 0; index < a.length; index += 1) {
    both += (a[index] - x) * (b[index] - y);
    left += (a[index] - x) ** 2;
    right += (b[index] - y) ** 2;
  }
  return left && right ? both / Math.sqrt(left * right) : null;
}

async function body(jobs, signal) {
  const [a, b] = (await Promise.all(jobs.map((job) => means(job, signal)))).map(({ values }) => Float64Array.from(values));
  const [ra, rb] = [ranks(a), ranks(b)];
  const moved = Array.from(ra, (_, index) => index).sort((x, y) => Math.abs(rb[y] - ra[y]) - Math.abs(rb[x] - ra[x]) || x - y).slice(0, MOVED);
  const trainSet = await dataset(jobs[0].train_id, signal);
  const known = await factsOf(jobs[0], "train", moved, signal);
  const row = (position) => known.get(position)?.row ?? position;
  const draw = await previews(trainSet, moved.map(row), signal);
  const low = Math.max(1, Math.round(a.length / 10));
  const lowest = (r) => new Set(Array.from(r, (rank, index) => [rank, index]).filter(([rank]) => rank >= a.length - low).map(([, index]) => index));
  const [la, lb] = [lowest(ra), lowest(rb)];
  const shared = [...la].filter((index) => lb.has(index)).length;
  const headings = ["Example", "Row", "Label", "A", "Rank in A", "B", "Rank in B"];
  const cell = (value, words, name) => h("td", { class: "number", "data-name": name }, h("span", { title: String(value) }, words));
  return [
    h("dl", { class: "facts-list compared" },
      h("dt", {}, "Spearman's rank correlation"), h("dd", {}, h("b", { class: "spearman" }, number(correlation(ra, rb), 4))),
      h("dt", {}, "Pearson's correlation"), h("dd", {}, number(correlation(a, b), 4)),
      h("dt", {}, `Of the lowest ${count(low)} rows in both`), h("dd", {}, `${count(shared)} (${number((100 * shared) / low)} %)`)),
    h("p", { class: "help" }, `Over ${count(a.length)} training rows: ${jobs.map((job) => (job.request.kind === "self_influences" ? "influence on itself" : "mean influence")).join(" against ")}. A rank of 1 is the largest number.`),
    h("h2", {}, "Rows that moved most"),
    h("table", { class: `ranking moved ${draw.kind}` }, h("caption", { class: "sr-only" }, "Training rows by how far their ranks are apart"),
      h("thead", {}, h("tr", {}, headings.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, moved.map((position) => h("tr", { "data-row": row(position) },
        h("td", { class: "example" }, draw(row(position), { label: `Training row ${row(position)}` })),
        h("td", { class: "number", "data-name": "row" }, row(position)),
        h("td", { "data-name": "label" }, className(trainSet, known.get(position)?.target)),
        cell(a[position], signed(a[position]), "A"), cell(ra[position], count(Math.round(ra[position]) + 1), "rank"),
        cell(b[position], signed(b[position]), "B"), cell(rb[position], count(Math.round(rb[position]) + 1), "rank"))))),
  ];
}
