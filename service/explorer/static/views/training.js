// The training set by influence: whom to thank, whom to doubt, and a list to take away.

import { json, path } from "../api.js";
import { h, replace } from "../dom.js";
import { notice } from "../failure.js";
import { count, padded, signed } from "../format.js";
import { previews } from "../previews/choose.js";
import { className, dataset, facts } from "../resources.js";
import { replaceWith } from "../router.js";
import { saveCsv } from "./csv.js";
import { isWrong } from "./example.js";
import { isDoubtful, rankings } from "./rankings.js";

const PAGE = 40;
const MOST_IN_CSV = 10_000;
const UNASKED_NUMBERS = 20_000_000; // a mean over a larger matrix is computed on request

export async function open(job, route, { signal }) {
  const [trainSet, known] = await Promise.all([dataset(job.train_id, signal), rankings(job, signal)]);
  const view = new Training(job, trainSet, known, signal);
  await view.show(route.query.by);
  return {
    element: view.element,
    update: async (next) => {
      await view.show(next.query.by);
      return true;
    },
  };
}

class Training {
  constructor(job, trainSet, known, signal) {
    Object.assign(this, { job, trainSet, known, signal });
    this.select = h("select", { "aria-label": "Rank by", onchange: () => replaceWith(["jobs", job.id, "training"], { by: this.select.value }) },
      Object.entries(known).map(([name, ranking]) => h("option", { value: name }, ranking.words)));
    this.save = h("button", { type: "button", onclick: () => this.download() }, "Download CSV");
    this.rule = h("p", { class: "help rule" });
    this.body = h("tbody");
    this.message = h("div");
    this.more = h("button", { type: "button", class: "more", hidden: true, onclick: () => this.load() }, "More");
    const headings = ["#", "Example", trainSet.ids ? "Id" : "Row", "Label", "Predicted", "Loss", "Influence"];
    this.table = h("table", { class: "ranking" }, h("caption", { class: "sr-only" }, "Training rows by influence"),
      h("thead", {}, h("tr", {}, headings.map((name) => h("th", { scope: "col" }, name)))), this.body);
    this.element = h("section", {}, h("div", { class: "view-head" }, h("h2", {}, "Training set"), this.select, this.save), this.rule, this.message, this.table, this.more);
  }

  async show(by) {
    const name = this.known[by] ? by : Object.keys(this.known)[0];
    if (name === this.name) return;
    this.name = this.select.value = name;
    this.ranking = this.known[name];
    this.shown = [];
    replace(this.body);
    replace(this.rule, this.ranking.about, " ", this.ranking.rule);
    const unavailable = this.ranking.missing ?? (this.isDear() ? this.offer() : null);
    this.table.hidden = this.save.hidden = unavailable !== null;
    this.more.hidden = true;
    replace(this.message, unavailable);
    if (unavailable === null) await this.load();
  }

  isDear() {
    const { stored, influence_shape: shape } = this.job.result;
    return this.ranking.job === this.job && !stored.includes("mean") && !stored.includes("self_influences") && shape[0] * shape[1] > UNASKED_NUMBERS && !this.agreed;
  }

  offer() {
    const numbers = count(this.job.result.influence_shape[0] * this.job.result.influence_shape[1]);
    const agree = () => {
      this.agreed = true;
      const name = this.name;
      this.name = null;
      this.show(name);
    };
    return h("div", { class: "empty" }, h("p", {}, `The job did not keep the mean; it would be computed from ${numbers} numbers, which takes a while.`), h("button", { type: "button", onclick: agree }, "Compute it"));
  }

  top(k) {
    return json(path(`/v1/jobs/${this.ranking.job.id}/top`, { k, sign: this.ranking.sign, damping: this.ranking.job.at }), { signal: this.signal });
  }

  async load() {
    const start = this.shown.length;
    const wanted = start + PAGE;
    const ranking = this.ranking;
    const items = (await this.top(wanted)).items;
    const fresh = items.slice(start);
    const [draw, known] = await Promise.all([
      previews(this.trainSet, fresh.map((item) => item.row), this.signal),
      facts(ranking.job, "train", fresh.map((item) => item.column), this.signal),
    ]);
    if (ranking !== this.ranking) return;
    this.table.classList.add(draw.kind);
    const most = Math.max(...items.map((item) => Math.abs(item.influence)), Number.MIN_VALUE);
    fresh.forEach((item, index) => {
      this.shown.push(item);
      this.body.append(this.row(start + index, item, known.get(item.column), draw, most));
    });
    this.more.hidden = items.length < wanted;
    this.more.textContent = `More (${count(this.shown.length)} of ${count(ranking.total)})`;
  }

  row(rank, item, fact, draw, most) {
    const doubtful = isDoubtful(this.ranking, rank, item, fact);
    const sign = item.influence >= 0 ? "helpful" : "harmful";
    return h(
      "tr",
      { class: doubtful ? "doubtful" : "", "data-row": item.row },
      h("td", { class: "number" }, count(rank + 1)),
      h("td", { class: "example" }, draw(item.row, { label: `Training row ${item.row}` })),
      h("td", { class: "number", "data-name": this.trainSet.ids ? "id" : "row" }, item.id ?? item.row, this.trainSet.ids ? h("small", { class: "row-number" }, `row ${item.row}`) : null),
      h("td", { "data-name": "label" }, h("span", { class: "target" }, fact ? className(this.trainSet, fact.target) : "–"), doubtful ? h("span", { class: "badge doubt" }, "doubtful") : null),
      h("td", { class: isWrong(fact) ? "wrong" : "", "data-name": "predicted" }, fact ? className(this.trainSet, fact.prediction) : "–"),
      h("td", { class: "number", "data-name": "loss" }, padded(fact?.loss)),
      h("td", { class: `number signed ${sign}` }, h("span", { title: String(item.influence) }, signed(item.influence)), h("div", { class: "score-bar", "aria-hidden": "true" }, h("span", { style: { width: `${(100 * Math.abs(item.influence)) / most}%` } }))),
    );
  }

  async download() {
    this.save.disabled = true;
    try {
      const items = (await this.top(Math.min(this.ranking.total, MOST_IN_CSV))).items;
      const known = await facts(this.ranking.job, "train", items.map((item) => item.column), this.signal);
      const rows = items.map((item, rank) => {
        const fact = known.get(item.column);
        return [rank + 1, item.id ?? item.row, item.row, item.influence, fact?.target, fact?.prediction, fact?.loss, isDoubtful(this.ranking, rank, item, fact) ? 1 : 0];
      });
      saveCsv(`${this.ranking.job.id}-${this.name}.csv`, ["rank", "id", "row", this.ranking.column, "target", "prediction", "loss", "label_doubtful"], rows);
    } catch (error) {
      if (error.status === undefined) throw error;
      replace(this.message, notice(error.message, "bad"));
    } finally {
      this.save.disabled = false;
    }
  }
}

