// What a job was asked for, what it took, what it left.

import { json, path } from "../api.js";
import { h } from "../dom.js";
import { bytes, clock, count, duration, number } from "../format.js";
import { className, dataset } from "../resources.js";
import { isOver, jobLink, spare } from "./job-parts.js";
import { losses, modelMade } from "./retraining.js";

const SUSPECTS = 5; // the first ones

export async function open(job, route, { signal }) {
  const [files, suspects] = await Promise.all([
    job.state === "succeeded" ? json(`/v1/jobs/${job.id}/files`, { signal }).then((found) => found.files) : [],
    mostSuspect(job, signal),
  ]);
  return {
    element: h(
      "div",
      { class: "columns" },
      isOver(job) && job.curve ? h("section", {}, h("h2", {}, "Training"), modelMade(job), losses(job)) : null,
      job.verdict ? h("section", {}, h("h2", {}, "Result"), facts([["Linear system", job.verdict.solved.text], ["Influence applies", job.verdict.applies.text]])) : null,
      suspects,
      h("section", {}, h("h2", {}, "Course"), facts(course(job))),
      h("section", {}, h("h2", {}, "Request"), h("pre", { class: "code", tabindex: "0", "aria-label": "Request as JSON" }, JSON.stringify(spare(job.request), null, 2))),
      files.length ? h("section", {}, h("details", { class: "aside" }, h("summary", {}, `Files (${count(files.length)})`), fileTable(files))) : null,
    ),
  };
}

/** The labels that deserve a look first; null where a job ranks none, or would have to compute them. */
async function mostSuspect(job, signal) {
  const stored = job.result?.stored ?? [];
  const ranks = stored.includes("self_influences") || (job.request.kind === "influences" && stored.includes("mean"));
  if (!ranks || job.groups || job.request.influence_type === "perturbation" || (job.request.measurement?.name ?? "loss") !== "loss") return null;
  const [record, { items }] = await Promise.all([dataset(job.train_id, signal), json(path(`/v1/jobs/${job.id}/suspects`, { limit: SUSPECTS, damping: job.at }), { signal })]);
  const named = (value) => className(record, value);
  return h("section", {}, h("h2", {}, "Labels that deserve a look"),
    h("table", { class: "plain suspects" },
      h("thead", {}, h("tr", {}, [record.ids ? "Id" : "Row", "Label", "Predicted"].map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", {}, items.map((item) => h("tr", {}, h("th", { scope: "row" }, item.id), h("td", {}, named(item.label)), h("td", {}, named(item.predicted)))))),
    h("a", { href: jobLink(job, "cleaning") }, "Go through them"));
}

function course(job) {
  const { cost } = job;
  return [
    ["Created", clock(job.created_at)],
    ["Started", clock(job.started_at)],
    ["Ended", isOver(job) ? clock(job.finished_at) : "–"],
    ["Attempt", count(job.attempt)],
    ["Device", job.device ?? "–"],
    ["Precision", [job.request.precision, job.info?.precision_note].filter(Boolean).join(": ") || "–"],
    ["Total time", duration(cost?.seconds ?? between(job.started_at, job.finished_at))],
    ["Time computing", duration(cost?.engine_seconds)],
    ["Hessian passes", cost ? number(cost.hessian_passes, 4) : "–"],
    ["Peak memory", bytes(cost?.peak_memory_bytes)],
    ["Result", bytes(job.result?.size_bytes)],
    ...matches(job),
    ...Object.entries(job.labels ?? {}),
  ];
}

/** Of a job that failed nothing is counted but the time. */
function between(started, ended) {
  return started && ended ? (new Date(ended) - new Date(started)) / 1000 : null;
}

/** How the columns of each dataset met the model's inputs. */
function matches(job) {
  const field = (id) => [["train", job.train_id], ["test", job.test_id], ["Hessian", job.hessian_id]].filter(([, each]) => each === id).map(([name]) => name).join(", ");
  return job.matched.map(({ dataset, how }) => [`Columns of ${field(dataset)}`, how]);
}

export function facts(pairs) {
  return h("dl", { class: "facts-list" }, pairs.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function fileTable(files) {
  const shown = files.slice(0, 40);
  return h(
    "table",
    { class: "plain" },
    h("tbody", {}, shown.map((file) => h("tr", {}, h("th", { scope: "row" }, file.url ? h("a", { href: file.url }, file.path) : file.path), h("td", { class: "number" }, bytes(file.size_bytes))))),
    files.length > shown.length ? h("caption", {}, `${count(files.length)} files, the first ${shown.length}`) : null,
  );
}
