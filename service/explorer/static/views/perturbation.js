// The influence of each feature of a training example on the loss of a test example: over the picture, or as bars.

import { npy, path } from "../api.js";
import { colourScale, divergingBars, heatMap } from "../charts/diverging.js";
import { h, replace } from "../dom.js";
import { notice } from "../failure.js";
import { count, number, plural, signed } from "../format.js";
import { listbox } from "../listbox.js";
import { row as rowOf } from "../npy.js";
import { comparable, previewOf, previews } from "../previews/choose.js";
import { pixels } from "../previews/image.js";
import { featureNames } from "../previews/table.js";
import { strip, tokens, vocabulary } from "../previews/text.js";
import { columnRows, dataset, facts } from "../resources.js";
import { replaceWith } from "../router.js";
import { focus, option, verdict } from "./example.js";

const PAGE = 30;
const RANKED_NUMBERS = 1_000_000; // of one test row, up to which all training rows are compared
const MOST_BARS = 200;
const ENDS = ["raising it harms", "raising it helps"];

export async function open(job, route, { signal }) {
  const [testSet, trainSet] = await Promise.all([dataset(job.test_id, signal), dataset(job.train_id, signal)]);
  const view = new Perturbation(job, testSet, trainSet, signal);
  await view.follow(route);
  document.addEventListener("themechange", view.repaint);
  return { element: view.element, update: (next) => view.follow(next), close: () => document.removeEventListener("themechange", view.repaint) };
}

class Perturbation {
  constructor(job, testSet, trainSet, signal) {
    Object.assign(this, { job, testSet, trainSet, signal });
    [this.tests, this.trains] = job.result.influence_shape;
    this.features = job.result.influence_shape.slice(2);
    this.repaint = () => this.shown && this.show(...this.shown);
    this.testList = this.pager("Test examples", "test", this.tests, (position) => this.address(position, null));
    this.trainList = this.pager("Training examples", "train", this.trains, (position) => this.address(this.test, position));
    this.order = h("p", { class: "help" });
    this.detail = h("div", { class: "chosen", "aria-live": "polite" });
    this.element = h("div", { class: "split three" },
      h("section", { class: "side" }, h("h2", {}, "Test examples"), this.testList.element),
      h("section", { class: "side" }, h("h2", {}, "Training examples"), this.order, this.trainList.element),
      this.detail);
  }

  address(test, train) {
    replaceWith(["jobs", this.job.id, "perturbation", String(test), ...(train === null ? [] : [String(train)])]);
  }

  async follow(route) {
    const test = Number(route.parts[3] ?? 0);
    if (test !== this.test) {
      this.test = test;
      if (!this.testList.shown) await this.testList.fill(range(this.tests));
      this.testList.choose(test);
      const order = await this.ranked(test);
      await this.trainList.fill(order);
    }
    const train = route.parts[4] === undefined ? this.trainList.first() : Number(route.parts[4]);
    this.trainList.choose(train);
    await this.show(test, train);
    return true;
  }

  /** Training rows by the size of their influence, where it is cheap to know; else in order. */
  async ranked(test) {
    const size = this.features.reduce((product, length) => product * length, 1);
    const cheap = this.trains * size <= RANKED_NUMBERS;
    this.order.textContent = cheap ? "The most influential first." : `In order; ${count(this.trains * size)} numbers are too many to rank here.`;
    if (!cheap) return range(this.trains);
    const whole = await npy(path(`/v1/jobs/${this.job.id}/influences`, { test: `${test}`, damping: this.job.at }), { signal: this.signal });
    const sizes = Array.from({ length: this.trains }, (_, column) => Math.hypot(...whole.values.subarray(column * size, (column + 1) * size)));
    return range(this.trains).sort((a, b) => sizes[b] - sizes[a] || a - b);
  }

  /** A list of examples that is filled a page at a time. */
  pager(label, side, total, onchoose) {
    const record = side === "test" ? this.testSet : this.trainSet;
    let order = [];
    let filled = 0;
    const list = listbox(label, (index) => onchoose(order[index]));
    const more = h("button", { type: "button", class: "more small", hidden: true, onclick: () => grow() }, "More");
    const grow = async () => {
      const positions = order.slice(filled, filled + PAGE);
      const known = await facts(this.job, side, positions, this.signal);
      const rows = positions.map((position) => known.get(position)?.row ?? position);
      const draw = await previews(record, rows, this.signal);
      list.add(positions.map((position, index) => option(side === "test" ? "Test" : "Training", draw, record, rows[index], known.get(position))));
      filled += positions.length;
      more.hidden = filled >= order.length;
      more.textContent = `More (${count(filled)} of ${count(total)})`;
    };
    const pager = {
      element: h("div", {}, list.element, more),
      shown: false,
      first: () => order[0],
      choose: (position) => list.choose(order.slice(0, filled).indexOf(position)),
      fill: async (next) => {
        [order, filled, pager.shown] = [next, 0, true];
        list.clear();
        await grow();
      },
    };
    return pager;
  }

  async show(test, train) {
    this.shown = [test, train];
    this.detail.classList.add("changing");
    try {
      const content = await this.content(test, train);
      if (this.shown[0] === test && this.shown[1] === train) replace(this.detail, content);
    } catch (error) {
      if (error.status === undefined) throw error;
      replace(this.detail, notice(error.message, "bad"));
    } finally {
      this.detail.classList.remove("changing");
    }
  }

  async content(test, train) {
    const query = { test: `${test}`, train: `${train}`, damping: this.job.at };
    const [found, trainFacts, testFacts] = await Promise.all([
      npy(path(`/v1/jobs/${this.job.id}/influences`, query), { signal: this.signal }),
      facts(this.job, "train", [train], this.signal),
      facts(this.job, "test", [test], this.signal),
    ]);
    const values = rowOf(found, 0);
    const trainRow = trainFacts.get(train)?.row ?? train;
    const testRow = testFacts.get(test)?.row ?? test;
    const [draw, drawTest] = await Promise.all([previews(this.trainSet, [trainRow], this.signal), previews(this.testSet, [testRow], this.signal)]);
    const other = comparable(drawTest, testRow, draw, trainRow);
    const influence = await this.drawing(values, trainRow, { draw, other, testRow });
    // A table's numbers stand beside their influence, a text's words on it: neither is shown twice.
    const shown = (title, drawn, kind, record, fact) => focus(h("h3", {}, title), influence.holdsRows ? null : drawn, influence.holdsRows ? "none" : kind, verdict(record, fact));
    return [
      h("div", { class: `pair ${draw.kind}` },
        shown(`Test row ${testRow}`, drawTest(testRow, { large: true, label: `Test row ${testRow}` }), drawTest.kind, this.testSet, testFacts.get(test)),
        shown(`Training row ${trainRow}`, influence.words ?? draw(trainRow, { large: true, label: `Training row ${trainRow}` }), draw.kind, this.trainSet, trainFacts.get(train))),
      h("h2", {}, "Influence of each feature"),
      h("p", { class: "help" }, `How much better the test example would be served if a feature of this training example were a little larger: moving it by δ changes the test loss by about −influence · δ / ${number(this.trains, 9)}.`),
      influence.element,
    ];
  }

  /** {element, words, holdsRows}: the drawing; a text's coloured words; whether it has the numbers of both rows in it. */
  async drawing(values, trainRow, { draw, other, testRow }) {
    const most = Math.max(...values.map(Math.abs));
    const own = this.job.request.perturb_at ? null : previewOf(this.trainSet);
    const preview = own?.column === this.perturbed() ? own : null;
    const total = values.reduce((sum, value) => sum + value, 0);
    const facts = h("p", { class: "help strongest" }, `${plural(values.length, "feature")}; the strongest ${signed(values.find((value) => Math.abs(value) === most))}, their sum ${signed(total)}.`);
    if (preview?.kind === "image") return { element: [await this.picture(values, preview, trainRow, most), facts] };
    const { names, shown, words } = await this.named(values, preview, trainRow);
    const order = range(shown.length).sort((a, b) => Math.abs(shown[b]) - Math.abs(shown[a])).slice(0, MOST_BARS);
    const numbers = preview?.kind === "table" ? draw.values(trainRow) : null;
    const columns = numbers ? [["training", numbers], ...(other ? [["test", other]] : [])] : [];
    const bars = divergingBars({
      names: order.map((index) => names[index]), values: order.map((index) => shown[index]), label: "Influence of each feature, the strongest first",
      columns: columns.map(([name, each]) => ({ name, values: order.map((index) => each[index]) })),
    });
    const coloured = words ? strip(words, shown, `Training row ${trainRow}, each word on the colour of its influence`) : null;
    return { element: [bars, facts], words: coloured, holdsRows: columns.length === 2 };
  }

  async picture(values, preview, trainRow, most) {
    const own = (await columnRows(this.trainSet, preview.column, [trainRow], this.signal)).get(trainRow);
    const under = pixels(own, preview);
    const influence = pixels(values, preview);
    const flat = Float64Array.from({ length: under.width * under.height }, (_, index) => {
      let sum = 0;
      for (let channel = 0; channel < influence.channels; channel += 1) sum += influence.at(channel, Math.floor(index / under.width), index % under.width);
      return sum;
    });
    const strongest = influence.channels === 1 ? most : Math.max(...flat.map(Math.abs));
    const grey = (x, y) => Math.min(1, Math.max(0, (under.at(0, y, x) - preview.minimum) / (preview.maximum - preview.minimum || 1)));
    const common = { values: flat, width: under.width, height: under.height, most: strongest };
    const caption = (drawn, words) => h("figure", { class: "heat" }, drawn, h("figcaption", {}, words));
    return h("div", {},
      h("div", { class: "heats" },
        caption(heatMap({ ...common, label: "Influence of each pixel" }), "influence"),
        caption(heatMap({ ...common, under: grey, label: "Influence of each pixel over the picture" }), "over the picture")),
      colourScale(strongest, ENDS));
  }

  /** The input column whose features these are: the one that was asked for, else the only floating-point one. */
  perturbed() {
    const { columns, inputs } = this.trainSet;
    return this.job.request.perturb_input ?? columns.find(({ name, dtype }) => inputs.includes(name) && /float/.test(dtype))?.name;
  }

  /** One number for each feature, or for each position where a module's output has several: of a text, for each word. */
  async named(values, preview, trainRow) {
    if (this.features.length < 2 || preview !== null) {
      const names = preview ? featureNames(preview, values.length) : range(values.length).map((index) => `[${index}]`);
      return { names, shown: values };
    }
    const width = this.features.slice(1).reduce((product, length) => product * length, 1);
    const shown = range(this.features[0]).map((position) => values.subarray(position * width, (position + 1) * width).reduce((sum, value) => sum + value, 0));
    const words = await this.words(trainRow, shown.length);
    return { names: shown.map((_, position) => (words ? `${words[position]} (${position})` : `position ${position}`)), shown, words };
  }

  /** The words of a training row, where it is a text of so many. */
  async words(row, length) {
    const preview = previewOf(this.trainSet);
    if (preview?.kind !== "text" || preview.spec.shape[0] !== length) return null;
    const known = await vocabulary(preview, this.signal);
    return tokens((await columnRows(this.trainSet, preview.column, [row], this.signal)).get(row), known);
  }
}

function range(length) {
  return Array.from({ length }, (_, index) => index);
}
