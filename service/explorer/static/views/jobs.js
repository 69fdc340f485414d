// All jobs, live. There is no stream of lists, so it is asked for: often while something moves, seldom otherwise.

import { json, path } from "../api.js";
import { announce, h, replace } from "../dom.js";
import { wait } from "../events.js";
import { notice } from "../failure.js";
import { methods } from "../form/schema.js";
import { ago, clock } from "../format.js";
import { link, replaceWith } from "../router.js";
import { actions, badge, isOver, jobLink, kindOf, KINDS, labels, methodOf, progressBar, standing, subject } from "./job-parts.js";
import { isComparable } from "./compare.js";

const BUSY = 1_000;
const QUIET = 5_000;
const NEWEST = 12; // models and datasets that are named
const MOST_PAUSE = 30_000;
const PAGE = 25;
const STATES = ["queued", "running", "succeeded", "failed", "cancelled"];

const FILTERS = ["state", "kind", "search", "model", "dataset", "label"];

export async function open(route, { signal }) {
  const [known, registered] = await Promise.all([methods(signal), Promise.all(["models", "datasets"].map((kind) => json(path(`/v1/${kind}`, { limit: NEWEST }), { signal })))]);
  const view = new Jobs(signal, known, registered);
  await view.turnTo(route.query);
  view.keepUp();
  return {
    title: "Jobs",
    element: view.element,
    update: async (next) => {
      await view.turnTo(next.query);
      return true;
    },
  };
}

class Jobs {
  constructor(signal, methods, [models, datasets]) {
    this.query = {};
    this.methods = methods;
    this.signal = signal;
    this.chosen = new Set(); // to be compared
    this.rows = new Map();
    this.body = h("tbody");
    this.message = h("div");
    this.pages = h("nav", { class: "pages", "aria-label": "Pages" });
    this.chips = h("div", { class: "chips" });
    this.registered = h("div", { class: "registered" }, named("models", "Models", models), named("datasets", "Datasets", datasets));
    this.compare = h("a", { class: "button", hidden: true }, "Compare these two");
    const choice = (name, label, values) => h("select", { "aria-label": label, onchange: (event) => this.narrow({ [name]: event.target.value }) }, values.map(([value, words]) => h("option", { value }, words)));
    this.fields = {
      state: choice("state", "Show jobs in state", ["", ...STATES].map((each) => [each, each || "all states"])),
      kind: choice("kind", "Show jobs of kind", [["", "all kinds"], ...Object.entries(KINDS)]),
      search: h("input", { type: "search", "aria-label": "Find jobs by name, note, label or id", placeholder: "name, note, label, id", onchange: (event) => this.narrow({ search: event.target.value.trim() }) }),
    };
    const headings = ["State", "Job", "Data", "Progress", "Started", ""].map((name) => h("th", { scope: "col" }, name || h("span", { class: "sr-only" }, "Actions")));
    this.table = h("table", { class: "jobs" }, h("caption", { class: "sr-only" }, "Jobs, newest first"), h("thead", {}, h("tr", {}, headings)), this.body);
    this.element = h(
      "section",
      {},
      h("div", { class: "view-head" }, h("h1", {}, "Jobs"), Object.values(this.fields), this.compare, h("a", { class: "button primary", href: "#/new" }, "New job")),
      this.chips,
      this.registered,
      this.message,
      this.table,
      this.pages,
    );
  }

  /** Another filter; it begins with the newest. */
  narrow(filters) {
    replaceWith(["jobs"], { ...this.query, ...filters, after: null });
  }

  /** Shows what an address means: its filters, and the page after a job. */
  async turnTo(query) {
    this.query = query;
    for (const [name, field] of Object.entries(this.fields)) field.value = query[name] ?? "";
    const chips = ["model", "dataset", "label"].filter((name) => query[name]);
    this.registered.hidden = [...FILTERS, "after"].some((name) => query[name]);
    replace(this.chips, chips.map((name) => h("a", { class: "chip", href: link(["jobs"], { ...query, [name]: null, after: null }), "aria-label": `${name} ${query[name]}: show others too` }, `${name} ${query[name]} ×`)));
    await this.load();
  }

  async load() {
    const query = this.query;
    const asked = Object.fromEntries([...FILTERS, "after"].map((name) => [name, query[name]]));
    const page = await json(path("/v1/jobs", { limit: PAGE, ...asked }), { signal: this.signal });
    if (query !== this.query) return page.items;
    this.show(page.items);
    replace(this.pages,
      query.after ? h("a", { class: "button", href: link(["jobs"], { ...query, after: null }) }, "← Newest") : null,
      page.has_more ? h("a", { class: "button older", href: link(["jobs"], { ...query, after: page.next_after }) }, page.items.length ? "Older jobs →" : "Look further back →") : null);
    return page.items;
  }

  /** A job is chosen, or no longer: two can be compared. */
  choose(id, chosen) {
    if (chosen) this.chosen.add(id);
    else this.chosen.delete(id);
    this.compare.hidden = this.chosen.size !== 2;
    if (this.chosen.size === 2) this.compare.href = link(["compare", ...this.chosen]);
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
    const { state } = this.query;
    const narrowed = FILTERS.filter((name) => this.query[name]);
    if (narrowed.length === 1 && state) return h("div", { class: "empty" }, h("p", {}, `No job is ${state}.`));
    if (narrowed.length || this.query.after) return h("div", { class: "empty" }, h("p", {}, "No such job here."), h("a", { href: "#/jobs" }, "Show all jobs"));
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

/** The newest of what is registered, each a link to its page. */
function named(kind, words, { items }) {
  const names = [...new Set(items.map((item) => item.name))];
  return h("p", {}, h("a", { href: link([kind]) }, words), names.length ? names.map((name) => h("a", { class: "chip", href: link([kind, name]) }, name)) : h("span", { class: "help" }, "none yet"));
}

class Row {
  constructor(view) {
    this.view = view;
    this.shown = "";
    this.cells = ["state", "what", "data", "progress", "when", "do"].map((name) => h("td", { class: name }));
    this.element = h("tr", {}, this.cells);
  }

  show(job) {
    const text = JSON.stringify([job.state, job.name, job.note, job.revision, job.progress, job.eta_seconds, job.queue_position, ago(job.created_at)]);
    if (text === this.shown) return;
    this.shown = text;
    const [state, what, data, progress, when, does] = this.cells;
    this.element.dataset.job = job.id;
    replace(state, badge(job.state));
    const called = JSON.stringify([job.name, job.note]);
    if (this.called !== called) this.introduce(what, data, job);
    this.called = called;
    replace(progress, progressBar(job), h("small", {}, standing(job)));
    replace(when, h("time", { datetime: job.created_at, title: clock(job.created_at) }, ago(job.created_at)));
    this.offer(does, job);
  }

  introduce(what, data, job) {
    const words = [job.name ? kindOf(job) : null, methodOf(job, this.view.methods)].filter(Boolean).join(" · ");
    const about = h("small", {}, words);
    const tick = h("input", { type: "checkbox", "aria-label": `Choose ${job.name ?? kindOf(job)}, ${job.id}, to compare`, onchange: (event) => this.view.choose(job.id, event.target.checked) });
    replace(what, isComparable(job) ? tick : null, h("a", { href: jobLink(job), title: job.note }, job.name ?? kindOf(job)), about, labels(job));
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
