// All jobs, live. There is no stream of lists, so it is asked for: often while something moves, seldom otherwise.

import { json, path } from "../api.js";
import { announce, h, replace } from "../dom.js";
import { wait } from "../events.js";
import { notice } from "../failure.js";
import { methods } from "../form/schema.js";
import { ago, clock } from "../format.js";
import { replaceWith } from "../router.js";
import { actions, badge, isOver, jobLink, kindOf, methodOf, progressBar, standing, subject } from "./job-parts.js";

const BUSY = 1_000;
const QUIET = 5_000;
const MOST_PAUSE = 30_000;
const PAGE = 25;
const STATES = ["queued", "running", "succeeded", "failed", "cancelled"];

export async function open(route, { signal }) {
  const view = new Jobs(route.query.state ?? "", signal, await methods(signal));
  await view.load();
  view.keepUp();
  return {
    title: "Jobs",
    element: view.element,
    update: async (next) => {
      await view.filter(next.query.state ?? "");
      return true;
    },
  };
}

class Jobs {
  constructor(state, signal, methods) {
    this.state = state;
    this.methods = methods;
    this.signal = signal;
    this.pages = 1;
    this.rows = new Map();
    this.body = h("tbody");
    this.message = h("div");
    this.more = h("button", { type: "button", class: "more", hidden: true, onclick: () => this.showMore() }, "Show older jobs");
    const choices = ["", ...STATES].map((each) => h("option", { value: each }, each || "all states"));
    this.select = h("select", { "aria-label": "Show jobs in state", onchange: () => replaceWith(["jobs"], { state: this.select.value }) }, choices);
    this.select.value = state;
    const headings = ["State", "Job", "Data", "Progress", "Started", ""].map((name) => h("th", { scope: "col" }, name || h("span", { class: "sr-only" }, "Actions")));
    this.table = h("table", { class: "jobs" }, h("caption", { class: "sr-only" }, "Jobs, newest first"), h("thead", {}, h("tr", {}, headings)), this.body);
    this.element = h(
      "section",
      {},
      h("div", { class: "view-head" }, h("h1", {}, "Jobs"), this.select, h("a", { class: "button primary", href: "#/new" }, "New job")),
      this.message,
      this.table,
      this.more,
    );
  }

  async filter(state) {
    this.state = this.select.value = state;
    this.pages = 1;
    await this.load();
  }

  async showMore() {
    this.pages += 1;
    await this.load();
  }

  async load() {
    const query = { limit: PAGE * this.pages, state: this.state };
    const page = await json(path("/v1/jobs", query), { signal: this.signal });
    this.show(page.items);
    this.more.hidden = !page.has_more;
    return page.items;
  }

  /** Rows are kept and changed in place: focus stays, and nothing jumps. */
  show(jobs) {
    const seen = new Set(jobs.map((job) => job.id));
    for (const [id, row] of this.rows) {
      if (seen.has(id)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
    jobs.forEach((job, index) => {
      if (!this.rows.has(job.id)) this.rows.set(job.id, new Row(this));
      const { element } = this.rows.get(job.id);
      this.rows.get(job.id).show(job);
      if (this.body.children[index] !== element) this.body.insertBefore(element, this.body.children[index] ?? null);
    });
    this.table.hidden = jobs.length === 0;
    replace(this.message, jobs.length === 0 ? this.nothing() : null);
  }

  nothing() {
    if (this.state) return h("div", { class: "empty" }, h("p", {}, `No job is ${this.state}.`));
    return h(
      "div",
      { class: "empty" },
      h("h2", {}, "No jobs yet"),
      h("p", {}, "A job computes how each training example helped or hurt a model on test examples."),
      h("p", {}, h("a", { class: "button primary", href: "#/new" }, "Start the first job")),
      h("p", { class: "help" }, "Models and data are registered from Python or over HTTP; ", h("code", {}, "make demo"), " fills a service with handwritten digits."),
    );
  }

  async keepUp() {
    let pause = QUIET;
    let failures = 0;
    while (!this.signal.aborted) {
      await wait(pause, this.signal);
      if (this.signal.aborted) return;
      if (document.hidden) continue;
      try {
        const jobs = await this.load();
        failures = 0;
        pause = jobs.every(isOver) ? QUIET : BUSY;
      } catch (error) {
        if (error.name === "AbortError") return;
        replace(this.message, notice(error.message, "bad"));
        failures += 1;
        pause = Math.min(MOST_PAUSE, BUSY * 2 ** failures);
      }
    }
  }
}

class Row {
  constructor(view) {
    this.view = view;
    this.shown = "";
    this.cells = ["state", "what", "data", "progress", "when", "do"].map((name) => h("td", { class: name }));
    this.element = h("tr", {}, this.cells);
  }

  show(job) {
    const text = JSON.stringify([job.state, job.revision, job.progress, job.eta_seconds, job.queue_position, ago(job.created_at)]);
    if (text === this.shown) return;
    this.shown = text;
    const [state, what, data, progress, when, does] = this.cells;
    this.element.dataset.job = job.id;
    replace(state, badge(job.state));
    if (!what.firstChild) this.introduce(what, data, job);
    replace(progress, progressBar(job), h("small", {}, standing(job)));
    replace(when, h("time", { datetime: job.created_at, title: clock(job.created_at) }, ago(job.created_at)));
    this.offer(does, job);
  }

  introduce(what, data, job) {
    const words = methodOf(job, this.view.methods);
    const about = h("small", {}, words);
    replace(what, h("a", { href: jobLink(job) }, kindOf(job)), about);
    replace(data, "\u00a0");
    subject(job, this.view.signal).then((found) => {
      about.textContent = `${words} · ${found.model}`;
      data.textContent = found.data;
    }, () => {});
  }

  offer(cell, job) {
    const names = cell.dataset.for;
    if (names === job.state) return;
    cell.dataset.for = job.state;
    const done = (changed) => {
      announce(changed ? `Job is ${changed.state}` : "Job deleted");
      this.view.load();
    };
    replace(cell, actions(job, done, (error) => {
      delete cell.dataset.for;
      replace(this.view.message, notice(error.message, "bad"));
    }));
  }
}
