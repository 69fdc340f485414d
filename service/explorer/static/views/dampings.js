// The λ's of a job: as words, as a number, and one of several that the page looks at.

import { h } from "../dom.js";
import { number } from "../format.js";

/** The λ that a job's numbers are of; of a list that is being looked at one by one, the one in view. */
export function lambda(job) {
  const asked = job.request.hessian_regularization;
  return typeof asked === "number" ? asked : (job.damping?.values[0] ?? 0);
}

/** What λ is asked for, and what it came to. */
export function lambdaWords(job) {
  const asked = job.request.hessian_regularization;
  const found = job.damping?.values;
  if (Array.isArray(asked)) return `${asked.length} values${found ? `: ${found.map((each) => number(each)).join(", ")}` : ""}`;
  if (typeof asked === "number") return `${asked}`;
  const words = asked === "auto" ? "auto" : asked.relative !== undefined ? `${asked.relative} × mean eigenvalue` : "of the training";
  return found ? `${number(found[0])} (${words})` : words;
}

/** Several λ's of a result, or null. */
export function dampings(job) {
  return job.result?.dampings ?? null;
}

/** The job as if it had had one λ of its list alone; `at` chooses it in requests, `layer` in arrays of the info. */
export function seenAt(job, layer) {
  const values = dampings(job);
  if (!values) return job;
  const { influence_shape: shape, factor_shape: factors } = job.result;
  return {
    ...job,
    at: values[layer],
    layer,
    several: values,
    request: { ...job.request, hessian_regularization: values[layer] },
    result: { ...job.result, dampings: null, influence_shape: shape?.slice(1) ?? null, factor_shape: factors?.slice(1) ?? null },
  };
}

/** A list to choose one of several λ's from; `choose(position)`. */
export function chooser(job, layer, choose) {
  const values = dampings(job);
  if (!values) return null;
  const select = h("select", { "aria-label": "λ", onchange: () => choose(Number(select.value)) }, values.map((value, index) => h("option", { value: index }, `λ = ${number(value, 5)}`)));
  select.value = layer;
  return h("label", { class: "lambda" }, "Seen at ", select);
}
