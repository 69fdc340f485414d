// A form to start a job, made from the OpenAPI document: what the service takes, it offers.

import { json, path } from "../api.js";
import { announce, h, replace } from "../dom.js";
import { build } from "../form/build.js";
import { estimates, isDoubtful } from "../form/estimate.js";
import { isComplete, methodsOf, openapi } from "../form/schema.js";
import { notice } from "../failure.js";
import { go } from "../router.js";
import { asCurl, asPython } from "../form/programs.js";

// Folded away: what most people leave as it is.
const ASIDE = new Set(["name", "note", "ids", "where", "blocks", "atol", "measurement", "scores_by", "spectrum", "unsolved", "hessian_on", "precision", "batch_size", "seed", "priority", "timeout_s", "reuse", "webhook", "labels", "perturb_at", "perturb_input", "columns", "factors", "x0", "h0", "aggregate", "groups", "rescale", "krylov_dimension", "eigen_computation_on_gpu"]);
// In this order, then the rest as the document has it.
const ORDER = ["model", "train", "test", "influence_type", "hessian_regularization", "curvature", "inversion", "keep"];
const FIRST_KIND = "influences";
const START = "Start the job";
// What an unfilled form begins with: the SDK's defaults, and a job that the explorer can show everything of.
const BEGINNING = { hessian_regularization: "auto", keep: { matrix: true, top: 20, mean: true, factors: false } };

export async function open(route, { signal }) {
  const [document, models, datasets, earlier] = await Promise.all([
    openapi(signal),
    json(path("/v1/models", { state: "ready", limit: 200 }), { signal }),
    json(path("/v1/datasets", { state: "ready", limit: 200 }), { signal }),
    route.query.from ? json(`/v1/jobs/${route.query.from}`, { signal }) : null,
  ]);
  const beginning = prepared(earlier, route.query);
  return { title: "New job", element: view(document, names(models), names(datasets), beginning, Boolean(earlier), signal) };
}

function names({ items }) {
  return [...new Set(items.map((item) => item.name))];
}

/** The request that the form begins with: an earlier job's, in another kind where one is wished for. */
function prepared(earlier, { kind, model, train }) {
  const request = { ...BEGINNING, ...earlier?.request };
  if (model) request.model = model;
  if (train) request.train = { dataset: train };
  return kind ? { ...request, kind } : request;
}

function view(document, models, datasets, beginning, known, signal) {
  const lists = [h("datalist", { id: "models" }, models.map((value) => h("option", { value }))), h("datalist", { id: "datasets" }, datasets.map((value) => h("option", { value })))];
  const schema = document.paths["/v1/jobs"].post.requestBody.content["application/json"].schema;
  const [method] = Object.entries(methodsOf(document)).find(([, { suggested }]) => suggested);
  const first = { kind: FIRST_KIND, method };
  const context = { document, aside: ASIDE, order: ORDER, first: { ...first, ...beginning }, initial: beginning, choices: { model: "models", dataset: "datasets" } };
  const form = build(null, schema, context, true);
  form.write({ ...beginning, kind: beginning.kind ?? first.kind, inversion: beginning.inversion ?? { method: first.method } });
  const message = h("div", { role: "alert" });
  const copied = h("pre", { class: "code copied", tabindex: "0", "aria-label": "The job in words of a program", hidden: true });
  const copyButton = (words, text) => h("button", { type: "button", class: "copy", onclick: async () => {
    copied.textContent = text();
    copied.hidden = false;
    try {
      await navigator.clipboard.writeText(copied.textContent);
      announce("Copied");
    } catch {
      getSelection().selectAllChildren(copied); // pages without TLS may not write to the clipboard
    }
  } }, words);
  const submit = h("button", { type: "submit", class: "primary" }, START);
  const estimate = estimates(() => form.read(), (request) => isComplete(schema, request, document), take, signal);
  let confirmed = null; // the doubtful job that is started if the button is pressed once more
  const element = h("form", { class: "job-form", novalidate: true, onsubmit: sent, onchange: changed }, h("h1", {}, "New job"),
    models.length && datasets.length ? null : h("p", { class: "note" }, "No model or no dataset is ready yet. Register them from Python (client.models.register, client.datasets.register), or run ", h("code", {}, "make demo"), "."),
    lists, form.element, estimate.element, message, h("div", { class: "buttons" }, submit, copyButton("Copy as Python", () => asPython(form.read())), copyButton("Copy as curl", () => asCurl(form.read())), h("a", { class: "button quiet", href: "#/jobs" }, "Back")),
    copied);

  if (known) estimate.changed();

  /** Puts what an estimate offers into the form. */
  function take(fields) {
    form.write({ ...form.read(), ...fields });
    form.at([Object.keys(fields)[0]]).focus(); // the button goes with the estimate
    changed();
  }

  function changed() {
    confirmed = null;
    replace(message);
    submit.textContent = START;
    estimate.changed();
  }

  async function sent(event) {
    event.preventDefault();
    form.fail("");
    replace(message);
    submit.disabled = true;
    try {
      const request = form.read();
      const words = JSON.stringify(request);
      if (isDoubtful(await estimate.of(request)) && confirmed !== words) {
        confirmed = words;
        submit.textContent = "Start it all the same";
        replace(message, notice("Nothing has been started: see what it would take.", "bad"));
        return;
      }
      const job = await json("/v1/jobs", { method: "POST", body: request, headers: { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` } });
      go(["jobs", job.id]);
    } catch (error) {
      if (error.status === undefined) throw error;
      refused(error);
    } finally {
      submit.disabled = false;
    }
  }

  /** Each error at the field that its pointer names; the first one gets the focus. */
  function refused(error) {
    const loose = [];
    let first = null;
    for (const { pointer, detail } of error.errors) {
      const parts = pointer.split("/").slice(1).map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
      const field = parts.length ? form.at(parts) : null;
      if (field && field !== form) {
        field.fail(detail);
        unfold(field.element);
        first ??= field;
      } else {
        loose.push(detail);
      }
    }
    replace(message, notice(error.errors.length && !loose.length ? `${error.problem.title}: ${error.errors.length === 1 ? "see the field that is marked" : `${error.errors.length} fields are marked`}.` : [error.message, ...loose.filter((words) => words !== error.message)].join(" "), "bad"));
    first?.focus();
  }

  return element;
}

function unfold(element) {
  for (let each = element?.parentElement; each; each = each.parentElement) if (each.localName === "details") each.open = true;
}
