// A retrained model beside the one that it was trained from: loss, accuracy, by class.

import { json, request } from "../api.js";
import { h, replace } from "../dom.js";
import { notice } from "../failure.js";
import { count, number, percent } from "../format.js";
import { className, dataset } from "../resources.js";

export async function open(job, route, { signal }) {
  const made = await json(`/v1/models/${job.model.id}`, { signal });
  const { training } = made;
  const testSet = job.test_id ? await dataset(job.test_id, signal) : { class_names: [] };
  const message = h("div");
  const save = h("button", { type: "button", onclick: () => download(job, save, message, signal) }, "Download report");
  const metrics = training.metrics && training.parent_metrics;
  const facts = h("p", { class: "facts" }, `${training.parent.name}@${training.parent.version} → ${made.name}@${made.version} · trained on ${count(training.rows)} rows`);
  const body = metrics ? [overall(training), byClass(training, testSet)] : notice("The job had no test rows to compare on. Use it as a template, and choose test data.");
  return { element: h("section", { class: "comparison" }, h("div", { class: "view-head" }, h("h2", {}, "Before and after"), save), facts, inEvaluation(job), message, body) };
}

function inEvaluation({ info }) {
  const layers = info?.evaluation_mode ?? [];
  return layers.length ? notice(`Retrained in evaluation mode: ${layers.join(", ")} (dropout or batch normalisation) did what they do in evaluation. If the model was trained otherwise, these numbers are about models trained that way.`) : null;
}

async function download(job, button, message, signal) {
  button.disabled = true;
  try {
    const answer = await request(`/v1/jobs/${job.id}/report.html`, { accept: "text/html", signal });
    const address = URL.createObjectURL(await answer.blob());
    const anchor = h("a", { href: address, download: `${job.id}-report.html` });
    document.body.append(anchor);
    anchor.click();
    anchor.remove();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  } catch (error) {
    if (error.status === undefined) throw error;
    replace(message, notice(error.message, "bad"));
  } finally {
    button.disabled = false;
  }
}

function overall({ parent_metrics: before, metrics: after }) {
  const rows = [line("Loss", before.loss, after.loss, false, (value) => number(value, 4))];
  if (after.accuracy !== null && before.accuracy !== null) rows.unshift(line("Accuracy", before.accuracy, after.accuracy, true, (value) => percent(value)));
  return table(`On ${count(after.rows)} test rows`, "", rows);
}

function byClass({ parent_metrics: before, metrics: after }, testSet) {
  if (!after.by_class.length) return null;
  const known = new Map(before.by_class.map((each) => [each.label, each]));
  const lines = (field, higherIsBetter, written) => after.by_class.map((each) => {
    const name = `${className(testSet, each.label)} (${count(each.rows)} rows)`;
    return line(name, known.get(each.label)?.[field] ?? null, each[field], higherIsBetter, written);
  });
  return [
    table("Accuracy by class", "by-class", lines("accuracy", true, (value) => percent(value))),
    table("Loss by class", "by-class", lines("loss", false, (value) => number(value, 4))),
  ];
}

function table(title, name, rows) {
  return h("section", {}, h("h3", {}, title), h("table", { class: `ranking compared ${name}` },
    h("thead", {}, h("tr", {}, ["", "Before", "After", "Change"].map((each) => h("th", { scope: "col" }, each)))), h("tbody", {}, rows)));
}

/** Better is `helpful`, worse `harmful`, whichever way the number goes. */
function line(name, before, after, higherIsBetter, written) {
  const change = before === null ? null : after - before;
  const sign = !change ? "" : change > 0 === higherIsBetter ? "helpful" : "harmful";
  const shown = change === null ? "–" : `${change > 0 ? "+" : change < 0 ? "−" : ""}${written(Math.abs(change))}`;
  return h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, before === null ? "–" : written(before)),
    h("td", { class: "number" }, written(after)), h("td", { class: `number ${sign}` }, shown));
}
