// Test examples, and for the chosen one the training examples that helped and harmed most.

import { json, path } from "../api.js";
import { h, replace } from "../dom.js";
import { notice } from "../failure.js";
import { count, number } from "../format.js";
import { listbox } from "../listbox.js";
import { comparable, previews } from "../previews/choose.js";
import { dataset, facts } from "../resources.js";
import { replaceWith } from "../router.js";
import { focus, influenceCard, isWrong, option, verdict } from "./example.js";
import { measured } from "./rankings.js";
import { sharedWords } from "./shared-words.js";
import { labelStrips } from "./tokens.js";

const PAGE = 40;
const STRONGEST = 8;
const SORTS = { position: "in order", "-loss": "largest loss first", loss: "smallest loss first", "-error": "wrong ones first", target: "by class", prediction: "by predicted class" };

export async function open(job, route, { signal }) {
  const [testSet, trainSet] = await Promise.all([dataset(job.test_id, signal), dataset(job.train_id, signal)]);
  const view = new TestExamples(job, testSet, trainSet, signal);
  await view.start(route);
  return { element: view.element, update: (next) => view.follow(next) };
}

class TestExamples {
  constructor(job, testSet, trainSet, signal) {
    Object.assign(this, { job, testSet, trainSet, signal });
    this.items = [];
    this.sort = "position";
    this.list = listbox("Test examples", (index) => this.address(this.items[index].position));
    this.more = h("button", { type: "button", class: "more small", hidden: true, onclick: () => this.load() }, "More");
    const known = job.result.stored.includes("test_predictions");
    this.select = h("select", { "aria-label": "Order of the test examples", onchange: () => this.order(this.select.value) },
      Object.entries(SORTS).filter(([key]) => known || key === "position").map(([value, words]) => h("option", { value }, words)));
    this.note = h("div");
    this.chosen = h("div", { class: "chosen", "aria-live": "polite" });
    this.element = h("div", { class: "split" },
      h("section", { class: "side" }, h("div", { class: "side-head" }, h("h2", {}, "Test examples"), this.select), this.note, this.list.element, this.more),
      this.chosen);
  }

  async start(route) {
    this.sort = this.select.value = SORTS[route.query.sort] && this.select.querySelector(`[value="${route.query.sort}"]`) ? route.query.sort : "position";
    await this.load();
    await this.follow(route);
  }

  /** Shows the example that the address means; the first of the list where it means none. */
  async follow(route) {
    if (route.query.sort && route.query.sort !== this.sort) await this.order(route.query.sort);
    const position = route.parts[3] === undefined ? this.items[0]?.position : Number(route.parts[3]);
    if (position === this.position) return true;
    const place = this.items.findIndex((item) => item.position === position);
    this.list.choose(place);
    await this.show(position);
    return true;
  }

  address(position) {
    replaceWith(["jobs", this.job.id, "test", String(position)], { sort: this.sort === "position" ? null : this.sort });
  }

  async order(sort) {
    this.sort = this.select.value = sort;
    this.items = [];
    this.list.clear();
    try {
      await this.load();
    } catch (error) {
      if (error.status === undefined) throw error;
      replace(this.note, notice(error.message, "bad"));
      return;
    }
    if (this.items.length) this.address(this.items[0].position);
  }

  async load() {
    const found = await this.page(this.items.length);
    const draw = await previews(this.testSet, found.items.map((item) => item.row), this.signal);
    this.items.push(...found.items);
    this.list.add(found.items.map((item) => option("Test", draw, this.testSet, item.row, item)));
    this.more.hidden = this.items.length >= found.total;
    this.more.textContent = `More (${count(this.items.length)} of ${count(found.total)})`;
    replace(this.note, found.items.length || this.items.length ? null : notice("The job has no test examples."));
  }

  async page(offset) {
    if (this.job.result.stored.includes("test_predictions")) {
      return json(path(`/v1/jobs/${this.job.id}/rows`, { side: "test", sort: this.sort, offset, limit: PAGE }), { signal: this.signal });
    }
    const total = this.job.result.influence_shape[0];
    const items = Array.from({ length: Math.max(0, Math.min(PAGE, total - offset)) }, (_, index) => bare(offset + index));
    return { total, items };
  }

  async show(position) {
    this.position = position;
    this.chosen.classList.add("changing");
    try {
      const content = await this.detail(position);
      if (this.position === position) replace(this.chosen, content);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      if (this.position === position) replace(this.chosen, notice(error.message, "bad"));
    } finally {
      if (this.position === position) this.chosen.classList.remove("changing");
    }
  }

  async detail(position) {
    const top = (sign) => json(path(`/v1/jobs/${this.job.id}/top`, { test: position, k: this.strongest(), sign, damping: this.job.at }), { signal: this.signal });
    const [helpful, harmful, known] = await Promise.all([top("lowers"), top("raises"), facts(this.job, "test", [position], this.signal)]);
    const lists = { helpful: helpful.items.filter((item) => item.influence > 0), harmful: harmful.items.filter((item) => item.influence < 0) };
    const all = [...lists.helpful, ...lists.harmful];
    const fact = known.get(position) ?? this.items.find((item) => item.position === position) ?? bare(position);
    const [draw, drawTest, trainFacts, strips] = await Promise.all([
      previews(this.trainSet, all.map((item) => item.row), this.signal),
      previews(this.testSet, [fact.row], this.signal),
      facts(this.job, "train", all.map((item) => item.column), this.signal),
      labelStrips(this.job, this.trainSet, position, all, this.signal),
    ]);
    const most = Math.max(...all.map((item) => Math.abs(item.influence)), Number.MIN_VALUE);
    const other = all.length ? comparable(drawTest, fact.row, draw, all[0].row) : null;
    const column = (sign, title, words) => h("section", { class: `influencers ${sign}` }, h("h3", {}, title), h("p", { class: "help" }, words),
      lists[sign].length ? h("ol", { class: "cards" }, lists[sign].map((item) => influenceCard({ draw, item, record: this.trainSet, fact: trainFacts.get(item.column), most, other, parts: strips.get(item.column) }))) : notice("None."));
    return [
      focus(h("h2", {}, `Test row ${fact.row}`), drawTest(fact.row, { large: true, label: `Test row ${fact.row}` }), drawTest.kind,
        verdict(this.testSet, fact), isWrong(fact) ? h("p", { class: "note bad" }, "The model is wrong here.") : null),
      h("div", { class: "two" },
        ...this.headings().map((words, index) => column(["helpful", "harmful"][index], ...words))),
      drawTest.kind === "text" && draw.kind !== "image" ? sharedWords(this.job, this.trainSet, position, new Set(all.map((item) => item.row)), this.signal) : null,
      strips.size ? h("p", { class: "help" }, "Coloured: the labels of each training row's positions, by their parts of its influence.") : null,
      other ? h("p", { class: "help" }, "Shown of each training row: the features in which it differs most from the test row, in standard deviations.") : null,
      h("p", { class: "help" }, `Retraining without a row changes this ${measured(this.job)} by about its influence / ${number(this.job.result.influence_shape[1], 9)}.`),
    ];
  }

  /** Of what has positive influence, and negative. */
  headings() {
    const what = measured(this.job);
    const lowers = `Training with them lowers the ${what} of this test example.`;
    if (what !== "loss") return [[`Lower the ${what} most`, lowers], [`Raise the ${what} most`, "Training with them raises it."]];
    return [["Most helpful", lowers], ["Most harmful", "Training with them raises it. Wrong labels are often found here."]];
  }

  strongest() {
    const kept = this.job.request.keep.top;
    return this.job.result.stored.includes("matrix") || !kept ? STRONGEST : Math.min(STRONGEST, kept);
  }
}

function bare(position) {
  return { position, row: position, loss: null, prediction: null, target: null, error: null };
}
