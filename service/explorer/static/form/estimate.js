// What the job in the form would take: asked of the service as the form changes, and always before it is sent.

import { json } from "../api.js";
import { h, replace } from "../dom.js";
import { bytes, duration, number } from "../format.js";
import { link } from "../router.js";

const PAUSE = 400; // milliseconds without a change, after which it is asked for

/**
 * A place for the estimate of what `read()` gives: {element, changed(), of(request)}.
 * `complete(request)` says whether there is enough of it to ask; `take(fields)` puts what would be better into the form.
 */
export function estimates(read, complete, take, signal) {
  const element = h("section", { class: "estimate", "aria-label": "Estimate", "aria-live": "polite" });
  let asked = 0; // how often; an answer that another question has overtaken is not shown
  let timer = null;
  signal?.addEventListener("abort", () => clearTimeout(timer));

  /** The record that the job would get, shown. Raises ServiceError where it would be refused. */
  async function of(request) {
    clearTimeout(timer);
    asked += 1;
    const mine = asked;
    try {
      const record = await json("/v1/jobs?dry_run=true", { method: "POST", body: request, signal });
      if (mine === asked) replace(element, ...told(record, take));
      return record;
    } catch (error) {
      if (mine === asked) replace(element);
      throw error;
    }
  }

  /** The form has changed: what is shown holds no longer. */
  function changed() {
    clearTimeout(timer);
    asked += 1;
    element.classList.add("stale");
    timer = setTimeout(async () => {
      const request = read();
      if (complete(request)) await of(request).catch(() => {}); // the field is marked when the job is sent
      else replace(element);
      element.classList.remove("stale");
    }, PAUSE);
  }

  return { element, changed, of };
}

/** Whether to wait for another word of the person: a job that takes days, or is known to fail. */
export function isDoubtful({ estimate }) {
  return Boolean(estimate?.remark);
}

function told({ estimate, remarks, request }, take) {
  if (!estimate) return [];
  const { seconds, bytes: size, memory_bytes: memory, rate, flops_per_second: speed, cheaper, cheaper_inversion: inversion, fails, enough, remark } = estimate;
  const facts = [
    ["Time", seconds === null ? "known when it runs" : `about ${duration(seconds)}`, rate ? `${speed ? `at ${number(speed, 2)} operations a second, ` : ""}${rate}` : null],
    ["Result", bytes(size)],
    ["Memory of a worker", `${bytes(memory)} at most`],
    cheaper ? ["Cheaper", cheaper] : null,
  ];
  const doubts = [fails, fails ? null : remark].filter(Boolean);
  return [
    h("h2", {}, "What it would take"),
    h("dl", { class: "facts-list" }, facts.filter(Boolean).map(([name, words, small]) => [h("dt", {}, name), h("dd", {}, words, small ? h("small", {}, ` (${small})`) : null)])),
    doubts.map((words) => h("p", { class: "note bad" }, linked(words))),
    h("div", { class: "buttons" },
      inversion ? offer(`Take method ${inversion.method}`, () => take({ inversion })) : null,
      enough ? offer(`Take λ = ${enough}`, () => take({ hessian_regularization: raised(request.hessian_regularization, enough) })) : null),
    remarks.map((words) => h("p", { class: "note" }, words)),
  ];
}

function offer(words, onclick) {
  return h("button", { type: "button", class: "small", onclick }, words);
}

/** λ that would do; of several, those that are too small are raised. */
function raised(asked, enough) {
  return Array.isArray(asked) ? [...new Set(asked.map((each) => (typeof each === "number" ? Math.max(each, enough) : each)))] : enough;
}

/** Words in which a job's id leads to the job. */
function linked(words) {
  return words.split(/(job_[0-9A-Z]{26})/).map((part, index) => (index % 2 ? h("a", { href: link(["jobs", part]) }, part) : part));
}
