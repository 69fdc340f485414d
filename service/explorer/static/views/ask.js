// An index is asked: a row of a dataset, or one that is pasted or dropped, and the training rows that help and harm it.

import { json, path } from "../api.js";
import { h, replace } from "../dom.js";
import { answered } from "../events.js";
import { notice } from "../failure.js";
import { count, number } from "../format.js";
import { previews } from "../previews/choose.js";
import { dataset } from "../resources.js";
import { replaceWith } from "../router.js";
import { influenceCard } from "./example.js";

const STRONGEST = 8;

// What a worker does, by the stage that is told.
const STAGES = {
  load: "Loading the model and its rows", copy: "Copying the index's numbers", tokens: "Making tokens of the text", gradients: "Taking the row's gradient",
  search: "Searching the training rows", candidates: "Scoring candidates by their whole gradients",
};

export async function open(job, route, { signal }) {
  const [trainSet, page] = await Promise.all([dataset(job.train_id, signal), json(path("/v1/datasets", { limit: 200, state: "ready" }), { signal })]);
  const alike = page.items.filter((each) => trainSet.inputs.every((name) => each.inputs.includes(name)));
  const view = new Ask(job, trainSet, alike, signal);
  await view.follow(route);
  return { element: view.element, update: (next) => view.follow(next) };
}

class Ask {
  constructor(job, trainSet, datasets, signal) {
    Object.assign(this, { job, trainSet, signal });
    this.dataset = h("select", { name: "dataset" }, datasets.map((each) => h("option", { value: each.id }, `${each.name}@${each.version}`)));
    this.row = h("input", { name: "row", type: "number", min: "0", value: "0" });
    this.columns = h("textarea", { name: "columns", rows: "4", placeholder: this.sample(), ondragover: (event) => event.preventDefault(), ondrop: (event) => this.dropped(event) });
    this.stage = h("p", { class: "help stage", role: "status" });
    this.answer = h("div", { class: "chosen", "aria-live": "polite" });
    const submitted = (work) => (event) => {
      event.preventDefault();
      work();
    };
    this.element = h("section", { class: "ask" },
      h("div", { class: "two" },
        h("form", { class: "ask-stored", onsubmit: submitted(() => this.address()) }, h("h3", {}, "A row that is there"),
          h("div", { class: "fields" }, h("label", { class: "field" }, "Dataset", this.dataset), h("label", { class: "field" }, "Row", this.row)),
          h("button", { type: "submit", class: "primary" }, "Ask why")),
        h("form", { class: "ask-pasted", onsubmit: submitted(() => this.pasted()) }, h("h3", {}, "A row of your own"),
          h("label", { class: "field" }, "Column by column, as JSON: type, paste, or drop a file", this.columns),
          h("button", { type: "submit", class: "primary" }, "Ask why"))),
      this.textForm(submitted), this.told(), this.stage, this.answer);
  }

  /** Where the rows are tokens with their tokenizer: a text, and beside it the columns that are one number a row. */
  textForm(submitted) {
    if (!this.trainSet.tokenizer) return null;
    const single = this.columnNames().filter((name) => this.trainSet.columns.find((each) => each.name === name)?.shape.length === 0);
    this.text = h("textarea", { name: "text", rows: "3" });
    this.beside = new Map(single.map((name) => [name, h("input", { name: `beside-${name}`, type: "number", step: "any" })]));
    return h("form", { class: "ask-text", onsubmit: submitted(() => this.texted()) }, h("h3", {}, "A text"),
      h("label", { class: "field" }, "The tokenizer of the index's dataset makes a row of it", this.text),
      [...this.beside].map(([name, input]) => h("label", { class: "field" }, name, input)),
      h("button", { type: "submit", class: "primary" }, "Ask why"));
  }

  columnNames() {
    const match = (this.job.matched ?? []).find((each) => each.dataset === this.job.train_id);
    return match ? [...match.inputs, ...match.targets] : this.trainSet.columns.map((each) => each.name);
  }

  /** How one row is written, by the index's own columns. */
  sample() {
    const { columns } = this.trainSet;
    const shown = (name) => (columns.find((each) => each.name === name)?.shape ?? []).reduceRight((inner) => `[${inner}, …]`, "0");
    return `{${this.columnNames().map((name) => `"${name}": [${shown(name)}]`).join(", ")}}`;
  }

  /** What the index's info says of its answers. */
  told() {
    const known = this.job.info?.index;
    if (!known) return null;
    const part = (value) => (value === null ? "not known" : number(value, 3));
    return h("p", { class: "help" }, `${count(known.rows)} training rows with ${count(known.numbers)} numbers each. Of the ${known.recall_at} strongest, ${part(known.recall)} are found by these alone, and ${part(known.recall_after_rerank)} once candidates are scored exactly.`);
  }

  address() {
    replaceWith(["jobs", this.job.id, "ask"], { dataset: this.dataset.value, row: this.row.value });
  }

  async follow(route) {
    const { dataset: id, row } = route.query;
    if (!id) return true;
    this.dataset.value = id;
    this.row.value = row ?? "0";
    await this.ask({ test: { dataset: id, rows: String(row ?? 0) } });
    return true;
  }

  async dropped(event) {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    this.columns.value = file ? await file.text() : event.dataTransfer.getData("text");
    this.pasted();
  }

  pasted() {
    let columns;
    try {
      columns = JSON.parse(this.columns.value);
    } catch (error) {
      replace(this.answer, notice(`That is no JSON: ${error.message}`, "bad"));
      return;
    }
    this.ask({ columns });
  }

  texted() {
    const given = [...this.beside].filter(([, input]) => input.value !== "");
    const columns = Object.fromEntries(given.map(([name, input]) => [name, [Number(input.value)]]));
    this.ask({ text: [this.text.value], ...(given.length ? { columns } : {}) });
  }

  async ask(about) {
    const asked = (this.asked = {});
    this.answer.classList.add("changing");
    const heard = (progress) => {
      if (this.asked === asked) replace(this.stage, going(progress));
    };
    try {
      const found = await answered(`/v1/indexes/${this.job.id}/query`, { ...about, k: STRONGEST }, heard, this.signal);
      const shown = await this.shown(found);
      if (this.asked === asked) replace(this.answer, shown);
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) throw error;
      if (this.asked === asked) replace(this.answer, notice(error.message, "bad"));
    } finally {
      if (this.asked === asked) {
        this.answer.classList.remove("changing");
        replace(this.stage);
      }
    }
  }

  async shown({ rows, seconds, candidates, remarks }) {
    const every = rows.flatMap((each) => [...each.helpful, ...each.harmful]);
    const draw = await previews(this.trainSet, every.map((item) => item.row), this.signal);
    const most = Math.max(...every.map((item) => Math.abs(item.influence)), Number.MIN_VALUE);
    const column = (each, sign, title, words) => {
      const items = each[sign].filter((item) => (sign === "helpful" ? item.influence > 0 : item.influence < 0));
      return h("section", { class: `influencers ${sign}` }, h("h3", {}, title), h("p", { class: "help" }, words),
        items.length ? h("ol", { class: "cards" }, items.map((item) => influenceCard({ draw, item, record: this.trainSet, fact: null, most }))) : notice("None."));
    };
    return [
      rows.map((each, index) => h("div", {}, rows.length > 1 ? h("h2", {}, `Row ${index + 1}`) : null, h("div", { class: "two" },
        column(each, "helpful", "Most helpful", "Training with them lowers the loss of this row."),
        column(each, "harmful", "Most harmful", "Training with them raises it.")))),
      remarks.map((remark) => h("p", { class: "help remark" }, remark)),
      h("p", { class: "help" }, `${number(1000 * seconds, 3)} ms on a worker; ${count(candidates)} candidates were scored by their whole gradients.`),
    ];
  }
}

/** What goes on, and how far it is where that is told. */
function going({ stage, done, total, unit }) {
  if (stage === "queued") return total ? `Waiting for a worker: ${count(total)} questions are before this one` : "Waiting for a worker";
  const words = STAGES[stage] ?? stage;
  return done ? `${words}: ${count(done)} of ${count(total)} ${unit}` : words;
}
