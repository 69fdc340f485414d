// How the inverse Hessian was applied: plots of what the method tells of itself, and the verdict on it.

import { json, npy, path } from "../api.js";
import { correlation, course, histogram, points, spectrum } from "../charts/plots.js";
import { extent } from "../charts/scales.js";
import { h } from "../dom.js";
import { notice } from "../failure.js";
import { methods } from "../form/schema.js";
import { bytes, count, number, percent } from "../format.js";
import { link } from "../router.js";
import { lambda } from "./dampings.js";
import { facts } from "./overview.js";
import { coverage } from "./structure.js";

const GOVERNED = "Directions below the line are governed by λ, not by the data.";
const QUESTIONS = { solved: "Was the linear system solved?", applies: "Does influence apply here?" };
const LEVELS = { good: "Yes. ", fair: "Look before you rely on it. ", bad: "No. " };
const EPSILON = { float32: 1.2e-7, float64: 2.2e-16 };
const MOST_NUMBERS = 1_000_000; // of an array that is drawn

export async function open(job, route, { signal }) {
  const stored = job.result.stored.includes("info");
  const [info, known] = await Promise.all([
    stored ? json(`/v1/jobs/${job.id}/info`, { signal }) : { summary: job.info ?? {}, arrays: [] },
    methods(signal),
  ]);
  const isOf = (array) => isDrawn(array, job.several?.length);
  const { label, answer } = known[job.request.inversion.method] ?? { label: job.request.inversion.method };
  const arrays = new Map();
  await Promise.all(
    info.arrays.filter(isOf).map(async (array) => arrays.set(array.name, layerOf(await npy(path(`/v1/jobs/${job.id}/info`, { array: array.name }), { signal }), array, job))),
  );
  const { dampings: each, rank_correlation: alike, structure, ...summary } = info.summary;
  // What is told of the λ in view goes before what is told of all.
  const plots = [...drawn(job, { label, answer }, { ...summary, ...each?.[job.layer] }, arrays), neighbours(job, alike)].filter(Boolean);
  return {
    element: h(
      "div",
      {},
      verdict(job),
      factorsOf(job),
      each ? lambdas(each) : null,
      coverage(structure),
      plots.length ? h("div", { class: "plots" }, plots) : job.factors_of ? null : notice("The method left no arrays to draw."),
      h("div", { class: "columns" },
        h("section", {}, h("h2", {}, "Summary"), facts(Object.entries(summary).map(([name, value]) => [name.replaceAll("_", " "), shown(value)]))),
        info.arrays.length ? h("section", {}, h("h2", {}, "Arrays"), arrayTable(info.arrays)) : null),
    ),
  };
}

/** Both parts of the service's verdict, in its own words. */
function verdict({ verdict: told }) {
  if (!told) return notice("This result is of a version that gave no verdict.");
  const parts = Object.entries(QUESTIONS).map(([part, question]) => h("section", { class: `trust ${told[part].level}`, role: "note" }, h("h2", {}, question), h("p", {}, h("strong", {}, LEVELS[told[part].level]), told[part].text)));
  return [...parts, measured(told.quality)];
}

/** What was last measured against retraining, for this model, method, curvature and λ. */
function measured(quality) {
  if (!quality) return null;
  const { measure, value, low, high, damping, job } = quality;
  const interval = low === null ? "" : ` (95 %: ${number(low, 3)} to ${number(high, 3)})`;
  return h("section", { class: "trust good", role: "note" }, h("h2", {}, "Does it predict retraining?"),
    h("p", {}, `${measure.replaceAll("_", " ")} ${number(value, 3)}${interval} at λ ${number(damping)}, as `, h("a", { href: link(["jobs", job]) }, "last measured"), "."));
}

/** Where the factors are from, if the job did not solve for them: a link, and how those solutions ended. */
function factorsOf({ factors_of: earlier }) {
  if (!earlier) return null;
  const ended = Object.entries(earlier.statuses ?? {}).map(([status, each]) => `${count(each)} ${status.replaceAll("_", " ")}`).join(", ");
  return h("p", {}, "The factors are those of ", h("a", { href: link(["jobs", earlier.job]) }, earlier.job), `: solutions for its ${earlier.rows} by ${earlier.method} with λ\u00a0${[earlier.hessian_regularization].flat().join(", ")}${ended ? `; ${ended}` : ""}.`);
}

/** Arrays of right-hand sides, which have an axis λ where there are several. */
const ROWWISE = new Set(["residual_norms", "iterations", "converged", "course_percent"]);

function isDrawn({ name, shape }, several) {
  const numbers = shape.reduce((product, length) => product * length, 1);
  const axes = shape.length - Number(Boolean(several) && ROWWISE.has(name));
  return (axes === 1 || name === "course_percent") && numbers > 0 && numbers <= MOST_NUMBERS;
}

/** The values of an array that are of the λ in view. */
function layerOf({ values }, { name }, job) {
  if (!job.several || !ROWWISE.has(name)) return values;
  const size = values.length / job.several.length;
  return values.subarray(job.layer * size, (job.layer + 1) * size);
}

/** A line for each λ: how its right-hand sides ended, and both parts of its verdict. */
function lambdas(each) {
  const rows = each.map(({ damping, statuses, worst_residual_norm: residual, solved, applies }) => h("tr", {},
    h("th", { scope: "row" }, number(damping, 5)),
    h("td", {}, Object.entries(statuses ?? {}).map(([status, many]) => `${count(many)} ${status.replaceAll("_", " ")}`).join(", ")),
    h("td", { class: "number" }, number(residual)), h("td", {}, solved ?? "–"), h("td", {}, applies ?? "–")));
  const heads = ["λ", "right-hand sides", "largest residual", "solved", "applies"].map((name) => h("th", { scope: "col" }, name));
  return h("section", {}, h("h2", {}, "Each λ"), h("table", { class: "plain" }, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows)));
}

/** How alike neighbouring λ's rank the training rows. */
function neighbours(job, alike) {
  const pairs = (alike?.neighbours ?? []).map((value, index) => [between(job.several[index], job.several[index + 1]), value]).filter(([, value]) => value !== null).sort(([a], [b]) => a - b);
  if (!pairs.length) return null;
  return correlation({ title: "Rank correlation between neighbouring λ's", summary: `${alike.how}. Near 1 λ hardly changes which rows matter.`, places: pairs.map(([at]) => at), values: pairs.map(([, value]) => value), xName: "λ, between two neighbours", yName: "rank correlation" });
}

function between(first, second) {
  return first > 0 && second > 0 ? Math.sqrt(first * second) : (first + second) / 2;
}

function shown(value) {
  if (typeof value === "number") return number(value, 5);
  if (value?.checked === false) return `not compared: ${value.reason}`;
  if (value?.rule) return `${value.values.map((each) => number(each, 5)).join(", ")} (${value.rule}${value.share_below.some((each) => each !== null) ? `; ${value.share_below.map((each) => (each === null ? "?" : percent(each))).join(", ")} of the eigenvalues lie below` : ""})`;
  if (value !== null && typeof value === "object") return Object.entries(value).map(([name, each]) => `${name}: ${each}`).join(", ") || "–";
  return String(value);
}

function drawn(job, { label, answer }, summary, arrays) {
  return [spectrumPlot(job, answer, summary, arrays), residuals(job, arrays), iterations(arrays), changes(job, label, summary, arrays), eigenResiduals(arrays)].filter(Boolean);
}

function residuals(job, arrays) {
  const values = arrays.get("residual_norms");
  if (!values?.length) return null;
  const converged = arrays.get("converged");
  const [low, high] = extent(values);
  const failed = converged ? converged.filter((each) => !each).length : 0;
  const title = "Residual of each right-hand side";
  const summary = `‖b − (H + λI) x‖, recomputed at the end: ${number(low)} to ${number(high)}.${failed ? ` Red: the ${failed} that did not converge.` : ""}`;
  return points({ title, summary, values, xName: "right-hand side", yName: "residual, logarithmic", marked: (index) => Boolean(converged) && !converged[index] });
}

function iterations(arrays) {
  const values = arrays.get("iterations");
  if (!values || values.length < 2) return null;
  const [low, high] = extent(values);
  return histogram({ title: "Iterations", summary: low === high ? `Every right-hand side took ${low} iterations.` : `Right-hand sides took ${low} to ${high} iterations.`, values, xName: "iterations" });
}

function changes(job, label, summary, arrays) {
  const every = arrays.get("course_percent");
  if (!every?.length) return null;
  const steps = courseSteps(job.request.inversion.maxiter);
  const rows = every.length / steps.length;
  const slowest = steps.map((_, column) => Array.from({ length: rows }, (__, row) => every[row * steps.length + column]).reduce((most, each) => Math.max(most, each), 0));
  const last = steps.findIndex((step) => step >= summary.iterations);
  const shown = last < 0 ? steps.length : last + 1;
  return course({ title: `${label}'s course`, summary: `How much a step changes the solution, in norm: the most of any right-hand side. It took ${number(summary.iterations, 6)} steps.`, steps: steps.slice(0, shown), values: slowest.slice(0, shown), xName: "step, logarithmic", yName: "change in %, logarithmic" });
}

/** The steps at which the worker looks: 1, 2, 3, 4, 6, 8, 12, … */
function courseSteps(maxiter) {
  const steps = [1];
  for (let power = 2; power <= maxiter; power *= 2) steps.push(...[power, (power * 3) / 2].filter((step) => step <= maxiter));
  return steps;
}

function spectrumPlot(job, answer, summary, arrays) {
  const damping = lambda(job);
  const found = arrays.get("eigenvalues");
  if (found?.length) {
    const some = answer === "low rank";
    // All of them from the largest to the most negative one; some by size, as they were found.
    const values = Float64Array.from(found).sort(some ? (a, b) => Math.abs(b) - Math.abs(a) : (a, b) => b - a);
    const floor = some ? 0 : rounding(job, values);
    return spectrum({ title: "The Hessian's spectrum", summary: [some ? `The ${count(values.length)} eigenvalues of H that were found, by size.` : `All ${count(values.length)} eigenvalues of H, from the largest to the smallest.`, ...aboutSizes(values, damping, floor)].join(" "), values, damping, floor, xName: some ? "eigenvalue, by size" : "eigenvalue, in falling order" });
  }
  if (summary.smallest_eigenvalue === undefined) return null;
  const values = Float64Array.of(summary.largest_eigenvalue, summary.smallest_eigenvalue);
  return spectrum({ title: "The Hessian's spectrum", summary: `The largest and the smallest eigenvalue of H, and λ. ${GOVERNED} All eigenvalues would have taken longer than the answer: start the job again with spectrum “all” to see them.`, values, damping, xName: "largest and smallest" });
}

/** What eigenvalues of a matrix of this precision can't tell from 0. */
function rounding(job, values) {
  return Math.sqrt(values.length) * (EPSILON[job.result.dtype] ?? EPSILON.float32) * Math.max(Math.abs(values[0]), Math.abs(values.at(-1)));
}

function aboutSizes(values, damping, floor) {
  const governed = damping > 0 ? values.filter((value) => Math.abs(value) < damping).length : 0;
  const small = values.filter((value) => Math.abs(value) < floor).length;
  const negative = values.filter((value) => value < -floor).length;
  return [
    governed ? `${count(governed)} lie below λ. ${GOVERNED}` : null,
    damping > 0 && !governed ? "All lie above λ." : null,
    negative ? `Red: the ${count(negative)} below 0.` : null,
    small ? `Grey: the ${count(small)} that rounding can't tell from 0.` : null,
  ].filter(Boolean);
}

function eigenResiduals(arrays) {
  const values = arrays.get("residuals");
  if (!values?.length) return null;
  return points({ title: "Residual of each eigenpair", summary: "‖H v − d v‖, for each eigenvector v.", values, xName: "eigenpair", yName: "residual, logarithmic" });
}

function arrayTable(arrays) {
  const rows = arrays.map(({ name, shape, dtype, size_bytes: size }) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, `${dtype} [${shape.join(", ")}]`), h("td", { class: "number" }, bytes(size))));
  return h("table", { class: "plain" }, h("tbody", {}, rows));
}
