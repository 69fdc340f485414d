// By what training rows can be ranked, and when a label is doubted.

import { json, path } from "../api.js";
import { h } from "../dom.js";
import { percent } from "../format.js";
import { link } from "../router.js";
import { seenAt } from "./dampings.js";
import { isWrong } from "./example.js";

/** A label is doubted where the row is in this share of the ranking's suspicious end, and the model reads another class. */
export const SHARE = 0.1;

/**
 * The rankings that a job offers, by name: {job, sign, words, about, rule, total, column, suspicious(rank, influence)}.
 * `missing` is what is shown where a ranking is not there yet.
 */
export async function rankings(job, signal) {
  const itself = job.request.kind === "self_influences" ? job : await selfInfluences(job, signal);
  const bySelf = ofItself(itself, job);
  if (job.request.kind === "self_influences") return { self: bySelf };
  if (measured(job) !== "loss") return { lowers: byMean(job, "lowers"), raises: byMean(job, "raises"), self: bySelf };
  return { harmful: byMean(job, "harmful"), helpful: byMean(job, "helpful"), self: bySelf };
}

/** What of a test example the job explains: `loss`, `margin`, `logit`. */
export const measured = (job) => job.request.measurement?.name ?? "loss";

function byMean(job, sign) {
  const what = measured(job);
  if (what !== "loss") {
    return {
      job,
      sign,
      total: job.result.influence_shape[1],
      column: "mean_influence",
      words: `mean influence, ${sign} the ${what} most first`,
      about: `The mean influence of each training row on the ${what} of the test examples of this job: above 0 it lowers it, below 0 it raises it.`,
      rule: "No label is marked doubtful here: for that, take a job that explains the loss.",
      suspicious: () => false,
    };
  }
  const total = job.result.influence_shape[1];
  const last = SHARE * total;
  return {
    job,
    sign,
    total,
    column: "mean_influence",
    words: sign === "harmful" ? "mean influence, most harmful first" : "mean influence, most helpful first",
    about: "The mean influence of each training row over the test examples of this job.",
    rule: `A label is marked doubtful where the row is among the ${percent(SHARE)} most harmful, harms on the whole (below 0), and the model predicts another class than the label.`,
    suspicious: (rank, influence) => influence < 0 && (sign === "harmful" ? rank : total - 1 - rank) < last,
  };
}

function ofItself(job, asked) {
  const total = asked.result.influence_shape.at(asked.request.kind === "self_influences" ? 0 : 1);
  return {
    job,
    sign: "helpful",
    total,
    column: "self_influence",
    words: "influence on itself, largest first",
    about: "How much each training row lowers its own loss: large where the model had to learn the row by heart.",
    rule: `A label is marked doubtful where the row is among the ${percent(SHARE)} largest and the model predicts another class than the label.`,
    suspicious: (rank) => rank < SHARE * total,
    missing: job ? undefined : offer(asked),
  };
}

function offer(job) {
  return h(
    "div",
    { class: "empty" },
    h("p", {}, "No job has computed the influence of these training rows on themselves yet."),
    h("a", { class: "button primary", href: link(["new"], { from: job.id, kind: "self_influences" }) }, "Start one"),
  );
}

/** The newest succeeded job of self-influences over the same model and training rows, or null. */
async function selfInfluences(job, signal) {
  const query = { model: job.model_id, dataset: job.train_id, state: "succeeded", limit: 200 };
  const { items } = await json(path("/v1/jobs", query), { signal });
  const found = items.find((each) => each.request.kind === "self_influences" && each.train_id === job.train_id && each.request.train.rows === job.request.train.rows) ?? null;
  return found && seenAt(found, Math.max(0, found.result.dampings?.indexOf(job.at) ?? 0));
}

export function isDoubtful(ranking, rank, item, fact) {
  return isWrong(fact) && ranking.suspicious(rank, item.influence);
}
