// What the list of jobs and the page of one job both show: state, progress, what may be done.

import { json, request } from "../api.js";
import { h } from "../dom.js";
import { count, duration, percent } from "../format.js";
import { nameOf } from "../resources.js";
import { link } from "../router.js";
import { lambdaWords } from "./dampings.js";

const MOST_OF_ROWS = 28; // letters of a choice of rows
export const TERMINAL = ["succeeded", "failed", "cancelled"];
export const KINDS = { influences: "Influences", factors: "Factors", ihvp: "Inverse-Hessian products", self_influences: "Self-influences", index: "Index", gradients: "Gradients", hvp: "Products with the curvature", retrain: "Retraining", quality: "Quality" };

export function isOver(job) {
  return TERMINAL.includes(job.state);
}

export function kindOf(job) {
  const { kind, influence_type: type } = job.request;
  return kind === "influences" && type === "perturbation" ? "Perturbation influences" : (KINDS[kind] ?? kind);
}

/** The method's label, of the document's `methods`, and λ; of a kind without an inversion what it has instead. */
export function methodOf(job, methods) {
  const { inversion, recipe, kind, measurement } = job.request;
  if (kind === "gradients") return `of the ${measurement?.name ?? "loss"}`;
  if (kind === "hvp") return `λ\u00a0${lambdaWords(job)}`;
  if (!inversion) return recipe ? `by ${recipe.optimizer}` : "by the model's recipe";
  return `${methods[inversion.method]?.label ?? inversion.method} · λ\u00a0${lambdaWords(job)}`;
}

/** The label of its kind, and of its structure where that is not the whole; of the document's `curvatures`. */
export function curvatureOf(job, { kinds, structures, usual }) {
  if (!job.request.inversion && job.request.kind !== "hvp") return null;
  const { kind, structure } = { ...usual, ...job.request.curvature };
  const [label, kept] = [kinds[kind]?.label ?? kind, structures[structure]?.label ?? structure];
  return structure === usual.structure ? label : `${label}, ${kept}`;
}

export function badge(state) {
  return h("span", { class: `badge ${state}` }, state);
}

/** A job's labels, each a link to all jobs that have it. */
export function labels(job) {
  const pairs = Object.entries(job.labels ?? {}).map((pair) => pair.join("="));
  return pairs.length ? h("span", { class: "chips" }, pairs.map((pair) => h("a", { class: "chip", href: link(["jobs"], { label: pair }) }, pair))) : null;
}

/** A dialog for what people call a job; `done(job)` after it has been changed. */
export function nameDialog(job, done, failed) {
  const name = h("input", { value: job.name ?? "", maxlength: 120, autocomplete: "off" });
  const note = h("textarea", { rows: 4, maxlength: 4000 });
  note.value = job.note ?? "";
  const field = (words, control) => h("label", { class: "field" }, h("span", {}, words), control);
  const dialog = h("dialog", { "aria-label": "Name and note", onclose: async () => {
    dialog.remove();
    if (dialog.returnValue !== "take") return;
    try {
      done(await json(`/v1/jobs/${job.id}`, { method: "PATCH", body: { name: name.value.trim() || null, note: note.value.trim() || null } }));
    } catch (error) {
      failed(error);
    }
  } }, h("form", { method: "dialog" }, field("Name", name), field("Note", note),
    h("div", { class: "buttons" }, h("button", { class: "primary", value: "take" }, "Save"), h("button", { value: "", formnovalidate: true }, "Cancel"))));
  document.body.append(dialog);
  dialog.showModal();
}

/** What a job is about, by the names of its model and data: {model, data}. */
export async function subject(job, signal) {
  const [model, train, test] = await Promise.all([job.model_id, job.train_id, job.test_id].map((id) => id && nameOf(id, signal)));
  const trained = selection(train, job.request.train);
  return { model, data: test ? `${selection(test, job.request.test)} ← ${trained}` : trained };
}

/** "digits-test [0:100]"; of many slices the first ones. Vectors of a job for products are all rows of their dataset. */
function selection(name, { rows } = {}) {
  if (!rows) return name;
  return `${name} [${rows.length <= MOST_OF_ROWS ? rows : `${rows.slice(0, MOST_OF_ROWS).replace(/,[^,]*$/, "")}, …`}]`;
}

/** The share of the present stage that is done, or null where nothing is known. */
export function share(job) {
  return job.progress?.total ? Math.min(1, job.progress.done / job.progress.total) : null;
}

/** What a job is at, in words. */
export function standing(job) {
  if (job.state === "queued") return job.queue_position === null ? "waiting" : job.queue_position === 0 ? "next in the queue" : `${count(job.queue_position)} before it`;
  if (job.state === "succeeded") return job.cost ? `took ${duration(job.cost.seconds)}` : "";
  if (job.state === "failed") return [job.problem?.title, remedy(job) && `${remedy(job).words} would do`].filter(Boolean).join(": ");
  if (job.state === "cancelled") return "";
  const done = share(job);
  const words = [job.stage ?? "starting", done === null ? null : percent(done), job.eta_seconds === null ? null : `${duration(job.eta_seconds)} left`];
  return words.filter(Boolean).join(" · ");
}

export function progressBar(job) {
  const done = isOver(job) ? null : share(job);
  const bar = h("progress", { max: 1, "aria-label": "Progress", class: isOver(job) || job.state === "queued" ? "idle" : "" });
  if (done !== null) bar.value = done;
  else if (isOver(job) || job.state === "queued") bar.value = 0;
  return bar;
}

/** Buttons for what may be done with a job now. `done(job or null)` is called after; `failed(error)` when refused. */
export function actions(job, done, failed) {
  const act = (name, words, run) =>
    h("button", {
      type: "button",
      class: `small ${name}`,
      "aria-label": `${words} job ${job.id}`,
      onclick: async (event) => {
        event.currentTarget.disabled = true;
        try {
          done(await run());
        } catch (error) {
          failed(error);
        }
      },
    }, words);
  const post = (verb) => json(`/v1/jobs/${job.id}/${verb}`, { method: "POST" });
  if (!isOver(job)) return job.state === "cancelling" ? [] : [act("cancel", "Cancel", () => post("cancel"))];
  const buttons = [];
  const mended = remedy(job);
  if (mended?.request) buttons.push(act("again", `Start again with ${mended.words}`, () => json("/v1/jobs", { method: "POST", body: mended.request })));
  if (job.state !== "succeeded" && !failsAgain(job)) buttons.push(act("retry", "Retry", () => post("retry")));
  buttons.push(act("delete", "Delete", async () => {
    if (!confirm(`Delete job ${job.id} and its result?`)) return job;
    await request(`/v1/jobs/${job.id}`, { method: "DELETE" });
    return null;
  }));
  return buttons;
}

/** What the computation found that would do: {words, request}, or null. Of several λ's those that are too small are raised. */
function remedy(job) {
  const found = job.problem?.errors?.find(({ suggestion }) => suggestion !== null && suggestion !== undefined);
  if (!found) return null;
  const [field, ...inner] = found.pointer.split("/").slice(1);
  const asked = job.request[field];
  const name = field === "hessian_regularization" ? "λ" : inner.at(-1) ?? field;
  if (Array.isArray(asked)) {
    const words = `${name} ≥ ${found.suggestion}`;
    if (!asked.every((each) => typeof each === "number")) return { words, request: null };
    const raised = [...new Set(asked.map((each) => Math.max(each, found.suggestion)))];
    return { words, request: spare({ ...job.request, [field]: raised }) };
  }
  const value = inner.length ? { ...asked, [inner[0]]: found.suggestion } : found.suggestion;
  return { words: `${name} = ${found.suggestion}`, request: spare({ ...job.request, [field]: value }) };
}

/** Whether the numbers do not allow the job as it is; another worker may have more memory. */
function failsAgain({ problem }) {
  return problem?.type === "computation-failed" && problem.errors?.[0]?.pointer !== "/batch_size";
}

/** A request without what it leaves at null. */
export function spare(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([, each]) => each !== null).map(([key, each]) => [key, spare(each)]));
}

export function jobLink(job, ...more) {
  return link(["jobs", job.id, ...more]);
}
