// One job: what it is, how it stands, and its views as tabs.

import { json } from "../api.js";
import { h, replace } from "../dom.js";
import { follow } from "../events.js";
import { failure, notice } from "../failure.js";
import { curvatures, methods } from "../form/schema.js";
import { count } from "../format.js";
import { go, here, link } from "../router.js";
import { actions, badge, curvatureOf, isOver, jobLink, kindOf, labels, methodOf, nameDialog, progressBar, standing, subject } from "./job-parts.js";
import { chooser, seenAt } from "./dampings.js";
import * as ask from "./ask.js";
import * as cleaning from "./cleaning.js";
import * as comparison from "./comparison.js";
import * as groups from "./groups.js";
import * as inversion from "./inversion.js";
import * as overview from "./overview.js";
import { losses } from "./retraining.js";
import * as perturbation from "./perturbation.js";
import * as quality from "./quality.js";
import * as test from "./test.js";
import * as training from "./training.js";

const TABS = { overview, ask, groups, test, training, cleaning, perturbation, inversion, comparison, quality };
const NAMES = { overview: "Overview", ask: "Ask why", groups: "Groups", test: "Test examples", training: "Training set", cleaning: "Clean labels", comparison: "Before and after", perturbation: "Perturbation", inversion: "Inversion", quality: "Quality" };

export async function open(route, { signal, reopen }) {
  const id = route.parts[1];
  const [job, known, kinds] = await Promise.all([json(`/v1/jobs/${id}`, { signal }), methods(signal), curvatures(signal)]);
  const view = new Job(job, { ...(await subject(job, signal)), curvature: curvatureOf(job, kinds) }, known, signal, reopen);
  await view.openTab(route);
  view.keepUp();
  return {
    title: `${kindOf(view.job)} ${id}`,
    element: view.element,
    update: async (next) => next.parts[1] === id && view.openTab(next),
    close: () => view.tab?.close?.(),
  };
}

/** Of its result: influences, or gradients or products with the curvature. */
function shapeOf({ result, request }) {
  return result?.influence_shape ?? (["gradients", "hvp"].includes(request.kind) ? result?.factor_shape : null);
}

/** The tabs that this job has something for. */
function tabsOf(job) {
  if (job.state !== "succeeded") return ["overview"];
  const { kind, influence_type: type } = job.request;
  const stored = job.result.stored;
  if (kind === "quality") return ["overview", "quality"];
  if (kind === "index") return ["overview", "ask", "inversion"];
  if (!job.request.inversion) return ["overview", ...(job.model ? ["comparison"] : [])];
  if (kind === "self_influences") return ["overview", "training", "cleaning", "inversion"];
  if (kind !== "influences") return ["overview", "inversion"];
  // Its axes are no rows: nothing that shows rows is true of it.
  if (job.groups) return ["overview", ...(job.result.influence_shape.length === 2 ? ["groups"] : []), "inversion"];
  const tested = job.test_id !== null; // else the factors are for right-hand sides of a job's own
  if (type === "perturbation") return ["overview", ...(tested && stored.includes("matrix") ? ["perturbation"] : []), "inversion"];
  return ["overview", ...(tested && (stored.includes("matrix") || stored.includes("top")) ? ["test"] : []), "training", ...(stored.includes("matrix") || stored.includes("mean") ? ["cleaning"] : []), "inversion"];
}

class Job {
  constructor(job, about, methods, signal, reopen) {
    this.job = job;
    this.methods = methods;
    this.signal = signal;
    this.reopen = reopen;
    this.head = h("div", { class: "job-head" });
    this.tabs = h("nav", { class: "tabs", "aria-label": "Views of this job" });
    this.body = h("div", { class: "tab-body" });
    this.message = h("div");
    this.layer = 0; // of several λ's, the one in view
    this.about = about;
    this.element = h("section", {}, h("a", { class: "back", href: "#/jobs" }, "← Jobs"), this.head, this.message, this.tabs, this.body);
    this.showHead();
  }

  /** Progress alone is shown in place: a button that is drawn anew at every event loses clicks and the focus. */
  showHead() {
    const { job } = this;
    if (job.state === this.shown && !isOver(job)) {
      replace(this.underWay, progressBar(job), h("p", {}, standing(job)), losses(job));
      return;
    }
    this.shown = job.state;
    this.underWay = h("div", { class: "under-way", role: "status" }, progressBar(job), h("p", {}, standing(job)), losses(job));
    const { request } = job;
    const { model, data, curvature } = this.about;
    const changed = (next) => (next === null ? go(["jobs"]) : next.id === job.id ? this.reopen() : go(["jobs", next.id]));
    replace(
      this.head,
      h("div", { class: "view-head" }, h("h1", {}, job.name ?? kindOf(job)), badge(job.state), h("div", { class: "buttons" },
        h("button", { type: "button", class: "small rename", onclick: () => nameDialog(job, () => this.reopen(), (error) => replace(this.message, notice(error.message, "bad"))) }, job.name ? "Rename" : "Name it"),
        h("a", { class: "button small", href: link(["new"], { from: job.id }) }, "Use as a template"),
        actions(job, changed, (error) => replace(this.message, notice(error.message, "bad"))))),
      h("p", { class: "facts" }, [job.name ? kindOf(job) : null, model, data, curvature, methodOf(job, this.methods)].filter(Boolean).join(" · "),
        shapeOf(job) ? ` · ${shapeOf(job).map(count).join(" × ")}` : "", " · ", h("code", {}, job.id)),
      labels(job),
      job.note ? h("p", { class: "job-note" }, job.note) : null,
      isOver(job) ? null : this.underWay,
      chooser(job, this.layer, (layer) => {
        this.layer = layer;
        this.openTab(here());
      }),
      job.problem ? h("div", { class: "note bad" }, h("strong", {}, job.problem.title), h("p", {}, job.problem.detail)) : null,
    );
  }

  async openTab(route) {
    const allowed = tabsOf(this.job);
    const wanted = route.parts[2] ?? (allowed.includes("groups") ? "groups" : allowed.includes("test") ? "test" : allowed.includes("perturbation") ? "perturbation" : allowed.includes("quality") ? "quality" : allowed.includes("ask") ? "ask" : allowed[1] && this.job.request.kind === "self_influences" ? "training" : "overview");
    const name = allowed.includes(wanted) ? wanted : "overview";
    replace(this.tabs, allowed.length < 2 ? null : allowed.map((each) =>
      h("a", { href: jobLink(this.job, each), "aria-current": each === name ? "page" : null }, NAMES[each])));
    if (this.tab?.name === name && this.tab.layer === this.layer && (await this.tab.update?.(route))) return true;
    this.tab?.close?.();
    try {
      const opened = await TABS[name].open(seenAt(this.job, this.layer), route, { signal: this.signal });
      this.tab = { name, layer: this.layer, ...opened };
      replace(this.body, opened.element);
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) throw error;
      this.tab = null;
      replace(this.body, failure(error, () => this.openTab(route)));
    }
    return true;
  }

  keepUp() {
    if (isOver(this.job)) return;
    follow(this.job.id, (job) => {
      this.job = job;
      if (isOver(job)) this.reopen();
      else this.showHead();
    }, this.signal);
  }
}
