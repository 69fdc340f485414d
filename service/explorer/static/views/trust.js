// Whether an inversion can be trusted, in a sentence; and what to do where not.

import { number, percent } from "../format.js";

const ADVICE = {
  maxiter: (method) => (method === "lissa" ? "raise maxiter, or set scale to auto" : "raise maxiter or λ"),
  negative_curvature: () => "H + λI is not positive definite there: raise λ, or use direct",
  stagnated: () => "rounding allows no smaller residual: loosen rtol, or use float64",
};
const EPSILON = { float32: 1.2e-7, float64: 2.2e-16 };

/** The rounding of a job's numbers; tf32 and bf16 are for products of gradients alone. */
export function epsilon(precision) {
  return EPSILON[precision] ?? EPSILON.float32;
}

/** {level: "good", "fair" or "bad", text}; from a job's record. */
export function trust(job) {
  const { info } = job;
  const words = info?.reused && !info.right_hand_sides
    ? { level: "fair", text: "The factors were taken from an earlier job; its own page says whether they converged." }
    : (JUDGES[job.request.inversion.method] ?? iterative)(job, info ?? {});
  if (info?.warning) return { level: "bad", text: `${words.text} ${info.warning}` };
  return words;
}

function iterative(job, info) {
  const method = job.request.inversion.method;
  const total = info.right_hand_sides ?? 0;
  const failed = Object.entries(info.statuses ?? {}).filter(([status, count]) => status !== "converged" && count > 0);
  if (failed.length === 0) {
    return { level: "good", text: `All ${total} right-hand sides converged, in ${number(info.iterations, 6)} iterations at most; the largest residual is ${number(info.worst_residual_norm)}. The result is as exact as the tolerance says.` };
  }
  const missing = failed.reduce((sum, [, count]) => sum + count, 0);
  const advice = failed.map(([status]) => ADVICE[status]?.(method) ?? status).join("; ");
  return { level: missing === total || missing > 0.1 * total ? "bad" : "fair", text: `${missing} of ${total} right-hand sides did not converge; ${advice}. The largest residual is ${number(info.worst_residual_norm)}.` };
}

function lissa(job, info) {
  const words = iterative(job, info);
  if (info.maximum_change_percent === undefined) return words;
  return { ...words, text: `${words.text} In the last step the largest change of an entry was ${number(info.maximum_change_percent)} %, at scale ${number(info.scale)}.` };
}

function direct(job, info) {
  const { smallest_eigenvalue: low, largest_eigenvalue: high } = info;
  if (low === undefined) return iterative(job, info);
  const damping = job.request.hessian_regularization;
  const condition = (high + damping) / (low + damping);
  const rounding = condition * epsilon(job.request.precision);
  const facts = `H + λI was factorised whole; its eigenvalues go from ${number(low + damping)} to ${number(high + damping)}, a condition number of ${number(condition)}.`;
  if (rounding > 0.01) return { level: "fair", text: `${facts} Rounding can reach ${percent(Math.min(1, rounding))} of a factor in its weakest direction: raise λ, or use float64.` };
  return { level: "good", text: `${facts} The result is exact up to rounding.` };
}

function arnoldi(job, info) {
  const { rank_estimate: asked, complement } = job.request.inversion;
  const rank = info.rank ?? asked;
  const outside = complement ? "is divided by λ" : "is dropped";
  return {
    level: "fair",
    text: `A low-rank answer: the ${rank} strongest directions of the Hessian are inverted, and what of a gradient lies outside ${outside}. The largest residual is ${number(info.worst_residual_norm)}. Compare a few test rows with cg before relying on it, or raise rank_estimate until the ranking no longer changes.`,
  };
}

const JUDGES = { cg: iterative, lissa, direct, arnoldi };
